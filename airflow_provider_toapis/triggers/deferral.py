"""How a task hands its wait to the triggerer. Light: operators import it."""

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

#: Seconds that the scheduler lets a trigger overrun its own deadline before it ends the wait itself.
_LEAST_PADDING = 60.0


def defer_until_final(
    task: BaseOperator,
    video_id: str,
    *,
    toapis_conn_id: str,
    poll_interval: float,
    end_time: float,
    fallback_interval: float | None = None,
    hint: WaitStatus = "success",
) -> NoReturn:
    """Leave the worker; ``execute_complete`` of ``task`` gets the event. Parameters as for ``ToAPIsVideoTrigger``.

    The trigger keeps the deadline itself. The timeout of the deferral only ends a wait whose trigger is stuck.

    :param hint: How the wait before this one ended, if it ended too early.
    """
    from airflow_provider_toapis.triggers.video import ToAPIsVideoTrigger

    task.defer(
        trigger=ToAPIsVideoTrigger(
            video_id=video_id,
            toapis_conn_id=toapis_conn_id,
            poll_interval=poll_interval_after(hint, poll_interval),
            end_time=end_time,
            fallback_interval=fallback_interval,
            min_wait=_min_wait(hint, end_time),
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
    hint: WaitStatus = "success",
) -> BatchEvent:
    """Return when it is worth looking after some of the videos; parameters as for ``ToAPIsVideoBatchTrigger``.

    :param deferrable: Leave the worker instead; ``execute_complete`` of ``task`` gets the event.
    :param webhook_positions: Positions.
    :param hint: How the wait before this one ended.
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
        min_wait=_min_wait(hint, end_time),
    )
    if deferrable:
        timeout = _backstop(max(end_time, not_before or end_time), poll_interval)
        task.defer(trigger=trigger, method_name="execute_complete", timeout=timeout)
    return BatchEvent.parse(asyncio.run(_first_event(trigger)))


async def _first_event(trigger: BaseTrigger) -> Mapping[str, Any]:
    event = await anext(aiter(trigger.run()))
    return cast("Mapping[str, Any]", event.payload)


def _min_wait(hint: WaitStatus, end_time: float) -> float | None:
    """Return what is left where the last wait timed out before its deadline: the clock there is ahead of this one."""
    return max(0.0, end_time - clock.time()) if hint == "timeout" else None


def _backstop(end_time: float, poll_interval: float) -> timedelta:
    return timedelta(seconds=max(0.0, end_time - clock.time()) + max(_LEAST_PADDING, 2 * poll_interval))
