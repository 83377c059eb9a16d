"""The plan of a run: the action for each row, for each recorded state."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import cast

import pytest

from airflow_provider_toapis.api.pricing import PriceList
from airflow_provider_toapis.api.video_request import VideoRequest
from airflow_provider_toapis.batch.feed import RowProblem
from airflow_provider_toapis.batch.manifest_entry import (
    ManifestEntry,
    RowStatus,
    RowSubmission,
    SavedVideo,
    SubmissionState,
    Superseded,
)
from airflow_provider_toapis.batch.ownership import PlannedRow, RunPlan
from airflow_provider_toapis.batch.plan import POSTPONED, Attempt, Plan, make_plan
from airflow_provider_toapis.batch.row_request import RowRequest
from airflow_provider_toapis.exceptions import ToAPIsError

TONIGHT = Attempt(run_id="tonight", try_number=2, now="2026-02-02T00:00:00Z", deadline=2_000.0)
MODEL = "grok-video-1.5-preview"
REQUEST = RowRequest(
    number=7, key="shoe", request=VideoRequest(model=MODEL, prompt="It turns"), images=("p.jpg",), fingerprint="F"
)
SAVED = SavedVideo(
    fingerprint="F",
    video_id="video_1",
    client_business_id="af-1",
    generation=1,
    file="shoe.mp4",
    size=5,
    sha256="0" * 64,
    price_usd="0.10",
    billed=True,
    saved_at="2026-01-01T00:00:00Z",
    run_id="earlier",
    reattached=False,
)
FILES = {"shoe.mp4": 5}


def previous_entry(saved: SavedVideo | None = None, submission: RowSubmission | None = None) -> ManifestEntry:
    return ManifestEntry(
        key="shoe",
        row=3,
        updated_at="2026-01-01T00:00:00Z",
        prompt="It turns",
        images=("p.jpg",),
        model=MODEL,
        saved=saved,
        submission=submission,
    )


def submission(state: str, fingerprint: str = "F", run_id: str = "earlier", **fields: object) -> RowSubmission:
    base = RowSubmission(
        cast("SubmissionState", RowStatus(state)),
        fingerprint,
        run_id,
        try_number=1,
        first_generation=1,
        generation=2,
        client_business_id="af-2",
        video_id="v2",
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def plan_for(
    entry: ManifestEntry | None,
    files: dict[str, int] | None = None,
    request: RowRequest = REQUEST,
    attempt: Attempt = TONIGHT,
    run_plan: RunPlan | None = None,
) -> Plan:
    entries = {} if entry is None else {entry.key: entry}
    prices = PriceList((), Decimal(1))
    return make_plan([request], entries, FILES if files is None else files, prices, attempt, run_plan=run_plan)


def status(plan: Plan) -> str:
    (found,) = [name for name, number in plan.counts.items() if number]
    return found


def test_unknown_row_is_new() -> None:
    plan = plan_for(None)
    (entry,) = plan.entries
    assert status(plan) == "new"
    assert (entry.row, entry.prompt, entry.state) == (7, "It turns", "pending")
    assert entry.submission == RowSubmission(
        RowStatus.PENDING, fingerprint="F", run_id="tonight", try_number=2, price_usd="0.10"
    )


def test_saved_row_is_unchanged_and_adds_no_entry() -> None:
    plan = plan_for(previous_entry(SAVED))
    assert (status(plan), plan.entries, plan.prices) == ("unchanged", [], [])


@pytest.mark.parametrize("files", [{}, {"shoe.mp4": 4}], ids=["gone", "of another size"])
def test_row_with_missing_or_truncated_file_starts_at_its_saved_generation(files: dict[str, int]) -> None:
    plan = plan_for(previous_entry(replace(SAVED, posted_at=5.0)), files)
    (entry,) = plan.entries
    assert status(plan) == "changed"
    assert entry.submission is not None
    assert (entry.submission.first_generation, entry.submission.generation) == (1, 1)
    assert (entry.submission.client_business_id, entry.submission.video_id, entry.submission.posted_at) == (
        "af-1",
        "video_1",
        5.0,
    )


def test_changed_row_keeps_old_video_until_new_one_is_saved() -> None:
    plan = plan_for(previous_entry(replace(SAVED, fingerprint="other")))
    (entry,) = plan.entries
    assert status(plan) == "changed"
    assert entry.saved == replace(SAVED, fingerprint="other")
    assert entry.submission is not None
    assert (entry.submission.first_generation, entry.submission.video_id) == (0, None)


@pytest.mark.parametrize("state", ["submitted", "interrupted"])
def test_video_in_progress_is_reattached_by_this_attempt(state: str) -> None:
    plan = plan_for(previous_entry(None, submission(state, deadline=1.0, reason="late")))
    (entry,) = plan.entries
    assert (status(plan), plan.prices) == ("submitted", [])
    assert entry.submission == submission(
        "submitted", run_id="tonight", try_number=2, first_generation=3, deadline=2_000.0, attempts=("tonight#2",)
    )
    assert TONIGHT.owns(entry.submission)


def test_video_in_progress_of_this_run_counts_toward_its_generations() -> None:
    (entry,) = plan_for(previous_entry(None, submission("interrupted", run_id="tonight"))).entries
    assert entry.submission is not None
    assert entry.submission.first_generation == 1


def test_rejected_row_is_not_submitted_again() -> None:
    plan = plan_for(previous_entry(None, submission("rejected")))
    assert (status(plan), plan.entries) == ("rejected", [])


@pytest.mark.parametrize("state", ["rejected", "failed", "submitted", "interrupted", "pending"])
def test_submission_with_another_fingerprint_is_ignored(state: str) -> None:
    plan = plan_for(previous_entry(None, submission(state, fingerprint="older")))
    (entry,) = plan.entries
    assert status(plan) == "new"
    assert entry.submission is not None
    assert (entry.submission.state, entry.submission.first_generation, entry.submission.video_id) == (
        "pending",
        0,
        None,
    )


@pytest.mark.parametrize(
    ("state", "run_id", "first_generation"),
    [
        pytest.param("failed", "tonight", 1, id="a retry uses the remaining generations of this run"),
        pytest.param("failed", "earlier", 3, id="another run starts after the failed generation"),
        pytest.param("pending", "earlier", 1, id="a row that was never submitted starts where it was planned to"),
    ],
)
def test_unsaved_row_is_submitted_from_the_right_generation(state: str, run_id: str, first_generation: int) -> None:
    plan = plan_for(previous_entry(None, submission(state, run_id=run_id, posted_at=5.0)))
    (entry,) = plan.entries
    assert entry.submission is not None
    assert (entry.submission.state, entry.submission.first_generation) == ("pending", first_generation)
    assert (entry.submission.client_business_id, entry.submission.video_id, entry.submission.posted_at) == (
        "af-2",
        "v2",
        5.0,
    )


def test_submission_is_superseded_when_the_saved_request_is_back() -> None:
    plan = plan_for(previous_entry(SAVED, submission("submitted", fingerprint="other")))
    (entry,) = plan.entries
    assert (status(plan), entry.state, entry.submission) == ("unchanged", "saved", None)
    assert [video.video_id for video in entry.superseded] == ["v2"]


class TestTwoRuns:
    """Two runs at the same time."""

    FIRST = replace(TONIGHT, run_id="first", try_number=1, deadline=1_000.0)
    SECOND = replace(TONIGHT, run_id="second", try_number=1, deadline=2_000.0)

    def test_attempt_extends_a_deadline_once(self) -> None:
        entry = previous_entry(None, submission("submitted", run_id="first", deadline=1_000.0, attempts=("first#1",)))
        (by_second,) = plan_for(entry, attempt=self.SECOND).entries
        assert by_second.submission is not None
        assert (by_second.submission.run_id, by_second.submission.deadline) == ("second", 2_000.0)
        assert plan_for(by_second, attempt=replace(self.FIRST, deadline=9_000.0)).entries == []
        assert plan_for(by_second, attempt=replace(self.SECOND, deadline=9_000.0)).entries == []

    def test_further_attempt_waits_for_it_again(self) -> None:
        entry = previous_entry(
            None, submission("interrupted", run_id="second", deadline=2_000.0, attempts=("first#1", "second#1"))
        )
        (again,) = plan_for(entry, attempt=replace(self.SECOND, try_number=2, deadline=3_000.0)).entries
        assert again.submission is not None
        assert (again.submission.state, again.submission.deadline) == ("submitted", 3_000.0)
        assert again.submission.attempts == ("first#1", "second#1", "second#2")

    def test_only_latest_attempts_are_recorded(self) -> None:
        entry = previous_entry(None, submission("submitted", attempts=tuple(f"run#{number}" for number in range(16))))
        (again,) = plan_for(entry).entries
        assert again.submission is not None
        assert (len(again.submission.attempts), again.submission.attempts[-1]) == (16, "tonight#2")


class TestRunPlan:
    """The first plan of a run is valid for all its attempts."""

    def test_first_plan_lists_rows_to_submit(self) -> None:
        assert plan_for(None).run_plan.rows == {"shoe": PlannedRow("F", "0.10")}
        assert plan_for(previous_entry(None, submission("submitted"))).run_plan.rows == {
            "shoe": PlannedRow("F", "0.10")
        }
        assert plan_for(previous_entry(SAVED)).run_plan.rows == {}

    @pytest.mark.parametrize(
        "before",
        [
            None,
            previous_entry(replace(SAVED, fingerprint="older")),
            previous_entry(None, submission("failed", fingerprint="older")),
        ],
    )
    @pytest.mark.parametrize("rows", [{}, {"shoe": PlannedRow("older", "0.10")}], ids=["new", "changed"])
    def test_row_changed_after_the_plan_is_postponed_to_the_next_run(
        self, before: ManifestEntry | None, rows: dict[str, PlannedRow]
    ) -> None:
        plan = plan_for(before, run_plan=RunPlan(rows))
        (entry,) = plan.entries
        assert (status(plan), plan.prices, plan.run_plan.rows) == ("postponed", [], rows)
        assert entry.submission == RowSubmission(RowStatus.POSTPONED, "F", "tonight", 2, reason=POSTPONED)
        (next_run,) = plan_for(entry, attempt=replace(TONIGHT, run_id="tomorrow")).entries
        assert next_run.submission == RowSubmission(RowStatus.PENDING, "F", "tomorrow", 2, price_usd="0.10")

    def test_planned_row_is_submitted_again_by_a_retry(self) -> None:
        plan = plan_for(
            previous_entry(None, submission("failed", run_id="tonight")),
            run_plan=RunPlan({"shoe": PlannedRow("F", None)}),
        )
        assert status(plan) == "new"

    def test_video_of_row_changed_after_the_plan_is_waited_for_and_saved(self) -> None:
        before = previous_entry(None, submission("interrupted", fingerprint="older", run_id="tonight"))
        changed = replace(REQUEST, request=VideoRequest(model=MODEL, prompt="It stands"))
        plan = plan_for(before, request=changed, run_plan=RunPlan({"shoe": PlannedRow("older", None)}))
        (entry,) = plan.entries
        assert (status(plan), plan.superseded, entry.superseded) == ("postponed", {}, ())
        assert entry.submission is not None
        assert (entry.submission.state, entry.submission.fingerprint, entry.submission.video_id) == (
            "submitted",
            "older",
            "v2",
        )
        assert entry.prompt == "It turns"


class TestSuperseded:
    """Each billed video that is replaced is recorded as superseded."""

    @pytest.mark.parametrize("state", ["submitted", "interrupted"])
    def test_video_of_changed_row_is_superseded_with_its_cost(self, state: str) -> None:
        plan = plan_for(previous_entry(None, submission(state, fingerprint="older", price_usd="0.25")))
        (entry,) = plan.entries
        (video,) = entry.superseded
        assert plan.superseded == {"shoe": video}
        assert plan.as_dict()["superseded"] == 1
        assert (video.video_id, video.client_business_id, video.price_usd) == ("v2", "af-2", "0.25")
        assert (video.fingerprint, video.run_id) == ("older", "tonight")
        resubmitted = replace(entry, submission=submission("submitted", video_id="v3"))
        (later,) = plan_for(resubmitted, attempt=replace(TONIGHT, run_id="tomorrow")).entries
        assert later.superseded == (video,)

    def test_superseded_video_is_looked_up_when_the_old_row_is_back(self) -> None:
        (entry,) = plan_for(previous_entry(None, submission("submitted", fingerprint="older", posted_at=5.0))).entries
        (back,) = plan_for(entry, request=replace(REQUEST, fingerprint="older")).entries
        assert back.submission is not None
        assert (back.submission.state, back.submission.fingerprint) == ("pending", "older")
        assert (back.submission.first_generation, back.submission.generation) == (2, 2)
        assert (back.submission.client_business_id, back.submission.video_id, back.submission.posted_at) == (
            "af-2",
            "v2",
            5.0,
        )
        assert [video.video_id for video in back.superseded] == ["v2"]
        reattached = replace(back, submission=replace(back.submission, state=RowStatus.SUBMITTED))
        assert reattached.superseded == ()
        assert replace(back, submission=None, saved=replace(SAVED, video_id="v2")).superseded == ()

    @pytest.mark.parametrize(
        "before", [previous_entry(SAVED), previous_entry(None, submission("failed", fingerprint="older"))]
    )
    def test_nothing_is_superseded_without_a_video_in_progress(self, before: ManifestEntry) -> None:
        changed = replace(REQUEST, fingerprint="newer")
        assert plan_for(before, request=changed).superseded == {}

    @pytest.mark.parametrize("in_feed", [True, False])
    def test_video_of_removed_row_is_waited_for(self, in_feed: bool) -> None:
        before = replace(previous_entry(None, submission("submitted")), in_feed=in_feed)
        plan = make_plan([], {"shoe": before}, FILES, PriceList(()), TONIGHT)
        (entry,) = plan.entries
        assert (plan.removed, entry.in_feed) == (int(in_feed), False)
        assert TONIGHT.owns(entry.submission)
        assert entry.submission is not None
        assert (entry.submission.state, entry.submission.deadline) == ("submitted", 2_000.0)


def test_returned_row_is_in_feed_again() -> None:
    (entry,) = plan_for(replace(previous_entry(SAVED), in_feed=False)).entries
    assert entry.in_feed


def test_removed_row_is_recorded_once() -> None:
    plan = make_plan([], {"shoe": previous_entry(SAVED)}, FILES, PriceList(()), TONIGHT)
    (entry,) = plan.entries
    assert (plan.removed, entry.in_feed, entry.saved) == (1, False, SAVED)
    assert make_plan([], {"shoe": entry}, FILES, PriceList(()), TONIGHT).entries == []


def test_invalid_row_is_not_removed() -> None:
    plan = make_plan([RowProblem(1, "shoe", "bad")], {"shoe": previous_entry(SAVED)}, FILES, PriceList(()), TONIGHT)
    assert (plan.removed, plan.entries) == (0, [])


def test_error_lists_first_hundred_invalid_rows_and_counts_the_rest() -> None:
    problems = [RowProblem(number, f"k{number}", "bad") for number in range(1, 151)]
    plan = make_plan(problems, {}, {}, PriceList(()), TONIGHT)
    with pytest.raises(ToAPIsError, match="150 rows") as rejected:
        plan.require_valid()
    assert "Row 100 (key 'k100'): bad" in str(rejected.value)
    assert "Row 101" not in str(rejected.value)
    assert "and 50 more" in str(rejected.value)


def test_estimate_is_unknown_if_one_price_is_unknown() -> None:
    request = replace(REQUEST, request=VideoRequest(model="brand-new", prompt="x"))
    plan = make_plan([REQUEST, replace(request, key="other")], {}, {}, PriceList(()), TONIGHT)
    assert (plan.unpriced, plan.as_dict()["estimated_cost_usd"]) == ({"brand-new"}, None)


def test_unknown_price_of_a_fallback_model_makes_the_cost_unknown() -> None:
    with_fallback = replace(REQUEST, fallbacks=(replace(REQUEST.request, model="brand-new"),))
    plan = make_plan([with_fallback], {}, {}, PriceList(()), TONIGHT)
    assert (plan.unpriced, plan.expected_cost) == ({"brand-new"}, None)


@pytest.mark.parametrize("saved", [None, SAVED])
@pytest.mark.parametrize("submitted", [None, submission("failed", reason="no GPU", deadline=1.5)])
@pytest.mark.parametrize("in_feed", [True, False])
def test_manifest_line_round_trips(saved: SavedVideo | None, submitted: RowSubmission | None, in_feed: bool) -> None:
    superseded = (Superseded("v0", "af-0", "older", "0.10", "2026-01-01T00:00:00Z", "earlier", 2, 1.5),)
    entry = replace(previous_entry(saved, submitted), in_feed=in_feed, superseded=superseded)
    assert ManifestEntry.from_line(entry.as_line()) == entry
