"""Checkpoints: what a deferred attempt needs to continue, so that it does not read all rows again.

A checkpoint only repeats what the manifest, the plan and the feed contain. If it is missing, or if another run has
written anything since, the attempt reads all rows.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from pydantic import TypeAdapter

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.feed_files import FeedPosition
from airflow_provider_toapis.batch.manifest import ManifestState, Queue
from airflow_provider_toapis.batch.manifest_entry import READ_STRICTLY, ManifestEntry
from airflow_provider_toapis.batch.plan import Attempt
from airflow_provider_toapis.batch.tally import Spend, Tally
from airflow_provider_toapis.exceptions import ToAPIsError

log = logging.getLogger(__name__)
CHECKPOINTS = ".manifest/checkpoints"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a deferred attempt.

    :param planned: Number of rows that the run has planned.
    :param feed: Where to continue to read the feed; None to begin with its first row.
    """

    manifest: ManifestState
    tally: Tally
    planned: int
    feed: FeedPosition | None


@dataclass(frozen=True)
class _Header:
    """The first line of a checkpoint. The rows that the attempt needs are on the other lines.

    :param number: Number of all rows of the manifest.
    :param rows: Number of the other lines.
    """

    __pydantic_config__: ClassVar = READ_STRICTLY

    run_id: str
    try_number: int
    manifest: tuple[int | str, ...] | None
    parts: dict[str, int]
    queue: Queue | None
    feed: FeedPosition | None
    planned: int
    counts: dict[str, int]
    spend: tuple[Spend, ...]
    number: int
    rows: int
    version: Literal[1] = 1


_HEADER = TypeAdapter(_Header)


class Checkpoints:
    """The checkpoint of a run in a directory. Each wait of an attempt overwrites it."""

    def __init__(self, directory: Directory, attempt: Attempt) -> None:
        self._directory = directory.subdirectory(CHECKPOINTS)
        self._attempt = attempt
        # The extension is not that of the manifest's files, so that nothing reads the lines as those of a manifest.
        self._name = f"{hashlib.sha256(attempt.run_id.encode()).hexdigest()[:20]}.checkpoint"

    def read(self) -> Checkpoint | None:
        """Return the checkpoint of this attempt; None if it does not exist or cannot be read."""
        try:
            lines = self._directory.lines(self._name)
            header = _HEADER.validate_json(next(lines))
            entries = tuple(map(ManifestEntry.from_line, lines))
            tally = Tally(header.run_id, header.counts, header.spend)
        except (FileNotFoundError, StopIteration, ValueError):
            return None
        if (header.run_id, header.try_number, header.rows) != (*_identity(self._attempt), len(entries)):
            return None
        queue = header.queue
        if queue is not None and not 0 <= queue.offset < header.parts.get(queue.part, 0):
            return None
        state = ManifestState(header.manifest, header.parts, queue, header.number, entries)
        return Checkpoint(state, tally, header.planned, header.feed)

    def write(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint of this attempt. An attempt without a checkpoint continues too, so errors are logged."""
        try:
            self._directory.write(self._name, self._lines(checkpoint))
        except ToAPIsError as error:
            log.info("Cannot write the checkpoint, so the task will read all rows: %s", error.without_cost)

    def _lines(self, checkpoint: Checkpoint) -> Iterator[str]:
        state, tally = checkpoint.manifest, checkpoint.tally
        header = _Header(
            *_identity(self._attempt),
            manifest=state.version,
            parts=dict(state.parts),
            queue=state.queue,
            feed=checkpoint.feed,
            planned=checkpoint.planned,
            counts={status: number for status, number in tally.counts.items() if number},
            spend=tuple(tally.spend),
            number=state.number,
            rows=len(state.entries),
        )
        yield f"{json.dumps(asdict(header), default=str)}\n"
        yield from (f"{entry.as_line()}\n" for entry in state.entries)

    def remove(self) -> None:
        """Remove the checkpoint."""
        self._directory.remove([self._name])


def _identity(attempt: Attempt) -> tuple[str, int]:
    return attempt.run_id, attempt.try_number
