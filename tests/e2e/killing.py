"""A real Airflow with functions that kill its processes while it makes videos."""

from __future__ import annotations

import json
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

from dev.airflow.airflow_instance import MAP_INDEX_COLUMN, AirflowInstance
from dev.airflow.postgres import PostgresProcess
from tests.e2e.dag_run import Run
from tests.integration.emulator_process import EmulatorProcess

#: Seconds between two checks whether to complete another video.
FEED_BEAT = 0.2

Method = Literal["execute", "execute_complete"]
T = TypeVar("T")

#: Settings with which Airflow detects dead processes in seconds instead of minutes.
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
    f"SELECT state, {MAP_INDEX_COLUMN} AS map_index, try_number, pid, coalesce(next_method, 'execute')"
    " FROM task_instance WHERE dag_id = :dag_id AND run_id = :run_id AND state IS DISTINCT FROM 'success'"
)


@dataclass(frozen=True)
class RunningTask:
    """A running try of a mapped task.

    :param pid: Id of the task's process, a child of the worker that supervises it.
    :param method: The running method: ``execute``, or ``execute_complete`` after a deferral.
    """

    map_index: int
    try_number: int
    pid: int
    method: Method


@dataclass(frozen=True)
class KillEnvironment:
    """An Airflow with PostgreSQL, its emulator, and functions that kill processes.

    :param database: Airflow's database, which has the process id of every running task.
    :param rng: Random generator that selects the processes and times of kills.
    :param deadline: Monotonic time at which the test fails.
    """

    airflow: AirflowInstance
    database: sqlalchemy.Engine
    emulator: EmulatorProcess
    rng: random.Random
    deadline: float

    @classmethod
    @contextmanager
    def start(
        cls,
        service: EmulatorProcess,
        dag_file: str,
        directories: pytest.TempPathFactory,
        *,
        rng: random.Random,
        seconds: float,
        submit_rate: float = 5.0,
    ) -> Iterator[KillEnvironment]:
        """Run Airflow and the service until the block ends.

        :param dag_file: Name of a file in ``dags/``.
        :param seconds: Time limit for the whole test.
        :param submit_rate: Submissions per second that the connection allows.
        """
        deadline = time.monotonic() + seconds
        dags_folder = directories.mktemp("dags")
        shutil.copy(Path(__file__).parent / "dags" / dag_file, dags_folder)
        with service as emulator, PostgresProcess() as postgres:
            connections = {
                "toapis_default": {
                    "conn_type": "toapis",
                    "host": emulator.url,
                    "password": "sk-emulator",
                    "extra": json.dumps({"submit_rate": submit_rate}),
                }
            }
            environment = {**QUICK_RECOVERY, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.url}
            directory = directories.mktemp("airflow")
            with AirflowInstance(directory, dags_folder, connections=connections, environment=environment) as airflow:
                database = sqlalchemy.create_engine(postgres.url)
                yield cls(airflow, database, emulator, rng, deadline)
                database.dispose()

    def wait_for(self, description: str, check: Callable[[], T | None]) -> T:
        """Call ``check`` until it returns a true value, and return that value."""
        while not (found := check()):
            assert time.monotonic() < self.deadline, f"Timed out waiting for {description}."
            time.sleep(0.03)
        return found

    @contextmanager
    def videos_finish(self, run: Run, at_a_time: int) -> Iterator[None]:
        """Until the block ends, complete the run's videos. At most ``at_a_time`` completed videos are not saved yet.

        No video is completed in any other way, so the tasks that can be killed do not depend on the machine's speed.
        """
        ended = threading.Event()

        def finish_videos() -> None:
            finished: set[str] = set()
            while not ended.wait(FEED_BEAT):
                saved = len(list(run.output.glob("*.mp4")))
                unfinished = [line["id"] for line in self.emulator.ledger()["billed"] if line["status"] == "pending"]
                for video_id in unfinished[: max(0, at_a_time - (len(finished) - saved))]:
                    self.emulator.finish(video_id)
                    finished.add(video_id)

        thread = threading.Thread(target=finish_videos, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def kill_component(self, name: str) -> None:
        """Kill a component and all its processes, and start it again within a second."""
        self.airflow.kill(name)
        time.sleep(self.rng.uniform(0, 1))
        self.airflow.start(name)

    def kill_task(self, run: Run, method: Method | None, within: float) -> RunningTask:
        """Kill the process of a random task, or the worker that supervises it.

        :param method: The method that must be running; None for any.
        :param within: Maximum seconds between the selection of a task and the kill.
        """
        while True:
            task = self.wait_for(f"a task in {method or 'any method'}", lambda: self._any_running(run, method))
            time.sleep(self.rng.uniform(0, within))
            if task in self.running(run) and self._kill_process_of(task):
                return task

    def running(self, run: Run) -> list[RunningTask]:
        """Return the running tasks of a run."""
        with self.database.connect() as connection:
            rows = connection.execute(_UNFINISHED_TASKS, {"dag_id": run.dag_id, "run_id": run.run_id}).all()
        assert rows, f"{run.dag_id} ended before all kills were done"
        return [RunningTask(*task) for state, *task in rows if state == "running"]

    def _any_running(self, run: Run, method: Method | None) -> RunningTask | None:
        # The database shows a task as running for some seconds after its process has ended.
        alive = {process.pid for process in psutil.Process().children(recursive=True)}
        tasks = [task for task in self.running(run) if task.pid in alive and method in {None, task.method}]
        return self.rng.choice(tasks) if tasks else None

    def _kill_process_of(self, task: RunningTask) -> bool:
        # Only a descendant of this process is killed, because the system can have reused any other process id.
        for process in psutil.Process().children(recursive=True):
            if process.pid == task.pid:
                victim = self.rng.choice((process, process.parent()))
                victim.kill()
                return True
        return False


@dataclass(frozen=True)
class Outcome:
    """A run that has ended.

    :param killed: The killed components and tasks, in order.
    :param billed: Lines of the ledger for the run.
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
        """The return values of the tasks, in the order of their map indexes."""
        return [self.run.xcom("make_video", instance["map_index"]) for instance in self.instances]

    @property
    def interrupted_tasks(self) -> list[RunningTask]:
        """The killed tasks that were retried. Other killed tasks had already reported their end."""
        tries = [instance["try_number"] for instance in self.instances]
        return [
            task for task in self.killed if isinstance(task, RunningTask) and task.try_number < tries[task.map_index]
        ]

    def log_after(self, task: RunningTask) -> str:
        """Return the log of all tries after the killed try of ``task``."""
        last_try = self.instances[task.map_index]["try_number"]
        return "\n".join(
            self.run.airflow.task_log(
                self.run.dag_id, self.run.run_id, "make_video", map_index=task.map_index, try_number=try_number
            )
            for try_number in range(task.try_number + 1, last_try + 1)
        )
