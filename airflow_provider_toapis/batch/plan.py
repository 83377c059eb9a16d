"""Plan a run: decide for each row to do nothing, to wait for the video in progress, or to submit a video."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.pricing import PriceList, total
from airflow_provider_toapis.api.responses import RESULT_LIFETIME
from airflow_provider_toapis.batch.feed import RowProblem
from airflow_provider_toapis.batch.manifest import superseded_by
from airflow_provider_toapis.batch.manifest_entry import (
    ManifestEntry,
    RowStatus,
    RowSubmission,
    SavedVideo,
    Superseded,
    attempt_name,
    time_now,
)
from airflow_provider_toapis.batch.ownership import PlannedRow, RunPlan
from airflow_provider_toapis.batch.row_request import RowRequest
from airflow_provider_toapis.exceptions import ToAPIsRequestError

log = logging.getLogger(__name__)
#: Maximum number of invalid rows that a message lists.
_MAX_LISTED_PROBLEMS = 100
_TO_SUBMIT = (RowStatus.NEW, RowStatus.CHANGED)
#: Statuses of the rows that a run can submit. A row with a video in progress is submitted only in a later attempt, and
#: only if that video fails.
_PLANNED = (*_TO_SUBMIT, RowStatus.SUBMITTED)
#: Statuses of rows that already have a video.
_HAS_VIDEO = (RowStatus.UNCHANGED, RowStatus.SUBMITTED)
POSTPONED = "The row has changed since this run was planned. This run does not submit it; the next run does."


@dataclass(frozen=True)
class Attempt:
    """One try of a batch task.

    :param run_id: The Airflow run.
    :param try_number: Try number of the task, from 1.
    :param now: Start time of the attempt; ISO 8601, UTC.
    :param deadline: Epoch seconds until which the attempt waits for videos that are already in progress.
    :param max_tries: ``max_tries`` of the task instance. Clearing the task changes it.
    """

    run_id: str
    try_number: int
    now: str
    deadline: float
    max_tries: int = 0

    def owns(self, submission: RowSubmission | None) -> bool:
        """Return whether this attempt was the last to work on a submission."""
        return submission is not None and (submission.run_id, submission.try_number) == (self.run_id, self.try_number)

    def has_waited_for(self, submission: RowSubmission) -> bool:
        """Return whether this attempt has waited for a submission. Such an attempt cannot extend the deadline again."""
        return attempt_name(self.run_id, self.try_number) in submission.attempts


@dataclass
class Plan:
    """The plan of a run.

    :param entries: Changed entries. They are recorded before anything is submitted.
    :param prices: Expected price in USD of each video to submit; None if unknown.
    :param unpriced: Models that are used by the rows to submit and whose price is unknown.
    :param superseded: Billed videos that are not saved, because their rows changed while the videos were in progress.
        The dict's keys are the keys of the rows.
    :param run_plan: The rows that the run can submit in all its attempts.
    """

    problems: list[RowProblem] = field(default_factory=list)
    counts: Counter[RowStatus] = field(default_factory=Counter)
    entries: list[ManifestEntry] = field(default_factory=list)
    prices: list[Decimal | None] = field(default_factory=list)
    unpriced: set[str] = field(default_factory=set)
    removed: int = 0
    superseded: dict[str, Superseded] = field(default_factory=dict)
    run_plan: RunPlan = field(default_factory=RunPlan)

    def require_valid(self) -> None:
        """Reject a feed with invalid rows.

        :raises ToAPIsRequestError: Rows are invalid. The message lists the first 100.
        """
        if self.problems:
            raise ToAPIsRequestError(self.problems_text())

    def problems_text(self) -> str:
        """Return a message with the number of invalid rows, and with the first 100 of them, one per line."""
        named = "\n".join(str(problem) for problem in self.problems[:_MAX_LISTED_PROBLEMS])
        more = len(self.problems) - _MAX_LISTED_PROBLEMS
        rows = "1 row is" if len(self.problems) == 1 else f"{len(self.problems)} rows are"
        others = f"\n... and {more} more" if more > 0 else ""
        return f"{rows} invalid. Nothing new was submitted. Correct the feed.\n{named}{others}"

    @property
    def expected_cost(self) -> Decimal | None:
        """The expected price in USD of all videos to submit; None if any of their prices is unknown."""
        return None if self.unpriced else total(self.prices)

    def __str__(self) -> str:
        counts = ", ".join(
            f"{number} {status}"
            for status in (RowStatus.NEW, RowStatus.CHANGED, RowStatus.UNCHANGED, RowStatus.SUBMITTED)
            if (number := self.counts[status]) or status == RowStatus.NEW
        )
        cost = "not known" if self.expected_cost is None else f"{self.expected_cost:f} USD"
        return f"Plan: {counts}. Expected cost: {cost}"

    def as_dict(self) -> dict[str, Any]:
        """Return the result of a dry run."""
        return {
            "new": self.counts[RowStatus.NEW],
            "changed": self.counts[RowStatus.CHANGED],
            "unchanged": self.counts[RowStatus.UNCHANGED],
            "removed": self.removed,
            "submitted": self.counts[RowStatus.SUBMITTED],
            "rejected": self.counts[RowStatus.REJECTED],
            "invalid": len(self.problems),
            "superseded": len(self.superseded),
            "estimated_cost_usd": None if self.expected_cost is None else float(self.expected_cost),
            "errors": [str(problem) for problem in self.problems[:_MAX_LISTED_PROBLEMS]],
        }


def make_plan(
    row_requests: Iterable[RowRequest | RowProblem],
    known: Mapping[str, ManifestEntry],
    files: Mapping[str, int],
    prices: PriceList,
    attempt: Attempt,
    *,
    run_plan: RunPlan | None = None,
) -> Plan:
    """Compare a feed with the recorded state of its rows.

    :param known: The entries of the manifest, by key.
    :param files: Size in bytes of each file in the directory, by name.
    :param run_plan: The plan that this run has recorded; None for its first plan.
    """
    plan = Plan()
    planned: dict[str, PlannedRow] = {}
    missing = dict(known)
    for row_request in row_requests:
        if row_request.key:
            missing.pop(row_request.key, None)
        if isinstance(row_request, RowProblem):
            plan.problems.append(row_request)
            continue
        before = known.get(row_request.key)
        status = classify(row_request.fingerprint, before, files)
        if (
            status in _TO_SUBMIT
            and run_plan is not None
            and not run_plan.allows(row_request.key, row_request.fingerprint)
        ):
            status = RowStatus.POSTPONED
        plan.counts[status] += 1
        price = _highest_price(row_request, prices) if status in _PLANNED else None
        if status in _TO_SUBMIT and not _is_saved_for_free(row_request.fingerprint, before):
            plan.prices.append(price)
            plan.unpriced.update(each.model for each in row_request.requests if prices.price_of(each) is None)
        if status in _PLANNED:
            planned[row_request.key] = PlannedRow(row_request.fingerprint, None if price is None else f"{price:f}")
        entry = entry_after(status, row_request, before, price, attempt)
        if entry != before:
            plan.entries.append(entry)
            if before is not None and len(entry.superseded) > len(before.superseded):
                plan.superseded[row_request.key] = entry.superseded[-1]
    plan.run_plan = run_plan or RunPlan(planned)
    plan.removed = sum(entry.in_feed for entry in missing.values())
    plan.entries += [
        after for key in sorted(missing) if (after := after_removal(missing[key], attempt)) != missing[key]
    ]
    return plan


def _highest_price(row_request: RowRequest, prices: PriceList) -> Decimal | None:
    """Return the price of a row's video with the most expensive of its models; None if a price is unknown."""
    known = list(map(prices.price_of, row_request.requests))
    return None if None in known else max(price for price in known if price is not None)


def after_removal(entry: ManifestEntry, attempt: Attempt) -> ManifestEntry:
    """Return the entry of a row that is not in the feed. The attempt still waits for a video in progress."""
    submission = entry.submission
    if submission is not None and submission.is_in_progress:
        submission = claimed_by(submission, attempt)
    after = replace(entry, in_feed=False, submission=submission)
    return entry if after == entry else replace(after, updated_at=attempt.now)


def classify(fingerprint: str, before: ManifestEntry | None, files: Mapping[str, int]) -> RowStatus:
    """Return the status of a row: new, changed, unchanged, submitted or rejected."""
    if before is None:
        return RowStatus.NEW
    saved, submission = before.saved, before.submission
    # If the check of a video failed and a user deleted its file, no other video is submitted.
    is_complete = saved is not None and (saved.check_failed or files.get(saved.file) == saved.size)
    if saved is not None and saved.fingerprint == fingerprint and is_complete:
        return RowStatus.UNCHANGED
    if submission is not None and submission.fingerprint == fingerprint:
        if submission.state == RowStatus.REJECTED:
            return RowStatus.REJECTED
        if submission.is_in_progress:
            return RowStatus.SUBMITTED
    return RowStatus.NEW if saved is None else RowStatus.CHANGED


def entry_after(
    status: RowStatus, row_request: RowRequest, before: ManifestEntry | None, price: Decimal | None, attempt: Attempt
) -> ManifestEntry:
    """Return the entry of a row with this status; return ``before`` itself if nothing has changed."""
    saved = before.saved if before else None
    submission = before.submission if before else None
    if before is not None and submission is not None and submission.is_in_progress and status == RowStatus.POSTPONED:
        # The run waits for the submitted video, even though the row has changed.
        after = replace(
            before, submission=claimed_by(submission, attempt), in_feed=True, review=row_request.reviewed.newest
        )
        return before if after == before else replace(after, row=row_request.number, updated_at=attempt.now)
    if status == RowStatus.SUBMITTED and submission is not None:
        # If the submission is known only from a claim, its duration and aspect ratio are not recorded yet.
        submission = replace(
            claimed_by(submission, attempt),
            duration=row_request.request.requested_seconds,
            aspect_ratio=row_request.request.requested_aspect_ratio,
        )
    elif status == RowStatus.POSTPONED:
        submission = RowSubmission(
            RowStatus.POSTPONED, row_request.fingerprint, attempt.run_id, attempt.try_number, reason=POSTPONED
        )
    elif status == RowStatus.UNCHANGED:
        submission = None
    elif status in _TO_SUBMIT:
        submission = _pending(row_request, before, price, attempt)
    entry = ManifestEntry(
        key=row_request.key,
        row=row_request.number,
        updated_at=before.updated_at if before else attempt.now,
        prompt=row_request.request.prompt,
        images=row_request.images,
        # A fallback model can have made the video.
        model=before.model if before and status in _HAS_VIDEO else row_request.request.model,
        saved=saved,
        submission=submission,
        superseded=_superseded(before, submission, saved, attempt),
        costs=before.costs if before else (),
        review=row_request.reviewed.newest,
    )
    # An entry that differs only in row number or image references counts as unchanged.
    same = before is not None and replace(entry, row=before.row, images=before.images) == before
    return before if same and before is not None else replace(entry, updated_at=attempt.now)


def is_requested(entry: ManifestEntry | None, fingerprint: str) -> bool:
    """Return whether the row is in the feed and has a submission with this fingerprint."""
    submission = entry.submission if entry and entry.in_feed else None
    return submission is not None and submission.fingerprint == fingerprint


def with_found_video(
    entry: ManifestEntry | None, found: RowSubmission, key: str, model: str, attempt: Attempt
) -> ManifestEntry:
    """Return a row's entry after adding a video that a worker submitted for the row but did not record.

    The task waits for the video if the row requests it, or if the row is not in the feed and has no newer video.
    Otherwise the video is recorded as superseded. If the video has failed, only its cost is recorded.

    :param found: The submission, as the run that sent it would have recorded it.
    """
    if entry is None:
        return ManifestEntry(key, 0, attempt.now, None, (), model, submission=found, in_feed=False).with_cost(
            found.run_id
        )
    submission, saved = entry.submission, entry.saved
    costs = replace(entry, submission=found).with_cost(found.run_id).costs
    entry = replace(entry, updated_at=attempt.now, costs=costs)
    if submission is not None and submission.fingerprint == found.fingerprint and not submission.is_in_progress:
        is_of_its_run = submission.run_id == found.run_id and submission.state != RowStatus.POSTPONED
        first = submission.first_generation if is_of_its_run else found.first_generation
        return replace(entry, submission=replace(found, first_generation=min(first, found.generation)))
    if found.state == RowStatus.FAILED:
        return entry
    is_missing = not entry.in_feed and not (submission and submission.is_in_progress)
    if is_missing and (saved is None or (saved.posted_at or 0.0) < (found.posted_at or 0.0)):
        return replace(entry, submission=found)
    return replace(entry, superseded=(*entry.superseded, superseded_by(found, attempt.now, attempt.run_id)))


def _superseded(
    before: ManifestEntry | None, submission: RowSubmission | None, saved: SavedVideo | None, attempt: Attempt
) -> tuple[Superseded, ...]:
    """Return the superseded videos of a row, including a video in progress that the new state does not wait for."""
    if before is None:
        return ()
    dropped = before.submission
    if dropped is None or not dropped.is_in_progress or dropped.video_id is None:
        return before.superseded
    if dropped.video_id == (submission.video_id if submission else saved.video_id if saved else None):
        return before.superseded
    return (*before.superseded, superseded_by(dropped, attempt.now, attempt.run_id))


def claimed_by(submission: RowSubmission, attempt: Attempt, *, plan_rejected: bool = False) -> RowSubmission:
    """Assign a submission in progress to an attempt, which then waits for its video. Return the changed submission.

    The submission also gets the attempt's deadline. Each attempt can do this only once per submission. Otherwise two
    runs at the same time could take the submission from each other, and extend its deadline, without end.

    :param plan_rejected: Whether the attempt only waits for the video, because its plan was rejected (default False).
    """
    if attempt.has_waited_for(submission):
        return replace(submission, plan_rejected=plan_rejected) if attempt.owns(submission) else submission
    taken = replace(
        submission,
        state=RowStatus.SUBMITTED,
        run_id=attempt.run_id,
        try_number=attempt.try_number,
        first_generation=_first_generation(submission, attempt),
        deadline=attempt.deadline,
        reason=None,
        plan_rejected=plan_rejected,
    )
    return taken.with_attempt(attempt.run_id, attempt.try_number)


def _pending(
    row_request: RowRequest, before: ManifestEntry | None, price: Decimal | None, attempt: Attempt
) -> RowSubmission:
    """Return a pending submission. It continues the newest earlier submission for the same request, if any."""
    fingerprint = row_request.fingerprint
    submission = before.submission if before else None
    pending = RowSubmission(
        state=RowStatus.PENDING,
        fingerprint=fingerprint,
        run_id=attempt.run_id,
        try_number=attempt.try_number,
        price_usd=None if price is None else f"{price:f}",
        redos=row_request.reviewed.redos,
    )
    if submission is not None and _is_same_request(submission, fingerprint):
        continues = submission.state in (RowStatus.PENDING, RowStatus.SUBMITTED)
        return replace(
            pending,
            first_generation=submission.first_generation if continues else _first_generation(submission, attempt),
            generation=submission.generation,
            client_business_id=submission.client_business_id,
            video_id=submission.video_id,
            posted_at=submission.posted_at,
        )
    previous = _previous_video(fingerprint, before)
    if previous is not None:
        # The video is not in the directory. The service may still have it.
        return replace(
            pending,
            first_generation=previous.generation,
            generation=previous.generation,
            client_business_id=previous.client_business_id,
            video_id=previous.video_id,
            posted_at=previous.posted_at,
        )
    return pending


def _is_same_request(submission: RowSubmission, fingerprint: str) -> bool:
    """Return whether an earlier submission is for the row's current request."""
    return submission.fingerprint == fingerprint and submission.state != RowStatus.POSTPONED


def _is_saved_for_free(fingerprint: str, before: ManifestEntry | None) -> bool:
    """Return whether the row costs nothing, because the service still has a video of the same request.

    The service keeps a video for a day.
    """
    submission = before.submission if before else None
    if submission is not None and _is_same_request(submission, fingerprint):
        return False
    previous = _previous_video(fingerprint, before)
    if previous is None or previous.posted_at is None:
        return False
    return clock.time() < previous.posted_at + RESULT_LIFETIME


def _previous_video(fingerprint: str, before: ManifestEntry | None) -> SavedVideo | Superseded | None:
    """Return the newest video that was billed for the same request, saved or superseded."""
    known = (before.saved, *before.superseded) if before else ()
    same = [video for video in known if video is not None and video.fingerprint == fingerprint]
    return max(same, key=lambda video: video.generation, default=None)


def _first_generation(submission: RowSubmission, attempt: Attempt) -> int:
    """Return the first generation that this run can submit. ``max_generations`` counts from this generation."""
    return submission.first_generation if submission.run_id == attempt.run_id else max(submission.generation + 1, 0)


def warn_superseded(key: str, video: Superseded) -> None:
    """Warn that a billed video is not saved, and log its price."""
    log.warning(
        "%s: video %s is superseded: the row changed while it was in progress. It is billed (%s) and not saved.",
        key,
        video.video_id,
        f"expected price {video.price_usd} USD" if video.price_usd else "price not known",
    )


def this_attempt(run_id: str, try_number: int, timeout: float, max_tries: int = 0) -> Attempt:
    """Return the current attempt, which starts now."""
    return Attempt(run_id, try_number, now=time_now(), deadline=clock.time() + timeout, max_tries=max_tries)
