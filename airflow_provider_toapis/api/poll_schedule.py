"""Decide when to poll a video next: rarely while it cannot be ready, often once it is likely to be ready.

The current time and the random numbers are arguments. Durations are in seconds, times in epoch seconds.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable

from airflow_provider_toapis.api.progress import Percentages, ProgressLog
from airflow_provider_toapis.api.responses import TaskStatus, VideoTask

#: Minimum seconds between two polls of a video. The vendor asks clients not to poll faster than every 5 to 10 seconds.
MIN_INTERVAL = 5.0
#: Maximum seconds between two polls of a video, before jitter. ``poll_interval`` and a pause that the service requests
#: can be longer.
MAX_INTERVAL = 120.0
#: Seconds before the first retries of the look-up that follows a wait.
QUICK_RETRIES = (1.0, 2.0, 4.0, 8.0, 15.0)
#: Each delay varies by up to this fraction, so that videos that were submitted together are not polled together.
JITTER = 0.1
#: Maximum number of render times in the random sample of a model's videos.
SAMPLE_SIZE = 500
#: Approximate number of recent videos that the sample represents.
HISTORY_LENGTH = 10_000
#: Minimum number of render times from which the earliest end is estimated.
MIN_SAMPLES = 20
#: Fraction of a model's videos that are ready before the estimated earliest end.
EARLY_SHARE = 0.1
#: Fraction of ``poll_interval`` to wait between polls once a video can be ready. It is below 1, so that the video is
#: polled more often than usual. Fewer polls than usual were sent before that time.
LIKELY_SHARE = 0.9
#: Maximum delay, in multiples of ``poll_interval``, before the next poll of a video that has not started.
INTERVALS_BEFORE_START = 5
#: Maximum delay, in multiples of ``poll_interval``, after a single reading of the progress. One reading is not
#: reliable: some models report 10 % from start to end. It is more reliable if the model's progress is known to move.
INTERVALS_ON_ONE_READING = 4
INTERVALS_IF_MOVING = 8
#: Fraction of the maximum remaining time to wait after a single reading.
ONE_READING_SHARE = 0.45
#: Maximum error in seconds of an estimated end right after which the next poll is sent.
MAX_END_ERROR = 4.0
#: These seconds and this fraction of the estimate's error are added to the estimated end, so that the poll is not sent
#: before the video is ready.
END_MARGIN = 0.3
END_ERROR_SHARE = 0.6
#: If the error is larger, the next poll refines the estimate. It is sent after the earliest end and this fraction of
#: the time between the earliest and the latest end.
REFINING_SHARE = 0.25
#: Maximum number of schedules of interrupted waits in memory.
MAX_INTERRUPTED = 20_000


class ModelHistory:
    """Random sample of the render times of each model's videos, as observed by this process.

    The sample is random, because the most recent videos would be a biased sample: of thousands of videos that are
    submitted at once, the slowest ones end last.

    :param rng: Returns a random number of at least 0 and below 1.
    """

    def __init__(self, rng: Callable[[], float] = random.random) -> None:
        self._rng = rng
        self._sample: defaultdict[str | None, list[float]] = defaultdict(list)
        self._seen: Counter[str | None] = Counter()
        self._percentages: defaultdict[str | None, Percentages] = defaultdict(Percentages)

    def record(self, task: VideoTask) -> None:
        """Add a completed video, if the service reports when it was created and completed."""
        if task.created_at and task.completed_at and task.completed_at > task.created_at:
            self._add(task.model, (task.completed_at - task.created_at).total_seconds())

    def earliest(self, model: str | None) -> float | None:
        """Return the age in seconds before which hardly any video of ``model`` is ready; None with too few samples."""
        seconds = self._sample.get(model, ())
        return sorted(seconds)[int(len(seconds) * EARLY_SHARE)] if len(seconds) >= MIN_SAMPLES else None

    def percentages(self, model: str | None) -> Percentages:
        """Return the percentages that videos of ``model`` have reported."""
        return self._percentages[model]

    def _add(self, model: str | None, seconds: float) -> None:
        sample = self._sample[model]
        self._seen[model] = min(self._seen[model] + 1, HISTORY_LENGTH)
        if len(sample) < SAMPLE_SIZE:
            sample.append(seconds)
        elif (index := int(self._rng() * self._seen[model])) < SAMPLE_SIZE:
            sample[index] = seconds


class Schedule:
    """Schedule of the polls of one video.

    The end of the rendering is estimated from the pace of the progress. Far from the end, another poll refines the
    estimate. Near the end, the next poll is sent right after the estimated end. If the service reports no progress, the
    history of the model gives the age before which hardly any video is ready.

    :param poll_interval: Seconds between two polls without such an estimate. Values below 5 are raised to 5.
    :param history: Render times of each model's videos.
    :param jitter: Returns a random number between 0 and 1.
    """

    def __init__(
        self,
        poll_interval: float,
        history: ModelHistory | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._interval = max(MIN_INTERVAL, poll_interval)
        self._max_interval = max(MAX_INTERVAL, self._interval)
        self._history = history or ModelHistory()
        self._jitter = jitter
        self._first_polled_at: float | None = None
        self._next_poll_at = -math.inf
        self._progress: ProgressLog | None = None

    def first_delay(self, now: float) -> float:
        """Return the seconds until the first poll. The video has just been submitted or looked up.

        The next poll of an interrupted wait is the first one of this wait, if it is due in at least five seconds.
        Otherwise it may just have been sent. The random delay also prevents that, of many videos that are due, the same
        ones are polled first in each wait.
        """
        # The clock may have been set back.
        left = min(self._next_poll_at - now, self._max_interval)
        return left if left >= MIN_INTERVAL else MIN_INTERVAL + self._jitter() * (self._interval - MIN_INTERVAL)

    def interrupted(self, next_poll_at: float) -> None:
        """Record that the wait has ended before the video is final.

        :param next_poll_at: Time of the next poll, in epoch seconds.
        """
        self._next_poll_at = next_poll_at

    def after_response(self, task: VideoTask, now: float) -> float:
        """Return the seconds until the next poll after a response that reports the video as not ready."""
        percent = task.progress or 0
        self._history.percentages(task.model).add(percent)
        age = self._age(task, now)
        if self._progress is None:
            self._progress = ProgressLog(task.created_at.timestamp() if task.created_at else None)
        self._progress.add(percent, now)
        by_progress = self._delay_by_progress if percent else self._delay_before_start
        delay = by_progress(self._progress, task, age)
        if delay is None:
            delay = self._delay_by_history(task.model, age)
        return max(MIN_INTERVAL, min(delay, self._max_interval))

    def delay_without_progress(self, failures: int = 0, at_least: float = 0.0) -> float:
        """Return the seconds until the next poll if the last poll gave no information about the video.

        :param failures: Number of failed polls in a row (default 0).
        :param at_least: Minimum seconds, as the service requested (default 0).
        """
        backed_off = min(self._max_interval, self._interval * 2 ** min(failures, 10))
        return max(MIN_INTERVAL, at_least, self._jittered(backed_off))

    def finished(self, task: VideoTask) -> None:
        """Add a completed video to the history."""
        self._history.record(task)

    def _age(self, task: VideoTask, now: float) -> float:
        """Return the age of the video. It is at least the time since the first poll, because clocks can differ."""
        self._first_polled_at = now if self._first_polled_at is None else self._first_polled_at
        created_at = task.created_at.timestamp() if task.created_at else now
        return now - min(created_at, self._first_polled_at)

    def _delay_by_history(self, model: str | None, age: float) -> float:
        earliest = self._history.earliest(model)
        if earliest is None:
            return self._jittered(self._interval)
        return max(self._jittered(LIKELY_SHARE * self._interval), min(earliest - age, self._max_interval))

    def _delay_before_start(self, progress: ProgressLog, task: VideoTask, age: float) -> float | None:
        """Return the seconds until the next poll of a video that has not started.

        Return None if the video may have started, because the service may not report its progress.
        """
        earliest = self._history.earliest(task.model)
        is_waiting = self._history.percentages(task.model).are_moving
        # Once render times are known, they are more reliable than a status: it could be "queued" from start to end.
        is_waiting |= task.status is TaskStatus.QUEUED and earliest is None
        if not is_waiting or progress.has_decreased:
            return None
        return max(self._jittered(INTERVALS_BEFORE_START * self._interval), (earliest or 0.0) - age)

    def _delay_by_progress(self, progress: ProgressLog, task: VideoTask, age: float) -> float | None:
        """Return the seconds until the next poll, based on the progress; None if the progress gives no estimate."""
        percentages = self._history.percentages(task.model)
        remaining = progress.remaining(percentages)
        if remaining is None or (progress.is_constant and not percentages.are_moving):
            return None
        if remaining.error <= MAX_END_ERROR:
            delay = min(remaining.middle + END_MARGIN + END_ERROR_SHARE * remaining.error, 2 * age)
        elif remaining.earliest > 0:
            delay = min(remaining.earliest + REFINING_SHARE * 2 * remaining.error, 2 * age)
        else:
            intervals = INTERVALS_IF_MOVING if percentages.are_moving else INTERVALS_ON_ONE_READING
            delay = min(ONE_READING_SHARE * remaining.latest, intervals * self._interval)
        if progress.is_constant:
            return max(self._interval, min(delay, INTERVALS_ON_ONE_READING * self._interval))
        return delay

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + JITTER * (2 * self._jitter() - 1))


class FallbackSchedule(Schedule):
    """Schedule for a video that a webhook reports when it is finished: one poll at the start, then rare polls.

    The first poll finds a video that became final before its task was deferred.

    :param poll_interval: Seconds between two polls after the first.
    """

    def first_delay(self, now: float) -> float:  # noqa: ARG002
        """Return the seconds until the first poll, with jitter."""
        return MIN_INTERVAL * (1 + self._jitter())

    def after_response(self, task: VideoTask, now: float) -> float:  # noqa: ARG002
        """Return the seconds until the next poll. The progress is ignored."""
        return self._jittered(self._interval)


class ResumedSchedule(Schedule):
    """Schedule for the look-up that follows a wait: quick first retries, then retries as for any other video.

    The video is probably finished already. With quick retries, a short outage delays the task by only a few seconds.
    """

    def delay_without_progress(self, failures: int = 0, at_least: float = 0.0) -> float:
        """Return the seconds until the next look-up if the last one gave no information about the video."""
        if 0 < failures <= len(QUICK_RETRIES):
            return max(QUICK_RETRIES[failures - 1], at_least)
        return super().delay_without_progress(max(0, failures - len(QUICK_RETRIES)), at_least)


class PollMemory:
    """What a process knows about the videos of a connection from one wait to the next.

    A batch waits for its videos in many short waits. Each continues with the schedules of the wait before.
    """

    def __init__(self) -> None:
        self.history = ModelHistory()
        self._interrupted: dict[str, tuple[float, Schedule]] = {}

    def schedule(self, video_id: str, poll_interval: float) -> Schedule:
        """Return the schedule of an interrupted wait with this interval; a new schedule if there is none."""
        earlier_interval, earlier = self._interrupted.pop(video_id, (None, None))
        return earlier if earlier and earlier_interval == poll_interval else Schedule(poll_interval, self.history)

    def add(self, video_id: str, poll_interval: float, schedule: Schedule) -> None:
        """Add the schedule of an interrupted wait. Of more than ``MAX_INTERRUPTED``, the oldest one is dropped."""
        self._interrupted.pop(video_id, None)
        self._interrupted[video_id] = poll_interval, schedule
        if len(self._interrupted) > MAX_INTERRUPTED:
            del self._interrupted[next(iter(self._interrupted))]
