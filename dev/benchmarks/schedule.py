"""Simulate how soon a ready video is noticed, and how many polls it takes, for each kind of progress.

``python -m dev.benchmarks.schedule [--quick]`` simulates 300 videos of 60 to 300 seconds that start at once, without
network and without waiting. The model is unknown at first. The same videos are then simulated again, because the
poller has learned how the model reports its progress and how long its videos take. The last kind, without progress, is
compared to polling every 10 seconds.

A batch is resumed and deferred again while its videos are in progress. Its waits are simulated as well.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from airflow_provider_toapis.api.poll_schedule import ModelHistory, Schedule
from airflow_provider_toapis.api.responses import parse_video_task
from dev.benchmarks._measuring import POLL_INTERVAL, Workload, is_quick
from dev.benchmarks._stub_service import Progress, Video

TARGET_LAG = 1.5
TARGET_POLLS = 4.0
TARGET_POLLS_SHARE = 0.75

FULL = Workload(videos=300, shortest=60.0, longest=300.0)
QUICK = Workload(videos=60, shortest=60.0, longest=300.0)

_MODEL = "schedule"
_SEED = 20261123
#: Creation time of all videos. Its fraction is cut off in the responses of the service.
_CREATED_AT = 1_790_000_000.5
#: Seconds that one wait of a batch takes.
_SHORT_WAIT = 30.0


@dataclass(frozen=True)
class Figures:
    """Lag in seconds, and polls per video.

    :param median: Median lag.
    :param percentile_90: 90th percentile of the lag.
    """

    median: float
    percentile_90: float
    polls: float

    def __str__(self) -> str:
        return f"{self.polls:.1f} polls, lag {self.median:.1f} s median, {self.percentile_90:.1f} s 90th percentile"


def main() -> None:
    """Simulate each kind of progress and print its figures."""
    size = QUICK if is_quick("Time from ready to noticed, and polls per video, in simulated time.") else FULL
    rng = random.Random(_SEED)  # noqa: S311
    lives = [rng.uniform(size.shortest, size.longest) for _ in range(size.videos)]
    plain = _figures(_polled_plainly(life, rng) for life in lives)
    print(f"{size.videos} videos of {size.shortest:.0f} to {size.longest:.0f} s, started at once")
    print(f"polled every {POLL_INTERVAL:.0f} s: {plain}")
    known: dict[Progress, Figures] = {}
    for progress in Progress:
        history = ModelHistory(rng.random)
        unknown, known[progress] = (_figures(_simulated(lives, progress, history, rng)) for _ in range(2))
        in_batch = _figures(_simulated(lives, progress, history, rng, wait=_SHORT_WAIT))
        print(f"{progress}: model unknown: {unknown}; model known: {known[progress]}; in a batch: {in_batch}")
    with_progress = ", ".join(
        f"{progress} {figures.polls:.1f} polls and {figures.median:.1f} s"
        for progress, figures in known.items()
        if progress is not Progress.NONE
    )
    silent = known[Progress.NONE]
    print(
        f"schedule: {with_progress} (target: at most {TARGET_POLLS:.0f} and {TARGET_LAG}); without progress"
        f" {silent.polls / plain.polls:.2f} of the polls of a {POLL_INTERVAL:.0f} s interval (target: at most"
        f" {TARGET_POLLS_SHARE}) and {silent.median:.1f} s (target: at most {plain.median:.1f})"
    )


def _simulated(
    lives: Sequence[float], progress: Progress, history: ModelHistory, rng: random.Random, *, wait: float = math.inf
) -> Iterator[tuple[int, float]]:
    """Yield the number of polls and the lag in seconds of each video, in the order in which they are noticed.

    :param wait: Seconds after which the wait for all videos is interrupted and begins again.
    """
    videos = [Video.lasting(_MODEL, index, _CREATED_AT, life, progress) for index, life in enumerate(lives)]
    schedules = [Schedule(POLL_INTERVAL, history, rng.random) for _ in videos]
    polls = [0] * len(videos)
    due = [(_CREATED_AT + schedule.first_delay(_CREATED_AT), index) for index, schedule in enumerate(schedules)]
    heapq.heapify(due)
    while due:
        now, index = heapq.heappop(due)
        polls[index] += 1
        task = parse_video_task(videos[index].status_body(now))
        assert task is not None  # noqa: S101
        if task.is_ready:
            schedules[index].finished(task)
            yield polls[index], now - videos[index].ready_at
        else:
            due_at = now + schedules[index].after_response(task, now)
            heapq.heappush(due, (_due_in_waits(schedules[index], now, due_at, wait), index))


def _due_in_waits(schedule: Schedule, now: float, due_at: float, wait: float) -> float:
    """Return when the next poll is sent, if every ``wait`` seconds a wait is interrupted and the next one begins."""
    while due_at > (end := now + wait - (now - _CREATED_AT) % wait):
        schedule.interrupted(due_at)
        now, due_at = end, end + schedule.first_delay(end)
    return due_at


def _polled_plainly(life: float, rng: random.Random) -> tuple[int, float]:
    """Return the number of polls and the lag of a video that is polled every 10 s, starting at a random moment."""
    now, polls = rng.uniform(0, POLL_INTERVAL), 1
    while now < life:
        now += POLL_INTERVAL
        polls += 1
    return polls, now - life


def _figures(outcomes: Iterator[tuple[int, float]]) -> Figures:
    polls, lags = zip(*outcomes, strict=True)
    return Figures(statistics.median(lags), statistics.quantiles(lags, n=10)[-1], statistics.mean(polls))


if __name__ == "__main__":
    main()
