"""One running emulator, with its parts and the work that becomes due over time."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from airflow_provider_toapis.emulator.clock import Clock
from airflow_provider_toapis.emulator.faults import FaultBook
from airflow_provider_toapis.emulator.ledger import Ledger
from airflow_provider_toapis.emulator.prices import PriceBook
from airflow_provider_toapis.emulator.rate_limits import TokenBucket
from airflow_provider_toapis.emulator.reference_images import ReferenceFetcher
from airflow_provider_toapis.emulator.renderer import Renderer
from airflow_provider_toapis.emulator.request_log import RequestLog
from airflow_provider_toapis.emulator.settings import Settings
from airflow_provider_toapis.emulator.shop import Shop
from airflow_provider_toapis.emulator.store import Store, Task
from airflow_provider_toapis.emulator.tasks import Tasks
from airflow_provider_toapis.emulator.uploads import Uploads
from airflow_provider_toapis.emulator.webhook_delivery import Webhooks

#: Seconds between two checks for due work. Much shorter than any poll interval.
TICK_SECONDS = 0.05


class Service:
    """One emulator. Creates its parts and connects them.

    :param settings: The options of the command line.
    :param scenario: Faults that are active from the start.
    :raises RejectedError: A fault of the scenario is invalid.
    """

    def __init__(self, settings: Settings, scenario: list[object]) -> None:
        self.settings = settings
        self.api_key = settings.api_key
        self.faults = FaultBook(settings.seed)
        for specification in scenario:
            self.faults.add(specification)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self.store = Store(settings.data_dir / "emulator.sqlite")
        self.clock = Clock(self.store.clock_offset())
        self.requests = RequestLog(self.clock)
        self.prices = PriceBook()
        self.ledger = Ledger(self.store, settings.balance)
        self.submit_limit = TokenBucket("async_submit", settings.submit_rps, self.clock.now)
        self.query_limit = TokenBucket("async_query", settings.query_rps, self.clock.now)
        self.uploads = Uploads(settings, self.clock, self.store)
        self.shop = Shop(settings, self.store)
        self.renderer = Renderer(settings.data_dir)
        self.webhooks = Webhooks(settings, self.clock, self.store, self.faults)
        self._fetcher = ReferenceFetcher(self._own_image)
        self.tasks = Tasks(
            settings,
            self.clock,
            self.store,
            ledger=self.ledger,
            renderer=self.renderer,
            fetcher=self._fetcher,
            finished=self._announce,
        )
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the work on the running event loop."""
        self.tasks.resume()
        self._ticking = asyncio.create_task(self._tick())

    async def stop(self) -> None:
        """Stop the work. The next start with the same data directory continues it."""
        if self._ticking:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking
        await self.tasks.stop()
        await self.webhooks.close()
        await self._fetcher.close()
        await asyncio.to_thread(self.renderer.close)
        self.store.close()

    async def reset(self) -> None:
        """Restore the initial state, including the clock and the API key. Renderings stay cached."""
        await self.tasks.stop()
        await self.webhooks.reset()
        self.store.clear()
        self.uploads.clear()
        self.faults.clear()
        self.prices.clear()
        self.requests.clear()
        self.ledger.reset()
        self.clock.offset = 0.0
        self.api_key = self.settings.api_key
        self.submit_limit.refill()
        self.query_limit.refill()

    def rotate_api_key(self, key: str) -> None:
        """Accept only this API key from now on."""
        self.api_key = key

    def advance_clock(self, seconds: float) -> None:
        """Advance the emulator's time by ``seconds``, and do the work that is due then."""
        self.clock.advance(seconds)
        self.store.save_clock_offset(self.clock.offset)
        self._do_due_work()

    def _do_due_work(self) -> None:
        self.tasks.finish_due()
        self.webhooks.deliver_due()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._do_due_work()

    def _announce(self, task: Task) -> None:
        self.webhooks.announce(task, self.tasks.result_body(task) if task.outcome == "completed" else None)

    def _own_image(self, url: str) -> bytes | None:
        """Return the image at a URL of this emulator: an upload, or a product image of the shop.

        Return None for a URL of another host. Return empty bytes for an expired upload and for any other path.
        """
        path = url if url.startswith("/") else self.settings.own_path(url)
        if path is None:
            return None
        file = self.shop.image(Path(path).name) if path.startswith("/shop/images/") else self._live_upload(path)
        return file.read_bytes() if file else b""

    def _live_upload(self, path: str) -> Path | None:
        found = self.uploads.find(Path(path).name) if path.startswith("/files/uploads/") else None
        return None if found is None or found[2] else found[0]
