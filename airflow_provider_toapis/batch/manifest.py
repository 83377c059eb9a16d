"""The manifest of a batch: ``manifest.jsonl``, and files with later changes, which are called parts.

A part is written once and never changed. Therefore no part is damaged if a worker dies, or if two workers write at the
same time. Readers merge all files. If several lines have the same key, the latest line is used (see :func:`newer_of`),
whichever file contains it. When parts of about the same size pile up, they are joined: their lines are written to one
larger part, and then they are removed. At the end of a run, the parts are compacted: merged into ``manifest.jsonl`` and
removed.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from uuid import uuid4

import pendulum

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.manifest_entry import (
    VERSION,
    Cost,
    ManifestEntry,
    Review,
    RowStatus,
    RowSubmission,
    SavedVideo,
    Superseded,
    time_now,
)
from airflow_provider_toapis.exceptions import ToAPIsError, ToAPIsRequestError

log = logging.getLogger(__name__)
MANIFEST = "manifest.jsonl"
#: Directory of the parts.
PARTS = ".manifest"
#: A run creates this file before it compacts, so that no other run compacts at the same time. A lock that is older than
#: ``_LOCK_SECONDS`` belongs to a worker that died.
_LOCK = "compaction.lock"
_LOCK_SECONDS = 300.0
#: Number of parts of about the same size (up to eight times as large as each other) that are joined.
_JOINED = 8


class Manifest:
    """The recorded rows of a batch. All rows are read into memory; changed rows are written to new parts.

    :raises ToAPIsRequestError: A line cannot be read. If it were skipped, its video could be submitted a second time.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._parts = directory.subdirectory(PARTS)
        #: The size in bytes of each part that was read or written, by name.
        self._known: dict[str, int] = {}
        self._version: tuple[object, ...] | None = None
        self._unwritten: dict[str, ManifestEntry] = {}
        #: Number of times that files were read. Rows can have changed since the number was smaller.
        self.reads = 0
        self.entries: dict[str, ManifestEntry] = {}
        #: Whether the manifest has a line that contains only the version. A user adds such a line to submit and
        #: pay for all rows again.
        self.starts_over = False
        if directory.is_directory(MANIFEST):
            raise _unreadable(directory, MANIFEST, "it is a directory")
        self.refresh()

    @property
    def path(self) -> str:
        """Path or URI of the compacted manifest."""
        return self._directory.path_of(MANIFEST)

    @property
    def exists(self) -> bool:
        """Whether ``manifest.jsonl`` existed when the files were read."""
        return self._version is not None

    @property
    def unwritten(self) -> int:
        """Number of updated rows that are not written yet."""
        return len(self._unwritten)

    def refresh(self) -> None:
        """Read what other runs have written since the last call.

        Parts are read before the manifest, because a compaction removes them only after it has written the manifest.
        """
        gone: set[str] = set()
        # Another run can join parts meanwhile. It removes them after it has written the joined part, so the directory
        # is listed again until it contains nothing new.
        while new := (listed := self._listed()).keys() - self._known.keys() - gone:
            # The names begin with the time of writing, so the parts are read in the order in which they were written.
            for name in sorted(new):
                if self._read(self._parts, name):
                    self._known[name] = listed[name]
                else:
                    gone.add(name)
            self.reads += 1
        self._known = {name: size for name, size in self._known.items() if name in listed}
        version = self._directory.version_of(MANIFEST)
        if version is not None and version != self._version:
            self._read(self._directory, MANIFEST)
            self._version = version
            self.reads += 1

    def _listed(self) -> dict[str, int]:
        """Return the size in bytes of each part in the directory, by name."""
        return {name: size for name, size in self._parts.sizes().items() if name.endswith(".jsonl")}

    def update(self, entry: ManifestEntry) -> ManifestEntry:
        """Update a row in memory, and return its new state. The next :meth:`flush` writes it.

        The new state always gets a later time than the previous state, even if a worker whose clock is ahead wrote the
        previous state.
        """
        before = self.entries.get(entry.key)
        if before is not None and before != entry and not is_later(entry.updated_at, before.updated_at):
            entry = replace(entry, updated_at=time_after(before.updated_at))
        self.entries[entry.key] = self._unwritten[entry.key] = entry
        return entry

    def flush(self) -> list[ManifestEntry]:
        """Write the rows that were updated since the last call as one part; return these rows."""
        written = self._flush()
        if written:
            self._join_parts()
        return written

    def _flush(self) -> list[ManifestEntry]:
        written = list(self._unwritten.values())
        if written:
            self._write_part(_lines(written))
            self._unwritten = {}
        return written

    def _write_part(self, lines: Iterable[str]) -> None:
        name = f"{time.time_ns():020}-{uuid4().hex[:8]}.jsonl"
        size = 0

        def measured() -> Iterator[str]:
            nonlocal size
            for line in lines:
                size += len(line.encode())
                yield line

        self._parts.write(name, measured())
        self._known[name] = size

    def _join_parts(self) -> None:
        """Join parts of about the same size. The number of parts then grows only with the logarithm of their rows."""
        by_size: dict[int, list[str]] = defaultdict(list)
        for name, size in sorted(self._known.items()):
            by_size[size.bit_length() // 3].append(name)
        for names in by_size.values():
            if len(names) >= _JOINED:
                self._join(names)

    def _join(self, names: Sequence[str]) -> None:
        try:
            # A user can have corrected the last line of a part, and removed its end.
            self._write_part(f"{line.rstrip()}\n" for name in names for line in self._parts.lines(name))
            self._parts.remove(names)
        except FileNotFoundError:
            # Another run has joined or compacted some of the parts. All rows are in its file.
            return
        except ToAPIsError as error:
            log.info("Cannot join parts of %s right now: %s", self.path, error.without_cost)
            return
        for name in names:
            del self._known[name]

    def compact(self) -> bool:
        """Write the rows of all runs to ``manifest.jsonl``, then remove the parts that it now includes.

        Return False if another run is compacting right now. The parts then stay for the next compaction.
        """
        self._flush()
        if not self._lock():
            return False
        try:
            self.refresh()
            self._directory.write(MANIFEST, _lines(self.entries.values()))
            self._version = self._directory.version_of(MANIFEST)
            self._parts.remove(sorted(self._known))
            self._known = {}
        finally:
            self._parts.remove([_LOCK])
        return True

    def _lock(self) -> bool:
        if self._parts.create(_LOCK, time_now()):
            return True
        age = self._parts.age(_LOCK)
        if age is None or age <= _LOCK_SECONDS:
            return False
        self._parts.remove([_LOCK])
        return self._parts.create(_LOCK, time_now())

    def _read(self, directory: Directory, name: str) -> bool:
        """Read a file; return False if it does not exist.

        Another run has then joined or compacted the part. Its rows are in another part, or in the manifest, which is
        read after the parts.
        """
        try:
            for number, line in enumerate(directory.lines(name), start=1):
                try:
                    self._add_line(line)
                except (ValueError, RecursionError) as error:
                    raise _unreadable(
                        directory, name, f"line {number} cannot be read ({type(error).__name__})"
                    ) from None
        except FileNotFoundError:
            return False
        except UnicodeDecodeError:
            raise _unreadable(directory, name, "it is not encoded in UTF-8") from None
        return True

    def _add_line(self, line: str) -> None:
        try:
            entry = ManifestEntry.from_line(line)
        except ValueError:
            if json.loads(line) != {"version": VERSION}:
                raise
            self.starts_over = True
            return
        before = self.entries.get(entry.key)
        self.entries[entry.key] = entry if before is None else newer_of(before, entry)


def _unreadable(directory: Directory, name: str, why: str) -> ToAPIsRequestError:
    return ToAPIsRequestError.for_field(
        "output_path",
        directory.path_of(name),
        f"this manifest cannot be read: {why}. Correct it, or restore an earlier version of the file. Do not delete it:"
        " without a manifest all rows are new and are billed again",
    )


def _lines(entries: Iterable[ManifestEntry]) -> Iterator[str]:
    return (f"{entry.as_line()}\n" for entry in entries)


def time_after(timestamp: str) -> str:
    """Return the current time, or one microsecond after ``timestamp`` if the current time is not later."""
    now = time_now()
    if is_later(now, timestamp):
        return now
    return pendulum.instance(datetime.fromisoformat(timestamp)).add(microseconds=1).to_iso8601_string()


def is_later(timestamp: str, other: str) -> bool:
    """Return whether ``timestamp`` is later than ``other``.

    :raises ValueError: One of them is not a timestamp.
    """
    return datetime.fromisoformat(timestamp) > datetime.fromisoformat(other)


def newer_of(one: ManifestEntry, other: ManifestEntry) -> ManifestEntry:
    """Merge two states of a row. The result is the later state, with the billed videos of both.

    There is one exception. If the later state is only a pending submission, and the earlier state has a submitted or
    saved video for the same request, the result is the earlier state.
    """
    newer, older = (one, other) if is_later(one.updated_at, other.updated_at) else (other, one)
    chosen, left = (older, newer) if _hides_video(newer, older) else (newer, older)
    saved = left.saved if _is_saved_later(left.saved, chosen.saved) else chosen.saved
    superseded = {video.video_id: video for video in (*left.superseded, *_dropped(left, chosen), *chosen.superseded)}
    review = left.review if _is_reviewed_later(left.review, chosen.review) else chosen.review
    costs = _merged_costs(left, chosen)
    return replace(chosen, saved=saved, superseded=tuple(superseded.values()), costs=costs, review=review)


def _merged_costs(left: ManifestEntry, chosen: ManifestEntry) -> tuple[Cost, ...]:
    """Return the costs of both states. If both have a price for a video, a billed price takes precedence."""
    costs = {cost.video_id: cost for cost in left.costs}
    for cost in chosen.costs:
        if cost.billed or not (known := costs.get(cost.video_id)) or not known.billed:
            costs[cost.video_id] = cost
    return tuple(costs.values())


def _hides_video(newer: ManifestEntry, older: ManifestEntry) -> bool:
    """Return whether ``newer`` is only pending, but ``older`` has a submitted or saved video for the same request."""
    pending = newer.submission
    if pending is None or pending.state != RowStatus.PENDING:
        return False
    submission, saved = older.submission, older.saved
    is_submitted = (
        submission is not None and submission.is_in_progress and submission.fingerprint == pending.fingerprint
    )
    return is_submitted or (
        saved is not None and saved.fingerprint == pending.fingerprint and _is_saved_later(saved, newer.saved)
    )


def _is_saved_later(saved: SavedVideo | None, other: SavedVideo | None) -> bool:
    """Return whether ``saved`` is newer than ``other``. Any video is newer than None, and None is never newer."""
    return saved is not None and (other is None or is_later(saved.saved_at, other.saved_at))


def _is_reviewed_later(review: Review | None, other: Review | None) -> bool:
    return review is not None and (other is None or is_later(review.reviewed_at, other.reviewed_at))


def superseded_by(submission: RowSubmission, timestamp: str, run_id: str) -> Superseded:
    """Return the video of ``submission`` as a superseded video.

    :param timestamp: When the run found that the row had changed.
    :param run_id: The Airflow run that found that the row had changed.
    """
    return Superseded(
        video_id=str(submission.video_id),
        client_business_id=submission.client_business_id,
        fingerprint=submission.fingerprint,
        price_usd=submission.price_usd,
        superseded_at=timestamp,
        run_id=run_id,
        generation=submission.generation,
        posted_at=submission.posted_at,
    )


def _dropped(left: ManifestEntry, chosen: ManifestEntry) -> tuple[Superseded, ...]:
    """Return the video in progress of ``left`` as superseded if ``chosen`` is for another request, else nothing."""
    submission, counts = left.submission, chosen.submission or chosen.saved
    if submission is None or not submission.is_in_progress:
        return ()
    if counts is None or counts.fingerprint == submission.fingerprint:
        return ()
    return (superseded_by(submission, chosen.updated_at, counts.run_id),)
