"""Tasks that a user marks failed submit nothing more, because Airflow ends their processes within seconds."""

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
#: Seconds after which the task's process must have ended.
ENDED_AFTER = 12.0
#: Seconds in which a process that is still running would submit again.
WATCHED_FOR = 8.0


def rejected_submissions(emulator: EmulatorProcess) -> int:
    """Return the number of submissions of the task ``held_up_video``. All of them are rejected with 429."""
    return sum(entry["endpoint"] == "submit" and entry["status"] == 429 for entry in emulator.requests())


def submitted_rows(emulator: EmulatorProcess) -> int:
    """Return the number of submitted rows of the batch."""
    return int(emulator.ledger()["posted"])


@pytest.fixture(scope="module")
def counts_after_mark(
    airflow: AirflowInstance,
    slow_emulator: EmulatorProcess,
    products: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[int, int]]:
    """Mark both tasks failed while they submit. Return their numbers of submissions at two later times."""
    directory: Path = tmp_path_factory.mktemp("marked")
    slow_emulator.add_fault(
        on="submit", kind="status", status=429, headers={"Retry-After": "6"}, match=HELD_UP, times=-1
    )
    run_id = airflow.trigger("marked_failed", {"image": products[0]["image"], "directory": str(directory)})
    run = Run(airflow, "marked_failed", run_id, directory)
    deadline = time.monotonic() + 240
    while not (rejected_submissions(slow_emulator) and submitted_rows(slow_emulator) >= 3):
        assert time.monotonic() < deadline, run.log("slow_batch") + run.log("held_up_video")
        time.sleep(0.2)
    for task_id in ("held_up_video", "slow_batch"):
        airflow.api(
            "PATCH", f"dags/marked_failed/dagRuns/{run_id}/taskInstances/{task_id}", json={"new_state": "failed"}
        )
    counts = []
    for seconds in (ENDED_AFTER, WATCHED_FOR):
        time.sleep(seconds)
        counts.append((rejected_submissions(slow_emulator), submitted_rows(slow_emulator)))
    return counts


def test_video_that_waits_for_a_rate_limit_is_not_submitted_again(counts_after_mark: list[tuple[int, int]]) -> None:
    assert counts_after_mark[0][0] == counts_after_mark[1][0]


def test_batch_submits_no_more_rows(counts_after_mark: list[tuple[int, int]]) -> None:
    assert counts_after_mark[0][1] == counts_after_mark[1][1] < ROWS
