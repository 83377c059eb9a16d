"""A DAG run in a real Airflow of the installed version with a clear, a fallback model, asset events and a task loop."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_toapis.version_compat import AIRFLOW_V_3_4_PLUS
from tests.integration.conftest import image_url
from tests.integration.emulator_process import API_KEY, EmulatorProcess
from tests.matrix.only_run import OnlyRun, States, only_run

#: Model of the task that is cleared.
CLEARED = "grok-video-1.0"
#: Number of videos by model. Each task has its own model.
BILLED = {CLEARED: 1, "grok-video-1.5": 1, "grok-video-1.5-preview": 3}
if AIRFLOW_V_3_4_PLUS:
    BILLED |= {"seedance-2": 1, "sora-2": 2}
ANNOUNCED = BILLED["grok-video-1.5-preview"]


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorProcess]:
    # No video is ready before the test finishes it.
    with EmulatorProcess(latency=3600, no_progress=True) as process:
        process.add_fault(on="submit", kind="error", name="no_channel", match="It falls back", times=1)
        process.add_fault(on="submit", kind="error", name="rate_limited", match="It is rescheduled", times=-1)
        yield process


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, emulator: EmulatorProcess) -> Iterator[OnlyRun]:
    """Run the DAG until all its tasks succeed. One task is cleared while its video is in progress."""
    connection = {"conn_type": "toapis", "host": emulator.url, "password": API_KEY}
    environment = {
        "AIRFLOW_CONN_TOAPIS_DEFAULT": json.dumps(connection),
        "MATRIX_IMAGE": image_url(emulator),
    }
    dags = Path(__file__).parent / "recovery_dags"
    home = tmp_path_factory.mktemp("airflow")
    with only_run(home, dags, "recovered_everywhere", environment, consumers=["announcements"]) as run:
        run.wait_for(is_waiting)
        run.command("tasks", "clear", "--yes", "--task-regex", "regenerated", "recovered_everywhere")
        polls = emulator.request_counts()["status"]
        run.wait_for(lambda states: emulator.request_counts()["status"] > polls + 2 and is_waiting(states))
        emulator.clear_faults()
        for line in emulator.ledger()["billed"]:
            if line["model"] == CLEARED:
                emulator.finish(line["id"])
        run.wait_for(lambda states: {each.rpartition(",")[2] for each in states.values()} == {"success"})
        yield run


def is_waiting(states: States) -> bool:
    """Return whether one task waits for its video, and the others have reached their expected states."""
    expected = {"with_fallback": "success", "announced": ",".join(["success"] * ANNOUNCED)}
    if AIRFLOW_V_3_4_PLUS:
        expected |= {"repeated.review": "success,success"}
    # Airflow 3.4 keeps the row of a cleared attempt.
    return expected.items() <= states.items() and states.get("regenerated", "").endswith("deferred")


@pytest.mark.usefixtures("run")
def test_cleared_repeated_and_rescheduled_tasks_bill_each_video_once(emulator: EmulatorProcess) -> None:
    assert Counter(line["model"] for line in emulator.ledger()["billed"]) == BILLED


def test_asset_events_start_a_run_each_since_airflow_3_4(run: OnlyRun) -> None:
    # Before, the events that are queued at the same time start one run, so the number depends on the time.
    deadline = time.monotonic() + 120
    while len(run.run_states("announcements")) < (ANNOUNCED if AIRFLOW_V_3_4_PLUS else 1):
        assert time.monotonic() < deadline
        time.sleep(1)
    assert len(run.run_states("announcements")) <= ANNOUNCED


@pytest.mark.skipif(not AIRFLOW_V_3_4_PLUS, reason="needs Airflow 3.4")
@pytest.mark.usefixtures("run")
def test_rescheduled_task_was_rejected_before(emulator: EmulatorProcess) -> None:
    assert any(entry["status"] == 429 for entry in emulator.requests())
