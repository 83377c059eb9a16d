"""The cluster. Each of its parts can be started, stopped, killed and restarted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from dev.airflow.airflow_instance import COMPONENTS, AirflowInstance
from dev.airflow.postgres import PostgresProcess
from dev.airflow.redis_server import RedisServer

#: Number of tasks that one worker runs at the same time. It is small, because each task is a separate process, and two
#: cores must be enough.
WORKER_CONCURRENCY = 3


def _worker(number: int) -> tuple[str, ...]:
    name = f"worker-{number}"
    own = ("--celery-hostname", f"{name}@%h", "--pid", f"{name}.pid")
    return ("celery", "worker", "--concurrency", str(WORKER_CONCURRENCY), "--skip-serve-logs", *own)


#: Command line arguments of Airflow's processes.
PROCESSES: Mapping[str, tuple[str, ...]] = {
    "api-server": COMPONENTS["api-server"],
    "scheduler": COMPONENTS["scheduler"],
    "dag-processor": COMPONENTS["dag-processor"],
    "triggerer-1": COMPONENTS["triggerer"],
    "triggerer-2": COMPONENTS["triggerer"],
    "worker-1": _worker(1),
    "worker-2": _worker(2),
}

#: Settings with which Airflow detects the loss of a part within about a minute. With the defaults, it takes longer.
RECOVERY = {
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    # A message that a killed worker had received is lost until Redis delivers it again.
    "SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
    "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
    "SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": "20",
    "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
}


class Part(Protocol):
    """A process of the cluster, with its descendants."""

    @property
    def running(self) -> bool:
        """Whether the process runs."""

    def start(self) -> None:
        """Start the process. It must not be running."""

    def stop(self) -> None:
        """Stop the process cleanly."""

    def kill(self) -> None:
        """Kill the process with SIGKILL."""

    def processor_seconds(self) -> float:
        """Return the processor time so far, in seconds."""


class Cluster:
    """Runs all parts on the loopback address until the block ends.

    :param directory: Directory for all data. Created if missing.
    :param dags_folder: Directory with the DAG files.
    :param connections: Airflow connections, as for :class:`~dev.airflow.airflow_instance.AirflowInstance`.
    :param port: Preferred port of Airflow's UI; 0 selects any free port.
    """

    def __init__(
        self,
        directory: Path,
        dags_folder: Path,
        *,
        connections: Mapping[str, Mapping[str, Any]],
        port: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = dict(environment or {})
        self._directory = directory
        self._dags_directory = dags_folder
        self._connections = connections
        self._port = port
        #: All parts by their names; empty outside the block.
        self.parts: Mapping[str, Part] = {}
        self._open = ExitStack()
        self._down: set[str] = set()

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            self.postgres = opening.enter_context(PostgresProcess())
            self.redis = opening.enter_context(RedisServer(self._directory / "redis"))
            self.airflow = opening.enter_context(self._airflow())
            self.parts = {"postgres": self.postgres, "redis": self.redis, **self.airflow.processes}
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    def kill(self, name: str) -> None:
        """Kill a part and all its processes with SIGKILL. It stays down until ``start`` is called."""
        self._down.add(name)
        self.parts[name].kill()

    def stop(self, name: str) -> None:
        """Stop a part cleanly. It stays down until ``start`` is called."""
        self._down.add(name)
        self.parts[name].stop()

    def start(self, name: str) -> None:
        """Start a killed or stopped part."""
        self.parts[name].start()
        self._down.discard(name)

    def processor_seconds(self) -> dict[str, float]:
        """Return the processor time of each part so far, in seconds."""
        return {name: part.processor_seconds() for name, part in self.parts.items()}

    def revive(self) -> Iterator[str]:
        """Restart the Airflow processes that ended unexpectedly, as a supervisor does, and yield their names.

        For example, a scheduler ends when it cannot reach its database for a long time, and expects to be restarted.
        """
        for name, process in self.airflow.processes.items():
            if name not in self._down and not process.running:
                process.start()
                yield name

    def _airflow(self) -> AirflowInstance:
        settings = {
            "CORE__EXECUTOR": "CeleryExecutor",
            "CORE__PARALLELISM": "32",
            "CELERY__BROKER_URL": self.redis.url,
            "CELERY__RESULT_BACKEND": f"db+{self.postgres.url}",
            "CELERY__WORKER_CONCURRENCY": str(WORKER_CONCURRENCY),
            "DATABASE__SQL_ALCHEMY_CONN": self.postgres.url,
            **RECOVERY,
        }
        return AirflowInstance(
            self._directory / "airflow",
            self._dags_directory,
            connections=self._connections,
            port=self._port,
            environment={f"AIRFLOW__{name}": value for name, value in settings.items()} | self._environment,
            components=PROCESSES,
            report=print,
        )
