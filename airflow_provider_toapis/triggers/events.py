"""What a wait hands back to its task. Light: operators import it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from airflow_provider_toapis.api.polling import WaitResult, WaitStatus
from airflow_provider_toapis.api.window import Window, parse_positions, positions_text

log = logging.getLogger(__name__)


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

    def log_error(self) -> None:
        """Log what went wrong, if something did: the task may find nothing wrong itself."""
        if self.status == "error":
            log.warning("The wait ended with an error: %s", self.message)

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
