"""The progress of a run: counts of rows, and whether too many have failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.pricing import total
from airflow_provider_toapis.batch.manifest import Manifest
from airflow_provider_toapis.batch.manifest_entry import ManifestEntry, RowStatus, SavedVideo, Superseded
from airflow_provider_toapis.batch.plan import Attempt
from airflow_provider_toapis.batch.tally import Tally

#: Maximum number of failed rows that a message lists. The manifest contains all reasons.
_MAX_LISTED_FAILURES = 5
#: Seconds after which this run checks a video that another run has saved but not checked. By then, the worker of the
#: other run would have checked the video unless it has died.
_CHECK_SECONDS = 600.0
#: Statuses of the rows that the run works on.
_WORK = (RowStatus.SAVED, RowStatus.PENDING, RowStatus.SUBMITTED, RowStatus.FAILED)
#: Counts in the XCom ``toapis_batch``.
_OVERVIEW = ("saved", "unchanged", "submitted", "pending", "failed", "rejected", "postponed", "removed")


class Progress:
    """The rows of a manifest, and their status for one attempt. Change rows only with :meth:`update`.

    :param max_failures: Maximum failed rows: a number (int), or a fraction of the rows that the run works on (float).
    :param planned: Returns the number of rows that the run has planned. A fraction ``max_failures``
        refers to at least these rows, even if another run now waits for some of their videos.
    :param tally: The tally of an earlier process. It is used if the manifest contains only some of the rows.
    """

    def __init__(
        self,
        manifest: Manifest,
        attempt: Attempt,
        max_failures: float,
        planned: Callable[[], int] = lambda: 0,
        *,
        tally: Tally | None = None,
    ) -> None:
        self._manifest = manifest
        self._attempt = attempt
        self._max_failures = max_failures
        self._planned = planned
        self._reads = manifest.reads
        if tally is not None and manifest.is_narrowed:
            self._tally = tally
            self._index_all()
        else:
            self._count()

    def update(self, entry: ManifestEntry) -> None:
        """Update a row in the manifest."""
        self._count_if_read()
        before = self._manifest.loaded.get(entry.key)
        if before is not None:
            self._tally.remove(before, self.status(before))
        after = self._manifest.update(entry)
        self._tally.add(after, self.status(after))
        self._index(after)

    def refresh(self) -> None:
        """Read what other runs have recorded since the manifest was read."""
        self._manifest.refresh()
        self._count_if_read()

    def status(self, entry: ManifestEntry) -> RowStatus:
        """Return the status of a row for this run.

        A row is ``failed`` if this run could not make its video, for example because the service rejected the row's
        content. With ``check="fail"``, a row is also ``failed`` if this run saved a video that is not what was
        requested. A row is ``rejected`` if the service rejected its content in another run.
        """
        submission = entry.submission
        is_saved = submission is None and entry.saved is not None and entry.saved.run_id == self._attempt.run_id
        if not entry.in_feed and not is_saved and not (submission and submission.is_in_progress):
            return RowStatus.REMOVED
        if submission is None:
            return entry.state if is_saved else RowStatus.UNCHANGED
        if submission.run_id != self._attempt.run_id:
            return RowStatus.REJECTED if submission.state == RowStatus.REJECTED else RowStatus.UNCHANGED
        if submission.state in (RowStatus.INTERRUPTED, RowStatus.REJECTED):
            return RowStatus.FAILED
        return submission.state

    def active(self) -> list[ManifestEntry]:
        """Return the rows whose videos this attempt waits for, ordered by video id."""
        return sorted(
            map(self._manifest.loaded.__getitem__, self._active),
            key=lambda entry: str(entry.submission and entry.submission.video_id),
        )

    def unchecked(self) -> list[ManifestEntry]:
        """Return the rows whose saved videos are still to be checked.

        Other runs check their own videos. Such a video is returned only if it was saved so long ago that the worker of
        the other run must have died.
        """
        pending = map(self._manifest.loaded.__getitem__, self._unchecked)
        return [entry for entry in pending if entry.saved and self._is_check_due(entry.saved)]

    def _is_check_due(self, saved: SavedVideo) -> bool:
        if saved.run_id == self._attempt.run_id:
            return True
        return clock.time() > datetime.fromisoformat(saved.saved_at).timestamp() + _CHECK_SECONDS

    def pending(self) -> list[ManifestEntry]:
        """Return the rows in memory that this attempt has yet to submit."""
        return list(map(self._manifest.loaded.__getitem__, self._pending))

    def has_pending(self, begun: Container[str]) -> bool:
        """Return whether this attempt has yet to submit a row.

        :param begun: Keys of rows that do not count, because their submission has begun.
        """
        return self._manifest.has_queued or any(key not in begun for key in self._pending)

    @property
    def has_work(self) -> bool:
        """Whether this attempt has yet to submit a row, or waits for a video."""
        return bool(self._active) or self.has_pending(())

    def load_pending(self, row: int) -> None:
        """Read the pending rows up to a row of the feed, identified by its number, into memory."""
        for entry in self._manifest.load_queued(row):
            self._index(entry)
        self._count_if_read()

    def load_all(self) -> None:
        """Read all rows into memory."""
        _ = self._manifest.entries
        self._count_if_read()

    def narrow(self, keys: Iterable[str] = ()) -> None:
        """Write the updated rows. Keep only those rows in memory that this attempt needs until it ends.

        :param keys: Keys of further rows to keep.
        """
        self._count_if_read()
        needed = dict.fromkeys(keys) | self._active | self._unchecked
        if self._manifest.is_narrowed:
            self._manifest.narrow(needed | self._pending)
        else:
            rows = self._manifest.loaded
            self._manifest.narrow(needed, sorted(self._pending, key=lambda key: rows[key].row))
            self._index_all()

    @property
    def tally(self) -> Tally:
        """The counts of rows, and what this run has spent."""
        self._count_if_read()
        return self._tally

    def is_pending(self, entry: ManifestEntry) -> bool:
        """Return whether this attempt has yet to submit a row."""
        return self.status(entry) == RowStatus.PENDING and self._attempt.owns(entry.submission)

    @property
    def failed(self) -> int:
        """Number of rows that have failed in this run."""
        return self._counts[RowStatus.FAILED]

    @property
    def has_too_many_failures(self) -> bool:
        """Whether more than ``max_failures`` rows have failed."""
        if isinstance(self._max_failures, int):
            return self.failed > self._max_failures
        work = sum(self._counts[status] for status in _WORK)
        return self.failed > self._max_failures * max(work, self._planned())

    @property
    def waited_for_elsewhere(self) -> int:
        """Number of videos in progress that this attempt has waited for and that another run now waits for."""
        return sum(
            submission.is_in_progress
            and submission.run_id != self._attempt.run_id
            and self._attempt.has_waited_for(submission)
            for entry in self._manifest.entries.values()
            if (submission := entry.submission)
        )

    def failures(self) -> list[ManifestEntry]:
        """Return the rows that have failed in this run."""
        return [entry for entry in self._manifest.entries.values() if self.status(entry) == RowStatus.FAILED]

    def failure_text(self) -> str:
        """Return a message with the number of failed rows, and with the first five of them, one per line."""
        failures = self.failures()
        reasons = "\n".join(
            f"Row {entry.row} (key {entry.key!r}): {entry.reason}" for entry in failures[:_MAX_LISTED_FAILURES]
        )
        return (
            f"{len(failures)} rows failed (max_failures={self._max_failures}): {self}.\n"
            f"Finished videos are saved. A retry makes only the missing ones.\n{reasons}"
        )

    def summary(self) -> dict[str, Any]:
        """Return the counts and the cost for the operator's result."""
        saved = self._saved()
        counted = ("saved", "unchanged", "removed", "failed", "rejected", "postponed")
        return {
            **{name: self._counts[RowStatus(name)] for name in counted},
            "superseded": sum(video.run_id == self._attempt.run_id for video in self._superseded()),
            "cost_usd": float(self.cost),
            "videos_with_estimated_cost": sum(not video.billed for video in saved),
            "videos_with_warnings": sum(bool(video.warnings) for video in saved),
        }

    def overview(self) -> dict[str, Any]:
        """Return the counts of rows and what this run has spent so far, for the XCom ``toapis_batch``."""
        return {**{name: self._counts[RowStatus(name)] for name in _OVERVIEW}, "spend": self._spend()}

    def _spend(self) -> list[dict[str, Any]]:
        return [
            {
                "model": spend.model,
                "status": spend.status,
                "videos": spend.videos,
                "cost_usd": float(spend.billed),
                "price_usd": float(spend.expected),
                "unpriced": spend.unpriced,
            }
            for spend in self.tally.spend
        ]

    def __str__(self) -> str:
        counts = self._counts
        return (
            f"{counts[RowStatus.SAVED]} saved, {counts[RowStatus.SUBMITTED]} submitted,"
            f" {counts[RowStatus.PENDING]} pending, {self.failed} failed, {counts[RowStatus.UNCHANGED]} unchanged"
        )

    @property
    def cost(self) -> Decimal:
        """The cost in USD of the videos that this run saved, as far as prices are known."""
        return total(_prices(self._saved()))

    def _saved(self) -> list[SavedVideo]:
        return [
            entry.saved
            for entry in self._manifest.entries.values()
            if entry.saved and entry.submission is None and self.status(entry) in (RowStatus.SAVED, RowStatus.FAILED)
        ]

    @property
    def _counts(self) -> Counter[RowStatus]:
        return self.tally.counts

    def _count_if_read(self) -> None:
        """Count the rows again if the manifest has read files, so that all rows are in memory."""
        if self._reads != self._manifest.reads and not self._manifest.is_narrowed:
            self._count()

    def _count(self) -> None:
        self._reads = self._manifest.reads
        self._tally = Tally(self._attempt.run_id)
        for entry in self._manifest.entries.values():
            self._tally.add(entry, self.status(entry))
        self._index_all()

    def _index_all(self) -> None:
        # The keys of dicts, because a dict has an order that does not change from process to process.
        self._active: dict[str, None] = {}
        self._pending: dict[str, None] = {}
        self._unchecked: dict[str, None] = {}
        for entry in self._manifest.loaded.values():
            self._index(entry)

    def _index(self, entry: ManifestEntry) -> None:
        """Add a row to the indexes, or remove it from them."""
        status = self.status(entry) if self._attempt.owns(entry.submission) else None
        for keys, is_member in (
            (self._active, status == RowStatus.SUBMITTED),
            (self._pending, status == RowStatus.PENDING),
            (self._unchecked, entry.saved is not None and entry.saved.check_pending),
        ):
            if is_member:
                keys[entry.key] = None
            else:
                keys.pop(entry.key, None)

    def _superseded(self) -> Iterator[Superseded]:
        for entry in self._manifest.entries.values():
            yield from entry.superseded


def _prices(videos: Iterable[SavedVideo]) -> Iterator[Decimal]:
    return (Decimal(video.price_usd) for video in videos if video.price_usd)
