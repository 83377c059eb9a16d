"""Time, waits and back-off."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Seconds before each further attempt; the last one repeats.
BACKOFF = (1.0, 2.0, 4.0, 8.0, 15.0)
#: Seconds between two checks during a wait. Airflow kills the process 5 s after it has asked it to end.
_SLICE = 0.5


def backoff(attempt: int) -> float:
    """Return the seconds to wait after an attempt. Attempts are counted from 0."""
    return BACKOFF[min(attempt, len(BACKOFF) - 1)]


class Clock:
    """The clock of this machine."""

    def time(self) -> float:
        """Return epoch seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return the seconds of a clock that is never adjusted."""
        return time.monotonic()

    def sleep(self, seconds: float, check: Callable[[], object] = lambda: None) -> None:
        """Block for ``seconds``.

        :param check: Called before the wait and every half second of it. What it raises ends the wait.
        """
        end = time.monotonic() + seconds
        check()
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE))
            check()

    def sleep_async(self, seconds: float) -> Awaitable[None]:
        """Let the event loop do other things for ``seconds``."""
        return asyncio.sleep(seconds)


#: The clock that this package uses. Tests replace its methods.
clock = Clock()
