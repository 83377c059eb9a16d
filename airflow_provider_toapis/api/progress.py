"""Estimate from the progress of a video when it will be ready. Durations are in seconds, times in epoch seconds.

The progress is assumed to be linear, but it can start late, because a video can be queued first. A reported percentage
is rounded down, often to a whole percent, sometimes to a coarse step such as 30 or 60. So each response limits the true
progress to a range, and each pair of responses limits the pace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: If all percentages of a model are multiples of this number, its progress is assumed to move in coarse steps.
COARSE = 5
#: Many services report this percentage until a video is ready, so it does not show how fine the steps are.
LAST = 99
#: Minimum number of different percentages from which a model is known to report how a video progresses. Some models
#: report the same percentage from start to end.
MIN_PERCENTAGES = 3
#: Maximum number of responses of a video that are compared.
MAX_READINGS = 8
_DONE = 100


class Percentages:
    """The percentages that the videos of a model have reported, except 0 and 100."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def add(self, percent: int) -> None:
        """Record a reported percentage."""
        if 0 < percent < _DONE:
            self._seen.add(percent)

    @property
    def are_moving(self) -> bool:
        """Whether the model is known to report how a video progresses."""
        return len(self._seen) >= MIN_PERCENTAGES

    def next_above(self, percent: int) -> int:
        """Return the percentage that is reported after ``percent``. It is 100 if a coarse step is not known yet."""
        if any(seen % COARSE and seen != LAST for seen in self._seen):
            return percent + 1
        return min((seen for seen in self._seen if seen > percent), default=_DONE)


@dataclass(frozen=True, slots=True)
class Remaining:
    """The remaining time of a video.

    :param earliest: Minimum seconds. It is 0 if only the maximum is known.
    :param latest: Maximum seconds.
    """

    earliest: float
    latest: float

    @property
    def middle(self) -> float:
        """The seconds between minimum and maximum."""
        return (self.earliest + self.latest) / 2

    @property
    def error(self) -> float:
        """By how many seconds ``middle`` can be wrong."""
        return (self.latest - self.earliest) / 2


@dataclass(frozen=True, slots=True)
class _Reading:
    percent: int
    at: float


class ProgressLog:
    """The progress that a video has reported so far.

    :param created_at: Time when the video was created, if known. Its progress was 0.
    """

    def __init__(self, created_at: float | None) -> None:
        self._created_at = created_at
        self._readings: list[_Reading] = []
        #: Whether the progress has decreased. If so, the responses before that are ignored.
        self.has_decreased = False

    @property
    def is_constant(self) -> bool:
        """Whether the last two responses reported the same percentage."""
        return len(self._readings) > 1 and self._readings[-2].percent == self._readings[-1].percent

    def add(self, percent: int, now: float) -> None:
        """Record a response."""
        if not self._readings and self._created_at is not None and self._created_at >= now:
            # The service's clock differs from the one of this machine.
            self._created_at = None
        if self._readings and percent < self._readings[-1].percent:
            self.has_decreased = True
            self._created_at = None
            self._readings.clear()
        self._readings = [*self._readings[1 - MAX_READINGS :], _Reading(percent, now)]

    def remaining(self, percentages: Percentages) -> Remaining | None:
        """Return the remaining time; None if the progress gives no estimate.

        If the progress has not been linear, the oldest responses are ignored until the other ones agree.

        :param percentages: The percentages that the model reports.
        """
        slowest, fastest = self._pace(percentages)
        while slowest > fastest:
            if self._created_at is None:
                del self._readings[0]
            self._created_at = None
            slowest, fastest = self._pace(percentages)
        if not slowest:
            return None
        percent = self._readings[-1].percent
        return Remaining((_DONE - percentages.next_above(percent)) / fastest, (_DONE - percent) / slowest)

    def _pace(self, percentages: Percentages) -> tuple[float, float]:
        """Return the minimum and maximum percent per second, by comparing the last response with each earlier one."""
        last = self._readings[-1]
        slowest, fastest = 0.0, math.inf
        if self._created_at is not None and last.at > self._created_at:
            slowest = last.percent / (last.at - self._created_at)
        for reading in self._readings[:-1]:
            seconds = last.at - reading.at
            if seconds <= 0:
                continue
            slowest = max(slowest, (last.percent - percentages.next_above(reading.percent)) / seconds)
            if reading.percent:
                fastest = min(fastest, (percentages.next_above(last.percent) - reading.percent) / seconds)
        return slowest, fastest
