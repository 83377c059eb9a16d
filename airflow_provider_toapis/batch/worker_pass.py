"""What a worker does between two waits: fetch what is final, order what there is room for, note all of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING

from airflow_provider_toapis.batch.orders import not_asked_for
from airflow_provider_toapis.batch.rows import Row, RowProblem

if TYPE_CHECKING:
    from airflow_provider_toapis.api.errors import ToAPIsError
    from airflow_provider_toapis.batch.entries import Entry
    from airflow_provider_toapis.batch.manifest import Manifest, OrderNotes
    from airflow_provider_toapis.batch.orders import Orders, Outcome
    from airflow_provider_toapis.batch.progress import Progress

log = logging.getLogger(__name__)

#: Rows that are worked on at a time: so many slow answers still leave the allowed rate of orders to be used.
THREADS = 16
#: Rows that a part of the manifest holds at most, and seconds after which a smaller one is written.
ROWS_PER_PART = 50
SECONDS_PER_PART = 10.0


class WorkerPass:
    """One pass over a batch.

    :param max_active: Videos that may be under way at a time.
    """

    def __init__(
        self,
        orders: Orders,
        manifest: Manifest,
        notes: OrderNotes,
        progress: Progress,
        *,
        max_active: int,
    ) -> None:
        self._orders = orders
        self._manifest = manifest
        self._notes = notes
        self._progress = progress
        self._max_active = max_active
        self._active = len(progress.active())
        self._running = 0
        self._done: SimpleQueue[Future[Outcome]] = SimpleQueue()
        self._flushed_at = time.monotonic()
        self._broken: BaseException | None = None
        #: What would happen to every other order as well.
        self.fatal: ToAPIsError | None = None

    def run(self, rows: Iterable[Row | RowProblem] | None, maybe_final: Iterable[Entry]) -> None:
        """Fetch those of ``maybe_final`` that are, and order the rows that are wanted as long as there is room.

        :param rows: The feed; None orders nothing.
        """
        with ThreadPoolExecutor(THREADS, thread_name_prefix="toapis") as threads:
            try:
                for entry in maybe_final:
                    self._begin(threads.submit(self._orders.finish, entry))
                if rows is not None:
                    self._order_all(threads, rows)
                while self._running:
                    self._take(self._done.get())
            finally:
                threads.shutdown(cancel_futures=True)
                # A paid video that is noted needs not be looked for.
                self._take_all_done()
                self._flush()
        if self._broken is not None:
            raise self._broken

    def _order_all(self, threads: ThreadPoolExecutor, rows: Iterable[Row | RowProblem]) -> None:
        begun: set[str] = set()
        for row in rows:
            entry = self._manifest.entries.get(row.key or "")
            if not isinstance(row, Row) or entry is None or not self._progress.wants(entry):
                continue
            if not self._has_room():
                return
            begun.add(entry.key)
            self._active += 1
            self._begin(threads.submit(self._orders.order, entry, row))
            self._take_all_done()
        for entry in self._progress.wanted():
            if entry.key not in begun:
                self._progress.note(not_asked_for(entry))

    def _has_room(self) -> bool:
        """Whether another row may be ordered; waits for a thread, and while a place in the window may become free."""
        while self._running >= THREADS or (self._active >= self._max_active and self._running):
            self._take(self._done.get())
        may_go_on = self.fatal is None and self._broken is None and not self._progress.has_failed_too_often
        return may_go_on and self._active < self._max_active

    def _begin(self, step: Future[Outcome]) -> None:
        self._running += 1
        step.add_done_callback(self._done.put)

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
        self.fatal = outcome.fatal or self.fatal
        self._active -= outcome.entry.state != "ordered"
        self._progress.note(outcome.entry)
        if self._manifest.unwritten >= ROWS_PER_PART or time.monotonic() >= self._flushed_at + SECONDS_PER_PART:
            self._flush()

    def _flush(self) -> None:
        """Note what came of the rows, and only then forget that they were about to be ordered."""
        known = self._manifest.flush()
        self._notes.remove(business_id for entry in known for business_id in entry.business_ids)
        self._flushed_at = time.monotonic()
        log.info("%s", self._progress)
