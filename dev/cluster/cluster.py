"""The parts of the cluster: how each is started, stopped, killed, and brought back when it dies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from dev.airflow.airflow_instance import COMPONENTS, AirflowInstance
from dev.airflow.postgres import PostgresProcess
from dev.airflow.redis_server import RedisServer

#: Tasks that one worker runs at a time: each is a process of its own, and two cores have to do.
WORKER_CONCURRENCY = 3


def _worker(number: int) -> tuple[str, ...]:
    name = f"worker-{number}"
    own = ("--celery-hostname", f"{name}@%h", "--pid", f"{name}.pid")
    return ("celery", "worker", "--concurrency", str(WORKER_CONCURRENCY), "--skip-serve-logs", *own)


#: Airflow's processes.
PROCESSES: Mapping[str, tuple[str, ...]] = {
    "api-server": COMPONENTS["api-server"],
    "scheduler": COMPONENTS["scheduler"],
    "dag-processor": COMPONENTS["dag-processor"],
    "triggerer-1": COMPONENTS["triggerer"],
    "triggerer-2": COMPONENTS["triggerer"],
    "worker-1": _worker(1),
    "worker-2": _worker(2),
}

#: How soon the loss of a part is noticed; Airflow's own defaults are minutes, for machines that are far apart.
RECOVERY = {
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    # A message that a killed worker had taken is lost until Redis gives it out again.
    "SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
    "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
    "SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": "20",
    "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
}


class Part(Protocol):
    """A process of the cluster, with all that it starts."""

    @property
    def running(self) -> bool:
        """Whether it runs."""

    def start(self) -> None:
        """Start it; it is down."""

    def stop(self) -> None:
        """End it in order."""

    def kill(self) -> None:
        """Kill it, as ``kill -9`` would."""

    def processor_seconds(self) -> float:
        """Return what it has computed so far."""


class Cluster:
    """Run all parts on the loopback address, and nothing afterwards.

    :param folder: Where everything is kept. Created when missing.
    :param dags_folder: The DAG files.
    :param connections: Airflow connections, as :class:`~dev.airflow.airflow_instance.AirflowInstance` takes them.
    :param port: Preferred port of Airflow's UI; 0 means any.
    """

    def __init__(
        self,
        folder: Path,
        dags_folder: Path,
        *,
        connections: Mapping[str, Mapping[str, Any]],
        port: int = 0,
    ) -> None:
        self._folder = folder
        self._dags_folder = dags_folder
        self._connections = connections
        self._port = port
        #: All parts by their names, inside the block.
        self.parts: Mapping[str, Part] = {}
        self._open = ExitStack()
        self._down: set[str] = set()

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            self.postgres = opening.enter_context(PostgresProcess())
            self.redis = opening.enter_context(RedisServer(self._folder / "redis"))
            self.airflow = opening.enter_context(self._airflow())
            self.parts = {"postgres": self.postgres, "redis": self.redis, **self.airflow.processes}
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    def kill(self, name: str) -> None:
        """Kill a part with all its processes, as ``kill -9`` would; it stays down until it is started."""
        self._down.add(name)
        self.parts[name].kill()

    def stop(self, name: str) -> None:
        """End a part in order; it stays down until it is started."""
        self._down.add(name)
        self.parts[name].stop()

    def start(self, name: str) -> None:
        """Start a part that is down."""
        self.parts[name].start()
        self._down.discard(name)

    def processor_seconds(self) -> dict[str, float]:
        """Return what each part has computed so far."""
        return {name: part.processor_seconds() for name, part in self.parts.items()}

    def revive(self) -> Iterator[str]:
        """Start the parts that have ended by themselves, as a supervisor would, and yield their names.

        A scheduler ends when its database is away for long, and leaves it to others to start it again.
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
            self._folder / "airflow",
            self._dags_folder,
            connections=self._connections,
            port=self._port,
            environment={f"AIRFLOW__{name}": value for name, value in settings.items()},
            components=PROCESSES,
            report=print,
        )
