"""Clock, sleep and back-off, and the signal that ends an attempt."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from airflow_provider_toapis.exceptions import ToAPIsWaitInterruptedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Seconds to wait before the first retry, the second retry, and so on. The last value is used for all later retries.
BACKOFF = (1.0, 2.0, 4.0, 8.0, 15.0)
#: Seconds between two checks during a wait. A check must come soon after SIGTERM, because Airflow kills the process 5 s
#: later.
_SLICE = 0.5


def backoff(attempt: int) -> float:
    """Return the seconds to wait after a failed attempt. Attempts are counted from 0."""
    return BACKOFF[min(attempt, len(BACKOFF) - 1)]


class Clock:
    """The clock of this machine."""

    def time(self) -> float:
        """Return epoch seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return the seconds of a monotonic clock."""
        return time.monotonic()

    def sleep(self, seconds: float, check: Callable[[], object] = lambda: None) -> None:
        """Block for ``seconds``.

        :param check: Called before the wait and every half second during it. If it raises an exception, the wait ends
            and the exception propagates.
        """
        end = time.monotonic() + seconds
        check()
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE))
            check()

    def sleep_async(self, seconds: float) -> Awaitable[None]:
        """Sleep on the event loop for ``seconds``."""
        return asyncio.sleep(seconds)


#: The clock that this package uses. Tests replace its methods.
clock = Clock()


class StopSignal:
    """Flag that ``on_kill`` sets. The client checks it before each upload and submission.

    It is not a ``threading.Event``, because Airflow calls ``on_kill`` in a signal handler of the thread that waits.
    That thread could already hold the event's lock, and setting the event would then block forever.
    """

    def __init__(self) -> None:
        self._is_set = False

    @property
    def is_set(self) -> bool:
        """Whether the attempt must end."""
        return self._is_set

    def set(self) -> None:
        """Signal that the attempt must end."""
        self._is_set = True

    def check(self) -> None:
        """Raise an error if the attempt must end.

        :raises ToAPIsWaitInterruptedError: The signal is set.
        """
        if self._is_set:
            raise ToAPIsWaitInterruptedError(
                "The task was killed. Nothing more is uploaded or submitted. Videos that were already submitted are"
                " billed; a later attempt re-attaches to them."
            )
