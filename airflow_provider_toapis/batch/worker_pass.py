"""What a worker does between two waits: fetch what is final, order what there is room for, note all of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.batch.current import after_saving, waits_for
from airflow_provider_toapis.batch.feed import Row, RowProblem
from airflow_provider_toapis.batch.manifest_entry import RowStatus, newer_of
from airflow_provider_toapis.batch.row_job import Outcome, mark_missing_from_feed, submitted_elsewhere

if TYPE_CHECKING:
    from airflow_provider_toapis.api.clock import StopSignal
    from airflow_provider_toapis.batch.manifest import Manifest
    from airflow_provider_toapis.batch.manifest_entry import ManifestEntry, SavedVideo
    from airflow_provider_toapis.batch.plan import Attempt
    from airflow_provider_toapis.batch.progress import Progress
    from airflow_provider_toapis.batch.row_job import RowJob
    from airflow_provider_toapis.exceptions import ToAPIsError

log = logging.getLogger(__name__)

#: Rows that are worked on at a time: so many slow answers still leave the allowed rate of orders to be used.
THREADS = 16
#: Rows that a part of the manifest holds at most, and seconds after which a smaller one is written.
ROWS_PER_PART = 50
SECONDS_PER_PART = 10.0
#: Seconds after which what other runs have noted is read again before a row is submitted. It has to be less than a
#: claim of theirs stays once its video is known, which is at least until they have waited for a video.
SECONDS_PER_LOOK = 20.0
#: Seconds between two looks whether another process has noted what came of the rows that it was submitting, and how
#: many there are: after them the claims of a worker that has died no longer hold.
SECONDS_BETWEEN_LOOKS = 5.0
LOOKS = 60


class WorkerPass:
    """One pass over a batch.

    :param attempt: Whose pass it is.
    :param max_active: Videos that may be under way at a time.
    :param stop: Set when the task is killed: nothing more is submitted.
    """

    def __init__(
        self,
        row_job: RowJob,
        manifest: Manifest,
        progress: Progress,
        attempt: Attempt,
        *,
        max_active: int,
        stop: StopSignal,
    ) -> None:
        self._row_job = row_job
        self._manifest = manifest
        self._stop = stop
        self._progress = progress
        self._attempt = attempt
        self._max_active = max_active
        self._active = len(progress.active())
        self._running = 0
        self._done: SimpleQueue[Future[Outcome]] = SimpleQueue()
        self._flushed_at = self._looked_at = clock.monotonic()
        self._denied: dict[str, Row] = {}
        self._rows: dict[str, Row] = {}
        self._submitting: dict[str, ManifestEntry] = {}
        self._finishing: dict[str, ManifestEntry] = {}
        self._saved: dict[str, SavedVideo] = {}
        self._broken: BaseException | None = None
        #: What would happen to every other order as well.
        self.fatal: ToAPIsError | None = None

    def run(self, rows: Iterable[Row | RowProblem] | None, maybe_final: Iterable[ManifestEntry]) -> None:
        """Fetch those of ``maybe_final`` that are, and order the rows that are wanted as long as there is room.

        :param rows: The feed; None orders nothing.
        """
        with ThreadPoolExecutor(THREADS, thread_name_prefix="toapis") as threads:
            try:
                for entry in maybe_final:
                    if waits_for(self._manifest.entries[entry.key], entry.submission):
                        self._finishing[entry.key] = entry
                        self._begin(threads.submit(self._finish, entry))
                if rows is not None:
                    self._submit_all(threads, rows)
                self._take_all()
            finally:
                threads.shutdown(cancel_futures=True)
                # A paid video that is noted needs not be looked for.
                self._take_all_done()
                self._flush()
        if self._broken is not None:
            raise self._broken

    def _finish(self, entry: ManifestEntry) -> Outcome:
        current = self._manifest.entries[entry.key]
        return self._row_job.finish(current) if waits_for(current, entry.submission) else Outcome(current)

    def _submit_all(self, threads: ThreadPoolExecutor, rows: Iterable[Row | RowProblem]) -> None:
        begun: set[str] = set()
        for row in rows:
            self._look()
            entry = self._manifest.entries.get(row.key or "")
            if not isinstance(row, Row) or entry is None or not self._progress.wants(entry):
                continue
            if not self._has_room():
                return
            begun.add(entry.key)
            self._submit(threads, entry, row)
            self._take_all_done()
        for entry in self._progress.wanted():
            if entry.key not in begun:
                self._progress.note(mark_missing_from_feed(entry))
        self._submit_denied(threads)

    def _submit_denied(self, threads: ThreadPoolExecutor) -> None:
        """Wait for what becomes of the rows that other processes were submitting, and submit those that they left.

        While videos are in progress the next pass does so, which begins when some of them are final.
        """
        self._take_all()
        for _ in range(LOOKS):
            if not self._denied or self._active or not self._may_submit:
                return
            clock.sleep(SECONDS_BETWEEN_LOOKS)
            self._progress.refresh()
            self._denied = {key: row for key, row in self._denied.items() if self._wants(key)}
        left, self._denied = self._denied, {}
        for key, row in left.items():
            if not self._has_room():
                return
            self._submit(threads, self._manifest.entries[key], row)
        self._take_all()
        for key in self._denied:
            if self._wants(key):
                self._progress.note(submitted_elsewhere(self._manifest.entries[key]))

    def _wants(self, key: str) -> bool:
        return self._progress.wants(self._manifest.entries[key])

    def _look(self) -> None:
        """Read now and then what other runs have noted: a row that they have submitted is not this one's any more."""
        if clock.monotonic() >= self._looked_at + SECONDS_PER_LOOK:
            self._progress.refresh()
            self._looked_at = clock.monotonic()

    def _submit(self, threads: ThreadPoolExecutor, entry: ManifestEntry, row: Row) -> None:
        self._rows[entry.key] = row
        self._submitting[entry.key] = entry
        self._active += 1
        self._begin(threads.submit(self._row_job.submit, entry, row))

    @property
    def _may_submit(self) -> bool:
        broken = self.fatal is not None or self._broken is not None
        return not broken and not self._stop.is_set and not self._progress.has_failed_too_often

    def _has_room(self) -> bool:
        """Whether another row may be ordered; waits for a thread, and while a place in the window may become free."""
        while self._running >= THREADS or (self._active >= self._max_active and self._running):
            self._take(self._done.get())
        return self._may_submit and self._active < self._max_active

    def _begin(self, step: Future[Outcome]) -> None:
        self._running += 1
        step.add_done_callback(self._done.put)

    def _take_all(self) -> None:
        while self._running:
            self._take(self._done.get())

    def _take_all_done(self) -> None:
        while not self._done.empty():
            self._take(self._done.get())

    def _take(self, step: Future[Outcome]) -> None:
        self._running -= 1
        if step.cancelled():
            return
        if error := step.exception():
            # Raised when what came of the other rows is noted.
            self._broken = self._broken or error
            return
        outcome = step.result()
        row = self._rows.pop(outcome.entry.key, None)
        submitted = self._submitting.pop(outcome.entry.key, None)
        self.fatal = outcome.fatal or self.fatal
        self._active -= outcome.entry.state != RowStatus.SUBMITTED
        if row is not None and outcome.denied:
            self._denied[outcome.entry.key] = row
            return
        submission = outcome.entry.submission
        if row is not None and self._stop.is_set and submission is not None and not submission.is_in_progress:
            # The kill has kept it from being submitted: it is wanted as before.
            return
        before = self._finishing.pop(outcome.entry.key, None)
        if before is None:
            self._progress.note(self._merged(submitted, outcome.entry))
        else:
            self._take_finished(before, outcome.entry)
        if (
            self._manifest.unwritten + len(self._saved) >= ROWS_PER_PART
            or clock.monotonic() >= self._flushed_at + SECONDS_PER_PART
        ):
            self._flush()

    def _merged(self, before: ManifestEntry | None, after: ManifestEntry) -> ManifestEntry:
        """Return what came of a submission, with what other runs have noted of the row meanwhile."""
        now = self._manifest.entries[after.key]
        return after if now is before else newer_of(now, after)

    def _take_finished(self, before: ManifestEntry, after: ManifestEntry) -> None:
        if after.saved is not None and after.saved != before.saved and after.submission is None:
            # What other runs have noted is read before it is noted.
            self._saved[after.key] = after.saved
        elif waits_for(self._manifest.entries[after.key], before.submission):
            self._progress.note(after)

    def _flush(self) -> None:
        """Note what came of the rows."""
        try:
            if self._saved:
                self._progress.take_news()
        finally:
            saved, self._saved = self._saved, {}
            for key, video in saved.items():
                self._progress.note(after_saving(self._manifest.entries[key], video, self._attempt))
            self._manifest.flush()
        self._flushed_at = clock.monotonic()
        log.info("%s", self._progress)
