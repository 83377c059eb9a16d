"""A DAG run in a real Airflow of the installed version whose videos are not what was requested."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_toapis.emulator.rendering import FLAWS
from tests.integration.conftest import image_url
from tests.integration.emulator_process import API_KEY, EmulatorProcess
from tests.matrix.only_run import RETRY_TIMEOUT, OnlyRun, only_run

#: The code of each flaw's warning. A video with sound causes no warning.
CODES = {
    "short": ["duration_mismatch"],
    "black_start": ["black_start"],
    "frozen": ["frozen"],
    "wrong_ratio": ["aspect_ratio_mismatch"],
    "with_audio": [],
    "truncated": ["truncated"],
}
#: Flaws of the videos that single tasks make.
SINGLE_FLAWS = ("short", "with_audio", "truncated")
ENDED = {"success", "failed"}


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorProcess]:
    with EmulatorProcess(latency=5) as process:
        for flaw in FLAWS:
            for match in (f"Video {flaw}.", f"Row {flaw}."):
                process.add_fault(on="submit", kind="flaw", name=flaw, match=match, times=-1)
        yield process


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of all videos."""
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, emulator: EmulatorProcess, output: Path) -> Iterator[OnlyRun]:
    """Run the DAG until all tasks have ended."""
    connection = {"conn_type": "toapis", "host": emulator.url, "password": API_KEY}
    environment = {
        "AIRFLOW_CONN_TOAPIS_DEFAULT": json.dumps(connection),
        "MATRIX_IMAGE": image_url(emulator),
        "MATRIX_OUTPUT": str(output),
        "MATRIX_FLAWS": " ".join(FLAWS),
        "MATRIX_SINGLE_FLAWS": " ".join(SINGLE_FLAWS),
    }
    dags = Path(__file__).parent / "flawed_dags"
    with only_run(tmp_path_factory.mktemp("airflow"), dags, "flawed_everywhere", environment) as run:
        run.wait_for(
            lambda states: len(states) == 4 and all(set(each.split(",")) <= ENDED for each in states.values()),
            can_fail=True,
            timeout=3 * RETRY_TIMEOUT,
        )
        yield run


def codes(warnings: list[str]) -> list[str]:
    return [warning.partition(":")[0] for warning in warnings]


def receipts(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the receipts of a directory, by the name of the video's file."""
    found = (json.loads(file.read_text(encoding="utf-8")) for file in directory.glob("af-*.json"))
    return {Path(receipt["output_path"]).stem: receipt for receipt in found}


def test_tasks_fail_only_if_they_check_strictly(run: OnlyRun) -> None:
    failed = ["failed" if CODES[flaw] else "success" for flaw in SINGLE_FLAWS]
    assert run.states() == {
        "warn_one": ",".join(["success"] * len(SINGLE_FLAWS)),
        "warn_batch": "success",
        "fail_one": ",".join(failed),
        "fail_batch": "failed",
    }


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("check", ["warn", "fail"])
def test_every_file_and_warning_of_single_tasks_is_there(output: Path, check: str) -> None:
    saved = receipts(output / f"{check}_one")
    expected = {flaw: CODES[flaw] for flaw in SINGLE_FLAWS}
    assert {flaw: codes(receipt["warnings"]) for flaw, receipt in saved.items()} == expected
    for receipt in saved.values():
        assert Path(receipt["output_path"]).stat().st_size == receipt["size"]
        assert Path(receipt["poster_path"]).read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("check", ["warn", "fail"])
def test_every_file_and_warning_of_a_batch_is_there(output: Path, check: str) -> None:
    directory = output / f"{check}_batch"
    lines = map(json.loads, (directory / "manifest.jsonl").read_text(encoding="utf-8").splitlines())
    rows = {line["key"]: line for line in lines}
    assert {key: codes(row["warnings"]) for key, row in rows.items()} == CODES
    states = {key: "failed" if check == "fail" and CODES[key] else "saved" for key in rows}
    assert {key: row["state"] for key, row in rows.items()} == states
    assert all((directory / row["file"]).stat().st_size == row["size"] for row in rows.values())


@pytest.mark.usefixtures("run")
def test_nothing_is_billed_twice(emulator: EmulatorProcess) -> None:
    ledger = emulator.ledger()
    count = 2 * len(FLAWS) + 2 * len(SINGLE_FLAWS)
    assert (ledger["posted"], ledger["count"]) == (count, count)
