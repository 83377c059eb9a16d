"""A DAG run in a real Airflow of the installed version, with the components that this version needs."""

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
#: A warning about a file of the provider, as Python prints it and as Airflow 3 logs it.
OUR_WARNING = re.compile(r"airflow_provider_toapis/[\w/]+\.py.*Warning|Warning.*airflow_provider_toapis/")

States = dict[str, str | None]


class OnlyRun:
    """The only run in an Airflow, observed in its database.

    :param output: File to which the video is saved.
    """

    def __init__(self, airflow: AirflowProcesses, output: Path) -> None:
        self.output = output
        self._airflow = airflow

    def begin(self) -> None:
        """Unpause the DAG when Airflow is ready, so that the scheduler starts the run."""
        deadline = time.monotonic() + RETRY_TIMEOUT
        while not (self._select("SELECT is_paused FROM dag") and self._api_server_responds()):
            self._airflow.check_running()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)
        command = airflow_command("dags", "unpause", DAG_ID)
        subprocess.run(command, env=self._airflow.environment, check=True, capture_output=True, timeout=RETRY_TIMEOUT)

    def wait_for(self, condition: Callable[[States], bool]) -> None:
        """Wait until the states of the tasks satisfy a condition."""
        deadline = time.monotonic() + RETRY_TIMEOUT
        while not condition(states := self._states()):
            self._airflow.check_running()
            assert not {"failed", "up_for_retry"} & set(states.values()), self.logs()
            assert time.monotonic() < deadline, f"{states}\n{self.logs()}"
            time.sleep(0.2)

    def logs(self) -> str:
        """Return the logs of Airflow's processes and tasks."""
        return "\n".join(
            file.read_text(encoding="utf-8", errors="replace")
            for file in sorted(self._airflow.directory.rglob("*.log"))
        )

    def _states(self) -> States:
        return dict(self._select("SELECT task_id, state FROM task_instance"))

    def _select(self, query: str) -> list[tuple[str, str | None]]:
        with closing(sqlite3.connect(self._airflow.directory / "airflow.db", timeout=60)) as database:
            return database.execute(query).fetchall()

    def _api_server_responds(self) -> bool:
        if "api-server" not in PROCESSES:
            return True
        try:
            return httpx.get(f"{self._airflow.url}/api/v2/version", timeout=30, trust_env=False).is_success
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorProcess]:
    # No video is ready before the test finishes it. Without progress, each is polled every few seconds.
    with EmulatorProcess(latency=3600, no_progress=True) as process:
        yield process


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, emulator: EmulatorProcess) -> Iterator[OnlyRun]:
    """Run the DAG until it succeeds. Both waiting tasks must be deferred and resumed."""
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


def test_deferred_task_saves_its_video(run: OnlyRun) -> None:
    with av.open(run.output, "r") as container:
        assert next(container.decode(video=0))


def test_each_video_is_submitted_and_billed_once(run: OnlyRun, emulator: EmulatorProcess) -> None:
    ledger = emulator.ledger()
    assert (ledger["posted"], ledger["count"]) == (2, 2)
    assert {line["status"] for line in ledger["billed"]} == {"settled"}


def test_provider_causes_no_warnings(run: OnlyRun) -> None:
    lines = run.logs().splitlines()
    assert any("Warning" in line for line in lines), "Airflow's own warnings must be in the logs"
    assert [line for line in lines if OUR_WARNING.search(line)] == []
