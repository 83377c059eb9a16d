"""Database queries of the pages. The list reads one page at a time, in the order of an index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import ColumnElement, String, case, cast, or_, select, tuple_
from sqlalchemy.orm import aliased, lazyload

from airflow_provider_toapis.operators.batch import BATCH_KEY
from airflow_provider_toapis.operators.submission_record import VIDEOS_KEY
from airflow_provider_toapis.ui.records import BatchState, Generation, Result, batch_of, generations_of, results_of
from airflow_provider_toapis.version_compat import is_of_task_instance

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.orm import Session

#: Cards per page.
PAGE_SIZE = 24
_RETURN_VALUE = "return_value"
_INTEGER = re.compile(r"-?[0-9]{1,9}")
_KEYS = (VIDEOS_KEY, BATCH_KEY)
#: States of task instances that have ended.
_ENDED = {"success": ("success",), "failed": ("failed", "upstream_failed", "removed", "skipped")}
#: The states that pages show.
IN_PROGRESS, SAVED, NOT_SAVED, FAILED = "in progress", "saved", "not saved", "failed"
STATES = (IN_PROGRESS, SAVED, NOT_SAVED, FAILED)


def parse_day(text: str | None) -> date | None:
    """Return the day in a field of a form; None if the text is not a date."""
    try:
        return date.fromisoformat(text or "")
    except ValueError:
        return None


@dataclass(frozen=True, order=True)
class Position:
    """Position of a task instance in the list, which is ordered by it, descending.

    :param ti_id: Id of the task instance. The iterations of a loop (Airflow 3.4) differ only in it.
    """

    dag_run_id: int
    task_id: str
    map_index: int
    ti_id: UUID

    def __str__(self) -> str:
        return f"{self.dag_run_id}.{self.map_index}.{self.ti_id}.{self.task_id}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """Return the position in a page's address; None if the text is none."""
        run, map_index, ti_id, task_id = (*text.split(".", 3), "", "", "")[:4]
        if not _INTEGER.fullmatch(run) or not _INTEGER.fullmatch(map_index):
            return None
        try:
            return cls(int(run), task_id, int(map_index), UUID(ti_id))
        except ValueError:
            return None


@dataclass(frozen=True)
class Filters:
    """Restrictions of the list. None does not restrict.

    :param state: One of :data:`STATES`.
    :param model: Beginning of a model id.
    :param day: Day of the last record, UTC.
    :param search: Part of a video's id, key, identity or file, or of the label of a mapped task instance.
    """

    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    state: str | None = None
    model: str | None = None
    day: date | None = None
    search: str | None = None


@dataclass(frozen=True)
class TaskVideos:
    """A task instance of ours with what it recorded.

    :param label: Label of a mapped task instance, as Airflow shows it.
    :param task_state: Airflow's state.
    :param recorded_at: When the videos were recorded last.
    :param generations: The videos, the oldest first; empty for a batch.
    :param batch: The state of a batch; None for any other task.
    :param returned: The XCom ``return_value``; None without one.
    :param returned_at: When the result was recorded.
    :param rendered: The rendered fields ``image`` and ``prompt``, as far as the database still has them.
    """

    position: Position
    dag_id: str
    run_id: str
    label: str | None
    task_state: str | None
    started_at: datetime | None
    ended_at: datetime | None
    recorded_at: datetime
    generations: tuple[Generation, ...] = ()
    batch: BatchState | None = None
    returned: Any = None
    returned_at: datetime | None = None
    rendered: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Result] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """One of :data:`STATES`."""
        if self.task_state in _ENDED["failed"]:
            return FAILED
        if self.task_state not in _ENDED["success"]:
            return IN_PROGRESS
        is_saved = self.batch is not None or any(generation.output_path for generation in self.generations)
        return SAVED if is_saved else NOT_SAVED

    @property
    def newest(self) -> Generation:
        """The newest video."""
        return self.generations[-1] if self.generations else Generation()

    def result_of(self, generation: Generation) -> Result:
        """Return the result of a video. All of its fields are None if the task has returned no result for it."""
        return self.results.get(generation.id or "", Result())


def find_page(
    session: Session, dag_ids: Iterable[str], filters: Filters, after: Position | None
) -> tuple[list[TaskVideos], bool]:
    """Return one page of the list, and whether a further page follows.

    :param dag_ids: The DAGs that the user may read.
    :param after: The position of the last task instance of the page before.
    """
    rows = session.execute(_page_query(dag_ids, filters, after)).all()
    return _completed(session, rows[:PAGE_SIZE]), len(rows) > PAGE_SIZE


def has_videos(session: Session, task: Filters) -> bool:
    """Return whether any task instance has recorded a video."""
    return session.execute(_base_query().where(*_conditions(task)).limit(1)).first() is not None


def find_one(
    session: Session, *, dag_id: str, run_id: str, task_id: str, map_index: int, ti_id: str | None = None
) -> TaskVideos | None:
    """Return one task instance; None if it has recorded no video.

    :param ti_id: Id of the task instance. In a loop, it selects one of the iterations. Default: the last one.
    """
    query = _base_query().where(
        XComModel.dag_id == dag_id,
        XComModel.run_id == run_id,
        XComModel.task_id == task_id,
        XComModel.map_index == map_index,
    )
    rows = session.execute(query.order_by(XComModel.timestamp.desc())).all()
    chosen = [row for row in rows if str(row[1].id) == ti_id] or rows
    return next(iter(_completed(session, chosen[:1])), None)


def _base_query() -> Select[XComModel, TaskInstance]:
    return (
        select(XComModel, TaskInstance)
        .join(TaskInstance, is_of_task_instance(XComModel, TaskInstance))
        .where(XComModel.key.in_(_KEYS))
        # Airflow's classes would load the DAG run with each XCom and with each task instance.
        .options(lazyload("*"))
    )


def _page_query(dag_ids: Iterable[str], filters: Filters, after: Position | None) -> Select[XComModel, TaskInstance]:
    query = _base_query().where(XComModel.dag_id.in_(sorted(dag_ids)), *_conditions(filters))
    order = (XComModel.dag_run_id, XComModel.task_id, XComModel.map_index, TaskInstance.id)
    if after is not None:
        # Airflow 3.1 stores ids as texts.
        ti_id = TaskInstance.id.type.python_type(str(after.ti_id))
        query = query.where(tuple_(*order) < (after.dag_run_id, after.task_id, after.map_index, ti_id))
    return query.order_by(*(column.desc() for column in order)).limit(PAGE_SIZE + 1)


def _conditions(filters: Filters) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [
        column == value
        for column, value in (
            (XComModel.dag_id, filters.dag_id),
            (XComModel.run_id, filters.run_id),
            (XComModel.task_id, filters.task_id),
        )
        if value is not None
    ]
    if filters.state is not None:
        conditions.append(_has_state(filters.state))
    if filters.day is not None:
        start, end = (datetime.combine(filters.day, moment, UTC) for moment in (time.min, time.max))
        conditions.append(XComModel.timestamp.between(start, end))
    if filters.model is not None:
        conditions.append(_likely(_records(filters.model, after='"model": "')))
    if filters.search is not None:
        conditions.append(_likely(_records(filters.search) | _has_label(filters.search)))
    return conditions


def _has_state(state: str) -> ColumnElement[bool]:
    column = TaskInstance.state
    if state == FAILED:
        return column.in_(_ENDED["failed"])
    if state == IN_PROGRESS:
        return column.is_(None) | column.not_in([*_ENDED["success"], *_ENDED["failed"]])
    has_file = (XComModel.key == BATCH_KEY) | cast(XComModel.value, String).contains('"output_path": "')
    return column.in_(_ENDED["success"]) & _likely(has_file if state == SAVED else ~has_file)


def _likely(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition in a form that PostgreSQL expects to be true.

    It expects ``LIKE`` to be true for few rows. It would read all XComs and sort them, instead of reading them in the
    order of an index until the page is full.
    """
    return case((condition, 1), else_=0) != 0


def _has_label(text: str) -> ColumnElement[bool]:
    """Return whether the label of the task instance contains a text.

    PostgreSQL executes this subquery once. With a condition on the joined task instance, it would first look up the
    task instance of every XCom.
    """
    labeled = aliased(TaskInstance)
    label: Any = cast(labeled.rendered_map_index, String)
    is_labeled = is_of_task_instance(XComModel, labeled) & label.contains(text, autoescape=True)
    return select(labeled.id).where(is_labeled).exists()


def _records(text: str, after: str = "") -> ColumnElement[bool]:
    """Return whether an XCom contains a text. SQLite stores other characters than ASCII as escapes.

    :param after: JSON that must be before the text.
    """
    recorded = cast(XComModel.value, String)
    spellings = {after + json.dumps(text, ensure_ascii=is_ascii)[1:-1] for is_ascii in (False, True)}
    return or_(*(recorded.contains(spelling, autoescape=True) for spelling in sorted(spellings)))


def _completed(session: Session, rows: Sequence[Any]) -> list[TaskVideos]:
    """Add the results and the rendered fields of the task instances of one page. They are read by primary key."""
    ids = [ti.id for _, ti in rows]
    results = _results(session, ids)
    rendered = _rendered(session, ids)
    return [_task_videos(xcom, ti, results.get(ti.id), rendered.get(ti.id, {})) for xcom, ti in rows]


def _task_videos(
    xcom: XComModel, ti: TaskInstance, result: XComModel | None, rendered: Mapping[str, Any]
) -> TaskVideos:
    value = _value(xcom)
    returned = None if result is None else _value(result)
    generations = generations_of(value) if xcom.key == VIDEOS_KEY else ()
    return TaskVideos(
        position=Position(xcom.dag_run_id, xcom.task_id, xcom.map_index, ti.id),
        dag_id=xcom.dag_id,
        run_id=xcom.run_id,
        # Without a template for labels, Airflow uses the map index.
        label=None if ti.rendered_map_index == str(ti.map_index) else ti.rendered_map_index,
        task_state=None if ti.state is None else str(ti.state),
        started_at=ti.start_date,
        ended_at=ti.end_date,
        recorded_at=xcom.timestamp,
        generations=generations,
        batch=batch_of(value) if xcom.key == BATCH_KEY else None,
        returned=returned,
        returned_at=None if result is None else result.timestamp,
        rendered=rendered,
        results=results_of(returned, [generation.id for generation in generations]),
    )


def _results(session: Session, ids: Sequence[UUID]) -> dict[UUID, XComModel]:
    query = (
        select(TaskInstance.id, XComModel)
        .join(XComModel, is_of_task_instance(XComModel, TaskInstance))
        .where(TaskInstance.id.in_(ids), XComModel.key == _RETURN_VALUE)
    )
    return dict(session.execute(query).all())


def _rendered(session: Session, ids: Sequence[UUID]) -> dict[UUID, Mapping[str, Any]]:
    fields = RenderedTaskInstanceFields
    query = (
        select(TaskInstance.id, fields.rendered_fields)
        .join(fields, is_of_task_instance(fields, TaskInstance))
        .where(TaskInstance.id.in_(ids))
    )
    return {ti_id: rendered for ti_id, rendered in session.execute(query) if isinstance(rendered, dict)}


def _value(xcom: XComModel) -> Any:  # noqa: ANN401 - any JSON
    # Neither the XCom backend, which can read object storage for each value, nor Airflow's decoder, which can create
    # objects.
    try:
        return json.loads(xcom.value) if isinstance(xcom.value, str) else xcom.value
    except ValueError:
        return None
