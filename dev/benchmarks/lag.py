"""Measure how soon a ready video is noticed, and how many polls it takes, compared to polling every 10 seconds.

``python -m dev.benchmarks.lag [--quick]`` watches four populations of 300 videos. The videos of a population start at
the same time, and their durations are the same in each population. The first three populations are watched at the same
time, the fourth afterwards:

- The service reports progress, and our trigger waits.
- The service reports no progress, and the videos are polled every 10 seconds.
- The service reports no progress, and our trigger waits. Its connection has not been used for videos of this model.
- The service reports no progress, and our trigger waits. Its connection is that of the third population.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from dev.benchmarks._measuring import (
    POLL_INTERVAL,
    Workload,
    configure_triggerer_logging,
    connect,
    is_quick,
    noticed_at,
    percentile_95,
    start_waits,
    video_trigger,
)
from dev.benchmarks._stub_service import STATUS_PATH, Progress, StubService, Video

TARGET_LAG = 1.5
TARGET_POLLS = 4.0
TARGET_POLLS_SHARE = 0.75

_HONEST_CONN_ID = "benchmark_lag_honest"
_SILENT_CONN_ID = "benchmark_lag_silent"
_SILENT_MODEL = "silent"
_SEED = 20261123

#: Waits for a video and returns when it was noticed, in epoch seconds.
Watch = Callable[[Video], Coroutine[Any, Any, float]]


FULL = Workload(videos=300, shortest=60.0, longest=300.0)
QUICK = Workload(videos=60, shortest=15.0, longest=45.0)


@dataclass(frozen=True)
class Population:
    """Result of one population.

    :param created_at: Creation time of the videos in epoch seconds. It distinguishes populations of the same model.
    :param lags: Seconds from ready to noticed, for each video.
    """

    title: str
    model: str
    created_at: float
    lags: Sequence[float]


@dataclass(frozen=True)
class Figures:
    """Lag in seconds, and polls per video."""

    median: float
    percentile_95: float
    polls: float


def main() -> None:
    """Watch all populations and print a line for each."""
    size = QUICK if is_quick("Time from ready to noticed, and polls per video.") else FULL
    configure_triggerer_logging()
    with StubService() as service:
        for conn_id in (_HONEST_CONN_ID, _SILENT_CONN_ID):
            connect(conn_id, service.url)
        populations = asyncio.run(_watch_all(size, service.url))
        figures = [_figures(population, service) for population in populations]
    print(f"{size.videos} videos of {size.shortest:.0f} to {size.longest:.0f} s, started at once")
    for population, found in zip(populations, figures, strict=True):
        print(
            f"{population.title}: lag {found.median:.1f} s median, {found.percentile_95:.1f} s 95th percentile;"
            f" {found.polls:.1f} polls per video"
        )
    with_progress, plain, _, known = figures
    print(
        f"lag: {with_progress.median:.1f} s (target: at most {TARGET_LAG}) and {with_progress.polls:.1f} polls"
        f" (target: at most {TARGET_POLLS:.0f}) with progress; {known.median:.1f} s (target: at most"
        f" {plain.median:.1f}) and {known.polls / plain.polls:.2f} of the polls of a"
        f" {POLL_INTERVAL:.0f} s interval (target: at most {TARGET_POLLS_SHARE}) without"
    )


async def _watch_all(size: Workload, url: str) -> list[Population]:
    rng = random.Random(_SEED)  # noqa: S311
    lives = [rng.uniform(size.shortest, size.longest) for _ in range(size.videos)]
    silent = partial(_noticed_by_trigger, _SILENT_CONN_ID)
    # One wait lasts for the whole benchmark, as in a busy triggerer, so that the poller is not closed in between.
    keeper = asyncio.create_task(silent(_long_video(size)))
    async with httpx.AsyncClient(base_url=url) as http:
        side_by_side = await asyncio.gather(
            _watched(
                "progress reported",
                "with-progress",
                lives,
                partial(_noticed_by_trigger, _HONEST_CONN_ID),
                Progress.LINEAR,
            ),
            _watched(f"polled every {POLL_INTERVAL:.0f} s", "plain", lives, partial(_noticed_by_polling, http)),
            _watched("no progress, model unknown", _SILENT_MODEL, lives, silent),
        )
    after = await _watched("no progress, model known", _SILENT_MODEL, lives, silent)
    keeper.cancel()
    return [*side_by_side, after]


def _long_video(size: Workload) -> Video:
    return Video.lasting("keeper", 0, time.time(), 100 * size.longest, Progress.NONE)


async def _watched(
    title: str, model: str, lives: Sequence[float], watch: Watch, progress: Progress = Progress.NONE
) -> Population:
    created_at = time.time()
    videos = [Video.lasting(model, index, created_at, seconds, progress) for index, seconds in enumerate(lives)]
    noticed = await asyncio.gather(*await start_waits(watch(video) for video in videos))
    lags = [at - video.ready_at for at, video in zip(noticed, videos, strict=True)]
    return Population(title, model, created_at, lags)


async def _noticed_by_trigger(conn_id: str, video: Video) -> float:
    return await noticed_at(video_trigger(video, conn_id))


async def _noticed_by_polling(http: httpx.AsyncClient, video: Video) -> float:
    """Poll every 10 seconds, starting at a random moment."""
    await asyncio.sleep(random.uniform(0, POLL_INTERVAL))  # noqa: S311
    while True:
        response = await http.get(f"{STATUS_PATH}/{video.id}")
        if response.json()["status"] == "completed":
            return time.time()
        await asyncio.sleep(POLL_INTERVAL)


def _figures(population: Population, service: StubService) -> Figures:
    created_ms = round(population.created_at * 1000)
    polled = (Video.parse(poll.video_id) for poll in service.polls(population.model))
    polls = sum(video.created_ms == created_ms for video in polled)
    return Figures(
        median=statistics.median(population.lags),
        percentile_95=percentile_95(population.lags),
        polls=polls / len(population.lags),
    )


if __name__ == "__main__":
    main()
