"""How soon a ready video is noticed, and how often it was asked for until then, beside asking every 10 seconds.

``python -m dev.benchmarks.lag [--quick]``: the same 300 videos, all started at once, as four populations. Three of them
side by side: with progress reported, without any, and without any but watched by a plain poller. The fourth, once they
have ended: without progress again, on the connection where videos of that model were watched before.
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
    Lives,
    connect,
    is_quick,
    log_like_the_triggerer,
    noticed_at,
    percentile_95,
    started,
    video_trigger,
)
from dev.benchmarks._stub_service import STATUS_PATH, StubService, Video

TARGET_LAG = 2.0
TARGET_POLLS = 6.0
TARGET_POLLS_SHARE = 0.8

_HONEST_CONN_ID = "benchmark_lag_honest"
_SILENT_CONN_ID = "benchmark_lag_silent"
_SILENT_MODEL = "silent"
_SEED = 20261123

#: Waits for a video and returns when it was noticed, in epoch seconds.
Watch = Callable[[Video], Coroutine[Any, Any, float]]


FULL = Lives(videos=300, shortest=60.0, longest=300.0)
QUICK = Lives(videos=60, shortest=15.0, longest=45.0)


@dataclass(frozen=True)
class Population:
    """How one population fared.

    :param lags: Seconds from ready to noticed, of each video.
    :param created_at: Epoch seconds; the populations of one model follow one another.
    """

    title: str
    model: str
    created_at: float
    lags: Sequence[float]


@dataclass(frozen=True)
class Figures:
    """Seconds of lag, and polls per video."""

    median: float
    percentile_95: float
    polls: float


def main() -> None:
    """Watch all populations and print a line for each."""
    size = QUICK if is_quick("From ready to noticed, and the polls that it takes.") else FULL
    log_like_the_triggerer()
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
    honest, plain, _, known = figures
    print(
        f"lag: {honest.median:.1f} s (target: at most {TARGET_LAG:.0f}) and {honest.polls:.1f} polls (target: at most"
        f" {TARGET_POLLS:.0f}) with progress; {known.median:.1f} s (target: at most {plain.median:.1f}) and"
        f" {known.polls / plain.polls:.2f} of the polls of asking every {POLL_INTERVAL:.0f} s (target: at most"
        f" {TARGET_POLLS_SHARE}) without"
    )


async def _watch_all(size: Lives, url: str) -> list[Population]:
    chance = random.Random(_SEED)  # noqa: S311
    lives = [chance.uniform(size.shortest, size.longest) for _ in range(size.videos)]
    silent = partial(_noticed_by_trigger, _SILENT_CONN_ID)
    # Something always waits on the connection, as in a busy triggerer: nothing of it may be forgotten in between.
    keeper = asyncio.create_task(silent(_long_video(size)))
    async with httpx.AsyncClient(base_url=url) as http:
        side_by_side = await asyncio.gather(
            _watched("progress reported", "honest", lives, partial(_noticed_by_trigger, _HONEST_CONN_ID), honest=True),
            _watched(f"asking every {POLL_INTERVAL:.0f} s", "plain", lives, partial(_noticed_by_asking, http)),
            _watched("no progress, model unknown", _SILENT_MODEL, lives, silent),
        )
    after = await _watched("no progress, model known", _SILENT_MODEL, lives, silent)
    keeper.cancel()
    return [*side_by_side, after]


def _long_video(size: Lives) -> Video:
    return Video.lasting("keeper", 0, time.time(), 100 * size.longest, honest=False)


async def _watched(title: str, model: str, lives: Sequence[float], watch: Watch, *, honest: bool = False) -> Population:
    created_at = time.time()
    videos = [Video.lasting(model, index, created_at, seconds, honest=honest) for index, seconds in enumerate(lives)]
    noticed = await asyncio.gather(*await started(watch(video) for video in videos))
    lags = [at - video.ready_at for at, video in zip(noticed, videos, strict=True)]
    return Population(title, model, created_at, lags)


async def _noticed_by_trigger(conn_id: str, video: Video) -> float:
    return await noticed_at(video_trigger(video, conn_id))


async def _noticed_by_asking(http: httpx.AsyncClient, video: Video) -> float:
    """Watch as a plain poller does: ask every 10 seconds, not all at the same moment."""
    await asyncio.sleep(random.uniform(0, POLL_INTERVAL))  # noqa: S311
    while True:
        response = await http.get(f"{STATUS_PATH}/{video.id}")
        if response.json()["status"] == "completed":
            return time.time()
        await asyncio.sleep(POLL_INTERVAL)


def _figures(population: Population, service: StubService) -> Figures:
    created_ms = round(population.created_at * 1000)
    asked = (Video.parse(poll.video_id) for poll in service.polls(population.model))
    polls = sum(video.created_ms == created_ms for video in asked)
    return Figures(
        median=statistics.median(population.lags),
        percentile_95=percentile_95(population.lags),
        polls=polls / len(population.lags),
    )


if __name__ == "__main__":
    main()
