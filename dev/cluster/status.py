"""Status of a cluster, as lines in a terminal."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

#: Task states that are shown, in the order of a task's life cycle.
_STATES = ("scheduled", "queued", "running", "deferred", "up_for_retry", "success", "upstream_failed", "failed")


@dataclass(frozen=True)
class Status:
    """State of a cluster at one moment.

    :param running: Whether each part runs.
    :param tasks: Number of task instances in each state; None if the database does not respond.
    :param billed: Number of videos that the service has billed.
    :param usd: Total cost of the billed videos in US dollars.
    :param revived: Parts that ended unexpectedly and were restarted.
    """

    running: Mapping[str, bool]
    tasks: Mapping[str, int] | None
    billed: int
    usd: str
    revived: Sequence[str] = ()

    def lines(self) -> list[str]:
        """Return the lines of the status."""
        parts = [f"{'●' if runs else '○'} {name}" for name, runs in self.running.items()]
        return [
            "   ".join(parts[:4]),
            "   ".join(parts[4:]),
            f"tasks      {self._tasks()}",
            f"videos     {self.billed} billed, {self.usd} USD",
            *(f"restarted: {name}" for name in self.revived),
        ]

    def _tasks(self) -> str:
        if self.tasks is None:
            return "the database does not respond"
        return ", ".join(f"{self.tasks[state]} {state}" for state in _STATES if state in self.tasks) or "none yet"


class Screen:
    """Shows the status lines. On a terminal, they replace the previous lines. Elsewhere, only changes are written.

    :param out: The output stream.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._height = 0
        self._shown: Sequence[str] = ()

    def show(self, lines: Sequence[str]) -> None:
        """Show lines."""
        if self._out.isatty():
            # Lines are truncated, because a wrapped line would break the cursor movement of the next update.
            width = shutil.get_terminal_size().columns - 1
            lines = [line[:width] for line in lines]
            if self._height:
                self._out.write(f"\x1b[{self._height}F\x1b[J")
        elif lines == self._shown:
            return
        self._out.write("\n".join(lines) + "\n")
        self._out.flush()
        self._height = len(lines)
        self._shown = lines
