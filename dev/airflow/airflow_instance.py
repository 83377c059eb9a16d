"""A real Airflow in its own directory: scheduler, DAG processor, triggerer and API server as separate processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from airflow_provider_toapis.version_compat import AIRFLOW_V_3_4_PLUS
from dev.airflow.airflow_processes import AirflowProcesses
from dev.airflow.processes import ProcessError

#: Command line arguments of Airflow's components, by the names of their commands.
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "api-server": ("api-server", "--workers", "1"),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}

#: Column of a task instance's map index. Airflow 3.4 has renamed it.
MAP_INDEX_COLUMN = "region_index" if AIRFLOW_V_3_4_PLUS else "map_index"
#: Keys in Airflow's health report, by the names of the components that the report covers.
_HEALTH_KEYS = {"scheduler": "scheduler", "dag-processor": "dag_processor", "triggerer": "triggerer"}

#: File with the passwords of Airflow's users.
_PASSWORDS = "passwords.json"

#: Maximum seconds for the start. A cold start on two busy cores takes about 30.
START_TIMEOUT = 300.0


#: Maximum number of requests that add a connection.
_CONNECTION_TRIES = 10


class AirflowApiError(Exception):
    """Airflow's REST API returned an error or no response."""


class AirflowInstance(AirflowProcesses):
    """Runs a real Airflow 3 on free ports and calls its REST API. All processes end with the ``with`` block.

    :param directory: AIRFLOW_HOME, for the metadata database and all logs. Created if missing.
    :param dags_folder: Directory with the DAG files.
    :param connections: Airflow connections by id, in the format of the REST API (``conn_type``, ``host``,
        ``password`` ...). They are stored in the metadata database, encrypted with a key that is never written to disk.
    :param users: Roles of Airflow's users by name, the first one ``admin``. A user's password is the name. A user whose
        role is empty has no permission. Default: Airflow requires no login.
    :param port: Preferred port of the API server and UI. If it is in use, another port is selected. 0 selects any free
        port.
    :param environment: Additional environment variables for all components, such as ``AIRFLOW__SECTION__KEY``.
    :param components: Command line arguments of the processes to run, by name. If several are of one kind, their names
        end with a dash and a number.
    :param report: Called with a short text before each step that takes seconds.
    """

    def __init__(
        self,
        directory: Path,
        dags_folder: Path,
        *,
        connections: Mapping[str, Mapping[str, Any]] | None = None,
        users: Mapping[str, str] | None = None,
        port: int = 0,
        environment: Mapping[str, str] | None = None,
        components: Mapping[str, tuple[str, ...]] = COMPONENTS,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(
            directory,
            dags_folder,
            components=components,
            port=port,
            environment={**_login_settings(directory, users or {}), **(environment or {})},
            report=report,
        )
        self._connections = connections or {}
        self._users = list(users or {})
        self._http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / _PASSWORDS).write_text(json.dumps({name: name for name in self._users}), encoding="utf-8")
        super().__enter__()
        try:
            self.wait_until_healthy()
            self._log_in()
            for connection_id, connection in self._connections.items():
                self._add_connection({"connection_id": connection_id, **connection})
        except BaseException:
            self.stop()
            raise
        return self

    def _add_connection(self, connection: Mapping[str, Any]) -> None:
        """Add a connection. Repeat it if SQLite was locked, which can happen while the components start."""
        for _ in range(_CONNECTION_TRIES):
            response = self._http.post("/api/v2/connections", json=connection)
            # An earlier try can have added the connection, and failed at its entry in the audit log.
            if response.is_success or response.status_code == httpx.codes.CONFLICT:
                return
            time.sleep(1)
        raise AirflowApiError(f"Airflow returned {response.status_code} for a connection: {response.text[:500]}")

    # Components

    def stop(self) -> None:
        """Stop all components at the same time. Those that still run after a few seconds are killed."""
        super().stop()
        self._http.close()

    def wait_until_healthy(self, timeout: float = START_TIMEOUT) -> None:
        """Wait until every component is healthy.

        :raises ProcessError: A component ended, or ``timeout`` seconds passed. The message contains the end of the
            component's log.
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

    def token(self, user: str) -> str:
        """Return a token of a user. It is valid as a bearer token, and as the cookie ``_token``."""
        response = self._http.post("/auth/token", json={"username": user, "password": user})
        return str(response.raise_for_status().json()["access_token"])

    def api(self, method: str, path: str, *, json: object = None, params: Mapping[str, str | int] | None = None) -> Any:  # noqa: ANN401 - any JSON
        """Call the REST API v2 and return its JSON response; None for an empty response.

        :param path: Path below ``/api/v2/``.
        :raises AirflowApiError: The response is an error, or there is no response.
        """
        try:
            response = self._http.request(method, f"/api/v2/{path}", json=json, params=params)
        except httpx.HTTPError as error:
            raise AirflowApiError(f"No response from Airflow to {method} {path}: {error!r}") from error
        if response.is_error:
            raise AirflowApiError(f"Airflow returned {response.status_code} for {method} {path}: {response.text[:500]}")
        return response.json() if response.content else None

    def wait_for_dag(self, dag_id: str, timeout: float = START_TIMEOUT) -> None:
        """Wait until the DAG processor has parsed a DAG.

        :raises ProcessError: A DAG file has an import error, or ``timeout`` seconds passed.
        """
        deadline = time.monotonic() + timeout
        while self._http.get(f"/api/v2/dags/{dag_id}").status_code != httpx.codes.OK:
            if errors := self.api("GET", "importErrors")["import_errors"]:
                raise ProcessError(f"Cannot import a DAG file:\n{errors[0]['stack_trace']}")
            if time.monotonic() > deadline:
                raise self._components["dag-processor"].error(f"did not find the DAG {dag_id}")
            time.sleep(0.3)

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, *, run_id: str | None = None) -> str:
        """Wait until a DAG is parsed, trigger a run of it, and return the run's id.

        :param run_id: Id of the run. Default: Airflow generates it.
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

        :raises TimeoutError: The run did not end within ``timeout`` seconds.
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

    def xcom(self, dag_id: str, run_id: str, task_id: str, *, key: str = "return_value", map_index: int = -1) -> Any:  # noqa: ANN401 - any value
        """Return one XCom value of a task instance."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.api("GET", path, params={"map_index": map_index, "deserialize": True})["value"]

    def task_log_entries(
        self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, try_number: int = 1
    ) -> list[dict[str, Any]]:
        """Return the log of one attempt of a task instance, with the lines of the worker and the triggerer.

        Every entry has an ``event``. Most have ``timestamp`` and ``level``; an exception has ``error_detail``.
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

    # Internal

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
        # The report covers one component of each kind, and does not cover workers.
        return self._components[name].running and (key is None or report[key]["status"] == "healthy")

    def _log_in(self) -> None:
        if self._users:
            token = self.token(self._users[0])
        else:
            token = self._http.get("/auth/token").raise_for_status().json()["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"


def _login_settings(directory: Path, users: Mapping[str, str]) -> dict[str, str]:
    if not users:
        return {}
    settings = {
        "ALL_ADMINS": "False",
        "USERS": ",".join(f"{name}:{role}" for name, role in users.items()),
        "PASSWORDS_FILE": str(directory.resolve() / _PASSWORDS),
    }
    return {f"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_{name}": value for name, value in settings.items()}


def _log_line(entry: Mapping[str, Any]) -> str:
    extras = {key: value for key, value in entry.items() if key not in {"timestamp", "event", "level", "logger"}}
    time_and_level = f"{entry.get('timestamp') or ''} {entry.get('level') or ''}".strip()
    return f"{time_and_level} {entry['event']} {extras or ''}".strip()
