"""The time that the provider goes by, and waiting for it: one object, which tests replace."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds between two checks during a wait. Airflow kills the process 5 s after it has asked it to end.
_SLICE = 0.5


class Clock:
    """The clock of this machine. Hooks hold theirs in ``ToAPIsHook.clock``."""

    def time(self) -> float:
        """Return epoch seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return the seconds of a clock that is never set."""
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
