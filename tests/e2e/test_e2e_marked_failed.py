"""A task that a person marks failed submits nothing more: Airflow ends its process a few seconds later."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from dev.airflow.airflow_instance import AirflowInstance
from tests.e2e.dag_run import Run
from tests.integration.emulator_process import EmulatorProcess

HELD_UP = "This submission is held up by a rate limit"
ROWS = 60
#: Seconds from the click until the worker's process has been told to end, and a few more.
ENDED_AFTER = 12.0
#: Seconds in which a process that lives on would submit again.
WATCHED_FOR = 8.0


def held_up(emulator: EmulatorProcess) -> int:
    """Submissions of the single video, each of which was answered with 429."""
    return sum(entry["endpoint"] == "submit" and entry["status"] == 429 for entry in emulator.requests())


def billed(emulator: EmulatorProcess) -> int:
    """Rows of the batch that were submitted."""
    return int(emulator.ledger()["posted"])


@pytest.fixture(scope="module")
def submitted(
    airflow: AirflowInstance,
    slow_emulator: EmulatorProcess,
    products: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[int, int]]:
    """Mark both tasks failed while they submit; return what each has submitted some seconds later, and later still."""
    directory: Path = tmp_path_factory.mktemp("marked")
    slow_emulator.add_fault(
        on="submit", kind="status", status=429, headers={"Retry-After": "6"}, match=HELD_UP, times=-1
    )
    run_id = airflow.trigger("marked_failed", {"image": products[0]["image"], "directory": str(directory)})
    run = Run(airflow, "marked_failed", run_id, directory)
    deadline = time.monotonic() + 120
    while not (held_up(slow_emulator) and billed(slow_emulator) >= 3):
        assert time.monotonic() < deadline, run.log("slow_batch") + run.log("held_up_video")
        time.sleep(0.2)
    for task_id in ("held_up_video", "slow_batch"):
        airflow.api(
            "PATCH", f"dags/marked_failed/dagRuns/{run_id}/taskInstances/{task_id}", json={"new_state": "failed"}
        )
    counts = []
    for seconds in (ENDED_AFTER, WATCHED_FOR):
        time.sleep(seconds)
        counts.append((held_up(slow_emulator), billed(slow_emulator)))
    return counts


def test_single_video_in_a_rate_limits_pause_is_not_submitted_any_more(submitted: list[tuple[int, int]]) -> None:
    assert submitted[0][0] == submitted[1][0]


def test_batch_submits_no_further_row(submitted: list[tuple[int, int]]) -> None:
    assert submitted[0][1] == submitted[1][1] < ROWS
