"""Airflow's metadata database in this process, and task instances in it. Only for Airflow 3.1 and newer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow import settings
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import delete, insert
from sqlalchemy.orm import Session

from airflow_provider_toapis.version_compat import AIRFLOW_V_3_4_PLUS
from tests.metadata_database import record_xcom

RUN = "scheduled__2026-01-01T00:00:00+00:00"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
_BUNDLE = "dags"


@contextmanager
def metadata_database(url: str) -> Iterator[None]:
    """Let this process use an empty metadata database.

    :param url: SQLAlchemy URL of a database without tables.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", url)
        _connect()
        import_all_models()  # type: ignore[no-untyped-call]
        Base.metadata.create_all(settings.engine)
        try:
            yield
        finally:
            settings.dispose_orm()
    _connect()


def _connect() -> None:
    settings.dispose_orm()
    settings.configure_vars()  # type: ignore[no-untyped-call]
    settings.configure_orm()  # type: ignore[no-untyped-call]


class Database:
    """Adds task instances to the metadata database."""

    def __init__(self) -> None:
        #: Numbers of the DAG runs, by DAG id and run id.
        self._runs: dict[tuple[str, str], int] = {}
        tables = Base.metadata.tables
        xcoms = tables["xcom_v2" if AIRFLOW_V_3_4_PLUS else "xcom"]
        models = (RenderedTaskInstanceFields, TaskInstance, DagRun, DagModel, DagBundleModel)
        with self._session() as session:
            for table in (xcoms, *(model.__table__ for model in models)):
                session.execute(delete(table))
            session.add(DagBundleModel(name=_BUNDLE))

    def add(
        self,
        xcoms: Mapping[str, Any],
        *,
        dag_id: str = "shop",
        run_id: str = RUN,
        task_id: str = "video",
        map_index: int = -1,
        state: str | None = "success",
        label: str | None = None,
        rendered: Mapping[str, Any] | None = None,
        recorded_at: datetime = NOON,
    ) -> None:
        """Add a task instance with its XComs, and its DAG and its run if they do not exist.

        :param label: Label of a mapped task instance.
        :param rendered: The rendered fields; None if they are no longer in the database.
        """
        place: dict[str, Any] = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
        run = self._runs.setdefault((dag_id, run_id), len(self._runs) + 1)
        known: dict[str, Any] = {"state": state, "rendered_map_index": label, "start_date": NOON}
        with self._session() as session:
            if session.get(DagModel, dag_id) is None:
                session.add(DagModel(dag_id=dag_id, bundle_name=_BUNDLE))  # type: ignore[no-untyped-call]
            for key, value in xcoms.items():
                ti_id = record_xcom(session, key, value, run=run, at=recorded_at, **place, **known)
            if rendered is not None:
                owner = {"task_instance_id": ti_id} if AIRFLOW_V_3_4_PLUS else place
                fields = insert(RenderedTaskInstanceFields.__table__)
                session.execute(fields.values(rendered_fields=dict(rendered), **owner))

    @staticmethod
    @contextmanager
    def _session() -> Iterator[Session]:
        with Session(settings.engine) as session, session.begin():
            yield session
