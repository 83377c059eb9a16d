"""The emulator's own time, which tests can move forward."""

from __future__ import annotations

import time


class Clock:
    """Wall-clock time in epoch seconds plus an offset.

    :param offset: Seconds ahead of the machine's clock.
    """

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def now(self) -> float:
        """Return the emulator's time in epoch seconds."""
        return time.time() + self.offset

    def advance(self, seconds: float) -> None:
        """Move the emulator's time ``seconds`` forward."""
        self.offset += seconds
