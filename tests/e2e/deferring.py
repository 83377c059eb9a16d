"""Puts mapped tasks into Airflow's database as a worker leaves them when it defers them, by the thousand in a moment.

A worker that really defers each of them needs a second per task. ``python -m tests.e2e.deferring RUN_ID`` writes the
rows in Airflow's own environment; the arguments of the triggers come as JSON lines through standard input.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy
from airflow.models.dagbag import DBDagBag
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session

from airflow_provider_toapis.triggers.video import ToAPIsVideoTrigger
from demo.airflow_instance import AirflowInstance

_DAG_ID, _TASK_ID = "deferred_videos", "wait"
_INSTANCES = sqlalchemy.text(
    f"SELECT state, next_kwargs FROM task_instance WHERE run_id = :run_id AND task_id = '{_TASK_ID}'"
)
#: Seconds after the deadline at which Airflow would end the wait itself.
_BACKSTOP = 60.0


class DeferredVideos:
    """A run of ``dags/deferred_videos.py`` whose mapped task is deferred once for each trigger, and nobody resumes.

    :param airflow: Shows the DAG. Its scheduler and its DAG processor are stopped: only the triggerer is of interest.
    :param triggers: The arguments of the triggers.
    """

    def __init__(self, airflow: AirflowInstance, triggers: Sequence[dict[str, Any]]) -> None:
        airflow.wait_for_dag(_DAG_ID)
        for component in ("scheduler", "dag-processor"):
            airflow.kill(component)
        self._run_id = airflow.trigger(_DAG_ID)
        self._database = sqlalchemy.create_engine(airflow.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
        subprocess.run(
            [sys.executable, "-m", "tests.e2e.deferring", self._run_id],
            input="\n".join(map(json.dumps, triggers)),
            env=airflow.environment,
            text=True,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def waiting(self) -> int:
        """Return how many are still deferred."""
        with self._database.connect() as connection:
            return sum(state == "deferred" for state, _ in connection.execute(_INSTANCES, {"run_id": self._run_id}))

    def events(self) -> list[dict[str, Any]]:
        """Return the event of each that is not deferred any more."""
        with self._database.connect() as connection:
            rows = connection.execute(_INSTANCES, {"run_id": self._run_id}).all()
        return [json.loads(kwargs)["event"] for state, kwargs in rows if state == "scheduled"]


def main(run_id: str) -> None:
    """Write the rows."""
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
            trigger = Trigger.from_object(ToAPIsVideoTrigger(**arguments))
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
