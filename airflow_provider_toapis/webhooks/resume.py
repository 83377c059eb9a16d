"""Resume the deferred tasks that wait for the video of a verified webhook.

The webhook event is advisory. It becomes the event of the task's trigger, and the resumed task looks up the video. The
video id decides which tasks are resumed, because the webhook signature covers it. The signature does not cover the
query of the URL, so the query only decides where to look for these tasks.
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

#: Maximum number of deferred tasks whose triggers are read in one search, because the arguments of each trigger must be
#: decrypted.
MAX_SEARCHED = 1000

_VIDEO_TRIGGER, _BATCH_TRIGGER = (
    f"{kind.__module__}.{kind.__qualname__}" for kind in (ToAPIsVideoTrigger, ToAPIsVideoBatchTrigger)
)
_OUR_TRIGGERS = {_VIDEO_TRIGGER: ToAPIsVideoTrigger, _BATCH_TRIGGER: ToAPIsVideoBatchTrigger}
#: States of a task that may defer soon.
_PENDING_STATES = (
    TaskInstanceState.SCHEDULED,
    TaskInstanceState.QUEUED,
    TaskInstanceState.RUNNING,
    TaskInstanceState.RESTARTING,
)


@dataclass(frozen=True)
class DeliveryResult:
    """Result of the delivery of a webhook event.

    :param outcome: Name of the result for the response, the log and the metric.
    :param retry_later: Whether the service must deliver the event again, because the task is not deferred yet.
    :param trigger_id: Id of the trigger of the batch that must be resumed at ``due_at``.
    :param due_at: Epoch seconds at which a batch must be resumed; None if nothing is left to do.
    """

    outcome: WebhookResult
    retry_later: bool = False
    trigger_id: int = -1
    due_at: float | None = None


_IGNORED = DeliveryResult("ignored")
_TOO_EARLY = DeliveryResult("too_early", retry_later=True)


def resume_waiting_tasks(conn_id: str, event: WebhookEvent, coordinates: TaskCoordinates) -> DeliveryResult:
    """Resume the tasks that wait for the video of an event.

    A batch is not always resumed immediately. If it is not, the event is recorded and the batch is resumed later.
    """
    with create_session() as session:
        named = _notify_waiting_tasks(session, _is_at(coordinates), conn_id, event)
        if named is None and _may_defer_soon(session, coordinates, event):
            return _TOO_EARLY
        others = (_notify_waiting_tasks(session, scope, conn_id, event) for scope in _fallback_scopes(coordinates))
        return named or next(filter(None, others), _IGNORED)


def resume_due(trigger_id: int) -> None:
    """Resume the batch that waits on a trigger, with its recorded events. Do nothing if the batch no longer waits."""
    with create_session() as session:
        instance_id = session.scalar(select(TaskInstance.id).where(_waits_on(trigger_id)))
        row = session.get(Trigger, trigger_id)
        if instance_id is None or row is None or not _locked(session, instance_id, trigger_id):
            return
        trigger = _OUR_TRIGGERS[row.classpath](**row.kwargs)
        if isinstance(trigger, ToAPIsVideoBatchTrigger):
            _resume(session, trigger_id, trigger.pending_event())


def _notify_waiting_tasks(
    session: Session, scope: ColumnElement[bool], conn_id: str, event: WebhookEvent
) -> DeliveryResult | None:
    """Notify every deferred task that meets the condition ``scope`` and waits for the video; None if no task does."""
    waiting = [
        (instance_id, row)
        for instance_id, row, trigger in _deferred(session, scope)
        if trigger.toapis_conn_id == conn_id and trigger.waits_for(event.video_id)
    ]
    results = [_notify(session, instance_id, row, event) for instance_id, row in waiting]
    # A result with `retry_later` has precedence, because the service must then deliver the event again.
    return max(results, key=lambda result: (result.retry_later, result.due_at is not None), default=None)


def _notify(session: Session, instance_id: object, row: Trigger, event: WebhookEvent) -> DeliveryResult:
    if not _locked(session, instance_id, row.id):
        # The scheduler or another delivery has locked the task, or the task no longer waits on the trigger.
        return _TOO_EARLY
    # Read under the lock, because two events of one batch can arrive at the same time.
    session.refresh(row, ["encrypted_kwargs"])
    trigger = _OUR_TRIGGERS[row.classpath](**row.kwargs)
    status: WaitStatus = "success" if event.status == "success" else "failed"
    decision = trigger.on_webhook(event.video_id, status, clock.time())
    if decision.at <= clock.time():
        _resume(session, row.id, decision.payload)
        return DeliveryResult("resumed")
    row.kwargs = trigger.serialize()[1]
    return DeliveryResult("noted", trigger_id=row.id, due_at=decision.at)


def _resume(session: Session, trigger_id: int, payload: dict[str, object]) -> None:
    Trigger.submit_event(trigger_id, TriggerEvent(payload), session=session)


def _may_defer_soon(session: Session, coordinates: TaskCoordinates, event: WebhookEvent) -> bool:
    """Return whether the task at ``coordinates`` may soon defer to wait for the video."""
    named = session.execute(select(TaskInstance.state, TaskInstance.next_kwargs).where(_is_at(coordinates))).first()
    if named is None or named.state not in _PENDING_STATES:
        return False
    # A task that was resumed for this video has the video's id in next_kwargs. The next_kwargs of a batch contain no
    # ids, so a batch is always treated as if it will soon wait.
    return event.video_id not in json.dumps(named.next_kwargs, default=str)


def _fallback_scopes(coordinates: TaskCoordinates) -> Iterator[ColumnElement[bool]]:
    """Yield conditions that select the tasks to search if the task at ``coordinates`` does not wait for the video.

    Sensors of the same run can wait for the video, and so can the batch task in another run that re-attached to it.
    """
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
    session: Session, scope: ColumnElement[bool]
) -> Iterator[tuple[object, Trigger, ToAPIsVideoTrigger | ToAPIsVideoBatchTrigger]]:
    found = (
        select(TaskInstance.id, Trigger)
        .join(Trigger, TaskInstance.trigger_id == Trigger.id)
        .where(scope, TaskInstance.state == TaskInstanceState.DEFERRED, Trigger.classpath.in_(_OUR_TRIGGERS))
        .options(lazyload(Trigger.task_instance))
        .limit(MAX_SEARCHED)
    )
    for instance_id, row in session.execute(found).all():
        yield instance_id, row, _OUR_TRIGGERS[row.classpath](**row.kwargs)


def _locked(session: Session, instance_id: object, trigger_id: int) -> bool:
    """Lock the task instance for this transaction.

    Return False if another transaction has locked it, or if it no longer waits on the trigger.
    """
    instance = select(TaskInstance.id).where(TaskInstance.id == instance_id, _waits_on(trigger_id))
    return session.scalar(with_row_locks(instance, session, of=TaskInstance, skip_locked=True)) is not None
