"""Measure the load of 10,000 waiting videos on the service and on the triggerer's event loop.

``python -m dev.benchmarks.waiting [--quick]``: all videos wait in one event loop, on one connection with the default
rate. At first none is ready (hold). Then all become ready and are noticed (finish).
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
    configure_triggerer_logging,
    connect,
    is_quick,
    noticed_at,
    poll_intervals,
    resident_bytes,
    start_waits,
    video_trigger,
)
from dev.benchmarks._stub_service import Poll, StubService, Video

#: Default rate of a connection in requests per second.
DEFAULT_RATE = 40
TARGET_BLOCK = 0.2
TARGET_BYTES = 25_000
TARGET_CPU_SHARE = 0.15

_CONN_ID = "benchmark_waiting"
_MODEL = "waiting"
#: Seconds for which the start phase lasts after the last trigger was started.
_SETTLING = 5.0
_SEED = 20261123


@dataclass(frozen=True)
class Size:
    """Size of the measurement, with times in seconds.

    :param hold: Time in which all videos wait and none is ready.
    :param ready_within: Time after the hold in which all videos become ready.
    """

    videos: int
    hold: float
    ready_within: float


#: Polling every video once takes 250 seconds, so some videos become ready before their next poll, and some after it.
FULL = Size(videos=10_000, hold=90.0, ready_within=120.0)
QUICK = Size(videos=600, hold=10.0, ready_within=10.0)


@dataclass(frozen=True)
class Measured:
    """Figures of one run.

    :param blocks: Longest block of the event loop in each phase, in seconds.
    :param cpu_share: CPU of the process in the hold phase, as a share of one core.
    :param bytes_each: Bytes of memory per waiting video.
    :param collections: Seconds of a full garbage collection without and with the waiting videos. A collection blocks
        the event loop.
    """

    blocks: dict[str, float]
    cpu_share: float
    bytes_each: float
    collections: tuple[float, float]
    noticed: int
    seconds: float


def main() -> None:
    """Run the benchmark once and print the figures of the service and the process."""
    size = QUICK if is_quick("10,000 videos waiting in one event loop.") else FULL
    configure_triggerer_logging()
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
        tasks = await start_waits(noticed_at(video_trigger(video, _CONN_ID)) for video in videos)
        await asyncio.sleep(_SETTLING)
    async with Heartbeat() as hold:
        cpu, clock = time.process_time(), time.perf_counter()
        await asyncio.sleep(size.hold)
        cpu_share = (time.process_time() - cpu) / (time.perf_counter() - clock)
    # Measured outside the phases, because an explicit garbage collection also blocks the event loop.
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
    """Wait for one video, so that imports and certificates are loaded before the measurement."""
    video = Video.lasting("warm-up", 0, time.time() - 60, 60)
    await noticed_at(video_trigger(video, _CONN_ID))


def _videos(size: Size, created_at: float) -> list[Video]:
    rng = random.Random(_SEED)  # noqa: S311
    earliest = _SETTLING + size.hold
    return [
        Video.lasting(_MODEL, index, created_at, earliest + rng.uniform(0, size.ready_within))
        for index in range(size.videos)
    ]


def _settled_memory() -> tuple[int, float]:
    """Return the memory in use after a garbage collection, in bytes, and the duration of the collection in seconds."""
    began = time.perf_counter()
    gc.collect()
    return resident_bytes(), time.perf_counter() - began


def _report(size: Size, measured: Measured, polls: list[Poll]) -> None:
    times = [poll.received_at for poll in polls]
    between = poll_intervals(polls)
    busiest = busiest_second(times)
    phase, longest = max(measured.blocks.items(), key=lambda block: block[1])
    noticed = f"{measured.noticed:,} of {size.videos:,} noticed"
    print(
        f"{noticed} in {measured.seconds / 60:.1f} minutes; all videos share the default rate of {DEFAULT_RATE} polls"
        " per second"
    )
    print(
        f"{len(polls):,} polls over {len({poll.connection for poll in polls})} connections;"
        f" busiest second: {busiest}; on average {len(times) / (max(times) - min(times)):.1f} per second"
    )
    print(
        f"seconds between two polls for one video: median {statistics.median(between):.0f}, longest"
        f" {max(between):.0f} (polling each of {size.videos:,} once takes {size.videos / DEFAULT_RATE:.0f})"
    )
    blocks = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in measured.blocks.items())
    alone, together = (seconds * 1000 for seconds in measured.collections)
    print(f"longest block of the event loop: {blocks}")
    print(f"a full garbage collection takes {alone:.0f} ms without waiting videos and {together:.0f} ms with them")
    print(
        f"waiting: {noticed}; busiest second {busiest} requests (target: at most {DEFAULT_RATE});"
        f" longest block {longest * 1000:.0f} ms, in the {phase} (target: under {TARGET_BLOCK * 1000:.0f});"
        f" {measured.bytes_each / 1000:.1f} KB each (target: under {TARGET_BYTES / 1000:.0f});"
        f" {measured.cpu_share:.1%} of a core (target: under {TARGET_CPU_SHARE:.0%})"
    )


if __name__ == "__main__":
    main()
