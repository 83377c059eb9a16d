"""Shared code of the waiting benchmarks: start waits, watch them, and evaluate the times."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import sys
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from airflow.sdk.log import configure_logging
from airflow.triggers.base import BaseTrigger

from airflow_provider_toapis.triggers.video import ToAPIsVideoTrigger
from dev.benchmarks._stub_service import Poll, Video

T = TypeVar("T")

#: Seconds between two polls. It is the operators' default, and the compared providers use it too.
POLL_INTERVAL = 10.0
#: Seconds after which the wait for a ready video ends.
RETRY_TIMEOUT = 600.0
#: Number of triggers that the triggerer starts before it yields to the event loop.
_BATCH = 50
_BEAT = 0.01


@dataclass(frozen=True)
class Workload:
    """The number of videos, and the shortest and longest latency in seconds."""

    videos: int
    shortest: float
    longest: float


def is_quick(description: str) -> bool:
    """Parse the command line; return whether to use fewer and shorter videos, only to test the benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter videos, to test the benchmark itself")
    return bool(parser.parse_args().quick)


def connect(conn_id: str, url: str, conn_type: str = "toapis") -> None:
    """Define an Airflow connection, with the default rate, for this process and its children."""
    connection = {"conn_type": conn_type, "host": url, "password": "sk-benchmark"}
    os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"] = json.dumps(connection)


def configure_triggerer_logging() -> None:
    """Format log lines as the triggerer does, because that is part of the cost of a wait. The lines are discarded."""
    excepthook = sys.excepthook
    nowhere = Path(os.devnull).open("wb")  # noqa: SIM115 - open for as long as the process lives
    configure_logging(json_output=True, output=nowhere, sending_to_supervisor=True)
    # `configure_logging` replaces the hook. It is restored, so that an error of the benchmark is printed.
    sys.excepthook = excepthook


def video_trigger(video: Video, conn_id: str) -> ToAPIsVideoTrigger:
    """Return this provider's trigger with an operator's defaults."""
    return ToAPIsVideoTrigger(
        video_id=video.id,
        toapis_conn_id=conn_id,
        poll_interval=POLL_INTERVAL,
        end_time=video.ready_at + RETRY_TIMEOUT,
    )


async def noticed_at(trigger: BaseTrigger) -> float:
    """Run a trigger to its end, as the triggerer does; return the epoch seconds when it reported the ready video.

    :raises RuntimeError: The trigger reported another result.
    """
    ((moment, payload),) = [(time.time(), event.payload) async for event in trigger.run()]
    if payload is not True and payload["status"] != "success":
        raise RuntimeError(f"Expected the wait for a ready video to succeed, but it ended with {payload}")
    return moment


async def start_waits(waits: Iterable[Coroutine[Any, Any, T]]) -> list[asyncio.Task[T]]:
    """Start waits as the triggerer does, yielding to the event loop after each batch of them."""
    tasks = []
    for number, wait in enumerate(waits, start=1):
        tasks.append(asyncio.create_task(wait))
        if number % _BATCH == 0:
            await asyncio.sleep(0)
    return tasks


class Heartbeat:
    """Measures the longest time for which the event loop is blocked during the ``async with`` block."""

    def __init__(self) -> None:
        #: In seconds.
        self.longest_block = 0.0

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._record()
        self._task.cancel()

    async def _beat(self) -> None:
        while True:
            self._due = self._loop.time() + _BEAT
            await asyncio.sleep(_BEAT)
            self._record()

    def _record(self) -> None:
        self.longest_block = max(self.longest_block, self._loop.time() - self._due)


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def percentile_95(values: Sequence[float]) -> float:
    """Return the 95th percentile of the values."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def busiest_second(times: Iterable[float]) -> int:
    """Return the maximum number of ``times`` in an interval of one second."""
    window: deque[float] = deque()
    most = 0
    for moment in sorted(times):
        window.append(moment)
        while window[0] <= moment - 1:
            window.popleft()
        most = max(most, len(window))
    return most


def poll_intervals(polls: Iterable[Poll]) -> list[float]:
    """Return the seconds between consecutive polls of the same video, for all videos.

    The time from a video's creation to its first poll is included, so that a late first poll is noticed.
    """
    polled: dict[str, float] = {}
    intervals = []
    for poll in sorted(polls, key=lambda poll: poll.received_at):
        before = polled.get(poll.video_id, Video.parse(poll.video_id).created_ms / 1000)
        intervals.append(poll.received_at - before)
        polled[poll.video_id] = poll.received_at
    return intervals
