"""Events of the triggers, and the decision when to resume a batch.

DAG parsing imports this module through the operators, so it imports nothing that is slow to load.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_toapis.api.polling import WaitResult, WaitStatus

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)
#: A batch task is resumed when a tenth of its videos, and at least ten, are final. With fewer final videos it waits
#: longer, because each resumption starts a worker process.
ENOUGH_SHARE = 10
ENOUGH_LEAST = 10
#: A batch task with fewer final videos is resumed this many seconds after its first final video.
LONGEST_WAIT = 60.0


class Window:
    """Counts the final videos of a batch and decides when to resume its task.

    :param size: Number of videos.
    :param not_before: Epoch seconds before which the task is resumed only if all videos are final.
    :param end_time: Epoch seconds at which the task is resumed even if no video is final, but not before
        ``not_before``. None for no deadline.
    :param final: Positions of the videos that are already final.
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
        """Return when to resume the task, in epoch seconds; infinity if no video is final and no deadline is set."""
        if len(self.final) == self.size:
            # All videos are final, so there is nothing to wait for.
            return -math.inf
        if len(self.final) >= self._enough:
            return self._not_before
        return max(self._not_before, min(self._first_final_at + LONGEST_WAIT, self._end_time))

    def is_timeout(self, now: float) -> bool:
        """Return whether the deadline has passed and no video is final."""
        return not self.final and now >= self._end_time


def positions_text(positions: Iterable[int]) -> str:
    """Return positions as bits of a hexadecimal number. Airflow logs the number, so it must be short."""
    return hex(sum(1 << position for position in set(positions)))


def parse_positions(text: object, size: int) -> list[int]:
    """Return the positions below ``size`` in ``text``; an empty list if ``text`` is not a hexadecimal number."""
    try:
        bits = int(str(text), 16)
    except ValueError:
        return []
    return [position for position in range(size) if bits > 0 and bits >> position & 1]


@dataclass(frozen=True)
class WaitEvent:
    """The event of a wait for one video. It is advisory: the task looks the video up.

    :param end_time: The deadline in epoch seconds. It stays the same in all further deferrals of the task.
    """

    status: WaitStatus
    video_id: str
    end_time: float | None
    message: str

    @classmethod
    def from_result(cls, result: WaitResult, video_id: str, end_time: float | None) -> WaitEvent:
        """Return the event for the result of the wait for ``video_id``."""
        return cls(status=result.status, video_id=video_id, end_time=end_time, message=result.message)

    @classmethod
    def parse(cls, payload: Mapping[str, Any]) -> WaitEvent:
        """Parse the payload of a ``TriggerEvent``, as :meth:`payload` returns it.

        :raises KeyError: The payload has no ``status`` or no ``video_id``.
        """
        return cls(
            status=cast("WaitStatus", payload["status"]),
            video_id=str(payload["video_id"]),
            end_time=payload.get("end_time"),
            message=str(payload.get("message", "")),
        )

    def log_error(self) -> None:
        """Log the error with which a wait ended, because the task may not encounter it again."""
        if self.status == "error":
            log.warning("The wait ended with an error: %s", self.message)

    def payload(self) -> dict[str, Any]:
        """Return the payload for a ``TriggerEvent``. Airflow stores and logs it."""
        return {
            "status": self.status,
            "video_id": self.video_id,
            "end_time": self.end_time,
            "message": self.message,
        }


@dataclass(frozen=True)
class BatchEvent:
    """The event of a wait for many videos. It is advisory: the task looks the videos up.

    :param final: Positions of the videos that seem to be final, as bits of a hexadecimal number.
    :param waiting: Number of videos that are not final.
    """

    status: WaitStatus
    final: str
    waiting: int

    @classmethod
    def from_window(cls, window: Window, *, timed_out: bool) -> BatchEvent:
        """Return the event for the videos that a window counts."""
        return cls(
            status="timeout" if timed_out else "success",
            final=positions_text(window.final),
            waiting=window.size - len(window.final),
        )

    @classmethod
    def parse(cls, payload: Mapping[str, Any]) -> BatchEvent:
        """Parse the payload of a ``TriggerEvent``, as :meth:`payload` returns it.

        A missing field gets a default: status ``success``, no final videos, 0 waiting videos.

        :raises ValueError: ``waiting`` is not an integer.
        """
        return cls(
            status=cast("WaitStatus", payload.get("status", "success")),
            final=str(payload.get("final", "")),
            waiting=int(payload.get("waiting", 0)),
        )

    def final_positions(self, size: int) -> list[int]:
        """Return the positions below ``size`` that seem to be final."""
        return parse_positions(self.final, size)

    def payload(self) -> dict[str, Any]:
        """Return the payload for a ``TriggerEvent``. Airflow stores and logs it."""
        return {"status": self.status, "final": self.final, "waiting": self.waiting}


@dataclass(frozen=True)
class ResumeDecision:
    """When, and with which event, a webhook resumes a task.

    :param at: Epoch seconds at which to resume the task; a time in the past means now.
    :param payload: Payload of the ``TriggerEvent`` that resumes the task.
    """

    at: float
    payload: dict[str, Any]
