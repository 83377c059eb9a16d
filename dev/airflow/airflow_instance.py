"""A real Airflow in a folder of its own: scheduler, DAG processor, triggerer and API server as separate processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from dev.airflow.airflow_processes import AirflowProcesses
from dev.airflow.processes import ProcessError

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


class AirflowInstance(AirflowProcesses):
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
        super().__init__(folder, dags_folder, components=components, port=port, environment=environment, report=report)
        self._connections = connections or {}
        self._http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.wait_until_healthy()
            self._log_in()
            for connection_id, connection in self._connections.items():
                self.api("POST", "connections", json={"connection_id": connection_id, **connection})
        except BaseException:
            self.stop()
            raise
        return self

    # Components

    def stop(self) -> None:
        """End all components together; whatever has not ended after a few seconds is killed."""
        super().stop()
        self._http.close()

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


def _log_line(entry: Mapping[str, Any]) -> str:
    extras = {key: value for key, value in entry.items() if key not in {"timestamp", "event", "level", "logger"}}
    time_and_level = f"{entry.get('timestamp') or ''} {entry.get('level') or ''}".strip()
    return f"{time_and_level} {entry['event']} {extras or ''}".strip()
