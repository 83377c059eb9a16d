"""What a run has to do about each row, for everything that may be known of it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from airflow_provider_toapis.api.pricing import PriceList
from airflow_provider_toapis.api.requests import VideoRequest
from airflow_provider_toapis.batch.entries import Entry, Kept, Order, OrderState, Superseded
from airflow_provider_toapis.batch.ownership import RunPlan
from airflow_provider_toapis.batch.plan import POSTPONED, Attempt, Plan, make_plan
from airflow_provider_toapis.batch.rows import RowProblem
from airflow_provider_toapis.batch.wishes import Wish
from airflow_provider_toapis.exceptions import ToAPIsError

TONIGHT = Attempt(run="tonight", number=2, now="2026-02-02T00:00:00Z", deadline=2_000.0)
MODEL = "grok-video-1.5-preview"
WISH = Wish(
    number=7, key="shoe", request=VideoRequest(model=MODEL, prompt="It turns"), images=("p.jpg",), fingerprint="F"
)
KEPT = Kept(
    fingerprint="F",
    video_id="video_1",
    client_business_id="af-1",
    generation=1,
    file="shoe.mp4",
    size=5,
    sha256="0" * 64,
    price_usd="0.10",
    billed=True,
    time="2026-01-01T00:00:00Z",
    run="earlier",
    adopted=False,
)
FILES = {"shoe.mp4": 5}


def known(kept: Kept | None = None, order: Order | None = None) -> Entry:
    return Entry(
        key="shoe",
        row=3,
        time="2026-01-01T00:00:00Z",
        prompt="It turns",
        images=("p.jpg",),
        model=MODEL,
        kept=kept,
        order=order,
    )


def order(state: OrderState, fingerprint: str = "F", run: str = "earlier", **fields: object) -> Order:
    made = Order(state, fingerprint, run, attempt=1, base=1, generation=2, client_business_id="af-2", video_id="v2")
    return replace(made, **fields)  # type: ignore[arg-type]


def plan_for(
    entry: Entry | None,
    files: dict[str, int] | None = None,
    wish: Wish = WISH,
    attempt: Attempt = TONIGHT,
    run_plan: RunPlan | None = None,
) -> Plan:
    entries = {} if entry is None else {entry.key: entry}
    prices = PriceList((), Decimal(1))
    return make_plan([wish], entries, FILES if files is None else files, prices, attempt, run_plan=run_plan)


def verdict(plan: Plan) -> str:
    (found,) = [name for name, number in plan.counts.items() if number]
    return found


def test_unknown_row_is_new() -> None:
    plan = plan_for(None)
    (entry,) = plan.entries
    assert verdict(plan) == "new"
    assert (entry.row, entry.prompt, entry.state) == (7, "It turns", "wanted")
    assert entry.order == Order(state="wanted", fingerprint="F", run="tonight", attempt=2, price_usd="0.10")


def test_kept_row_is_unchanged_and_no_news() -> None:
    plan = plan_for(known(KEPT))
    assert (verdict(plan), plan.entries, plan.prices) == ("unchanged", [], [])


@pytest.mark.parametrize("files", [{}, {"shoe.mp4": 4}], ids=["gone", "of another size"])
def test_row_whose_file_is_not_whole_is_made_from_the_generation_that_was_kept(files: dict[str, int]) -> None:
    plan = plan_for(known(replace(KEPT, posted_at=5.0)), files)
    (entry,) = plan.entries
    assert verdict(plan) == "changed"
    assert entry.order is not None
    assert (entry.order.base, entry.order.generation) == (1, 1)
    assert (entry.order.client_business_id, entry.order.video_id, entry.order.posted_at) == ("af-1", "video_1", 5.0)


def test_changed_row_keeps_its_old_video_until_the_new_one_is_there() -> None:
    plan = plan_for(known(replace(KEPT, fingerprint="other")))
    (entry,) = plan.entries
    assert verdict(plan) == "changed"
    assert entry.kept == replace(KEPT, fingerprint="other")
    assert entry.order is not None
    assert (entry.order.base, entry.order.video_id) == (0, None)


@pytest.mark.parametrize("state", ["ordered", "unfinished"])
def test_paid_video_is_waited_for_by_this_attempt(state: OrderState) -> None:
    plan = plan_for(known(None, order(state, deadline=1.0, reason="late")))
    (entry,) = plan.entries
    assert (verdict(plan), plan.prices) == ("under_way", [])
    assert entry.order == order("ordered", run="tonight", attempt=2, base=3, deadline=2_000.0, takers=("tonight#2",))
    assert TONIGHT.owns(entry.order)


def test_paid_video_of_this_run_counts_among_those_that_the_run_may_order() -> None:
    (entry,) = plan_for(known(None, order("unfinished", run="tonight"))).entries
    assert entry.order is not None
    assert entry.order.base == 1


def test_refused_row_is_left_alone() -> None:
    plan = plan_for(known(None, order("refused")))
    assert (verdict(plan), plan.entries) == ("refused", [])


@pytest.mark.parametrize("state", ["refused", "failed", "ordered", "unfinished", "wanted"])
def test_order_for_an_older_wish_does_not_count(state: OrderState) -> None:
    plan = plan_for(known(None, order(state, fingerprint="older")))
    (entry,) = plan.entries
    assert verdict(plan) == "new"
    assert entry.order is not None
    assert (entry.order.state, entry.order.base, entry.order.video_id) == ("wanted", 0, None)


@pytest.mark.parametrize(
    ("state", "run", "base"),
    [
        pytest.param("failed", "tonight", 1, id="a retry may use what is left of this run's generations"),
        pytest.param("failed", "earlier", 3, id="another run begins after the one that failed"),
        pytest.param("wanted", "earlier", 1, id="what was never ordered begins where it was to begin"),
    ],
)
def test_row_that_was_not_made_is_ordered_anew(state: OrderState, run: str, base: int) -> None:
    plan = plan_for(known(None, order(state, run=run, posted_at=5.0)))
    (entry,) = plan.entries
    assert entry.order is not None
    assert (entry.order.state, entry.order.base) == ("wanted", base)
    assert (entry.order.client_business_id, entry.order.video_id, entry.order.posted_at) == ("af-2", "v2", 5.0)


def test_order_is_dropped_when_the_old_wish_is_back() -> None:
    plan = plan_for(known(KEPT, order("ordered", fingerprint="other")))
    (entry,) = plan.entries
    assert (verdict(plan), entry.state, entry.order) == ("unchanged", "kept", None)
    assert [video.video_id for video in entry.superseded] == ["v2"]


class TestTakenOver:
    """Two runs that are alive at the same time."""

    FIRST = replace(TONIGHT, run="first", number=1, deadline=1_000.0)
    SECOND = replace(TONIGHT, run="second", number=1, deadline=2_000.0)

    def test_attempt_extends_a_deadline_once(self) -> None:
        entry = known(None, order("ordered", run="first", deadline=1_000.0, takers=("first#1",)))
        (by_second,) = plan_for(entry, attempt=self.SECOND).entries
        assert by_second.order is not None
        assert (by_second.order.run, by_second.order.deadline) == ("second", 2_000.0)
        assert plan_for(by_second, attempt=replace(self.FIRST, deadline=9_000.0)).entries == []
        assert plan_for(by_second, attempt=replace(self.SECOND, deadline=9_000.0)).entries == []

    def test_further_attempt_waits_for_it_again(self) -> None:
        entry = known(None, order("unfinished", run="second", deadline=2_000.0, takers=("first#1", "second#1")))
        (again,) = plan_for(entry, attempt=replace(self.SECOND, number=2, deadline=3_000.0)).entries
        assert again.order is not None
        assert (again.order.state, again.order.deadline) == ("ordered", 3_000.0)
        assert again.order.takers == ("first#1", "second#1", "second#2")

    def test_few_attempts_are_remembered(self) -> None:
        entry = known(None, order("ordered", takers=tuple(f"run#{number}" for number in range(16))))
        (again,) = plan_for(entry).entries
        assert again.order is not None
        assert (len(again.order.takers), again.order.takers[-1]) == (16, "tonight#2")


class TestRunPlan:
    """What a run has planned holds for all its attempts."""

    def test_first_plan_names_what_may_be_submitted(self) -> None:
        assert plan_for(None).run_plan.rows == {"shoe": ("F", "0.10")}
        assert plan_for(known(None, order("ordered"))).run_plan.rows == {"shoe": ("F", "0.10")}
        assert plan_for(known(KEPT)).run_plan.rows == {}

    @pytest.mark.parametrize(
        "before", [None, known(replace(KEPT, fingerprint="older")), known(None, order("failed", fingerprint="older"))]
    )
    @pytest.mark.parametrize("rows", [{}, {"shoe": ("older", "0.10")}], ids=["new", "changed"])
    def test_row_that_changed_since_is_left_to_the_next_run(
        self, before: Entry | None, rows: dict[str, tuple[str, str | None]]
    ) -> None:
        plan = plan_for(before, run_plan=RunPlan(rows))
        (entry,) = plan.entries
        assert (verdict(plan), plan.prices, plan.run_plan.rows) == ("postponed", [], rows)
        assert entry.order == Order("wanted", "F", "tonight", 2, reason=POSTPONED, postponed=True)
        (next_run,) = plan_for(entry, attempt=replace(TONIGHT, run="tomorrow")).entries
        assert next_run.order == Order("wanted", "F", "tomorrow", 2, price_usd="0.10")

    def test_row_that_was_planned_may_be_submitted_again(self) -> None:
        plan = plan_for(known(None, order("failed", run="tonight")), run_plan=RunPlan({"shoe": ("F", None)}))
        assert verdict(plan) == "new"

    def test_video_of_a_row_that_changed_since_is_waited_for_and_saved(self) -> None:
        before = known(None, order("unfinished", fingerprint="older", run="tonight"))
        changed = replace(WISH, request=VideoRequest(model=MODEL, prompt="It stands"))
        plan = plan_for(before, wish=changed, run_plan=RunPlan({"shoe": ("older", None)}))
        (entry,) = plan.entries
        assert (verdict(plan), plan.superseded, entry.superseded) == ("postponed", {}, ())
        assert entry.order is not None
        assert (entry.order.state, entry.order.fingerprint, entry.order.video_id) == ("ordered", "older", "v2")
        assert entry.prompt == "It turns"


class TestBilled:
    """No billed video is dropped without a word."""

    @pytest.mark.parametrize("state", ["ordered", "unfinished"])
    def test_video_of_a_row_that_changed_is_named_with_its_cost(self, state: OrderState) -> None:
        plan = plan_for(known(None, order(state, fingerprint="older", price_usd="0.25")))
        (entry,) = plan.entries
        (video,) = entry.superseded
        assert plan.superseded == {"shoe": video}
        assert plan.as_dict()["superseded"] == 1
        assert (video.video_id, video.client_business_id, video.price_usd) == ("v2", "af-2", "0.25")
        assert (video.fingerprint, video.run) == ("older", "tonight")
        resubmitted = replace(entry, order=order("ordered", video_id="v3"))
        (later,) = plan_for(resubmitted, attempt=replace(TONIGHT, run="tomorrow")).entries
        assert later.superseded == (video,)

    def test_superseded_video_is_looked_for_when_the_old_row_is_back(self) -> None:
        (entry,) = plan_for(known(None, order("ordered", fingerprint="older", posted_at=5.0))).entries
        (back,) = plan_for(entry, wish=replace(WISH, fingerprint="older")).entries
        assert back.order is not None
        assert (back.order.state, back.order.fingerprint) == ("wanted", "older")
        assert (back.order.base, back.order.generation) == (2, 2)
        assert (back.order.client_business_id, back.order.video_id, back.order.posted_at) == ("af-2", "v2", 5.0)
        assert [video.video_id for video in back.superseded] == ["v2"]
        adopted = replace(back, order=replace(back.order, state="ordered"))
        assert adopted.superseded == ()
        assert replace(back, order=None, kept=replace(KEPT, video_id="v2")).superseded == ()

    @pytest.mark.parametrize("before", [known(KEPT), known(None, order("failed", fingerprint="older"))])
    def test_nothing_is_superseded_where_nothing_is_in_progress(self, before: Entry) -> None:
        changed = replace(WISH, fingerprint="newer")
        assert plan_for(before, wish=changed).superseded == {}

    @pytest.mark.parametrize("in_feed", [True, False])
    def test_video_of_a_row_that_is_missing_is_waited_for(self, in_feed: bool) -> None:
        before = replace(known(None, order("ordered")), in_feed=in_feed)
        plan = make_plan([], {"shoe": before}, FILES, PriceList(()), TONIGHT)
        (entry,) = plan.entries
        assert (plan.vanished, entry.in_feed) == (int(in_feed), False)
        assert TONIGHT.owns(entry.order)
        assert entry.order is not None
        assert (entry.order.state, entry.order.deadline) == ("ordered", 2_000.0)


def test_row_that_came_back_is_in_the_feed_again() -> None:
    (entry,) = plan_for(replace(known(KEPT), in_feed=False)).entries
    assert entry.in_feed


def test_vanished_row_is_noted_once() -> None:
    plan = make_plan([], {"shoe": known(KEPT)}, FILES, PriceList(()), TONIGHT)
    (entry,) = plan.entries
    assert (plan.vanished, entry.in_feed, entry.kept) == (1, False, KEPT)
    assert make_plan([], {"shoe": entry}, FILES, PriceList(()), TONIGHT).entries == []


def test_bad_row_has_not_vanished() -> None:
    plan = make_plan([RowProblem(1, "shoe", "bad")], {"shoe": known(KEPT)}, FILES, PriceList(()), TONIGHT)
    assert (plan.vanished, plan.entries) == (0, [])


def test_hundred_bad_rows_are_named_and_the_others_counted() -> None:
    problems = [RowProblem(number, f"k{number}", "bad") for number in range(1, 151)]
    plan = make_plan(problems, {}, {}, PriceList(()), TONIGHT)
    with pytest.raises(ToAPIsError, match="150 rows") as refused:
        plan.require_valid()
    assert "row 100 (key 'k100'): bad" in str(refused.value)
    assert "row 101" not in str(refused.value)
    assert "and 50 more" in str(refused.value)


def test_estimate_is_unknown_when_one_price_is() -> None:
    wish = replace(WISH, request=VideoRequest(model="brand-new", prompt="x"))
    plan = make_plan([WISH, replace(wish, key="other")], {}, {}, PriceList(()), TONIGHT)
    assert (plan.unpriced, plan.as_dict()["estimate_usd"]) == ({"brand-new"}, None)


@pytest.mark.parametrize("kept", [None, KEPT])
@pytest.mark.parametrize("wanted", [None, order("failed", reason="no GPU", deadline=1.5)])
@pytest.mark.parametrize("in_feed", [True, False])
def test_line_of_the_manifest_is_read_back(kept: Kept | None, wanted: Order | None, in_feed: bool) -> None:
    superseded = (Superseded("v0", "af-0", "older", "0.10", "2026-01-01T00:00:00Z", "earlier", 2, 1.5),)
    entry = replace(known(kept, wanted), in_feed=in_feed, superseded=superseded)
    assert Entry.from_dict(entry.as_dict()) == entry


def test_line_of_an_earlier_release_tells_no_time_of_submission() -> None:
    superseded = (Superseded("v0", "af-0", "older", "0.10", "2026-01-01T00:00:00Z", "earlier"),)
    entry = replace(known(KEPT), superseded=superseded)
    line = entry.as_dict()
    del line["posted_at"], line["superseded"][0]["posted_at"], line["superseded"][0]["generation"]
    assert Entry.from_dict(line) == entry
