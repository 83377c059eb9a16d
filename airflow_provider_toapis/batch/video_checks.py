"""Check the saved videos of a batch in separate threads, after the videos are recorded in the manifest.

A check can take half a minute. If the worker dies during a check, the video is not lost, and a later pass checks it.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from airflow_provider_toapis.batch.manifest_entry import time_now

if TYPE_CHECKING:
    from airflow_provider_toapis.api.clock import StopSignal
    from airflow_provider_toapis.batch.manifest import Manifest
    from airflow_provider_toapis.batch.manifest_entry import SavedVideo
    from airflow_provider_toapis.batch.progress import Progress
    from airflow_provider_toapis.batch.row_job import RowJob

log = logging.getLogger(__name__)
#: Number of videos that are checked at the same time. Other threads submit and save rows meanwhile.
THREADS = 4


class VideoChecks:
    """The checks of one pass over a batch.

    :param threads: Runs the checks.
    :param stop: Set when the task is killed. After that, no check begins, and no result is recorded.
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
        self._is_canceled = False
        self._done: SimpleQueue[tuple[str, Future[SavedVideo]]] = SimpleQueue()
        self._results: dict[str, SavedVideo] = {}

    @property
    def unrecorded(self) -> int:
        """Number of results that are not recorded yet."""
        return len(self._results)

    def begin(self) -> None:
        """Begin the checks of the recorded videos that are not checked yet."""
        if self._stop.is_set or self._is_canceled:
            return
        for entry in self._progress.unchecked():
            saved = entry.saved
            if saved is not None and saved.video_id not in self._begun:
                self._begun.add(saved.video_id)
                self._running += 1
                check = self._threads.submit(self._row_job.check, entry.key, entry.model, saved)
                check.add_done_callback(partial(self._put, entry.key))

    def _put(self, key: str, check: Future[SavedVideo]) -> None:
        self._done.put((key, check))

    def cancel(self) -> None:
        """Begin no more checks. Videos without a recorded result are checked by a later pass."""
        self._is_canceled = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def collect(self) -> None:
        """Collect the results of the checks that have ended."""
        while not self._done.empty():
            self._collect_next()

    def wait(self) -> bool:
        """Wait for a check and collect its result; return False if no check is running or the task is killed."""
        if not self._running or self._stop.is_set:
            return False
        self._collect_next()
        return True

    def _collect_next(self) -> None:
        key, check = self._done.get()
        self._running -= 1
        if check.cancelled() or self._stop.is_set:
            # The result of a killed task is ignored, because the kill can also have ended the process that measures.
            return
        if error := check.exception():
            log.warning("%s: the check of the saved video failed (%s).", key, type(error).__name__)
            return
        self._results[key] = check.result()

    def record(self) -> None:
        """Record the results, unless other videos have replaced the checked ones.

        The caller must have read the results of other runs before.
        """
        results, self._results = self._results, {}
        for key, checked in results.items():
            entry = self._manifest.loaded[key]
            if entry.saved is not None and entry.saved.video_id == checked.video_id:
                self._progress.update(replace(entry, updated_at=time_now(), saved=checked))
