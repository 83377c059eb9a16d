"""What 10,000 waiting videos ask of the service and of the triggerer's event loop.

``python -m dev.benchmarks.waiting [--quick]``: all wait in one event loop on one connection with the default budget.
For a while nothing is ready (hold), then all of them become ready and are noticed (finish).
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import time
from dataclasses import dataclass

from dev.benchmarks._measuring import (
    RETRY_TIMEOUT,
    Heartbeat,
    busiest_second,
    connect,
    gaps,
    is_quick,
    log_like_the_triggerer,
    noticed_at,
    resident_bytes,
    started,
    video_trigger,
)
from dev.benchmarks._stub_service import Poll, StubService, Video

#: Requests per second of a connection that says nothing else.
BUDGET = 40
TARGET_BLOCK = 0.2
TARGET_BYTES = 25_000
TARGET_CPU_SHARE = 0.15

_CONN_ID = "benchmark_waiting"
_MODEL = "waiting"
#: Seconds after the last trigger was started that still count as the start.
_SETTLING = 5.0
_SEED = 20261123


@dataclass(frozen=True)
class Size:
    """How much is measured; times in seconds.

    :param hold: How long nothing is ready once all wait.
    :param ready_within: After the hold, the time in which all become ready.
    """

    videos: int
    hold: float
    ready_within: float


#: Asking for every video once takes 250 seconds, so some become ready before their turn and some after it.
FULL = Size(videos=10_000, hold=90.0, ready_within=120.0)
QUICK = Size(videos=600, hold=10.0, ready_within=10.0)


@dataclass(frozen=True)
class Measured:
    """What one run showed.

    :param blocks: The longest block of the event loop by phase, in seconds.
    :param cpu_share: CPU of the process while nothing was ready, as a share of one core.
    :param bytes_each: Memory per waiting video.
    :param collections: Seconds of a full garbage collection, before any video waited and with all of them. It blocks
        the loop, whoever made the objects.
    """

    blocks: dict[str, float]
    cpu_share: float
    bytes_each: float
    collections: tuple[float, float]
    noticed: int
    seconds: float


def main() -> None:
    """Run once and print what the service and the process saw."""
    size = QUICK if is_quick("10,000 videos waiting in one event loop.") else FULL
    log_like_the_triggerer()
    with StubService() as service:
        connect(_CONN_ID, service.url)
        measured = asyncio.run(_wait_for_all(size))
        polls = service.polls(_MODEL)
    _report(size, measured, polls)


async def _wait_for_all(size: Size) -> Measured:
    await _warm_up()
    began = time.time()
    videos = _videos(size, began)
    bytes_before, collection_before = _settled_memory()
    async with Heartbeat() as start:
        tasks = await started(noticed_at(video_trigger(video, _CONN_ID)) for video in videos)
        await asyncio.sleep(_SETTLING)
    async with Heartbeat() as hold:
        cpu, clock = time.process_time(), time.perf_counter()
        await asyncio.sleep(size.hold)
        cpu_share = (time.process_time() - cpu) / (time.perf_counter() - clock)
    # Outside the phases: collecting garbage at a time of our choice blocks the loop as well.
    bytes_after, collection_after = _settled_memory()
    async with Heartbeat() as finish:
        done, missed = await asyncio.wait(tasks, timeout=size.ready_within + RETRY_TIMEOUT)
    for task in missed:
        task.cancel()
    return Measured(
        blocks={"start": start.longest_block, "hold": hold.longest_block, "finish": finish.longest_block},
        cpu_share=cpu_share,
        bytes_each=(bytes_after - bytes_before) / size.videos,
        collections=(collection_before, collection_after),
        noticed=sum(task.exception() is None for task in done),
        seconds=time.time() - began,
    )


async def _warm_up() -> None:
    """Wait for one video, so that what is needed once (imports, certificates) is there already."""
    video = Video.lasting("warm-up", 0, time.time() - 60, 60, honest=True)
    await noticed_at(video_trigger(video, _CONN_ID))


def _videos(size: Size, created_at: float) -> list[Video]:
    chance = random.Random(_SEED)  # noqa: S311
    earliest = _SETTLING + size.hold
    return [
        Video.lasting(_MODEL, index, created_at, earliest + chance.uniform(0, size.ready_within), honest=True)
        for index in range(size.videos)
    ]


def _settled_memory() -> tuple[int, float]:
    """Return the bytes in use without garbage, and the seconds that its collection took."""
    began = time.perf_counter()
    gc.collect()
    return resident_bytes(), time.perf_counter() - began


def _report(size: Size, measured: Measured, polls: list[Poll]) -> None:
    times = [poll.asked_at for poll in polls]
    between = gaps(polls)
    busiest = busiest_second(times)
    phase, longest = max(measured.blocks.items(), key=lambda block: block[1])
    noticed = f"{measured.noticed:,} of {size.videos:,} noticed"
    print(f"{noticed} in {measured.seconds / 60:.1f} minutes; all together, default budget of {BUDGET} per second")
    print(
        f"{len(polls):,} polls over {len({poll.connection for poll in polls})} connections;"
        f" busiest second: {busiest}; on average {len(times) / (max(times) - min(times)):.1f} per second"
    )
    print(
        f"seconds between two polls for one video: median {statistics.median(between):.0f}, longest"
        f" {max(between):.0f} (asking for each of {size.videos:,} once takes {size.videos / BUDGET:.0f})"
    )
    blocks = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in measured.blocks.items())
    alone, together = (seconds * 1000 for seconds in measured.collections)
    print(f"longest block of the event loop: {blocks}")
    print(f"a full garbage collection takes {alone:.0f} ms without waiting videos and {together:.0f} ms with them")
    print(
        f"waiting: {noticed}; busiest second {busiest} requests (target: at most {BUDGET});"
        f" longest block {longest * 1000:.0f} ms, in the {phase} (target: under {TARGET_BLOCK * 1000:.0f});"
        f" {measured.bytes_each / 1000:.1f} KB each (target: under {TARGET_BYTES / 1000:.0f});"
        f" {measured.cpu_share:.1%} of a core (target: under {TARGET_CPU_SHARE:.0%})"
    )


if __name__ == "__main__":
    main()
