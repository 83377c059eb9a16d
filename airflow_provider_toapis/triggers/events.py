"""What a wait hands back to its task. Light: operators import it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from airflow_provider_toapis.api.polling import WaitResult, WaitStatus

log = logging.getLogger(__name__)

#: To wake a task costs the start of a worker: it is worth it for a tenth of the videos, and for not fewer than ten ...
ENOUGH_SHARE = 10
ENOUGH_LEAST = 10
#: ... or when one has waited for this many seconds.
LONGEST_WAIT = 60.0


class Window:
    """Counts the final ones among videos that are waited for, and says when to wake who waits.

    :param size: How many videos there are.
    :param not_before: Epoch seconds before which nobody is woken, unless all are final.
    :param end_time: Epoch seconds at which the waiter is woken whatever happened; None: never.
    :param final: Positions of those that were final before.
    """

    def __init__(
        self,
        size: int,
        *,
        not_before: float | None = None,
        end_time: float | None = None,
        final: Iterable[int] = (),
    ) -> None:
        self.size = size
        self.final = set(final)
        self._not_before = -math.inf if not_before is None else not_before
        self._end_time = math.inf if end_time is None else end_time
        self._enough = min(size, max(ENOUGH_LEAST, math.ceil(size / ENOUGH_SHARE)))
        self._first_final_at = math.inf

    def on_final(self, position: int, now: float) -> None:
        """Count a video as final."""
        self.final.add(position)
        self._first_final_at = min(self._first_final_at, now)

    def resume_at(self) -> float:
        """Return when to wake, in epoch seconds, as far as is known; infinite while nothing is."""
        if len(self.final) == self.size:
            # Nothing is being made any more: there is nothing to wait for.
            return -math.inf
        if len(self.final) >= self._enough:
            return self._not_before
        return max(self._not_before, min(self._first_final_at + LONGEST_WAIT, self._end_time))

    def is_timeout(self, now: float) -> bool:
        """Whether the waiter is woken because its time is up rather than because there is something to fetch."""
        return not self.final and now >= self._end_time


def positions_text(positions: Iterable[int]) -> str:
    """Write positions as the bits of a hexadecimal number: short, because Airflow logs it."""
    return hex(sum(1 << position for position in set(positions)))


def parse_positions(text: object, size: int) -> list[int]:
    """Read positions below ``size``; none where it is no such text."""
    try:
        bits = int(str(text), 16)
    except ValueError:
        return []
    return [position for position in range(size) if bits > 0 and bits >> position & 1]


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
class ResumeDecision:
    """What a webhook means for a wait.

    :param at: Epoch seconds at which the task is worth waking; in the past: now.
    :param payload: Of the event that wakes it.
    """

    at: float
    payload: dict[str, Any]
