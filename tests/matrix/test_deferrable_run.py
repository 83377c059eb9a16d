"""A run of a DAG in a real Airflow of the version at hand: its scheduler, its triggerer, and what else it needs."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import av
import httpx
import pytest

from airflow_provider_toapis.version_compat import AIRFLOW_V_3_PLUS
from dev.airflow.airflow_instance import COMPONENTS
from dev.airflow.airflow_processes import AirflowProcesses, airflow_command
from tests.integration.conftest import image_url
from tests.integration.emulator_process import API_KEY, EmulatorProcess

DAG_ID = "deferred_everywhere"
#: Seconds for one step of the run, on a busy machine.
RETRY_TIMEOUT = 300.0
#: Airflow 2.11 parses DAG files in its scheduler, and its tasks need no API server.
PROCESSES = COMPONENTS if AIRFLOW_V_3_PLUS else {name: COMPONENTS[name] for name in ("scheduler", "triggerer")}
#: A warning that is put down to a file of ours, as Python prints it and as the logs of Airflow 3 hold it.
OUR_WARNING = re.compile(r"airflow_provider_toapis/[\w/]+\.py.*Warning|Warning.*airflow_provider_toapis/")

States = dict[str, str | None]


class OnlyRun:
    """The only run in an Airflow, as its database shows it.

    :param output: Where the video is to be kept.
    """

    def __init__(self, airflow: AirflowProcesses, output: Path) -> None:
        self.output = output
        self._airflow = airflow

    def begin(self) -> None:
        """Let the scheduler start the run, once everything that a task needs is there."""
        deadline = time.monotonic() + RETRY_TIMEOUT
        while not (self._select("SELECT is_paused FROM dag") and self._api_server_answers()):
            self._airflow.check_running()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)
        command = airflow_command("dags", "unpause", DAG_ID)
        subprocess.run(command, env=self._airflow.environment, check=True, capture_output=True, timeout=RETRY_TIMEOUT)

    def wait_for(self, wanted: Callable[[States], bool]) -> None:
        """Look at the states of the tasks until they are as wanted."""
        deadline = time.monotonic() + RETRY_TIMEOUT
        while not wanted(states := self._states()):
            self._airflow.check_running()
            assert not {"failed", "up_for_retry"} & set(states.values()), self.logs()
            assert time.monotonic() < deadline, f"{states}\n{self.logs()}"
            time.sleep(0.2)

    def logs(self) -> str:
        """Return all that Airflow's processes and its tasks have written."""
        return "\n".join(
            file.read_text(encoding="utf-8", errors="replace")
            for file in sorted(self._airflow.directory.rglob("*.log"))
        )

    def _states(self) -> States:
        return dict(self._select("SELECT task_id, state FROM task_instance"))

    def _select(self, query: str) -> list[tuple[str, str | None]]:
        with closing(sqlite3.connect(self._airflow.directory / "airflow.db", timeout=60)) as database:
            return database.execute(query).fetchall()

    def _api_server_answers(self) -> bool:
        if "api-server" not in PROCESSES:
            return True
        try:
            return httpx.get(f"{self._airflow.url}/api/v2/version", timeout=30, trust_env=False).is_success
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorProcess]:
    # No video is ready before the test says so; without progress, each is asked for every few seconds.
    with EmulatorProcess(latency=3600, no_progress=True) as process:
        yield process


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, emulator: EmulatorProcess) -> Iterator[OnlyRun]:
    """Run the DAG to its end: it gets there only when both tasks that wait were deferred and resumed."""
    output = tmp_path_factory.mktemp("videos") / "turn.mp4"
    connection = {"conn_type": "toapis", "host": emulator.url, "password": API_KEY}
    environment = {
        "AIRFLOW_CONN_TOAPIS_DEFAULT": json.dumps(connection),
        "MATRIX_IMAGE": image_url(emulator),
        "MATRIX_OUTPUT": str(output),
        "PYTHONWARNINGS": "always",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
    }
    dags = Path(__file__).parent / "dags"
    home = tmp_path_factory.mktemp("airflow")
    with AirflowProcesses(home, dags, components=PROCESSES, environment=environment) as airflow:
        run = OnlyRun(airflow, output)
        run.begin()
        deferred: States = {"make_video": "deferred", "submit_video": "success", "wait_for_video": "deferred"}
        run.wait_for(lambda states: states == deferred)
        for line in emulator.ledger()["billed"]:
            emulator.finish(line["id"])
        run.wait_for(lambda states: set(states.values()) == {"success"})
        yield run


def test_deferred_order_keeps_its_video(run: OnlyRun) -> None:
    with av.open(run.output, "r") as container:
        assert next(container.decode(video=0))


def test_each_video_is_ordered_once_and_paid_once(run: OnlyRun, emulator: EmulatorProcess) -> None:
    ledger = emulator.ledger()
    assert (ledger["posted"], ledger["count"]) == (2, 2)
    assert {line["status"] for line in ledger["billed"]} == {"settled"}


def test_no_warning_is_put_down_to_the_provider(run: OnlyRun) -> None:
    lines = run.logs().splitlines()
    assert any("Warning" in line for line in lines), "Airflow itself warns of something: warnings are in the logs"
    assert [line for line in lines if OUR_WARNING.search(line)] == []
