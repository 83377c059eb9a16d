"""What the benchmarks of waiting share: how waits are started and watched, and what is made of the times."""

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

#: Seconds between two polls, of an operator that is not told otherwise and of the peers.
POLL_INTERVAL = 10.0
#: Seconds after which a video that was never noticed is given up.
RETRY_TIMEOUT = 600.0
#: Triggers that the triggerer starts before the event loop gets its turn.
_BATCH = 50
_BEAT = 0.01


@dataclass(frozen=True)
class Lives:
    """How many videos, and how long one takes at least and at most; in seconds."""

    videos: int
    shortest: float
    longest: float


def is_quick(description: str) -> bool:
    """Read the command line: whether only to see that the benchmark works, with fewer and shorter videos."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter videos: does it work at all?")
    return bool(parser.parse_args().quick)


def connect(conn_id: str, url: str, conn_type: str = "toapis") -> None:
    """Make an Airflow connection for this process and those that it starts; the rate is the default one."""
    connection = {"conn_type": conn_type, "host": url, "password": "sk-benchmark"}
    os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"] = json.dumps(connection)


def log_like_the_triggerer() -> None:
    """Format log lines as the triggerer does, and throw them away: what they cost is part of a wait's cost."""
    excepthook = sys.excepthook
    nowhere = Path(os.devnull).open("wb")  # noqa: SIM115 - open for as long as the process lives
    configure_logging(json_output=True, output=nowhere, sending_to_supervisor=True)
    # A benchmark that breaks has to say so.
    sys.excepthook = excepthook


def video_trigger(video: Video, conn_id: str) -> ToAPIsVideoTrigger:
    """Return our trigger with an operator's defaults."""
    return ToAPIsVideoTrigger(
        video_id=video.id,
        toapis_conn_id=conn_id,
        poll_interval=POLL_INTERVAL,
        end_time=video.ready_at + RETRY_TIMEOUT,
    )


async def noticed_at(trigger: BaseTrigger) -> float:
    """Run a trigger to its end, as the triggerer does; return when it said that the video is ready, in epoch seconds.

    :raises RuntimeError: It said something else.
    """
    ((moment, payload),) = [(time.time(), event.payload) async for event in trigger.run()]
    if payload is not True and payload["status"] != "success":
        raise RuntimeError(f"A wait for a video that becomes ready ended with {payload}")
    return moment


async def started(waits: Iterable[Coroutine[Any, Any, T]]) -> list[asyncio.Task[T]]:
    """Start waits as the triggerer does: so many, then the event loop has its turn."""
    tasks = []
    for number, wait in enumerate(waits, start=1):
        tasks.append(asyncio.create_task(wait))
        if number % _BATCH == 0:
            await asyncio.sleep(0)
    return tasks


class Heartbeat:
    """Watch for how long the event loop is blocked while the block runs."""

    def __init__(self) -> None:
        #: Seconds.
        self.longest_block = 0.0

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._note()
        self._task.cancel()

    async def _beat(self) -> None:
        while True:
            self._due = self._loop.time() + _BEAT
            await asyncio.sleep(_BEAT)
            self._note()

    def _note(self) -> None:
        self.longest_block = max(self.longest_block, self._loop.time() - self._due)


def resident_bytes() -> int:
    """Return the memory that this process has in RAM."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def percentile_95(values: Sequence[float]) -> float:
    """Return what 95 % of the values do not exceed."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def busiest_second(times: Iterable[float]) -> int:
    """Return the largest number of times within any one second, wherever it begins."""
    window: deque[float] = deque()
    most = 0
    for moment in sorted(times):
        window.append(moment)
        while window[0] <= moment - 1:
            window.popleft()
        most = max(most, len(window))
    return most


def gaps(polls: Iterable[Poll]) -> list[float]:
    """Return the seconds from each poll for a video to the next one for it, of all videos.

    The time from a video's creation to the first poll is one of them: a video that is never asked for starves too.
    """
    asked: dict[str, float] = {}
    found = []
    for poll in sorted(polls, key=lambda poll: poll.asked_at):
        before = asked.get(poll.video_id, Video.parse(poll.video_id).created_ms / 1000)
        found.append(poll.asked_at - before)
        asked[poll.video_id] = poll.asked_at
    return found
