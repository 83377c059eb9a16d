"""How a task hands its wait to the triggerer, and what a wait hands back. Light: operators import it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, cast

from airflow_provider_toapis.api.polling import WaitResult, WaitStatus
from airflow_provider_toapis.api.window import Window, parse_positions, positions_text

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator
    from airflow.triggers.base import BaseTrigger

#: Seconds that the scheduler lets a trigger overrun its own deadline before it ends the wait itself.
_LEAST_PADDING = 60.0


@dataclass(frozen=True)
class WaitEvent:
    """The event of a wait. It is a hint: the task asks the service for the truth.

    :param end_time: The deadline in epoch seconds, which travels through every deferral.
    """

    status: WaitStatus
    video_id: str
    end_time: float | None
    message: str

    @classmethod
    def of(cls, result: WaitResult, video_id: str, end_time: float | None) -> WaitEvent:
        """Return how the wait for ``video_id`` ended."""
        return cls(status=result.status, video_id=video_id, end_time=end_time, message=result.message)

    @classmethod
    def parse(cls, payload: Mapping[str, Any]) -> WaitEvent:
        """Read a trigger's payload."""
        return cls(
            status=cast("WaitStatus", payload["status"]),
            video_id=str(payload["video_id"]),
            end_time=payload.get("end_time"),
            message=str(payload.get("message", "")),
        )

    def payload(self) -> dict[str, Any]:
        """Return it as Airflow carries and logs it."""
        return {
            "status": self.status,
            "video_id": self.video_id,
            "end_time": self.end_time,
            "message": self.message,
        }


@dataclass(frozen=True)
class BatchEvent:
    """The event of a wait for many videos. It is a hint: the task asks the service for the truth.

    :param final: Positions of the videos that seem to be final, as the bits of a hexadecimal number: Airflow logs it.
    :param waiting: How many are not.
    """

    status: WaitStatus
    final: str
    waiting: int

    @classmethod
    def of(cls, window: Window, *, timed_out: bool) -> BatchEvent:
        """Return what has become of the videos of a window."""
        return cls(
            status="timeout" if timed_out else "success",
            final=positions_text(window.final),
            waiting=window.size - len(window.final),
        )

    @classmethod
    def parse(cls, payload: Mapping[str, Any]) -> BatchEvent:
        """Read a trigger's payload."""
        return cls(
            status=cast("WaitStatus", payload.get("status", "success")),
            final=str(payload.get("final", "")),
            waiting=int(payload.get("waiting", 0)),
        )

    def final_positions(self, size: int) -> list[int]:
        """Return the positions below ``size`` that seem to be final."""
        return parse_positions(self.final, size)

    def payload(self) -> dict[str, Any]:
        """Return it as Airflow carries and logs it."""
        return {"status": self.status, "final": self.final, "waiting": self.waiting}


@dataclass(frozen=True)
class Wake:
    """What a webhook means for a wait.

    :param at: Epoch seconds at which the task is worth waking; in the past: now.
    :param payload: Of the event that wakes it.
    """

    at: float
    payload: dict[str, Any]


def defer_until_final(
    task: BaseOperator,
    video_id: str,
    *,
    toapis_conn_id: str,
    poll_interval: float,
    end_time: float,
    fallback_interval: float | None = None,
) -> NoReturn:
    """Leave the worker; ``execute_complete`` of ``task`` gets the event. Parameters as for ``ToAPIsVideoTrigger``.

    The trigger keeps the deadline itself. The timeout of the deferral only ends a wait whose trigger is stuck.
    """
    from airflow_provider_toapis.triggers.video import ToAPIsVideoTrigger

    task.defer(
        trigger=ToAPIsVideoTrigger(
            video_id=video_id,
            toapis_conn_id=toapis_conn_id,
            poll_interval=poll_interval,
            end_time=end_time,
            fallback_interval=fallback_interval,
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
    told_by_webhook: Iterable[int] = (),
) -> BatchEvent:
    """Return when it is worth looking after some of the videos; parameters as for ``ToAPIsVideoBatchTrigger``.

    :param deferrable: Leave the worker instead; ``execute_complete`` of ``task`` gets the event.
    :param told_by_webhook: Positions.
    """
    from airflow_provider_toapis.triggers.video import ToAPIsVideoBatchTrigger

    trigger = ToAPIsVideoBatchTrigger(
        video_ids=video_ids,
        toapis_conn_id=toapis_conn_id,
        poll_interval=poll_interval,
        end_time=end_time,
        not_before=not_before,
        fallback_interval=fallback_interval,
        told_by_webhook=positions_text(told_by_webhook) if fallback_interval else "",
    )
    if deferrable:
        timeout = _backstop(max(end_time, not_before or end_time), poll_interval)
        task.defer(trigger=trigger, method_name="execute_complete", timeout=timeout)
    return BatchEvent.parse(asyncio.run(_first_event(trigger)))


async def _first_event(trigger: BaseTrigger) -> Mapping[str, Any]:
    event = await anext(aiter(trigger.run()))
    return cast("Mapping[str, Any]", event.payload)


def _backstop(end_time: float, poll_interval: float) -> timedelta:
    return timedelta(seconds=max(0.0, end_time - time.time()) + max(_LEAST_PADDING, 2 * poll_interval))
