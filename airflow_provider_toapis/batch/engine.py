"""A batch, put together: what one attempt of the task does with a feed, a folder and the service."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_toapis.api.errors import ToAPIsAuthError, ToAPIsBatchError, ToAPIsError
from airflow_provider_toapis.api.pricing import PriceList, require_budget, require_money, total
from airflow_provider_toapis.batch.entries import Entry, Order, time_now
from airflow_provider_toapis.batch.folder import Folder
from airflow_provider_toapis.batch.manifest import Manifest, OrderNotes
from airflow_provider_toapis.batch.orders import OrderOptions, Orders
from airflow_provider_toapis.batch.page import catalogue_page
from airflow_provider_toapis.batch.plan import Attempt, Plan, make_plan, taken_over
from airflow_provider_toapis.batch.progress import Progress
from airflow_provider_toapis.batch.rows import are_given, read_rows
from airflow_provider_toapis.batch.wishes import Defaults, Wishes
from airflow_provider_toapis.batch.worker_pass import WorkerPass

if TYPE_CHECKING:
    from airflow_provider_toapis.api.client import ToAPIsClient
    from airflow_provider_toapis.api.models import OfferedPrice
    from airflow_provider_toapis.hooks.toapis import ToAPIsHook

log = logging.getLogger(__name__)

INDEX = "index.html"
#: Failed rows whose reasons a message tells; all of them stand in the manifest.
_NAMED_FAILURES = 5


@dataclass(frozen=True)
class BatchOptions:
    """What the author of a batch asks for; see ``ToAPIsVideoBatchOperator``."""

    title: str
    output_path: str
    defaults: Defaults
    orders: OrderOptions
    max_active: int
    max_failures: float
    max_cost_usd: Decimal | None
    price_usd: Decimal | None
    image_etag: bool


class Batch:
    """One attempt at a batch.

    :param requests: The feed; read anew for every pass.
    :raises ToAPIsRequestError: The folder cannot be used, or its manifest cannot be read.
    """

    def __init__(
        self, hook: ToAPIsHook, requests: str | Iterable[Mapping[str, Any]], options: BatchOptions, attempt: Attempt
    ) -> None:
        self._hook = hook
        # A generator gives its rows only once. What is no feed is refused where it is read.
        self._requests = list(requests) if are_given(requests) else requests
        self._options = options
        self._attempt = attempt
        self._folder = Folder(options.output_path)
        self._manifest = Manifest(self._folder)
        self.progress = Progress(self._manifest, attempt, options.max_failures)
        self._fatal: ToAPIsError | None = None

    def plan(self) -> Plan:
        """Compare the feed with what is there. Orders nothing and notes nothing."""
        with self._hook.client() as client:
            return make_plan(
                self._wishes(client).check_all(read_rows(self._requests)),
                self._manifest.entries,
                self._folder.sizes(),
                PriceList(_offered_prices(client), self._options.price_usd),
                self._attempt,
            )

    def begin(self, plan: Plan) -> None:
        """Check what the plan costs, then note what is to be done.

        :raises ToAPIsRequestError: Bad rows, or more than ``max_cost_usd``; nothing was paid.
        :raises ToAPIsQuotaError: The account has not so much money; nothing was paid.
        """
        plan.require_valid()
        if self._options.max_cost_usd is not None:
            require_budget(plan.prices, plan.unpriced, spent=self._spent(), max_cost_usd=self._options.max_cost_usd)
        if estimate := total(plan.prices):
            require_money(estimate, self._hook.get_balance())
        for entry in plan.entries:
            self.progress.note(entry)
        self._manifest.flush()
        log.info("%s. Expected price: %s USD.", self.progress, plan.as_dict()["estimate_usd"] or "unknown")

    def look_after_paid(self) -> bool:
        """Wait for what earlier attempts and runs have left under way, and order nothing; False where there is nothing.

        What this attempt has waited for already does not count.
        """
        left = [
            (entry, order)
            for entry, order in self._under_way()
            if entry.state == "ordered" or not self._attempt.owns(order)
        ]
        for entry, order in left:
            self.progress.note(replace(entry, order=taken_over(order, self._attempt, plan_refused=True)))
        self._manifest.flush()
        return bool(left)

    @property
    def is_refused(self) -> bool:
        """Whether this attempt only waits for what was under way before, because its plan is refused."""
        return any(entry.order and entry.order.plan_refused for entry in self.progress.active())

    @property
    def has_paid(self) -> bool:
        """Whether videos are paid and not fetched yet, by whatever run."""
        return bool(self._under_way())

    def _under_way(self) -> list[tuple[Entry, Order]]:
        return [
            (entry, entry.order)
            for entry in self._manifest.entries.values()
            if entry.in_feed and entry.order and entry.order.is_under_way
        ]

    def work(self, maybe_final: Iterable[Entry]) -> None:
        """Fetch those of ``maybe_final`` that are, and order what there is room for."""
        notes = OrderNotes(self._folder)
        with self._hook.client() as client:
            orders = Orders(client, self._folder, notes, self._wishes(client), self._options.orders)
            one_pass = WorkerPass(
                orders,
                self._manifest,
                notes,
                self.progress,
                max_active=self._options.max_active,
            )
            one_pass.run(None if self.is_refused else read_rows(self._requests), maybe_final)
            self._fatal = one_pass.fatal

    def publish(self) -> None:
        """Compact the manifest and write the page."""
        self._manifest.compact()
        page = catalogue_page(self._manifest.entries.values(), title=self._options.title, made_at=time_now())
        self._folder.put(INDEX, page)

    def conclude(self) -> dict[str, Any]:
        """Publish, and return what came of the batch.

        :raises ToAPIsBatchError: More rows failed than may. What was made is kept.
        """
        self.publish()
        if self._fatal is not None:
            raise self._fatal
        if self.progress.has_failed_too_often:
            raise ToAPIsBatchError(self._failure_text())
        return {
            **self.progress.summary(),
            "manifest": self._manifest.path,
            "index": self._folder.path_of(INDEX),
        }

    def _failure_text(self) -> str:
        failures = self.progress.failures()
        reasons = "\n".join(
            f"row {entry.row} (key {entry.key!r}): {entry.order.reason}"
            for entry in failures[:_NAMED_FAILURES]
            if entry.order
        )
        return (
            f"{len(failures)} rows failed (max_failures={self._options.max_failures}): {self.progress}. What was made"
            f" is kept; a retry goes on with the rest and pays for nothing twice. All reasons: {self._manifest.path}\n"
            f"{reasons}"
        )

    def _spent(self) -> Decimal:
        """Return what this run has ordered so far, in USD, as far as prices are known."""
        run = self._attempt.run
        prices = []
        for entry in self._manifest.entries.values():
            if entry.kept and entry.kept.run == run and not entry.kept.adopted:
                prices.append(entry.kept.price_usd)
            # One below the base was ordered by an earlier run.
            if entry.order and entry.order.run == run and entry.order.generation >= entry.order.base:
                prices.append(entry.order.price_usd)
        return total(Decimal(price) for price in prices if price)

    def _wishes(self, client: ToAPIsClient) -> Wishes:
        return Wishes(self._options.defaults, client.image_etag if self._options.image_etag else None)


def _offered_prices(client: ToAPIsClient) -> Iterator[OfferedPrice]:
    try:
        yield from client.get_pricing()
    except ToAPIsAuthError:
        raise
    except ToAPIsError as error:
        log.warning("The service tells no prices (%s): those of the catalogue are taken.", error)


def this_attempt(run_id: str, try_number: int, timeout: float) -> Attempt:
    """Return the attempt that runs now."""
    return Attempt(run=run_id, number=try_number, now=time_now(), deadline=time.time() + timeout)
