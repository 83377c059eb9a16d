"""How far a run is, and whether too much of it has failed to go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Literal

from airflow_provider_toapis.batch.entries import Entry, Superseded
from airflow_provider_toapis.batch.manifest import Manifest
from airflow_provider_toapis.batch.plan import Attempt

#: What a row is to this run. Those after ``postponed`` are its work.
Standing = Literal[
    "skipped", "stands_refused", "vanished", "postponed", "made", "wanted", "ordered", "unfinished", "failed", "refused"
]
_FAILED: tuple[Standing, ...] = ("unfinished", "failed", "refused")
_WORK: tuple[Standing, ...] = ("made", "wanted", "ordered", *_FAILED)


class Progress:
    """The rows of a manifest from the view of one attempt; every change of a row goes through :meth:`note`.

    :param max_failures: Rows that may fail: a number of them (int), or a part of those that the run works on (float).
    :param planned: Returns how many rows the run has planned: its part of the work even where another run took over.
    """

    def __init__(
        self, manifest: Manifest, attempt: Attempt, max_failures: float, planned: Callable[[], int] = lambda: 0
    ) -> None:
        self._manifest = manifest
        self._attempt = attempt
        self._max_failures = max_failures
        self._planned = planned
        self._count()

    def note(self, entry: Entry) -> None:
        """Take a row's newest state."""
        before = self._manifest.entries.get(entry.key)
        if before is not None:
            self._counts[self.standing(before)] -= 1
        self._counts[self.standing(entry)] += 1
        self._manifest.note(entry)

    def refresh(self) -> None:
        """Take what other runs have noted since the manifest was read."""
        self._manifest.refresh()
        self._count()

    def take_news(self) -> None:
        """Do the same at a cost that depends only on what is new."""
        if self._manifest.refresh():
            self._count()

    def standing(self, entry: Entry) -> Standing:
        """Say what a row is to this run."""
        order = entry.order
        is_made = order is None and entry.kept is not None and entry.kept.run == self._attempt.run
        if not entry.in_feed and not is_made and not (order and order.is_under_way):
            return "vanished"
        if order is None:
            return "made" if is_made else "skipped"
        if order.run != self._attempt.run:
            return "stands_refused" if order.state == "refused" else "skipped"
        return "postponed" if order.postponed else order.state

    def active(self) -> list[Entry]:
        """Return the rows whose videos this attempt waits for, always in the same order."""
        return sorted(self._own("ordered"), key=lambda entry: str(entry.order and entry.order.video_id))

    def wanted(self) -> list[Entry]:
        """Return the rows that this attempt has to order yet."""
        return self._own("wanted")

    def wants(self, entry: Entry) -> bool:
        """Whether this attempt has to order a row yet."""
        return self.standing(entry) == "wanted" and self._attempt.owns(entry.order)

    @property
    def failed(self) -> int:
        """How many rows have failed in this run."""
        return sum(self._counts[standing] for standing in _FAILED)

    @property
    def has_failed_too_often(self) -> bool:
        """Whether more rows have failed than may."""
        if isinstance(self._max_failures, int):
            return self.failed > self._max_failures
        work = sum(self._counts[standing] for standing in _WORK)
        return self.failed > self._max_failures * max(work, self._planned())

    @property
    def taken_by_others(self) -> int:
        """How many videos that this attempt has waited for are in progress and waited for by another run."""
        return sum(
            order.is_under_way and order.run != self._attempt.run and self._attempt.has_taken(order)
            for entry in self._manifest.entries.values()
            if (order := entry.order)
        )

    def failures(self) -> list[Entry]:
        """Return the rows that have failed in this run."""
        return [entry for entry in self._manifest.entries.values() if self.standing(entry) in _FAILED]

    def summary(self) -> dict[str, Any]:
        """Return the counts of the operator's result."""
        made = [
            entry.kept for entry in self._manifest.entries.values() if self.standing(entry) == "made" and entry.kept
        ]
        return {
            "made": self._counts["made"],
            "skipped": self._counts["skipped"],
            "failed": self.failed,
            "refused": self._counts["stands_refused"],
            "vanished": self._counts["vanished"],
            "postponed": self._counts["postponed"],
            "superseded": sum(video.run == self._attempt.run for video in self._superseded()),
            "cost_usd": f"{sum((Decimal(kept.price_usd) for kept in made if kept.price_usd), Decimal(0)):f}",
            "cost_estimated": sum(not kept.billed for kept in made),
        }

    def __str__(self) -> str:
        counts = self._counts
        return (
            f"{counts['made']} made, {counts['ordered']} under way, {counts['wanted']} to order, {self.failed} failed,"
            f" {counts['skipped']} unchanged"
        )

    def _count(self) -> None:
        self._counts = Counter(map(self.standing, self._manifest.entries.values()))

    def _superseded(self) -> Iterator[Superseded]:
        for entry in self._manifest.entries.values():
            yield from entry.superseded

    def _own(self, standing: Standing) -> list[Entry]:
        return [
            entry
            for entry in self._manifest.entries.values()
            if self.standing(entry) == standing and self._attempt.owns(entry.order)
        ]
