"""A run in a real Airflow of the installed version, observed in its database."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx

from airflow_provider_toapis.version_compat import AIRFLOW_V_3_PLUS
from dev.airflow.airflow_instance import COMPONENTS
from dev.airflow.airflow_processes import AirflowProcesses, airflow_command

#: Seconds for one step of the run, on a busy machine.
RETRY_TIMEOUT = 300.0
#: Airflow 2.11 parses DAG files in its scheduler, and its tasks need no API server.
PROCESSES = COMPONENTS if AIRFLOW_V_3_PLUS else {name: COMPONENTS[name] for name in ("scheduler", "triggerer")}

#: States of the task instances, by task id; the states of a mapped task are separated by commas.
States = dict[str, str]


class OnlyRun:
    """The only run of the only DAG in an Airflow, observed in its database."""

    def __init__(self, airflow: AirflowProcesses, dag_id: str) -> None:
        self._airflow = airflow
        self._dag_id = dag_id

    def begin(self, consumers: Sequence[str] = ()) -> None:
        """Unpause the DAG when Airflow is ready, so that the scheduler starts the run.

        :param consumers: DAGs that asset events of the run start. They are unpaused first, because events that happen
            while a DAG is paused do not start it.
        """
        deadline = time.monotonic() + RETRY_TIMEOUT
        while len(self._select("SELECT dag_id, NULL FROM dag")) <= len(consumers) or not self._api_server_responds():
            self._airflow.check_running()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)
        for dag_id in (*consumers, self._dag_id):
            self.command("dags", "unpause", dag_id)

    def command(self, *arguments: str) -> None:
        """Run a command of Airflow."""
        subprocess.run(
            airflow_command(*arguments),
            env=self._airflow.environment,
            check=True,
            capture_output=True,
            timeout=RETRY_TIMEOUT,
        )

    def run_states(self, dag_id: str) -> list[str]:
        """Return the states of all runs of a DAG."""
        runs = self._select("SELECT dag_id, state FROM dag_run ORDER BY id")
        return [str(state) for known, state in runs if known == dag_id]

    def wait_for(
        self, condition: Callable[[States], bool], *, can_fail: bool = False, timeout: float = RETRY_TIMEOUT
    ) -> None:
        """Wait until the states of the tasks satisfy a condition.

        :param can_fail: Whether tasks can fail meanwhile.
        :param timeout: Maximum seconds.
        """
        deadline = time.monotonic() + timeout
        while not condition(states := self.states()):
            self._airflow.check_running()
            assert can_fail or not {"failed", "up_for_retry"} & set(states.values()), self.logs()
            assert time.monotonic() < deadline, f"{states}\n{self.logs()}"
            time.sleep(0.2)

    def logs(self) -> str:
        """Return the logs of Airflow's processes and tasks."""
        return "\n".join(
            file.read_text(encoding="utf-8", errors="replace")
            for file in sorted(self._airflow.directory.rglob("*.log"))
        )

    def get_page(self, path: str) -> httpx.Response:
        """Get a page of the API server as an admin.

        :param path: ``{run_id}`` is the id of the run.
        """
        ((run_id, _),) = self._select("SELECT run_id, state FROM dag_run")
        with httpx.Client(base_url=self._airflow.url, timeout=60, trust_env=False) as client:
            token = client.get("/auth/token").raise_for_status().json()["access_token"]
            return client.get(path.format(run_id=quote(run_id)), headers={"Authorization": f"Bearer {token}"})

    def states(self) -> States:
        """Return the current states of the task instances."""
        query = "SELECT task_id, COALESCE(state, 'none') FROM task_instance ORDER BY task_id, rowid"
        states: dict[str, list[str]] = {}
        for task_id, state in self._select(query):
            states.setdefault(task_id, []).append(str(state))
        return {task_id: ",".join(each) for task_id, each in states.items()}

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


@contextmanager
def only_run(
    home: Path, dags: Path, dag_id: str, environment: dict[str, str], consumers: Sequence[str] = ()
) -> Iterator[OnlyRun]:
    """Start Airflow with one DAG file, and begin the only run of its DAG.

    :param dags: Directory with the DAG file.
    :param consumers: DAGs that asset events of the run start.
    """
    environment = environment | {"AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True"}
    with AirflowProcesses(home, dags, components=PROCESSES, environment=environment) as airflow:
        run = OnlyRun(airflow, dag_id)
        run.begin(consumers)
        yield run
