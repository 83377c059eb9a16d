"""A real Airflow whose processes are killed while it makes videos."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil  # type: ignore[import-untyped]
import pytest
import sqlalchemy

from dev.airflow.airflow_instance import AirflowInstance
from dev.airflow.postgres import PostgresProcess
from tests.e2e.dag_run import Run
from tests.integration.emulator_process import EmulatorProcess

#: Seconds between two looks at whether another video shall be finished.
FEED_BEAT = 0.2

Method = Literal["execute", "execute_complete"]
T = TypeVar("T")

#: The life and death of Airflow's processes in seconds instead of minutes.
QUICK_RECOVERY = {
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
}

_UNFINISHED_TASKS = sqlalchemy.text(
    "SELECT state, map_index, try_number, pid, coalesce(next_method, 'execute') FROM task_instance"
    " WHERE dag_id = :dag_id AND run_id = :run_id AND state IS DISTINCT FROM 'success'"
)


@dataclass(frozen=True)
class RunningTask:
    """A try of a mapped task whose process is at work.

    :param pid: The task's own process, the child of the worker that supervises it.
    :param method: What it does: ``execute``, or ``execute_complete`` after a deferral.
    """

    map_index: int
    try_number: int
    pid: int
    method: Method


@dataclass(frozen=True)
class Scene:
    """An Airflow on PostgreSQL, the service that it talks to, and the means to kill.

    :param database: Airflow's own, which knows the process of every running task.
    :param chance: Who is killed, and when.
    :param deadline: Monotonic time at which everything must have ended.
    """

    airflow: AirflowInstance
    database: sqlalchemy.Engine
    emulator: EmulatorProcess
    chance: random.Random
    deadline: float

    @classmethod
    @contextmanager
    def set(
        cls,
        service: EmulatorProcess,
        dag_file: str,
        directories: pytest.TempPathFactory,
        *,
        chance: random.Random,
        seconds: float,
    ) -> Iterator[Scene]:
        """Start everything, and let it end when the block does.

        :param dag_file: One of the files in ``dags/``.
        :param seconds: For everything, from now on.
        """
        deadline = time.monotonic() + seconds
        dags_folder = directories.mktemp("dags")
        shutil.copy(Path(__file__).parent / "dags" / dag_file, dags_folder)
        with service as emulator, PostgresProcess() as postgres:
            connections = {"toapis_default": {"conn_type": "toapis", "host": emulator.url, "password": "sk-emulator"}}
            environment = {**QUICK_RECOVERY, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.url}
            directory = directories.mktemp("airflow")
            with AirflowInstance(directory, dags_folder, connections=connections, environment=environment) as airflow:
                database = sqlalchemy.create_engine(postgres.url)
                yield cls(airflow, database, emulator, chance, deadline)
                database.dispose()

    def wait_for(self, what: str, look: Callable[[], T | None]) -> T:
        """Look until there is something to see."""
        while not (seen := look()):
            assert time.monotonic() < self.deadline, f"Time is up, and there was still not {what}."
            time.sleep(0.03)
        return seen

    @contextmanager
    def videos_finish(self, run: Run, at_a_time: int) -> Iterator[None]:
        """Let the service finish the run's videos until the block ends: another one whenever one was kept.

        Without it they are never ready, so that how fast the machine is does not decide who can still be killed.
        """
        ended = threading.Event()

        def feed() -> None:
            finished: set[str] = set()
            while not ended.wait(FEED_BEAT):
                kept = len(list(run.output.glob("*.mp4")))
                unfinished = [line["id"] for line in self.emulator.ledger()["billed"] if line["status"] == "pending"]
                for video_id in unfinished[: max(0, at_a_time - (len(finished) - kept))]:
                    self.emulator.finish(video_id)
                    finished.add(video_id)

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        try:
            yield
        finally:
            ended.set()
            feeder.join()

    def kill_component(self, name: str) -> None:
        """Kill a component with all its processes, and start it again a moment later."""
        self.airflow.kill(name)
        time.sleep(self.chance.uniform(0, 1))
        self.airflow.start(name)

    def kill_task(self, run: Run, method: Method | None, within: float) -> RunningTask:
        """Kill the process of some task, or the worker that supervises it.

        :param method: What it shall be busy with; None means anything.
        :param within: Seconds after it was seen running.
        """
        while True:
            task = self.wait_for(f"a task in {method or 'any method'}", lambda: self._any_running(run, method))
            time.sleep(self.chance.uniform(0, within))
            if task in self.running(run) and self._kill_process_of(task):
                return task

    def running(self, run: Run) -> list[RunningTask]:
        """Return the tasks of a run whose processes are at work."""
        with self.database.connect() as connection:
            rows = connection.execute(_UNFINISHED_TASKS, {"dag_id": run.dag_id, "run_id": run.run_id}).all()
        assert rows, f"{run.dag_id} ended before all was killed that was to be killed"
        return [RunningTask(*task) for state, *task in rows if state == "running"]

    def _any_running(self, run: Run, method: Method | None) -> RunningTask | None:
        # The database calls a task running for seconds after its process has died.
        alive = {process.pid for process in psutil.Process().children(recursive=True)}
        tasks = [task for task in self.running(run) if task.pid in alive and method in {None, task.method}]
        return self.chance.choice(tasks) if tasks else None

    def _kill_process_of(self, task: RunningTask) -> bool:
        # Only for a descendant of ours is the process id sure to be still what the database took it for.
        for process in psutil.Process().children(recursive=True):
            if process.pid == task.pid:
                victim = self.chance.choice((process, process.parent()))
                victim.kill()
                return True
        return False


@dataclass(frozen=True)
class Outcome:
    """A run that has ended.

    :param killed: What was killed meanwhile, in order: a component, or a task.
    :param billed: The ledger's lines about the run.
    """

    run: Run
    state: str
    killed: list[str | RunningTask]
    billed: list[dict[str, Any]]

    @property
    def instances(self) -> list[dict[str, Any]]:
        """The task instances, in the order of their map indexes."""
        return self.run.task_instances("make_video")

    @property
    def results(self) -> list[dict[str, Any]]:
        """What the tasks returned, in the order of their map indexes."""
        return [self.run.xcom("make_video", instance["map_index"]) for instance in self.instances]

    @property
    def cut_short(self) -> list[RunningTask]:
        """The killed tasks that had to be tried again; others had reported their end already."""
        tries = [instance["try_number"] for instance in self.instances]
        return [
            task for task in self.killed if isinstance(task, RunningTask) and task.try_number < tries[task.map_index]
        ]

    def log_after(self, task: RunningTask) -> str:
        """Return what the tries after a killed one wrote."""
        last_try = self.instances[task.map_index]["try_number"]
        return "\n".join(
            self.run.airflow.task_log(
                self.run.dag_id, self.run.run_id, "make_video", map_index=task.map_index, try_number=try_number
            )
            for try_number in range(task.try_number + 1, last_try + 1)
        )
