"""A DAG run in a real Airflow of the installed version, with the components that this version needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from tests.integration.conftest import image_url
from tests.integration.emulator_process import API_KEY, EmulatorProcess
from tests.matrix.only_run import OnlyRun, States, only_run

DAG_ID = "deferred_everywhere"
#: A warning about a file of the provider, as Python prints it and as Airflow 3 logs it.
OUR_WARNING = re.compile(r"airflow_provider_toapis/[\w/]+\.py.*Warning|Warning.*airflow_provider_toapis/")


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorProcess]:
    # No video is ready before the test finishes it. Without progress, each is polled every few seconds.
    with EmulatorProcess(latency=3600, no_progress=True) as process:
        yield process


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file to which the video is saved."""
    return tmp_path_factory.mktemp("videos") / "turn.mp4"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, emulator: EmulatorProcess, output: Path) -> Iterator[OnlyRun]:
    """Run the DAG until it succeeds. Both waiting tasks must be deferred and resumed."""
    connection = {"conn_type": "toapis", "host": emulator.url, "password": API_KEY}
    environment = {
        "AIRFLOW_CONN_TOAPIS_DEFAULT": json.dumps(connection),
        "MATRIX_IMAGE": image_url(emulator),
        "MATRIX_OUTPUT": str(output),
        "PYTHONWARNINGS": "always",
    }
    dags = Path(__file__).parent / "deferred_dags"
    with only_run(tmp_path_factory.mktemp("airflow"), dags, DAG_ID, environment) as run:
        deferred: States = {"make_video": "deferred", "submit_video": "success", "wait_for_video": "deferred"}
        run.wait_for(lambda states: states == deferred)
        for line in emulator.ledger()["billed"]:
            emulator.finish(line["id"])
        run.wait_for(lambda states: set(states.values()) == {"success"})
        yield run


@pytest.mark.usefixtures("run")
def test_deferred_task_saves_its_video(output: Path) -> None:
    with av.open(output, "r") as container:
        assert next(container.decode(video=0))


@pytest.mark.usefixtures("run")
def test_each_video_is_submitted_and_billed_once(emulator: EmulatorProcess) -> None:
    ledger = emulator.ledger()
    assert (ledger["posted"], ledger["count"]) == (2, 2)
    assert {line["status"] for line in ledger["billed"]} == {"settled"}


def test_provider_causes_no_warnings(run: OnlyRun) -> None:
    lines = run.logs().splitlines()
    assert any("Warning" in line for line in lines), "Airflow's own warnings must be in the logs"
    assert [line for line in lines if OUR_WARNING.search(line)] == []
