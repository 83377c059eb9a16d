"""A real Airflow in a folder of its own: scheduler, DAG processor, triggerer and API server as separate processes."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx

from demo.processes import STOP_GRACE, BackgroundProcess, ProcessError, free_port, log_ending

if TYPE_CHECKING:
    from types import TracebackType

#: The processes of an Airflow installation, by the names that Airflow's command line gives them.
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "api-server": ("api-server", "--workers", "1"),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}

#: What the health report calls the components that appear in it.
_HEALTH_KEYS = {"scheduler": "scheduler", "dag-processor": "dag_processor", "triggerer": "triggerer"}

#: Seconds; a cold start on two busy cores takes about 30.
START_TIMEOUT = 150.0


class AirflowApiError(Exception):
    """Airflow's REST API refused a request or did not answer."""


class AirflowInstance:
    """Start a real Airflow 3 on free ports, talk to it over its REST API, and leave nothing running.

    :param folder: Its home: metadata database, component logs, task logs. Created when missing.
    :param dags_folder: The DAG files that it serves.
    :param connections: Airflow connections by id, each as the REST API takes them (``conn_type``, ``host``,
        ``password`` ...). They are stored in the metadata database, encrypted with a key that is never written to disk.
    :param port: Preferred port of the API server and UI; another one is taken when it is in use. 0 means any.
    :param environment: Further environment variables for all components, such as ``AIRFLOW__SECTION__KEY``.
    :param components: The processes to run; of several of one kind, each name ends with a dash and a number.
    :param report: Called with a short sentence whenever something begins that takes seconds.
    """

    def __init__(
        self,
        folder: Path,
        dags_folder: Path,
        *,
        connections: Mapping[str, Mapping[str, Any]] | None = None,
        port: int = 0,
        environment: Mapping[str, str] | None = None,
        components: Mapping[str, tuple[str, ...]] = COMPONENTS,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder = folder.resolve()
        self._connections = connections or {}
        self._report = report
        self._port = free_port(port)
        self.url = f"http://127.0.0.1:{self._port}"
        self.environment = self._own_environment(dags_folder.resolve()) | dict(environment or {})
        self._components = {name: self._component(name, arguments) for name, arguments in components.items()}
        self._http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def __enter__(self) -> Self:
        try:
            self._create_database()
            self._report(f"Starting Airflow: {', '.join(self._components)}")
            for name in self._components:
                self.start(name)
            self.wait_until_healthy()
            self._log_in()
            for connection_id, connection in self._connections.items():
                self.api("POST", "connections", json={"connection_id": connection_id, **connection})
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # Components

    @property
    def processes(self) -> Mapping[str, BackgroundProcess]:
        """The processes of the components, by their names."""
        return self._components

    def start(self, name: str) -> None:
        """Start one component, one of :data:`COMPONENTS`; does not wait until it is healthy."""
        self._components[name].start()

    def kill(self, name: str) -> None:
        """Kill one component with all its children, as ``kill -9`` would."""
        self._components[name].kill()

    def stop(self) -> None:
        """End all components together; whatever has not ended after a few seconds is killed."""
        deadline = time.monotonic() + STOP_GRACE
        for component in self._components.values():
            component.request_stop()
        for component in self._components.values():
            component.stop(deadline)
        self._http.close()

    def component_log(self, name: str) -> str:
        """Return what a component has written so far."""
        return self._components[name].log()

    def check_running(self) -> None:
        """Raise :class:`ProcessError` when a component has ended by itself; names it and shows the end of its log."""
        for component in self._components.values():
            if not component.running:
                raise component.error("ended by itself")

    def wait_until_healthy(self, timeout: float = START_TIMEOUT) -> None:
        """Wait until every component that was started reports itself healthy.

        :raises ProcessError: One ended, or ``timeout`` seconds passed; names it and shows the end of its log.
        """
        deadline = time.monotonic() + timeout
        while missing := self._unhealthy():
            for name in missing:
                if not self._components[name].running:
                    raise self._components[name].error("ended while Airflow was starting")
            if time.monotonic() > deadline:
                raise self._components[missing[0]].error(f"was not ready after {timeout:.0f} seconds")
            time.sleep(0.3)

    # REST API

    def api(self, method: str, path: str, *, json: object = None, params: Mapping[str, str | int] | None = None) -> Any:  # noqa: ANN401 - whatever JSON the path answers
        """Call the REST API v2 and return its JSON answer, None when there is none.

        :param path: Below ``/api/v2/``.
        :raises AirflowApiError: It refused the request or did not answer.
        """
        try:
            response = self._http.request(method, f"/api/v2/{path}", json=json, params=params)
        except httpx.HTTPError as error:
            raise AirflowApiError(f"Airflow does not answer {method} {path}: {error!r}") from error
        if response.is_error:
            raise AirflowApiError(
                f"Airflow answered {method} {path} with {response.status_code}: {response.text[:500]}"
            )
        return response.json() if response.content else None

    def wait_for_dag(self, dag_id: str, timeout: float = START_TIMEOUT) -> None:
        """Wait until the DAG processor has parsed a DAG; raise with the import errors when it cannot."""
        deadline = time.monotonic() + timeout
        while self._http.get(f"/api/v2/dags/{dag_id}").status_code != httpx.codes.OK:
            if errors := self.api("GET", "importErrors")["import_errors"]:
                raise ProcessError(f"A DAG file cannot be imported:\n{errors[0]['stack_trace']}")
            if time.monotonic() > deadline:
                raise self._components["dag-processor"].error(f"did not find the DAG {dag_id}")
            time.sleep(0.3)

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, *, run_id: str | None = None) -> str:
        """Start a run of a DAG, waiting for the DAG to be parsed first, and return the run's id.

        :param run_id: None leaves it to Airflow.
        """
        self.wait_for_dag(dag_id)
        named = {} if run_id is None else {"dag_run_id": run_id}
        body = {"logical_date": None, "conf": dict(conf or {}), **named}
        run = self.api("POST", f"dags/{dag_id}/dagRuns", json=body)
        return str(run["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return ``queued``, ``running``, ``success`` or ``failed``."""
        return str(self.api("GET", f"dags/{dag_id}/dagRuns/{run_id}")["state"])

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float = START_TIMEOUT) -> str:
        """Wait until a run has ended and return its state.

        :raises TimeoutError: It had not ended after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while (state := self.run_state(dag_id, run_id)) not in {"success", "failed"}:
            if time.monotonic() > deadline:
                raise TimeoutError(f"The run {run_id} of {dag_id} is still {state} after {timeout:.0f} seconds.")
            time.sleep(0.5)
        return state

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return a run's task instances: ``task_id``, ``map_index``, ``state``, ``try_number``, ``start_date`` ..."""
        listing = self.api("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances", params={"limit": 1000})
        instances: list[dict[str, Any]] = listing["task_instances"]
        return sorted(instances, key=lambda instance: (instance["task_id"], instance["map_index"]))

    def xcom(self, dag_id: str, run_id: str, task_id: str, *, key: str = "return_value", map_index: int = -1) -> Any:  # noqa: ANN401 - whatever the task returned
        """Return one XCom value of a task instance."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.api("GET", path, params={"map_index": map_index, "deserialize": True})["value"]

    def task_log_entries(
        self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, try_number: int = 1
    ) -> list[dict[str, Any]]:
        """Return the log of one attempt of a task instance, worker's and triggerer's lines together.

        Every entry has an ``event``; most have ``timestamp`` and ``level``, that of an exception ``error_detail``.
        """
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        entries: list[dict[str, Any]] = self.api("GET", path, params={"map_index": map_index, "full_content": True})[
            "content"
        ]
        return entries

    def task_log(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, try_number: int = 1) -> str:
        """Return :meth:`task_log_entries` as text."""
        entries = self.task_log_entries(dag_id, run_id, task_id, map_index=map_index, try_number=try_number)
        return "\n".join(_log_line(entry) for entry in entries)

    # Inside

    def _own_environment(self, dags_folder: Path) -> dict[str, str]:
        # Nothing of an Airflow that its user may have may reach this one, nor the key of the service.
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIRFLOW", "_AIRFLOW")) and name != "TOAPIS_API_KEY"
        }
        settings = {
            "CORE__DAGS_FOLDER": str(dags_folder),
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "CORE__TEST_CONNECTION": "Enabled",
            # Every running task is a process of its own; more of them would only be slower on a small machine.
            "CORE__PARALLELISM": "4",
            # Airflow's own default of five minutes is longer than anybody watches.
            "CORE__DEFAULT_TASK_RETRY_DELAY": "10",
            "CORE__FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "API__HOST": "127.0.0.1",
            "API__PORT": str(self._port),
            "API__BASE_URL": self.url,
            "API__SECRET_KEY": secrets.token_hex(32),
            "API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.folder / 'airflow.db'}",
            "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "LOGGING__BASE_LOG_FOLDER": str(self.folder / "logs"),
            "LOGGING__COLORED_CONSOLE_LOG": "False",
            "USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        return {
            **inherited,
            "AIRFLOW_HOME": str(self.folder),
            "PYTHONUNBUFFERED": "1",
            # Everything here talks over the loopback address, which no proxy can reach.
            **dict.fromkeys(("NO_PROXY", "no_proxy"), _without_proxy(inherited)),
            **{f"AIRFLOW__{name}": value for name, value in settings.items()},
        }

    def _component(self, name: str, arguments: tuple[str, ...]) -> BackgroundProcess:
        return BackgroundProcess(name, airflow_command(*arguments), self.environment, self.folder / f"{name}.log")

    def _create_database(self) -> None:
        self._report("Creating Airflow's database")
        self.folder.mkdir(parents=True, exist_ok=True)
        log_path = self.folder / "db-migrate.log"
        with log_path.open("wb") as log:
            command = airflow_command("db", "migrate")
            result = subprocess.run(
                command, env=self.environment, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, check=False
            )
        if result.returncode != 0:
            ending = log_ending(log_path.read_text(encoding="utf-8", errors="replace"), log_path)
            raise ProcessError(f"Airflow's database cannot be created. {ending}")

    def _unhealthy(self) -> list[str]:
        if not self._components["api-server"].running:
            return ["api-server"]
        try:
            report = self._http.get("/api/v2/monitor/health").raise_for_status().json()
        except httpx.HTTPError:
            return [name for name in self._components if not self._components[name].running] or ["api-server"]
        return [name for name in self._components if not self._is_healthy(name, report)]

    def _is_healthy(self, name: str, report: Mapping[str, Any]) -> bool:
        key = _HEALTH_KEYS.get(name.rstrip("0123456789").rstrip("-"))
        # Airflow reports on one of a kind, and on no workers.
        return self._components[name].running and (key is None or report[key]["status"] == "healthy")

    def _log_in(self) -> None:
        token = self._http.get("/auth/token").raise_for_status().json()["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"


def _without_proxy(environment: Mapping[str, str]) -> str:
    hosts = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return ",".join(filter(None, (hosts, "127.0.0.1", "localhost")))


def airflow_command(*arguments: str) -> list[str]:
    """Return the command line that runs Airflow with this very Python."""
    return [sys.executable, "-m", "airflow", *arguments]


def _log_line(entry: Mapping[str, Any]) -> str:
    extras = {key: value for key, value in entry.items() if key not in {"timestamp", "event", "level", "logger"}}
    time_and_level = f"{entry.get('timestamp') or ''} {entry.get('level') or ''}".strip()
    return f"{time_and_level} {entry['event']} {extras or ''}".strip()
