"""The samples of docs/logs.md are lines that the operators really write."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_toapis.exceptions import ToAPIsError
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from tests.airflow_task import FakeTaskInstance, attempt, deferral
from tests.integration.conftest import PROMPT, Clock
from tests.integration.emulator_process import EmulatorProcess

PAGE = Path(__file__).parents[2] / "docs" / "logs.md"
_SAMPLE = re.compile(r"^<!-- log: (?P<name>[\w ]+) -->\n```text\n(?P<lines>.*?)^```$", re.M | re.S)
#: What differs from run to run: ids, keys, paths, sizes and percentages.
_VARIABLE = re.compile(r"video_[0-9a-f]{32}|af-[0-9a-f]{40}|/[\w/.-]*/(?=[\w-]+\.\w)|[\d,]+(?= bytes| %)")


def samples() -> dict[str, list[str]]:
    text = PAGE.read_text(encoding="utf-8")
    return {found["name"]: masked(found["lines"]) for found in _SAMPLE.finditer(text)}


def masked(text: str) -> list[str]:
    return [_VARIABLE.sub("*", line) for line in text.splitlines()]


@pytest.fixture
def run(
    service: EmulatorProcess, clock: Clock, image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Return a function that runs the sample with a given name, and logs its errors as Airflow does."""
    monkeypatch.setattr("airflow_provider_toapis.operators.batch.SECONDS_BETWEEN_RESUMPTIONS", 0.0)
    ti = FakeTaskInstance(task_id="make_video")
    image_file = image_file.rename(tmp_path / "sneaker.jpg")

    def make(image: str = str(image_file)) -> ToAPIsSubmitVideoOperator:
        return ToAPIsSubmitVideoOperator(
            task_id="make_video",
            prompt=PROMPT,
            image=image,
            identity="SNK-001",
            duration=10,
            output_path=f"{tmp_path}/videos/SNK-001.mp4",
            check="warn",
            deferrable=True,
        )

    def make_batch(*, dry_run: bool = False) -> ToAPIsVideoBatchOperator:
        rows = [{"key": f"sku-{n}", "prompt": f"{PROMPT} {n}", "image": str(image_file)} for n in range(3)]
        return ToAPIsVideoBatchOperator(
            task_id="make_videos",
            requests=rows,
            output_path=f"{tmp_path}/catalog",
            dry_run=dry_run,
            deferrable=True,
        )

    def fail() -> None:
        service.add_fault(on="submit", kind="task_failed", code="server_error", message="The worker was lost")
        with suppress(ToAPIsError):
            attempt(make, ti)

    def die_while_rendering() -> None:
        deferral(lambda: make().execute(ti.context))
        clock.sleep(20)

    def run_twice(first: Callable[[], Any]) -> None:
        first()
        attempt(make, ti.next_attempt())

    batch_ti = FakeTaskInstance(task_id="make_videos")
    actions: dict[str, Callable[[], Any]] = {
        "good": lambda: attempt(make, ti),
        "clear": lambda: run_twice(lambda: attempt(make, ti)),
        "retry": lambda: run_twice(die_while_rendering),
        "failure": lambda: attempt(make, ti),
        "next generation": lambda: run_twice(fail),
        "rejection": lambda: attempt(lambda: make(f"{tmp_path}/missing.jpg"), ti),
        "batch": lambda: attempt(make_batch, batch_ti),
        "dry run": lambda: attempt(lambda: make_batch(dry_run=True), batch_ti),
    }

    def run_logged(name: str) -> None:
        if name == "failure":
            service.add_fault(on="submit", kind="task_failed", code="server_error", message="The worker was lost")
        try:
            actions[name]()
        except ToAPIsError as error:
            logging.getLogger("airflow.task").error("%s", error)  # noqa: TRY400 - only the message is compared

    return run_logged


@pytest.mark.parametrize("name", sorted(samples()))
def test_operators_write_every_line_of_the_sample(
    run: Callable[[str], None], logged: Callable[[], str], name: str
) -> None:
    run(name)
    written = masked(logged())
    assert [line for line in samples()[name] if not any(line in each for each in written)] == []
