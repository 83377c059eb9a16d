"""Defer a task to the triggerer, or run its trigger in the worker.

DAG parsing imports this module through the operators, so it imports nothing that is slow to load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, cast

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.polling import WaitStatus, poll_interval_after
from airflow_provider_toapis.triggers.events import BatchEvent, positions_text

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator
    from airflow.triggers.base import BaseTrigger

#: Minimum number of seconds between the trigger's own deadline and the time when the scheduler ends the wait.
_LEAST_PADDING = 60.0


def defer_until_final(
    task: BaseOperator,
    video_id: str,
    *,
    toapis_conn_id: str,
    poll_interval: float,
    end_time: float,
    fallback_interval: float | None = None,
    event_status: WaitStatus = "success",
) -> NoReturn:
    """Defer ``task``; its ``execute_complete`` gets the event. See ``ToAPIsVideoTrigger`` for the other parameters.

    The trigger enforces the deadline. The deferral's timeout ends the wait only if the trigger is stuck.

    :param event_status: How the task's previous wait ended; ``success`` if this is its first wait.
    """
    from airflow_provider_toapis.triggers.video import ToAPIsVideoTrigger

    task.defer(
        trigger=ToAPIsVideoTrigger(
            video_id=video_id,
            toapis_conn_id=toapis_conn_id,
            poll_interval=poll_interval_after(event_status, poll_interval),
            end_time=end_time,
            fallback_interval=fallback_interval,
            min_wait=_min_wait(event_status, end_time),
        ),
        method_name="execute_complete",
        timeout=_backstop(end_time, poll_interval),
    )


def wait_until_some_final(
    task: BaseOperator,
    video_ids: Sequence[str],
    *,
    deferrable: bool,
    toapis_conn_id: str,
    poll_interval: float,
    end_time: float,
    not_before: float | None,
    fallback_interval: float | None = None,
    webhook_positions: Iterable[int] = (),
    event_status: WaitStatus = "success",
) -> BatchEvent:
    """Wait until some of the videos are final. See ``ToAPIsVideoBatchTrigger`` for the other parameters.

    :param deferrable: If True, defer ``task``, and its ``execute_complete`` gets the event. If False, block and return
        the event.
    :param webhook_positions: Positions of the videos for which the service sends webhooks.
    :param event_status: How the previous wait ended.
    """
    from airflow_provider_toapis.triggers.video import ToAPIsVideoBatchTrigger

    trigger = ToAPIsVideoBatchTrigger(
        video_ids=video_ids,
        toapis_conn_id=toapis_conn_id,
        poll_interval=poll_interval,
        end_time=end_time,
        not_before=not_before,
        fallback_interval=fallback_interval,
        webhook_positions=positions_text(webhook_positions) if fallback_interval else "",
        min_wait=_min_wait(event_status, end_time),
    )
    if deferrable:
        timeout = _backstop(max(end_time, not_before or end_time), poll_interval)
        task.defer(trigger=trigger, method_name="execute_complete", timeout=timeout)
    return BatchEvent.parse(asyncio.run(_first_event(trigger)))


async def _first_event(trigger: BaseTrigger) -> Mapping[str, Any]:
    event = await anext(aiter(trigger.run()))
    return cast("Mapping[str, Any]", event.payload)


def _min_wait(event_status: WaitStatus, end_time: float) -> float | None:
    """Return the seconds left until the deadline if the previous wait timed out, else None.

    If seconds are left, the wait timed out too early, because the clocks of worker and triggerer differ.
    """
    return max(0.0, end_time - clock.time()) if event_status == "timeout" else None


def _backstop(end_time: float, poll_interval: float) -> timedelta:
    return timedelta(seconds=max(0.0, end_time - clock.time()) + max(_LEAST_PADDING, 2 * poll_interval))
