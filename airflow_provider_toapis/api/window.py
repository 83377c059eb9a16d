"""When a task that waits for many videos is worth waking. Pure: time comes from outside."""

from __future__ import annotations

import math
from collections.abc import Iterable

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

    def wake_at(self) -> float:
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
