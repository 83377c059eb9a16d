"""Compare the CPU time that the triggerer needs to wait for a video with our trigger and with ``HttpSensorTrigger``.

``python -m dev.benchmarks.trigger_cpu [--quick]`` watches the same 300 videos of 60 to 300 seconds with both triggers
at the same time, so that other load on the machine affects both equally. Each trigger has a new process and its own
service. ``HttpSensorTrigger`` polls every 10 seconds; our trigger uses the progress that the service reports. It has a
process for each kind of progress.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from airflow.providers.http.triggers.http import HttpSensorTrigger
from airflow.triggers.base import BaseTrigger

from dev.benchmarks._measuring import (
    POLL_INTERVAL,
    Workload,
    configure_triggerer_logging,
    connect,
    is_quick,
    noticed_at,
    poll_intervals,
    start_waits,
    video_trigger,
)
from dev.benchmarks._stub_service import READY_PATH, Progress, StubService, Video

TARGET = 0.5

_MODEL = "cpu"
_SEED = 20261123

MakeTrigger = Callable[[Video, str], BaseTrigger]


FULL = Workload(videos=300, shortest=60.0, longest=300.0)
QUICK = Workload(videos=30, shortest=15.0, longest=30.0)


@dataclass(frozen=True)
class Cost:
    """Cost per video of one kind of trigger.

    :param cpu: CPU seconds.
    :param polls: Number of requests.
    :param between: Median seconds between two requests.
    """

    cpu: float
    polls: float
    between: float

    def __str__(self) -> str:
        return (
            f"{self.cpu * 1000:.1f} ms of CPU and {self.polls:.1f} polls per video, so"
            f" {self.cpu / self.polls * 1000:.2f} ms per poll; {self.between:.1f} s between two polls (median)"
        )


def main() -> None:
    """Measure both triggers at the same time, and print their figures and the ratios."""
    size = QUICK if is_quick("CPU of the triggerer per video, compared to HttpSensorTrigger.") else FULL
    with ThreadPoolExecutor(max_workers=len(Progress) + 1) as side_by_side:
        peer = side_by_side.submit(_cost, size, _sensor_trigger, "http", Progress.LINEAR)
        ours = {progress: side_by_side.submit(_cost, size, video_trigger, "toapis", progress) for progress in Progress}
    print(f"{size.videos} videos of {size.shortest:.0f} to {size.longest:.0f} s, started at once")
    print(f"HttpSensorTrigger: {peer.result()}")
    for progress, cost in ours.items():
        print(f"ToAPIsVideoTrigger, progress {progress}: {cost.result()}")
    ratios = ", ".join(f"{progress} {cost.result().cpu / peer.result().cpu:.2f}" for progress, cost in ours.items())
    print(f"trigger CPU per video, as a share of HttpSensorTrigger's: {ratios} (target: at most {TARGET})")


def _cost(size: Workload, make_trigger: MakeTrigger, conn_type: str, progress: Progress) -> Cost:
    conn_id = f"benchmark_trigger_cpu_{conn_type}_{progress}"
    with StubService() as service:
        connect(conn_id, service.url, conn_type)
        # The process is spawned instead of forked, so that nothing is loaded or cached from an earlier measurement.
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as fresh_process:
            cpu = fresh_process.submit(_cpu_seconds, size, make_trigger, conn_id, progress).result()
        polls = service.polls(_MODEL)
    return Cost(
        cpu=cpu / size.videos,
        polls=len(polls) / size.videos,
        between=statistics.median(poll_intervals(polls)),
    )


def _cpu_seconds(size: Workload, make_trigger: MakeTrigger, conn_id: str, progress: Progress) -> float:
    configure_triggerer_logging()
    return asyncio.run(_watch_all(size, lambda video: make_trigger(video, conn_id), progress))


async def _watch_all(size: Workload, trigger_for: Callable[[Video], BaseTrigger], progress: Progress) -> float:
    """Return the CPU seconds of this process for all videos, after a warm-up with one video."""
    await noticed_at(trigger_for(Video.lasting("warm-up", 0, time.time(), 3)))
    rng = random.Random(_SEED)  # noqa: S311
    created_at = time.time()
    videos = [
        Video.lasting(_MODEL, index, created_at, rng.uniform(size.shortest, size.longest), progress)
        for index in range(size.videos)
    ]
    cpu = time.process_time()
    await asyncio.gather(*await start_waits(noticed_at(trigger_for(video)) for video in videos))
    return time.process_time() - cpu


def _sensor_trigger(video: Video, conn_id: str) -> BaseTrigger:
    return HttpSensorTrigger(
        endpoint=f"{READY_PATH}/{video.id}", http_conn_id=conn_id, method="GET", poke_interval=POLL_INTERVAL
    )


if __name__ == "__main__":
    main()
