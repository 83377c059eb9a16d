"""What a run has to do about each row: nothing, wait for what is under way, or order a video."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal

from airflow_provider_toapis.api.models import RESULT_LIFETIME
from airflow_provider_toapis.api.pricing import PriceList, total
from airflow_provider_toapis.batch.entries import Entry, Kept, Order, Superseded, superseded_by, taker
from airflow_provider_toapis.batch.ownership import RunPlan
from airflow_provider_toapis.batch.rows import RowProblem
from airflow_provider_toapis.batch.wishes import Wish
from airflow_provider_toapis.exceptions import ToAPIsRequestError

#: Bad rows that a message names.
_NAMED_PROBLEMS = 100

Verdict = Literal["unchanged", "refused", "under_way", "new", "changed", "postponed"]
_TO_ORDER: tuple[Verdict, ...] = ("new", "changed")
#: What a run may submit, now or in a later attempt, when what is in progress comes to nothing.
_PLANNED: tuple[Verdict, ...] = (*_TO_ORDER, "under_way")

POSTPONED = "The row has changed since this run was planned. Nothing is submitted for it; the next run does so."


@dataclass(frozen=True)
class Attempt:
    """One try of a batch.

    :param run: The Airflow run.
    :param number: The try, from 1.
    :param now: When it began; ISO 8601, UTC.
    :param deadline: Epoch seconds until which it waits for what is under way already.
    :param max_tries: Of the task instance; a clear by a person changes it.
    """

    run: str
    number: int
    now: str
    deadline: float
    max_tries: int = 0

    def owns(self, order: Order | None) -> bool:
        """Whether an order is this attempt's work."""
        return order is not None and (order.run, order.attempt) == (self.run, self.number)

    def has_taken(self, order: Order) -> bool:
        """Whether this attempt has waited for an order before: its deadline is not extended again."""
        return taker(self.run, self.number) in order.takers


@dataclass
class Plan:
    """What a run has to do.

    :param entries: Rows whose state is new, to be noted before anything is ordered.
    :param prices: Of each video to order, in USD; None where nobody knows it.
    :param unpriced: Models of rows to order whose price nobody knows.
    :param superseded: Billed videos that are not saved, because their rows changed while they were being made, by key.
    :param run_plan: What the run may submit over all its attempts.
    """

    problems: list[RowProblem] = field(default_factory=list)
    counts: Counter[Verdict] = field(default_factory=Counter)
    entries: list[Entry] = field(default_factory=list)
    prices: list[Decimal | None] = field(default_factory=list)
    unpriced: set[str] = field(default_factory=set)
    vanished: int = 0
    superseded: dict[str, Superseded] = field(default_factory=dict)
    run_plan: RunPlan = field(default_factory=RunPlan)

    def require_valid(self) -> None:
        """Refuse a feed with bad rows.

        :raises ToAPIsRequestError: Names each of them.
        """
        if self.problems:
            named = "\n".join(str(problem) for problem in self.problems[:_NAMED_PROBLEMS])
            more = len(self.problems) - _NAMED_PROBLEMS
            raise ToAPIsRequestError(
                f"{len(self.problems)} rows cannot be used. Nothing new was ordered, and nothing new is paid.\n{named}"
                + (f"\n... and {more} more" if more > 0 else "")
            )

    def as_dict(self) -> dict[str, Any]:
        """Return what a dry run returns."""
        counts = self.counts
        return {
            "new": counts["new"],
            "changed": counts["changed"],
            "unchanged": counts["unchanged"],
            "under_way": counts["under_way"],
            "refused": counts["refused"],
            "invalid": len(self.problems),
            "vanished": self.vanished,
            "superseded": len(self.superseded),
            "estimate_usd": None if self.unpriced else f"{total(self.prices):f}",
            "problems": [str(problem) for problem in self.problems[:_NAMED_PROBLEMS]],
        }


def make_plan(
    wishes: Iterable[Wish | RowProblem],
    known: Mapping[str, Entry],
    files: Mapping[str, int],
    prices: PriceList,
    attempt: Attempt,
    *,
    run_plan: RunPlan | None = None,
) -> Plan:
    """Compare a feed with what is known of its rows.

    :param known: The manifest.
    :param files: Bytes of each file in the folder.
    :param run_plan: What this run has planned before; None where this is its first plan.
    """
    plan = Plan()
    planned: dict[str, tuple[str, str | None]] = {}
    missing = dict(known)
    for wish in wishes:
        if wish.key:
            missing.pop(wish.key, None)
        if isinstance(wish, RowProblem):
            plan.problems.append(wish)
            continue
        before = known.get(wish.key)
        verdict = judge(wish.fingerprint, before, files)
        if verdict in _TO_ORDER and run_plan is not None and not run_plan.allows(wish.key, wish.fingerprint):
            verdict = "postponed"
        plan.counts[verdict] += 1
        price = prices.price_of(wish.request) if verdict in _PLANNED else None
        if verdict in _TO_ORDER and not _is_saved_again(wish.fingerprint, before):
            plan.prices.append(price)
            if price is None:
                plan.unpriced.add(wish.request.model)
        if verdict in _PLANNED:
            planned[wish.key] = (wish.fingerprint, None if price is None else f"{price:f}")
        entry = entry_after(verdict, wish, before, price, attempt)
        if entry != before:
            plan.entries.append(entry)
            if before is not None and len(entry.superseded) > len(before.superseded):
                plan.superseded[wish.key] = entry.superseded[-1]
    plan.run_plan = run_plan or RunPlan(planned)
    plan.vanished = sum(entry.in_feed for entry in missing.values())
    plan.entries += [after for key in sorted(missing) if (after := vanished(missing[key], attempt)) != missing[key]]
    return plan


def vanished(entry: Entry, attempt: Attempt) -> Entry:
    """Return a row that is not in the feed. A video that is billed for it is waited for and saved all the same."""
    order = taken_over(entry.order, attempt) if entry.order and entry.order.is_under_way else entry.order
    after = replace(entry, in_feed=False, order=order)
    return entry if after == entry else replace(after, time=attempt.now)


def judge(fingerprint: str, before: Entry | None, files: Mapping[str, int]) -> Verdict:
    """Say what is to be done about a row."""
    if before is None:
        return "new"
    kept, order = before.kept, before.order
    if kept is not None and kept.fingerprint == fingerprint and files.get(kept.file) == kept.size:
        return "unchanged"
    if order is not None and order.fingerprint == fingerprint:
        if order.state == "refused":
            return "refused"
        if order.is_under_way:
            return "under_way"
    return "new" if kept is None else "changed"


def entry_after(verdict: Verdict, wish: Wish, before: Entry | None, price: Decimal | None, attempt: Attempt) -> Entry:
    """Return a row's state once the plan is made; the one before where nothing about it is new."""
    kept = before.kept if before else None
    order = before.order if before else None
    if before is not None and order is not None and order.is_under_way and verdict == "postponed":
        # The run goes on with what is submitted, whatever the feed says now.
        after = replace(before, order=taken_over(order, attempt), in_feed=True)
        return before if after == before else replace(after, row=wish.number, time=attempt.now)
    if verdict == "under_way" and order is not None:
        order = taken_over(order, attempt)
    elif verdict == "postponed":
        order = Order("wanted", wish.fingerprint, attempt.run, attempt.number, reason=POSTPONED, postponed=True)
    elif verdict == "unchanged":
        order = None
    elif verdict in _TO_ORDER:
        order = _wanted(wish.fingerprint, before, price, attempt)
    entry = Entry(
        key=wish.key,
        row=wish.number,
        time=before.time if before else attempt.now,
        prompt=wish.request.prompt,
        images=wish.images,
        model=wish.request.model,
        kept=kept,
        order=order,
        superseded=_superseded(before, order, kept, attempt),
        spent=before.spent if before else (),
    )
    # Where a row stands in the feed, and what does not count for its video, is no news.
    same = before is not None and replace(entry, row=before.row, images=before.images) == before
    return before if same and before is not None else replace(entry, time=attempt.now)


def asks_for(entry: Entry | None, fingerprint: str) -> bool:
    """Whether a row of the feed asks for a video that is not saved yet."""
    order = entry.order if entry and entry.in_feed else None
    return order is not None and order.fingerprint == fingerprint


def with_found(entry: Entry | None, found: Order, key: str, model: str, attempt: Attempt) -> Entry:
    """Return a row with a video that a worker submitted for it and did not note.

    It is waited for where the row asks for it or is missing; otherwise it is named.

    :param found: The submission, as its run would have noted it.
    """
    if entry is None:
        return Entry(key, 0, attempt.now, None, (), model, order=found, in_feed=False).with_spend(found.run)
    order, kept = entry.order, entry.kept
    spent = replace(entry, order=found).with_spend(found.run).spent
    entry = replace(entry, time=attempt.now, spent=spent)
    if order is not None and order.fingerprint == found.fingerprint and not order.is_under_way:
        base = order.base if order.run == found.run and not order.postponed else found.base
        return replace(entry, order=replace(found, base=min(base, found.generation)))
    if found.state == "failed":
        return entry
    is_missing = not entry.in_feed and not (order and order.is_under_way)
    if is_missing and (kept is None or (kept.posted_at or 0.0) < (found.posted_at or 0.0)):
        return replace(entry, order=found)
    return replace(entry, superseded=(*entry.superseded, superseded_by(found, attempt.now, attempt.run)))


def _superseded(
    before: Entry | None, order: Order | None, kept: Kept | None, attempt: Attempt
) -> tuple[Superseded, ...]:
    """Return the billed videos of a row that are not saved, and the one that a new state of it drops."""
    if before is None:
        return ()
    dropped = before.order
    if dropped is None or not dropped.is_under_way or dropped.video_id is None:
        return before.superseded
    if dropped.video_id == (order.video_id if order else kept.video_id if kept else None):
        return before.superseded
    return (*before.superseded, superseded_by(dropped, attempt.now, attempt.run))


def taken_over(order: Order, attempt: Attempt, *, plan_refused: bool = False) -> Order:
    """Return an order that is under way as one that this attempt waits for.

    An attempt takes an order over once, and only then is its deadline extended: two runs that are alive at the same
    time would take it from each other for ever.
    """
    if attempt.has_taken(order):
        return replace(order, plan_refused=plan_refused) if attempt.owns(order) else order
    taken = replace(
        order,
        state="ordered",
        run=attempt.run,
        attempt=attempt.number,
        base=_base(order, attempt),
        deadline=attempt.deadline,
        reason=None,
        plan_refused=plan_refused,
    )
    return taken.taken_by(attempt.run, attempt.number)


def _wanted(fingerprint: str, before: Entry | None, price: Decimal | None, attempt: Attempt) -> Order:
    """Return the wish for a video. What was ordered for the same wish before says which generation it may be."""
    order = before.order if before else None
    wanted = Order(
        state="wanted",
        fingerprint=fingerprint,
        run=attempt.run,
        attempt=attempt.number,
        price_usd=None if price is None else f"{price:f}",
    )
    if order is not None and order.fingerprint == fingerprint and not order.postponed:
        return replace(
            wanted,
            base=order.base if order.state in ("wanted", "ordered") else _base(order, attempt),
            generation=order.generation,
            client_business_id=order.client_business_id,
            video_id=order.video_id,
            posted_at=order.posted_at,
        )
    made = _made_before(fingerprint, before)
    if made is not None:
        # It is not in the directory (any more); the service may still have it.
        return replace(
            wanted,
            base=made.generation,
            generation=made.generation,
            client_business_id=made.client_business_id,
            video_id=made.video_id,
            posted_at=made.posted_at,
        )
    return wanted


def _is_saved_again(fingerprint: str, before: Entry | None) -> bool:
    """Whether a row has a video of less than a day, which is not replaced: it costs nothing to save it again."""
    order = before.order if before else None
    if order is not None and order.fingerprint == fingerprint and not order.postponed:
        return False
    made = _made_before(fingerprint, before)
    if made is None or made.posted_at is None:
        return False
    return time.time() < made.posted_at + RESULT_LIFETIME


def _made_before(fingerprint: str, before: Entry | None) -> Kept | Superseded | None:
    """Return the newest video that was billed for the same wish before, saved or superseded."""
    known = (before.kept, *before.superseded) if before else ()
    same = [video for video in known if video is not None and video.fingerprint == fingerprint]
    return max(same, key=lambda video: video.generation, default=None)


def _base(order: Order, attempt: Attempt) -> int:
    """Return the first generation that is this run's: it may order some of its own, whatever earlier ones used up."""
    return order.base if order.run == attempt.run else max(order.generation + 1, 0)
