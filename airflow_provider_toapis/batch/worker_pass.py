"""Run one pass of a worker between two waits: save final videos, submit more rows, record the results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.batch import video_checks
from airflow_provider_toapis.batch.feed import Feed, Row, RowProblem
from airflow_provider_toapis.batch.manifest import newer_of
from airflow_provider_toapis.batch.manifest_entry import RowStatus
from airflow_provider_toapis.batch.transitions import (
    Outcome,
    after_saving,
    mark_missing_from_feed,
    submitted_elsewhere,
    waits_for,
)
from airflow_provider_toapis.batch.video_checks import VideoChecks

if TYPE_CHECKING:
    from airflow_provider_toapis.api.clock import StopSignal
    from airflow_provider_toapis.batch.manifest import Manifest
    from airflow_provider_toapis.batch.manifest_entry import ManifestEntry, SavedVideo
    from airflow_provider_toapis.batch.plan import Attempt
    from airflow_provider_toapis.batch.progress import Progress
    from airflow_provider_toapis.batch.row_job import RowJob
    from airflow_provider_toapis.exceptions import ToAPIsError

log = logging.getLogger(__name__)

#: Number of rows that are processed at the same time: enough to reach the allowed submit rate even if responses are
#: slow.
THREADS = 16
#: Maximum number of rows in a part of the manifest, and seconds after which a smaller part is written.
ROWS_PER_PART = 50
SECONDS_PER_PART = 10.0
#: Number of unchecked saved videos after which a smaller part is written. A check begins only after its video is
#: recorded.
ROWS_PER_CHECK = 16
#: Seconds after which the results of other runs are read again while rows are submitted. Another run removes the claim
#: of a recorded video only after it has waited for videos. This interval must be shorter than that wait, so that this
#: run reads the record before the claim is removed.
REFRESH_SECONDS = 20.0
#: Seconds between two checks whether another process has recorded the rows that it was submitting, and the number of
#: checks. After the last check, the claims of a worker that died have expired.
CLAIM_CHECK_SECONDS = 5.0
CLAIM_CHECKS = 60


class WorkerPass:
    """One pass over a batch.

    :param attempt: The current attempt.
    :param feed: The feed; None to submit nothing.
    :param max_active: Maximum videos in progress at a time.
    :param stop: Set when the task is killed. After that, nothing more is submitted.
    """

    def __init__(
        self,
        row_job: RowJob,
        manifest: Manifest,
        progress: Progress,
        attempt: Attempt,
        *,
        feed: Feed | None,
        max_active: int,
        stop: StopSignal,
    ) -> None:
        self._row_job = row_job
        self._feed = feed
        self._manifest = manifest
        self._stop = stop
        self._progress = progress
        self._attempt = attempt
        self._max_active = max_active
        self._active = len(progress.active())
        self._running = 0
        self._done: SimpleQueue[Future[Outcome]] = SimpleQueue()
        self._flushed_at = self._refreshed_at = clock.monotonic()
        self._claimed_elsewhere: dict[str, Row] = {}
        self._rows: dict[str, Row] = {}
        self._submitting: dict[str, ManifestEntry] = {}
        self._collecting: dict[str, ManifestEntry] = {}
        self._saved: dict[str, SavedVideo] = {}
        #: The rows whose submission has begun in this pass.
        self.begun: set[str] = set()
        self._error: BaseException | None = None
        #: An error that would affect all other submissions as well, so nothing more is submitted.
        self.abort_error: ToAPIsError | None = None

    def run(self, maybe_final: Iterable[ManifestEntry]) -> None:
        """Save finished videos, and submit pending rows until ``max_active`` videos are in progress.

        :param maybe_final: Rows whose videos may be final. Each video is looked up.
        """
        with (
            ThreadPoolExecutor(THREADS, thread_name_prefix="toapis") as threads,
            ThreadPoolExecutor(video_checks.THREADS, thread_name_prefix="toapis-check") as check_threads,
        ):
            self._checks = VideoChecks(
                self._row_job, self._manifest, self._progress, threads=check_threads, stop=self._stop
            )
            try:
                self._checks.begin()
                for entry in maybe_final:
                    if waits_for(self._manifest.loaded[entry.key], entry.submission):
                        self._collecting[entry.key] = entry
                        self._begin(threads.submit(self._collect, entry))
                if self._feed is not None:
                    self._submit_all(threads, self._feed)
                self._drain()
                self._flush()
                while self._checks.wait():
                    self._flush_if_due()
            finally:
                threads.shutdown(cancel_futures=True)
                self._checks.cancel()
                # Record finished submissions even if the pass fails, so that the next attempt need not look them up.
                self._drain_done()
                self._record()
        if self._error is not None:
            raise self._error

    def _collect(self, entry: ManifestEntry) -> Outcome:
        current = self._manifest.loaded[entry.key]
        return self._row_job.collect(current) if waits_for(current, entry.submission) else Outcome(current)

    def _submit_all(self, threads: ThreadPoolExecutor, feed: Feed) -> None:
        is_done = self._submit_rows(threads, feed, feed.rows_left)
        if is_done and self._progress.has_pending(self.begun):
            # The feed has changed. Pending rows can be anywhere in it, or missing.
            self._progress.load_all()
            is_done = self._submit_rows(threads, feed, feed.all_rows)
        if not is_done:
            return
        for entry in self._progress.pending():
            if entry.key not in self.begun:
                self._progress.update(mark_missing_from_feed(entry))
        self._submit_claimed_elsewhere(threads)

    def _submit_rows(
        self, threads: ThreadPoolExecutor, feed: Feed, rows: Callable[[], Iterable[Row | RowProblem]]
    ) -> bool:
        """Submit the pending rows among ``rows``; return False if this ends early, because nothing can be submitted."""
        if not self._progress.has_pending(self.begun):
            return True
        for row in rows():
            self._refresh_if_due()
            if not isinstance(row, Row):
                continue
            self._progress.load_pending(row.number)
            entry = self._manifest.loaded.get(row.key)
            if entry is None or row.key in self.begun or not self._progress.is_pending(entry):
                continue
            if not self._can_submit():
                feed.stop_at(row)
                return False
            self.begun.add(entry.key)
            self._submit(threads, entry, row)
            self._drain_done()
            if not self._progress.has_pending(self.begun):
                break
        return True

    def _submit_claimed_elsewhere(self, threads: ThreadPoolExecutor) -> None:
        """Wait until other processes have recorded the rows that they were submitting, then submit the missing rows.

        If videos of this attempt are still in progress, the next pass does this instead.
        """
        self._drain()
        for _ in range(CLAIM_CHECKS):
            if not self._claimed_elsewhere or self._active or not self._is_submission_allowed:
                return
            clock.sleep(CLAIM_CHECK_SECONDS)
            self._progress.refresh()
            self._claimed_elsewhere = {
                key: row for key, row in self._claimed_elsewhere.items() if self._is_pending(key)
            }
        left, self._claimed_elsewhere = self._claimed_elsewhere, {}
        for key, row in left.items():
            if not self._can_submit():
                return
            self._submit(threads, self._manifest.loaded[key], row)
        self._drain()
        for key in self._claimed_elsewhere:
            if self._is_pending(key):
                self._progress.update(submitted_elsewhere(self._manifest.loaded[key]))

    def _is_pending(self, key: str) -> bool:
        return self._progress.is_pending(self._manifest.loaded[key])

    def _refresh_if_due(self) -> None:
        """Read periodically what other runs have recorded, to skip the rows that they have submitted."""
        if clock.monotonic() >= self._refreshed_at + REFRESH_SECONDS:
            self._progress.refresh()
            self._refreshed_at = clock.monotonic()

    def _submit(self, threads: ThreadPoolExecutor, entry: ManifestEntry, row: Row) -> None:
        self._rows[entry.key] = row
        self._submitting[entry.key] = entry
        self._active += 1
        self._begin(threads.submit(self._row_job.submit, entry, row))

    @property
    def _is_submission_allowed(self) -> bool:
        has_error = self.abort_error is not None or self._error is not None
        return not has_error and not self._stop.is_set and not self._progress.has_too_many_failures

    def _can_submit(self) -> bool:
        """Return whether another row can be submitted.

        First wait for a free thread. If ``max_active`` is reached, also wait for running threads, because a final
        video or a failed submission reduces the number of videos in progress.
        """
        while self._running >= THREADS or (self._active >= self._max_active and self._running):
            self._process(self._done.get())
        return self._is_submission_allowed and self._active < self._max_active

    def _begin(self, step: Future[Outcome]) -> None:
        self._running += 1
        step.add_done_callback(self._done.put)

    def _drain(self) -> None:
        while self._running:
            self._process(self._done.get())

    def _drain_done(self) -> None:
        while not self._done.empty():
            self._process(self._done.get())

    def _process(self, step: Future[Outcome]) -> None:
        self._running -= 1
        if step.cancelled():
            return
        if error := step.exception():
            # `run` raises the error after it has recorded the results of the other rows.
            self._error = self._error or error
            return
        outcome = step.result()
        row = self._rows.pop(outcome.entry.key, None)
        submitted = self._submitting.pop(outcome.entry.key, None)
        self.abort_error = outcome.abort_error or self.abort_error
        self._active -= outcome.entry.state != RowStatus.SUBMITTED
        if row is not None and outcome.claimed_elsewhere:
            self._claimed_elsewhere[outcome.entry.key] = row
            return
        submission = outcome.entry.submission
        if row is not None and self._stop.is_set and submission is not None and not submission.is_in_progress:
            # The kill prevented the submission. The row stays pending.
            return
        before = self._collecting.pop(outcome.entry.key, None)
        if before is None:
            self._progress.update(self._merged(submitted, outcome.entry))
        else:
            self._record_collected(before, outcome.entry)
        self._flush_if_due()

    def _flush_if_due(self) -> None:
        if (
            self._manifest.unwritten + len(self._saved) + self._checks.unrecorded >= ROWS_PER_PART
            or sum(saved.check_pending for saved in self._saved.values()) >= ROWS_PER_CHECK
            or clock.monotonic() >= self._flushed_at + SECONDS_PER_PART
        ):
            self._flush()

    def _merged(self, before: ManifestEntry | None, after: ManifestEntry) -> ManifestEntry:
        """Return the result of a submission, merged with what other runs have recorded for the row meanwhile."""
        now = self._manifest.loaded[after.key]
        return after if now is before else newer_of(now, after)

    def _record_collected(self, before: ManifestEntry, after: ManifestEntry) -> None:
        if after.saved is not None and after.saved != before.saved and after.submission is None:
            # `_record` adds this video to the manifest, after it has read what other runs have recorded.
            self._saved[after.key] = after.saved
        elif waits_for(self._manifest.loaded[after.key], before.submission):
            self._progress.update(after)

    def _flush(self) -> None:
        """Record the results in the manifest, and begin to check the videos that are recorded now."""
        self._record()
        self._checks.begin()

    def _record(self) -> None:
        self._checks.collect()
        try:
            if self._saved or self._checks.unrecorded:
                self._progress.refresh()
        finally:
            saved, self._saved = self._saved, {}
            for key, video in saved.items():
                self._progress.update(after_saving(self._manifest.loaded[key], video, self._attempt))
            self._checks.record()
            self._manifest.flush()
        self._flushed_at = clock.monotonic()
        log.info("%s", self._progress)
