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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
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
from airflow_provider_toapis.exceptions import ToAPIsError, ToAPIsRequestError, ToAPIsWaitInterruptedError

log = logging.getLogger(__name__)
MANIFEST = "manifest.jsonl"
#: Directory of the parts.
PARTS = ".manifest"
#: A run creates this file before it compacts, so that no other run compacts at the same time. A lock that is older than
#: ``_LOCK_SECONDS`` belongs to a worker that died.
_LOCK = "compaction.lock"
_LOCK_SECONDS = 300.0
#: Bytes of the queue that are read at once.
_QUEUE_BLOCK = 256 * 1024
#: Number of parts of about the same size (up to eight times as large as each other) that are joined.
_JOINED = 8


@dataclass(frozen=True)
class Queue:
    """Rows to submit, in the order of the feed, in a part of the manifest.

    :param offset: Bytes of the part that were read.
    :param row: Number in the feed of the last row that was read.
    """

    part: str
    offset: int = 0
    row: int = 0


@dataclass(frozen=True)
class ManifestState:
    """Some rows of a manifest, and the state of its files in which these rows were read.

    :param version: Version of ``manifest.jsonl``; None if it did not exist.
    :param parts: Size in bytes of each part, by name.
    :param number: Number of all rows of the manifest.
    """

    version: tuple[int | str, ...] | None
    parts: Mapping[str, int]
    queue: Queue | None
    number: int
    entries: Sequence[ManifestEntry]


class Manifest:
    """The recorded rows of a batch. Changed rows are written to new parts.

    All rows are read into memory. :meth:`narrow` reduces them to the rows that a run needs until it ends, because a
    catalog can have many more. If another run has written anything since, all rows are read again.

    :param state: The state in which a narrowed manifest was left; None to read all rows.
    :raises ToAPIsRequestError: A line cannot be read. If it were skipped, its video could be submitted a second time.
    """

    def __init__(self, directory: Directory, state: ManifestState | None = None) -> None:
        self._directory = directory
        self._parts = directory.subdirectory(PARTS)
        #: The size in bytes of each part that was read or written, by name.
        self._known: dict[str, int] = dict(state.parts) if state else {}
        self._version = state.version if state else None
        self._queue = state.queue if state else None
        self._number = state.number if state else 0
        self._unwritten: dict[str, ManifestEntry] = {}
        self._can_join = True
        #: Number of times that files were read. Rows can have changed since the number was smaller.
        self.reads = 0
        #: The rows in memory, by key.
        self.loaded: dict[str, ManifestEntry] = {entry.key: entry for entry in state.entries} if state else {}
        #: Whether only some of the rows are in memory.
        self.is_narrowed = state is not None
        #: Whether the manifest has a line that contains only the version. A user adds such a line to submit and
        #: pay for all rows again.
        self.starts_over = False
        if directory.is_directory(MANIFEST):
            raise _unreadable(directory, MANIFEST, "it is a directory")
        self.refresh()

    @property
    def entries(self) -> dict[str, ManifestEntry]:
        """All rows, by key. They are read if only some of them are in memory."""
        if self.is_narrowed:
            self._read_all()
        return self.loaded

    @property
    def has_queued(self) -> bool:
        """Whether rows to submit are not in memory yet."""
        return self._queue is not None

    @property
    def state(self) -> ManifestState:
        """The state from which a later process can continue."""
        return ManifestState(self._version, self._known, self._queue, self._number, tuple(self.loaded.values()))

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

        If only some rows are in memory and anything was written, all rows are read.
        """
        if not self.is_narrowed:
            self._read_new()
        elif self._listed() != self._known or self._directory.version_of(MANIFEST) != self._version:
            self._read_all()

    def _read_all(self) -> None:
        """Read all rows.

        :raises ToAPIsWaitInterruptedError: Rows are missing that this run has read before. Without them, the manifest
            that this run compacts would not list what was billed.
        """
        self._known, self._version = {}, None
        in_memory, self.loaded = self.loaded, {}
        try:
            self._read_new()
        finally:
            # The rows in memory are merged last, because their states are the newest.
            for entry in in_memory.values():
                if self._merge(entry) == entry:
                    self.loaded[entry.key] = entry
        if (found := len(self.loaded)) < self._number:
            raise ToAPIsWaitInterruptedError(
                f"The manifest {self.path!r} has lost rows during this run: {self._number} rows were read before, and"
                f" {found} now. Nothing more was submitted. Mount the directory again, or restore {MANIFEST} and"
                f" {PARTS}. A retry then continues with the submitted videos."
            )
        self._queue, self.is_narrowed = None, False

    def _read_new(self) -> None:
        """Read the files that were not read yet.

        Parts are read before the manifest, because a compaction removes them only after it has written the manifest.
        """
        gone: set[str] = set()
        # Another run can join parts meanwhile. It removes them after it has written the joined part, so the directory
        # is listed again until it contains nothing new.
        while new := (listed := self._listed()).keys() - self._known.keys() - gone:
            # The names begin with the time of writing, so the parts are read in the order in which they were written.
            self.reads += 1
            for name in sorted(new):
                if self._read(self._parts, name):
                    self._known[name] = listed[name]
                else:
                    gone.add(name)
        self._known = {name: size for name, size in self._known.items() if name in listed}
        version = self._directory.version_of(MANIFEST)
        if version is not None and version != self._version:
            self.reads += 1
            self._read(self._directory, MANIFEST)
            self._version = version

    def _listed(self) -> dict[str, int]:
        """Return the size in bytes of each part in the directory, by name."""
        return {name: size for name, size in self._parts.sizes().items() if name.endswith(".jsonl")}

    def update(self, entry: ManifestEntry) -> ManifestEntry:
        """Update a row in memory, and return its new state. The next :meth:`flush` writes it.

        The new state always gets a later time than the previous state, even if a worker whose clock is ahead wrote the
        previous state.
        """
        before = self.loaded.get(entry.key)
        if before is not None and before != entry and not is_later(entry.updated_at, before.updated_at):
            entry = replace(entry, updated_at=time_after(before.updated_at))
        self.loaded[entry.key] = self._unwritten[entry.key] = entry
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

    def narrow(self, keys: Iterable[str], queued: Iterable[str] = ()) -> None:
        """Write the updated rows, and keep only some rows in memory.

        :param keys: Keys of these rows.
        :param queued: Keys of rows to submit, in the order of the feed. :meth:`load_queued` reads them again when they
            are due.
        """
        waiting = [self.loaded[key] for key in queued]
        for entry in waiting:
            self._unwritten.pop(entry.key, None)
        self._flush()
        if waiting:
            self._queue = Queue(self._write_part(_lines(waiting)))
        if not self.is_narrowed:
            self._number = len(self.loaded)
        self.loaded = {key: self.loaded[key] for key in keys}
        self.is_narrowed = True

    def load_queued(self, row: int) -> list[ManifestEntry]:
        """Read the queued rows up to a row of the feed, identified by its number; return the rows that were read.

        If the queue cannot be read, because another run has joined or compacted its part, all rows are read.
        """
        loaded: list[ManifestEntry] = []
        while self._queue is not None and self._queue.row < row:
            try:
                entries, self._queue = self._next_queued(self._queue)
            except (FileNotFoundError, ValueError):
                self._read_all()
                return []
            loaded += map(self._merge, entries)
        return loaded

    def _next_queued(self, queue: Queue) -> tuple[list[ManifestEntry], Queue | None]:
        """Return the next rows of the queue, and what is left of it.

        :raises FileNotFoundError: The part does not exist any more.
        :raises ValueError: A line is invalid.
        """
        size, end, block = self._known[queue.part], queue.offset, b""
        while not block.endswith(b"\n"):
            if end >= size:
                raise ValueError(f"{queue.part} ends within a line")
            end = min(end + _QUEUE_BLOCK, size)
            read = self._parts.read_block(queue.part, queue.offset, end)
            if read is None:
                raise FileNotFoundError(queue.part)
            block = read[: read.rfind(b"\n") + 1]
        entries = [ManifestEntry.from_line(line.decode()) for line in block.splitlines()]
        offset = queue.offset + len(block)
        return entries, Queue(queue.part, offset, entries[-1].row) if offset < size else None

    def _write_part(self, lines: Iterable[str], written_at: str | None = None) -> str:
        """Write lines to a new part, and return its name.

        :param written_at: Start of the name, by which parts are ordered. Default: the current time.
        """
        name = f"{written_at or f'{time.time_ns():020}'}-{uuid4().hex[:8]}.jsonl"
        size = 0

        def measured() -> Iterator[str]:
            nonlocal size
            for line in lines:
                size += len(line.encode())
                yield line

        self._parts.write(name, measured())
        self._known[name] = size
        return name

    def _join_parts(self) -> None:
        """Join parts of about the same size. The number of parts then grows only with the logarithm of their rows.

        Only parts that follow each other are joined, because the states of a row are merged in their order.
        """
        if not self._can_join:
            return
        queue = self._queue.part if self._queue else None
        for _, names in groupby(sorted(self._known), lambda name: name == queue or self._known[name].bit_length() // 3):
            joined = list(names)
            if len(joined) >= _JOINED and joined[0] != queue:
                self._join(joined)

    def _join(self, names: Sequence[str]) -> None:
        try:
            # A user can have corrected the last line of a part, and removed its end.
            lines = (f"{line.rstrip()}\n" for name in names for line in self._parts.lines(name))
            self._write_part(lines, names[-1].partition("-")[0])
            self._parts.remove(names)
        except FileNotFoundError:
            # Another run has joined or compacted some of the parts. All rows are in its file.
            return
        except ToAPIsError as error:
            log.info("Cannot join parts of %s, so this run does not try it again: %s", self.path, error.without_cost)
            self._can_join = False
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
            _ = self.entries
            self.refresh()
            in_feed_order = sorted(self.loaded.values(), key=lambda entry: entry.row)
            self._directory.write(MANIFEST, _lines(in_feed_order))
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
        self._merge(entry)

    def _merge(self, entry: ManifestEntry) -> ManifestEntry:
        before = self.loaded.get(entry.key)
        merged = self.loaded[entry.key] = entry if before is None else newer_of(before, entry)
        return merged


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
    # A pending submission that names the video was planned after the video had failed.
    is_submitted = (
        submission is not None
        and submission.is_in_progress
        and submission.fingerprint == pending.fingerprint
        and submission.video_id != pending.video_id
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
