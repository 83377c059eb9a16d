"""Write thousands of deferred mapped tasks into Airflow's database, as workers would leave them.

Real workers would need a second per task. ``python -m tests.e2e.deferring RUN_ID`` writes the rows in Airflow's
environment. It reads the triggers (class path, arguments) as JSON lines from standard input.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy
from airflow.models.dagbag import DBDagBag
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session

from dev.airflow.airflow_instance import MAP_INDEX_COLUMN, AirflowInstance

_DAG_ID, _TASK_ID = "deferred_videos", "wait"
_VIDEO_TRIGGER = "airflow_provider_toapis.triggers.video.ToAPIsVideoTrigger"
_INSTANCES = sqlalchemy.text(
    f"SELECT state, next_kwargs FROM task_instance WHERE run_id = :run_id AND task_id = '{_TASK_ID}'"
    f" ORDER BY {MAP_INDEX_COLUMN}"
)
_ROWS = sqlalchemy.text(
    f"SELECT {MAP_INDEX_COLUMN} AS map_index, state, next_method, next_kwargs, try_number, trigger_id, classpath,"
    " kwargs"
    " FROM task_instance LEFT JOIN trigger ON trigger.id = trigger_id"
    f" WHERE run_id = :run_id AND task_id = '{_TASK_ID}' ORDER BY {MAP_INDEX_COLUMN}"
)
#: Seconds after the deadline until Airflow itself ends the wait.
_BACKSTOP = 60.0


class DeferredVideos:
    """A run of ``dags/deferred_videos.py`` whose mapped task is deferred once for each trigger.

    :param airflow: An Airflow that serves the DAG.
    :param triggers: Arguments of the triggers. A ``classpath`` among them selects a trigger other than our video
        trigger.
    :param alone: Stop the scheduler and the DAG processor, so that only the triggerer runs and no task is resumed.
    :param run_id: Id of the run. Default: Airflow generates it.
    """

    def __init__(
        self,
        airflow: AirflowInstance,
        triggers: Sequence[dict[str, Any]],
        *,
        alone: bool = True,
        run_id: str | None = None,
    ) -> None:
        airflow.wait_for_dag(_DAG_ID)
        for component in ("scheduler", "dag-processor"):
            airflow.kill(component)
        self.run_id = airflow.trigger(_DAG_ID, run_id=run_id)
        self._database = sqlalchemy.create_engine(airflow.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
        subprocess.run(
            [sys.executable, "-m", "tests.e2e.deferring", self.run_id],
            input="\n".join(map(json.dumps, triggers)),
            env=airflow.environment,
            text=True,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        if not alone:
            for component in ("scheduler", "dag-processor"):
                airflow.start(component)

    def waiting(self) -> int:
        """Return the number of tasks that are still deferred."""
        with self._database.connect() as connection:
            return sum(state == "deferred" for state, _ in connection.execute(_INSTANCES, {"run_id": self.run_id}))

    def states(self) -> list[str]:
        """Return the states of the tasks, in the order of the triggers."""
        with self._database.connect() as connection:
            return [state for state, _ in connection.execute(_INSTANCES, {"run_id": self.run_id})]

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the database rows of the tasks and their triggers."""
        with self._database.connect() as connection:
            return [tuple(row) for row in connection.execute(_ROWS, {"run_id": self.run_id})]

    @contextmanager
    def not_yet_deferred(self, index: int) -> Iterator[None]:
        """Set the state of a task to running until the block ends. A task has this state before its deferral."""
        self._update(index, "state = 'running'")
        try:
            yield
        finally:
            self._update(index, "state = 'deferred'")

    def trigger_id(self, index: int) -> int:
        """Return the id of a task's trigger."""
        return int(self.rows()[index][5])

    def defer_again(self, index: int, trigger_id: int) -> None:
        """Defer a resumed task on its trigger again."""
        self._update(index, f"state = 'deferred', trigger_id = {trigger_id}")

    def _update(self, index: int, change: str) -> None:
        where = f"run_id = :run_id AND task_id = '{_TASK_ID}' AND {MAP_INDEX_COLUMN} = :map_index"
        statement = sqlalchemy.text(f"UPDATE task_instance SET {change} WHERE {where}")
        with self._database.begin() as connection:
            connection.execute(statement, {"run_id": self.run_id, "map_index": index})

    def events(self) -> list[dict[str, Any]]:
        """Return the events of the tasks that were resumed."""
        with self._database.connect() as connection:
            rows = connection.execute(_INSTANCES, {"run_id": self.run_id}).all()
        return [_as_object(kwargs)["event"] for state, kwargs in rows if state == "scheduled"]


def _as_object(kwargs: Any) -> dict[str, Any]:
    """Return the value of a JSON column, which PostgreSQL returns as an object and SQLite as text."""
    return dict(json.loads(kwargs) if isinstance(kwargs, str) else kwargs)


def main(run_id: str) -> None:
    """Write the rows of the deferred tasks."""
    with create_session() as session:
        unmapped = session.scalars(
            sqlalchemy.select(TaskInstance).where(TaskInstance.run_id == run_id, TaskInstance.task_id == _TASK_ID)
        ).one()
        version = unmapped.dag_version_id
        dag = DBDagBag().get_dag(version, session=session) if version else None
        assert dag is not None
        session.delete(unmapped)
        session.flush()
        for index, line in enumerate(sys.stdin):
            arguments = json.loads(line)
            trigger = Trigger(arguments.pop("classpath", _VIDEO_TRIGGER), arguments)
            session.add(trigger)
            session.flush()
            instance = TaskInstance(dag.get_task(_TASK_ID), version, run_id=run_id, map_index=index)
            instance.state = "deferred"
            instance.try_number = 1
            instance.trigger_id = trigger.id
            instance.next_method = "execute_complete"
            instance.next_kwargs = {}
            instance.start_date = datetime.now(UTC)
            instance.trigger_timeout = datetime.fromtimestamp(arguments["end_time"], UTC) + timedelta(seconds=_BACKSTOP)
            session.add(instance)


if __name__ == "__main__":
    main(*sys.argv[1:])
