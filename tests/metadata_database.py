"""An Airflow metadata database in memory, with task instances and their XComs. Only for Airflow 3.1 and newer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import Engine, create_engine, insert, select
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from airflow_provider_toapis.version_compat import AIRFLOW_V_3_4_PLUS

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)


@contextmanager
def metadata_session() -> Iterator[Session]:
    """Yield a session with an empty database. All threads can use it."""
    with _engine().connect() as connection, connection.begin() as transaction:
        with Session(connection) as session:
            yield session
        transaction.rollback()


def record_xcom(
    session: Session,
    key: str,
    value: Any,
    *,
    dag_id: str = "shop",
    task_id: str = "make_video",
    run: int = 1,
    run_id: str | None = None,
    map_index: int = -1,
    at: datetime = NOON,
    **task_instance: Any,
) -> UUID:
    """Write an XCom of a task instance, and return the id of the task instance.

    The DAG run and the task instance are created if necessary.

    :param run: Number of the DAG run. Each run belongs to one DAG.
    :param run_id: Default: ``run_`` and the number.
    :param task_instance: Further columns of a new task instance.
    """
    coordinates = {"dag_id": dag_id, "run_id": run_id or f"run_{run}"}
    index = {"region_index" if AIRFLOW_V_3_4_PLUS else "map_index": map_index}
    if session.scalar(select(DagRun.id).where(DagRun.id == run)) is None:
        _insert(session, DagRun.__table__, id=run, run_type="manual", run_after=at, **coordinates)
    found = select(TaskInstance.id).filter_by(task_id=task_id, map_index=map_index, **coordinates)
    if session.scalar(found) is None:
        columns = {"state": "success", "pool": "default_pool", **coordinates, **index, **task_instance}
        _insert(session, TaskInstance.__table__, task_id=task_id, **columns)
    ti_id: UUID = session.scalars(found).one()
    xcom = {"key": key, "value": value, "timestamp": at}
    if AIRFLOW_V_3_4_PLUS:
        _insert(session, Base.metadata.tables["xcom_v2"], task_instance_id=ti_id, **xcom)
    else:
        columns = {"dag_run_id": run, "task_id": task_id, "map_index": map_index, **coordinates}
        _insert(session, Base.metadata.tables["xcom"], **columns, **xcom)
    return ti_id


def _insert(session: Session, table: Any, **columns: Any) -> None:
    session.execute(insert(table).values(**columns))


@cache
def _engine() -> Engine:
    import_all_models()  # type: ignore[no-untyped-call]
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    return engine
