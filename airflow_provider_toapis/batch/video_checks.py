"""Check the saved videos of a batch in threads of their own, after they are recorded in the manifest.

A check can take half a minute. If the worker dies meanwhile, the video is not lost, and the next attempt checks it.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from airflow_provider_toapis.batch.manifest_entry import time_now

if TYPE_CHECKING:
    from airflow_provider_toapis.api.clock import StopSignal
    from airflow_provider_toapis.batch.manifest import Manifest
    from airflow_provider_toapis.batch.progress import Progress
    from airflow_provider_toapis.batch.row_job import RowJob
    from airflow_provider_toapis.batch.transitions import Checked

#: Number of videos that are checked at the same time, in addition to the rows that are worked on.
THREADS = 4


class VideoChecks:
    """The checks of one pass over a batch.

    :param threads: Runs the checks.
    :param stop: Set when the task is killed. After that, no check begins.
    """

    def __init__(
        self, row_job: RowJob, manifest: Manifest, progress: Progress, *, threads: ThreadPoolExecutor, stop: StopSignal
    ) -> None:
        self._row_job = row_job
        self._manifest = manifest
        self._progress = progress
        self._threads = threads
        self._stop = stop
        self._begun: set[str] = set()
        self._running = 0
        self._has_ended = False
        self._done: SimpleQueue[Future[Checked]] = SimpleQueue()

    def begin(self) -> None:
        """Begin to check the videos that are recorded and still to be checked."""
        if self._stop.is_set or self._has_ended:
            return
        for entry in self._progress.unchecked():
            saved = entry.saved
            if saved is not None and saved.video_id not in self._begun:
                self._begun.add(saved.video_id)
                self._running += 1
                check = self._threads.submit(self._row_job.check, entry.key, entry.model, saved)
                check.add_done_callback(self._done.put)

    def end(self) -> None:
        """Wait for the running checks and begin no others. Videos that are not checked are checked in a later pass."""
        self._has_ended = True
        self._threads.shutdown(cancel_futures=True)

    def record_done(self) -> None:
        """Record the checks that have ended."""
        while True:
            try:
                self._record(self._done.get_nowait())
            except Empty:
                return

    def record_next(self) -> bool:
        """Wait for a check and record it; return False if no check is running."""
        if not self._running:
            return False
        self._record(self._done.get())
        return True

    def _record(self, check: Future[Checked]) -> None:
        """Record a check, unless another video has replaced the checked one meanwhile."""
        self._running -= 1
        if check.cancelled():
            return
        checked = check.result()
        entry = self._manifest.entries[checked.key]
        if entry.saved is not None and entry.saved.video_id == checked.saved.video_id:
            self._progress.update(replace(entry, updated_at=time_now(), saved=checked.saved))
