"""What a cluster does right now, as lines in a terminal."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

#: The states of tasks that are told, in the order of a task's life.
_STATES = ("scheduled", "queued", "running", "deferred", "up_for_retry", "success", "upstream_failed", "failed")


@dataclass(frozen=True)
class Status:
    """A cluster at one moment.

    :param running: Whether each part runs.
    :param tasks: The number of task instances in each state; None while the database does not answer.
    :param billed: Videos that the service has billed.
    :param usd: What they cost.
    :param revived: Parts that had ended by themselves and were started again.
    """

    running: Mapping[str, bool]
    tasks: Mapping[str, int] | None
    billed: int
    usd: str
    revived: Sequence[str] = ()

    def lines(self) -> list[str]:
        """Return the status page."""
        parts = [f"{'●' if runs else '○'} {name}" for name, runs in self.running.items()]
        return [
            "   ".join(parts[:4]),
            "   ".join(parts[4:]),
            f"tasks      {self._tasks()}",
            f"videos     {self.billed} billed, {self.usd} USD",
            *(f"started again: {name}" for name in self.revived),
        ]

    def _tasks(self) -> str:
        if self.tasks is None:
            return "the database does not answer"
        return ", ".join(f"{self.tasks[state]} {state}" for state in _STATES if state in self.tasks) or "none yet"


class Screen:
    """Shows pages; on a terminal each takes the place of the one before, elsewhere only those that say something new.

    :param out: Where to; whether it is a terminal decides how.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._height = 0
        self._shown: Sequence[str] = ()

    def show(self, lines: Sequence[str]) -> None:
        """Show a page."""
        if self._out.isatty():
            # A line that wraps would take two, and the next page would miss its place.
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
