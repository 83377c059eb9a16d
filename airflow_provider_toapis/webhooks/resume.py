"""From a webhook that is believed to the deferred task that waits for its video.

The event is a hint. It goes the way of every trigger's event, and the task that it resumes asks the service for the
truth. Which task waits is told by the signed id of the video; the address, which is not signed, tells where to look.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.triggers.base import TriggerEvent
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import with_row_locks
from airflow.utils.state import TaskInstanceState
from sqlalchemy import and_, select
from sqlalchemy.orm import lazyload

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.triggers.video import ToAPIsVideoBatchTrigger, ToAPIsVideoTrigger

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from airflow_provider_toapis.api.polling import WaitStatus
    from airflow_provider_toapis.hooks.callback_url import TaskCoordinates
    from airflow_provider_toapis.metrics import WebhookResult
    from airflow_provider_toapis.webhooks.signature import WebhookEvent

#: Deferred tasks of a run whose triggers are looked into for one event, at most: each has to be decrypted.
MAX_SEARCHED = 1000

_VIDEO_TRIGGER, _BATCH_TRIGGER = (
    f"{kind.__module__}.{kind.__qualname__}" for kind in (ToAPIsVideoTrigger, ToAPIsVideoBatchTrigger)
)
_OUR_TRIGGERS = {_VIDEO_TRIGGER: ToAPIsVideoTrigger, _BATCH_TRIGGER: ToAPIsVideoBatchTrigger}
#: Of a task that may be about to wait.
_ON_ITS_WAY = (
    TaskInstanceState.SCHEDULED,
    TaskInstanceState.QUEUED,
    TaskInstanceState.RUNNING,
    TaskInstanceState.RESTARTING,
)


@dataclass(frozen=True)
class DeliveryResult:
    """What came of an event.

    :param word: For the response, the log and the metric.
    :param later: The task does not wait yet: the event is to be delivered again.
    :param due_at: Epoch seconds at which the batch that waits on ``trigger_id`` is to be woken; None: nothing is left
        to do.
    """

    word: WebhookResult
    later: bool = False
    trigger_id: int = -1
    due_at: float | None = None


_NOBODY = DeliveryResult("ignored")
_LATER = DeliveryResult("too_early", later=True)


def wake(conn_id: str, event: WebhookEvent, coordinates: TaskCoordinates) -> DeliveryResult:
    """Resume the task that waits for the video of an event, or note the event where it waits for more of them."""
    with create_session() as session:
        named = _tell_all(session, _is_at(coordinates), conn_id, event)
        if named is None and _is_on_its_way(session, coordinates, event):
            return _LATER
        others = (_tell_all(session, where, conn_id, event) for where in _other_places(coordinates))
        return named or next(filter(None, others), _NOBODY)


def resume_due(trigger_id: int) -> None:
    """Resume the batch that still waits on this trigger with the events that were noted for it."""
    with create_session() as session:
        instance_id = session.scalar(select(TaskInstance.id).where(_waits_on(trigger_id)))
        row = session.get(Trigger, trigger_id)
        if instance_id is None or row is None or not _locked(session, instance_id, trigger_id):
            return
        trigger = _OUR_TRIGGERS[row.classpath](**row.kwargs)
        if isinstance(trigger, ToAPIsVideoBatchTrigger):
            _resume(session, trigger_id, trigger.pending_event())


def _tell_all(session: Session, where: ColumnElement[bool], conn_id: str, event: WebhookEvent) -> DeliveryResult | None:
    """Tell every deferred task there that waits for the video; None where there is none."""
    waiting = [
        (instance_id, row)
        for instance_id, row, trigger in _deferred(session, where)
        if trigger.toapis_conn_id == conn_id and trigger.waits_for(event.video_id)
    ]
    came_of_it = [_publish_result(session, instance_id, row, event) for instance_id, row in waiting]
    # One that was busy is to be told once more.
    return max(came_of_it, key=lambda waking: (waking.later, waking.due_at is not None), default=None)


def _publish_result(session: Session, instance_id: object, row: Trigger, event: WebhookEvent) -> DeliveryResult:
    if not _locked(session, instance_id, row.id):
        # The scheduler, or another delivery of the same event, is at it.
        return _LATER
    # Under the lock, since two events of one batch may come at the same time.
    session.refresh(row, ["encrypted_kwargs"])
    trigger = _OUR_TRIGGERS[row.classpath](**row.kwargs)
    status: WaitStatus = "success" if event.status == "success" else "failed"
    told = trigger.on_webhook(event.video_id, status, clock.time())
    if told.at <= clock.time():
        _resume(session, row.id, told.payload)
        return DeliveryResult("resumed")
    row.kwargs = trigger.serialize()[1]
    return DeliveryResult("noted", trigger_id=row.id, due_at=told.at)


def _resume(session: Session, trigger_id: int, payload: dict[str, object]) -> None:
    Trigger.submit_event(trigger_id, TriggerEvent(payload), session=session)


def _is_on_its_way(session: Session, coordinates: TaskCoordinates, event: WebhookEvent) -> bool:
    """Whether the task that is named may be about to wait for the video."""
    named = session.execute(select(TaskInstance.state, TaskInstance.next_kwargs).where(_is_at(coordinates))).first()
    if named is None or named.state not in _ON_ITS_WAY:
        return False
    # What a task was resumed with names its video; a batch, which may miss this one, is resumed without names.
    return event.video_id not in json.dumps(named.next_kwargs, default=str)


def _other_places(coordinates: TaskCoordinates) -> Iterator[ColumnElement[bool]]:
    """Yield where else somebody may wait: a sensor of the run, or a later run of the batch, which adopted the video."""
    run = and_(TaskInstance.dag_id == coordinates.dag_id, TaskInstance.run_id == coordinates.run_id)
    yield and_(run, TaskInstance.map_index == coordinates.map_index)
    yield run
    yield and_(
        TaskInstance.dag_id == coordinates.dag_id,
        TaskInstance.task_id == coordinates.task_id,
        Trigger.classpath == _BATCH_TRIGGER,
    )


def _is_at(coordinates: TaskCoordinates) -> ColumnElement[bool]:
    return and_(
        TaskInstance.dag_id == coordinates.dag_id,
        TaskInstance.run_id == coordinates.run_id,
        TaskInstance.task_id == coordinates.task_id,
        TaskInstance.map_index == coordinates.map_index,
    )


def _waits_on(trigger_id: int) -> ColumnElement[bool]:
    return and_(TaskInstance.trigger_id == trigger_id, TaskInstance.state == TaskInstanceState.DEFERRED)


def _deferred(
    session: Session, where: ColumnElement[bool]
) -> Iterator[tuple[object, Trigger, ToAPIsVideoTrigger | ToAPIsVideoBatchTrigger]]:
    found = (
        select(TaskInstance.id, Trigger)
        .join(Trigger, TaskInstance.trigger_id == Trigger.id)
        .where(where, TaskInstance.state == TaskInstanceState.DEFERRED, Trigger.classpath.in_(_OUR_TRIGGERS))
        .options(lazyload(Trigger.task_instance))
        .limit(MAX_SEARCHED)
    )
    for instance_id, row in session.execute(found).all():
        yield instance_id, row, _OUR_TRIGGERS[row.classpath](**row.kwargs)


def _locked(session: Session, instance_id: object, trigger_id: int) -> bool:
    """Take the task instance for this transaction, if it still waits on the trigger and nobody else has it."""
    instance = select(TaskInstance.id).where(TaskInstance.id == instance_id, _waits_on(trigger_id))
    return session.scalar(with_row_locks(instance, session, of=TaskInstance, skip_locked=True)) is not None
