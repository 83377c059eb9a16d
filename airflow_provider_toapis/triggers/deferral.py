"""How a task hands its wait to the triggerer, and what a wait hands back. Light: operators import it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, cast

from airflow_provider_toapis.api.polling import WaitResult, WaitStatus

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator

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


def defer_until_final(
    task: BaseOperator, video_id: str, *, toapis_conn_id: str, poll_interval: float, end_time: float
) -> NoReturn:
    """Leave the worker; ``execute_complete`` of ``task`` gets the event.

    The trigger keeps the deadline itself. The timeout of the deferral only ends a wait whose trigger is stuck.
    """
    from airflow_provider_toapis.triggers.video import ToAPIsVideoTrigger

    backstop = max(0.0, end_time - time.time()) + max(_LEAST_PADDING, 2 * poll_interval)
    task.defer(
        trigger=ToAPIsVideoTrigger(
            video_id=video_id, toapis_conn_id=toapis_conn_id, poll_interval=poll_interval, end_time=end_time
        ),
        method_name="execute_complete",
        timeout=timedelta(seconds=backstop),
    )
