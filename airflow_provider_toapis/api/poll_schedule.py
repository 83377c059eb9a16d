"""How soon to ask for a video again: rarely while it cannot be ready, closely when it is likely to be.

Pure: time and dice come from outside. Durations are seconds, moments epoch seconds.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from airflow_provider_toapis.api.responses import VideoTask

#: The vendor asks not to poll faster than every 5 to 10 seconds; no video is asked for more often than this.
SHORTEST_INTERVAL = 5.0
#: No longer than this without a poll, whatever a video promises and however long the service is in trouble.
LONGEST_INTERVAL = 120.0
#: Seconds before the first retries of the look-up after a wait.
QUICK_RETRIES = (1.0, 2.0, 4.0, 8.0, 15.0)
#: Videos that were submitted together are not asked for together: each wait is off by up to this fraction.
JITTER = 0.1
#: Videos of a model that are remembered, out of about how many, and how many tell how soon one can be ready.
SAMPLE_SIZE = 500
MEMORY_LENGTH = 10_000
LEAST_HISTORY = 20
#: The share of a model's videos that may be ready before they are asked for.
EARLY_SHARE = 0.05
#: Part of the interval to wait where the history says that a video may be ready: a part of the polls saved before.
LIKELY_SHARE = 0.93
#: Intervals to wait on one reading of progress: models exist that say 10 % from the first moment to the last.
INTERVALS_ON_ONE_READING = 4
#: Part of the estimated rest to wait while the estimate is refined by another poll.
REFINING_SHARE = 0.7
#: Seconds by which the estimated end may be off, and percents that must be made, to wait for the end itself.
EXACT_ENOUGH = 3.0
PERCENT_ENOUGH = 40.0
#: Seconds after the estimated end, and part of its possible error, so that one poll finds the video ready.
END_MARGIN = 0.5
END_ERROR_SHARE = 0.7


class ModelHistory:
    """What the videos of each model took, as far as they were watched here: a random sample of them.

    Not the latest ones: of thousands that were ordered at once, those that end last are those that take longest.

    :param chance: Gives a number from 0 to below 1.
    """

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._sample: defaultdict[str | None, list[float]] = defaultdict(list)
        self._seen: Counter[str | None] = Counter()

    def record(self, task: VideoTask) -> None:
        """Note what a completed video took, where the service says it."""
        if task.created_at and task.completed_at and task.completed_at > task.created_at:
            self._add(task.model, (task.completed_at - task.created_at).total_seconds())

    def earliest(self, model: str | None) -> float | None:
        """Return the age before which hardly any video of ``model`` is ready; None while too little is known."""
        seconds = self._sample.get(model, ())
        return sorted(seconds)[int(len(seconds) * EARLY_SHARE)] if len(seconds) >= LEAST_HISTORY else None

    def _add(self, model: str | None, seconds: float) -> None:
        sample = self._sample[model]
        self._seen[model] = min(self._seen[model] + 1, MEMORY_LENGTH)
        if len(sample) < SAMPLE_SIZE:
            sample.append(seconds)
        elif (coordinates := int(self._chance() * self._seen[model])) < SAMPLE_SIZE:
            sample[coordinates] = seconds


@dataclass(frozen=True, slots=True)
class _Reading:
    percent: float
    at: float


class Schedule:
    """When to ask for one video again.

    The pace of its progress tells when it ends. Far from the end another poll refines the estimate, near to it the
    next poll comes right after it. Without progress the history of the model tells how long it is too early.

    :param poll_interval: Seconds between two polls where nothing better is known; less than 5 is raised to 5.
    :param history: What the videos of each model took.
    :param jitter: Gives a number between 0 and 1.
    """

    def __init__(
        self,
        poll_interval: float,
        history: ModelHistory | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._interval = max(SHORTEST_INTERVAL, poll_interval)
        self._longest = max(LONGEST_INTERVAL, self._interval)
        self._history = history or ModelHistory()
        self._jitter = jitter
        self._first_asked_at: float | None = None
        self._first: _Reading | None = None
        self._last: _Reading | None = None

    def first_delay(self) -> float:
        """Return when to ask first: whoever begins to wait has just ordered the video, or asked for it."""
        return SHORTEST_INTERVAL + self._jitter() * (self._interval - SHORTEST_INTERVAL)

    def after_response(self, task: VideoTask, now: float) -> float:
        """Return how long to wait after the answer that the video is not ready."""
        age = self._age(task, now)
        delay = self._by_progress(task.progress or 0, age, now)
        return max(SHORTEST_INTERVAL, self._by_history(task.model, age) if delay is None else delay)

    def delay_without_progress(self, failures: int = 0, at_least: float = 0.0) -> float:
        """Return how long to wait when nothing was learned about the video.

        :param failures: Polls in a row that were not answered.
        :param at_least: Seconds that the service itself asks for.
        """
        backed_off = min(self._longest, self._interval * 2 ** min(failures, 10))
        return max(SHORTEST_INTERVAL, at_least, self._jittered(backed_off))

    def finished(self, task: VideoTask) -> None:
        """Learn from a completed video."""
        self._history.record(task)

    def _age(self, task: VideoTask, now: float) -> float:
        """Return how old the video is; at least as old as its wait, should the clocks differ."""
        self._first_asked_at = now if self._first_asked_at is None else self._first_asked_at
        created_at = task.created_at.timestamp() if task.created_at else now
        return now - min(created_at, self._first_asked_at)

    def _by_history(self, model: str | None, age: float) -> float:
        earliest = self._history.earliest(model)
        if earliest is None:
            return self._jittered(self._interval)
        return max(self._jittered(LIKELY_SHARE * self._interval), min(earliest - age, self._longest))

    def _by_progress(self, progress: int, age: float, now: float) -> float | None:
        """Return how long to wait going by the progress; None where it tells nothing."""
        # Whole percents are rounded down, so the middle is meant.
        reading = _Reading(progress + 0.5, now) if progress else None
        first, last, self._last = self._first, self._last, reading
        if reading is None or first is None or last is None or reading.percent < last.percent:
            self._first = reading
            return self._on_one_reading(reading, age) if reading else None
        if reading.percent == last.percent or now <= first.at:
            # It goes on from here, should it ever move again.
            self._first = reading
            return None
        pace = (reading.percent - first.percent) / (now - first.at)
        rest = (100 - reading.percent) / pace
        # Both readings may be off by half a percent.
        error = 0.5 * rest / (reading.percent - first.percent) + 0.5 / pace
        if error <= EXACT_ENOUGH and progress >= PERCENT_ENOUGH:
            return min(rest + END_MARGIN + END_ERROR_SHARE * error, self._longest)
        return min(REFINING_SHARE * rest, 2 * age, self._longest)

    def _on_one_reading(self, reading: _Reading, age: float) -> float:
        rest = (100 - reading.percent) * age / reading.percent
        return min(REFINING_SHARE * rest, INTERVALS_ON_ONE_READING * self._interval, self._longest)

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + JITTER * (2 * self._jitter() - 1))


class FallbackSchedule(Schedule):
    """When to ask for a video of which a webhook is to tell: once at the start, then rarely.

    The first poll finds what became final before anybody could be woken.

    :param interval: Seconds between two polls.
    """

    def first_delay(self) -> float:
        """Return when to ask first: soon, and not all at once."""
        return SHORTEST_INTERVAL * (1 + self._jitter())

    def after_response(self, task: VideoTask, now: float) -> float:  # noqa: ARG002
        """Return how long to wait, whatever the progress says."""
        return self._jittered(self._interval)


class ResumedSchedule(Schedule):
    """When to look a video up again that is probably final: soon after the first failures, then as any other.

    The look-up after a wait uses it, so that a short fault costs seconds.
    """

    def delay_without_progress(self, failures: int = 0, at_least: float = 0.0) -> float:
        """Return how long to wait when nothing was learned about the video."""
        if 0 < failures <= len(QUICK_RETRIES):
            return max(QUICK_RETRIES[failures - 1], at_least)
        return super().delay_without_progress(max(0, failures - len(QUICK_RETRIES)), at_least)
