"""The spend page: what is counted, where, and how it is shown and exported."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest

from airflow_provider_toapis.version_compat import AIRFLOW_V_3_1_PLUS, AIRFLOW_V_3_4_PLUS

if not AIRFLOW_V_3_1_PLUS:
    pytest.skip("needs Airflow 3.1: earlier versions cannot show pages of plugins", allow_module_level=True)

from airflow.api_fastapi.common.db.common import _get_session
from airflow.api_fastapi.core_api import security
from airflow.models.dag import DagModel
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session

from airflow_provider_toapis.operators.batch import BATCH_KEY
from airflow_provider_toapis.operators.submission_record import VIDEOS_KEY, RecordedSubmission, downloaded_video
from airflow_provider_toapis.ui import spend_page
from airflow_provider_toapis.ui.app import videos_app
from airflow_provider_toapis.ui.spend import MAX_DAYS, Group, Period, Spend, find_spend
from tests.clock import replace_clock
from tests.metadata_database import NOON, metadata_session, record_xcom

MODEL = "grok-video-1.5-preview"
TODAY = date(2026, 3, 31)
MARCH = Period(date(2026, 3, 1), TODAY)
SHOP = {"shop"}


@pytest.fixture
def session() -> Iterator[Session]:
    with metadata_session() as session:
        yield session


def video(video_id: str = "video_1", **fields: Any) -> dict[str, Any]:
    """An entry of the XCom, as a task records it."""
    recorded = RecordedSubmission("", "", "", "key", video_id=video_id, posted_at=NOON.timestamp(), model=MODEL)
    return recorded.as_video(None) | {"status": "completed", "output_path": "/videos/1.mp4"} | fields


def record(session: Session, value: Any, key: str = VIDEOS_KEY, **columns: Any) -> None:
    """Write an XCom of a task instance."""
    record_xcom(session, key, value, **columns)


def record_batch(session: Session, *entries: Any, output_path: str = "/videos", **columns: Any) -> None:
    """Write the XCom of a batch whose spend has these entries."""
    state = {"output_path": output_path, "saved": 5, "spend": list(entries), "reason": None}
    record(session, state, key=BATCH_KEY, **columns)


def total(session: Session, period: Period = MARCH, dag_ids: set[str] = SHOP) -> Spend:
    return sum(find_spend(session, dag_ids, period).values(), start=Spend())


def in_usd(amount: str) -> Decimal:
    return Decimal(amount)


class TestVideo:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"cost_usd": 0.5, "price_usd": 0.6}, Spend(saved=1, billed=in_usd("0.5"))),
            ({"price_usd": 0.6}, Spend(saved=1, expected=in_usd("0.6"))),
            ({}, Spend(saved=1, unpriced=1)),
            ({"output_path": None}, Spend(saved=1, unpriced=1)),
            ({"output_path": None, "reason": "The disk is full."}, Spend(failed=1, unpriced=1)),
            ({"reason": "The video is black.", "cost_usd": 1}, Spend(saved=1, billed=in_usd("1"))),
            ({"status": "queued", "price_usd": 0.6}, Spend(in_progress=1, expected=in_usd("0.6"))),
            ({"status": None, "cost_usd": 0.5}, Spend(in_progress=1, billed=in_usd("0.5"))),
            ({"status": "failed", "cost_usd": 0.5}, Spend(failed=1, failed_cost=in_usd("0.5"))),
            ({"status": "failed", "cost_usd": 0.0, "price_usd": 0.6}, Spend(failed=1, refunded=1)),
            ({"status": "failed", "price_usd": 0.6}, Spend(failed=1, expected=in_usd("0.6"))),
            ({"status": "failed"}, Spend(failed=1, unpriced=1)),
        ],
    )
    def test_is_counted_by_outcome_and_price(self, session: Session, fields: dict[str, Any], expected: Spend) -> None:
        record(session, [video(**fields)])
        assert total(session) == expected

    def test_is_grouped_by_day_dag_task_model_and_outcome(self, session: Session) -> None:
        record(session, [video("a"), video("b", status="failed"), video("c", model="veo3.1-fast")])
        record(session, [video("d")], dag_id="ads", run=2)
        assert list(find_spend(session, {"shop", "ads"}, MARCH)) == [
            Group(NOON.date(), "ads", "make_video", MODEL, "saved"),
            Group(NOON.date(), "shop", "make_video", MODEL, "failed"),
            Group(NOON.date(), "shop", "make_video", MODEL, "saved"),
            Group(NOON.date(), "shop", "make_video", "veo3.1-fast", "saved"),
        ]

    def test_of_other_dags_is_not_counted(self, session: Session) -> None:
        record(session, [video()], dag_id="ads")
        assert find_spend(session, SHOP, MARCH) == {}
        assert find_spend(session, set(), MARCH) == {}

    def test_that_was_downloaded_is_not_counted(self, session: Session) -> None:
        fields = ("id", "status", "model", "client_business_id", "output_path")
        downloaded = downloaded_video(dict.fromkeys(fields, "completed"))
        record(session, [downloaded, video()])
        assert total(session).videos == 1

    def test_amounts_add_up_exactly(self, session: Session) -> None:
        record(session, [video(str(number), cost_usd=0.1) for number in range(30)])
        record(session, [video("other", cost_usd=0.2)], run=2)
        assert total(session).billed == in_usd("3.2")
        assert total(session).per_saved == in_usd("3.2") / 31


class TestDay:
    @pytest.mark.parametrize(
        ("submitted_at", "day"),
        [
            ("2026-03-10T23:30:00+00:00", date(2026, 3, 10)),
            ("2026-03-10T23:30:00Z", date(2026, 3, 10)),
            ("2026-03-10T23:30:00", date(2026, 3, 10)),
            ("2026-03-10T23:30:00-08:00", date(2026, 3, 11)),
            (None, NOON.date()),
            (17, NOON.date()),
            ("yesterday", NOON.date()),
            ("0001-01-01T00:00:00+10:00", NOON.date()),
        ],
    )
    def test_is_that_of_the_submission_in_utc(self, session: Session, submitted_at: Any, day: date) -> None:
        record(session, [video(submitted_at=submitted_at)])
        assert [group.day for group in find_spend(session, SHOP, MARCH)] == [day]

    def test_both_ends_of_the_range_are_counted(self, session: Session) -> None:
        ends = (("2026-03-01T00:00:00+00:00", 1), ("2026-03-31T23:59:59+00:00", 2))
        outside = (("2026-02-28T23:59:59+00:00", 3), ("2026-04-01T00:00:00+00:00", 4))
        for submitted_at, run in (*ends, *outside):
            record(session, [video(f"video_{run}", submitted_at=submitted_at)], run=run)
        assert [group.day for group in find_spend(session, SHOP, MARCH)] == [MARCH.first, MARCH.last]

    def test_xcom_that_was_written_after_the_range_is_read(self, session: Session) -> None:
        record(session, [video()], at=NOON + timedelta(days=90))
        assert total(session).saved == 1


class TestVideoOfSeveralTaskInstances:
    def test_counts_once_with_its_billed_cost(self, session: Session) -> None:
        record(session, [video(price_usd=0.6)], dag_id="shop", run=1)
        record(session, [video(cost_usd=0.5)], dag_id="ads", run=2)
        record(session, [video(price_usd=0.6)], dag_id="shop", run=3)
        ((group, spend),) = find_spend(session, {"shop", "ads"}, MARCH).items()
        assert (group.dag_id, spend) == ("ads", Spend(saved=1, billed=in_usd("0.5")))

    def test_later_runs_cannot_replace_a_billed_cost(self, session: Session) -> None:
        record(session, [video(cost_usd=0.0)], dag_id="ads", run=2)
        record(session, [video(cost_usd=0.5)], run=1)
        assert total(session, dag_ids={"shop", "ads"}).billed == in_usd("0.5")

    def test_is_as_the_last_run_knows_it_until_its_cost_is_billed(self, session: Session) -> None:
        record(session, [video(status="completed", price_usd=0.6)], run=2)
        record(session, [video(status="in_progress", price_usd=0.6)], run=1)
        assert total(session) == Spend(saved=1, expected=in_usd("0.6"))

    def test_counts_once_if_an_xcom_repeats_it(self, session: Session) -> None:
        record(session, [video(cost_usd=0.5)] * 3)
        assert total(session) == Spend(saved=1, billed=in_usd("0.5"))


class TestBatch:
    @pytest.mark.parametrize(
        ("entry", "expected"),
        [
            (
                {"status": "saved", "videos": 5, "cost_usd": 1.5, "price_usd": 1.0, "unpriced": 1},
                Spend(saved=5, billed=in_usd("1.5"), expected=in_usd("1"), unpriced=1),
            ),
            (
                {"status": "submitted", "videos": 2, "cost_usd": 0.0, "price_usd": 1.2, "unpriced": 0},
                Spend(in_progress=2, expected=in_usd("1.2")),
            ),
            (
                {"status": "failed", "videos": 3, "cost_usd": 0.5, "price_usd": 0.0, "unpriced": 0},
                Spend(failed=3, failed_cost=in_usd("0.5")),
            ),
            (
                {"status": "failed", "videos": 3, "cost_usd": 0.0, "price_usd": 0.0, "unpriced": 1},
                Spend(failed=3, refunded=2, unpriced=1),
            ),
            ({"status": "saved", "videos": 2, "unpriced": 9}, Spend(saved=2, unpriced=2)),
        ],
    )
    def test_counts_on_the_day_of_its_last_update(
        self, session: Session, entry: dict[str, Any], expected: Spend
    ) -> None:
        record_batch(session, {"model": MODEL, **entry})
        ((group, spend),) = find_spend(session, SHOP, MARCH).items()
        assert (group.day, group.model, spend) == (NOON.date(), MODEL, expected)

    def test_of_another_day_is_not_counted(self, session: Session) -> None:
        record_batch(session, {"status": "saved", "videos": 5, "cost_usd": 1.5}, at=NOON + timedelta(days=90))
        assert find_spend(session, SHOP, MARCH) == {}

    def test_counts_once_per_run_and_directory(self, session: Session) -> None:
        for videos, columns in (
            (1, {"run": 1, "map_index": 0}),
            (3, {"run": 1, "map_index": 1}),
            (10, {"run": 1, "map_index": 2, "output_path": "/others"}),
            (100, {"run": 2}),
        ):
            record_batch(session, {"status": "saved", "videos": videos}, **columns)
        assert total(session).saved == 113


class TestForgedValue:
    @pytest.mark.parametrize("amount", [float("nan"), float("inf"), -1, 1e300, 10**400, True, "0.5", [], {}, "=1+1"])
    def test_of_an_amount_is_no_amount(self, session: Session, amount: Any) -> None:
        record(session, [video(cost_usd=amount, price_usd=0.6)])
        record(session, [video("other", cost_usd=0.5)], run=2)
        assert total(session) == Spend(saved=2, billed=in_usd("0.5"), expected=in_usd("0.6"))

    @pytest.mark.parametrize("entry", [None, 1, "video", [], {}, {"id": "a"}, {"id": 1, "generation": 0}])
    def test_of_an_entry_is_skipped(self, session: Session, entry: Any) -> None:
        record(session, [entry, video(), video("a", generation="0"), video("b", generation=-1), video("c" * 300)])
        assert total(session).videos == 1

    @pytest.mark.parametrize(
        "value",
        [
            None,
            1,
            "text",
            {},
            [[]],
            {"output_path": "/videos", "spend": 1},
            {"output_path": "/videos", "spend": [1]},
            {"output_path": "/videos", "spend": {}},
        ],
    )
    @pytest.mark.parametrize("key", [VIDEOS_KEY, BATCH_KEY])
    def test_of_an_xcom_is_skipped(self, session: Session, key: str, value: Any) -> None:
        record(session, value, key=key)
        record(session, [video()], run=2)
        assert total(session).videos == 1

    @pytest.mark.parametrize("value", ["", "{", "nonsense", "[" * 10_000, '[{"id": "\\ud800", "generation": 0}]'])
    def test_that_cannot_be_parsed_is_skipped(self, session: Session, value: str) -> None:
        record(session, [video("first")], run=1)
        record(session, [video("other")], run=2)
        table = "xcom_v2" if AIRFLOW_V_3_4_PLUS else "xcom"
        session.execute(text(f"UPDATE {table} SET value = :value WHERE value LIKE '%first%'"), {"value": value})
        assert total(session).videos == 1

    @pytest.mark.parametrize(
        "entry",
        [
            {"status": "rejected", "videos": 1},
            {"status": "saved", "videos": 0},
            {"status": "saved", "videos": 10**9},
            {"status": "saved", "videos": 1.5},
            {"status": "saved", "videos": 1, "unpriced": -1},
            {"status": ["saved"], "videos": 1},
        ],
    )
    def test_of_a_batch_entry_is_skipped(self, session: Session, entry: dict[str, Any]) -> None:
        valid = {"model": 7, "status": "saved", "videos": 2, "cost_usd": float("nan"), "price_usd": -2}
        record_batch(session, entry, valid)
        ((group, spend),) = find_spend(session, SHOP, MARCH).items()
        assert (group.model, spend) == ("", Spend(saved=2))


class TestPeriod:
    @pytest.mark.parametrize(
        ("first", "last", "expected"),
        [
            (None, None, Period(date(2026, 3, 2), TODAY)),
            ("2026-03-10", None, Period(date(2026, 3, 10), TODAY)),
            ("2026-03-10", "2026-03-12", Period(date(2026, 3, 10), date(2026, 3, 12))),
            ("2026-03-12", "2026-03-10", Period(date(2026, 3, 10), date(2026, 3, 10))),
            (None, "2026-03-10", Period(date(2026, 2, 9), date(2026, 3, 10))),
            ("x", "2026-02-30", Period(date(2026, 3, 2), TODAY)),
            ("2026-03-10", "9999-12-31", Period(date(2026, 3, 10), TODAY)),
            ("0001-01-01", "0001-01-01", Period(date(1999, 1, 1), date(2000, 1, 1))),
            ("0001-01-01", None, Period(TODAY - timedelta(days=MAX_DAYS - 1), TODAY)),
        ],
    )
    def test_is_between_the_two_days(self, first: str | None, last: str | None, expected: Period) -> None:
        assert Period.parse(first, last, TODAY) == expected

    def test_has_at_most_a_year(self) -> None:
        days = Period.parse("0001-01-01", None, TODAY).days
        assert (len(days), days[-1]) == (MAX_DAYS, TODAY)


class FakeAuthManager:
    """Lets a user read some DAGs."""

    def __init__(self) -> None:
        self.readable = {"shop", "=cmd"}
        self.checked: list[tuple[str, str]] = []

    def get_authorized_dag_ids(self, *, user: Any, method: str) -> set[str]:
        assert method == "GET"
        return set(self.readable)

    def is_authorized_dag(self, *, method: str, access_entity: Any, details: Any, user: Any) -> bool:
        self.checked.append((method, access_entity.value))
        return True


@pytest.fixture
def auth_manager(monkeypatch: pytest.MonkeyPatch) -> FakeAuthManager:
    fake = FakeAuthManager()
    for module in (spend_page, security):
        monkeypatch.setattr(module, "get_auth_manager", lambda: fake)
    monkeypatch.setattr(DagModel, "get_team_name", lambda dag_id: None)
    replace_clock(monkeypatch, datetime(TODAY.year, TODAY.month, TODAY.day, 1, tzinfo=UTC).timestamp)
    return fake


@pytest.fixture
def client(session: Session, auth_manager: FakeAuthManager) -> TestClient:
    app = videos_app()
    app.dependency_overrides[_get_session] = lambda: session
    app.dependency_overrides[security.get_user] = lambda: "a user"
    return TestClient(app)


def cells(page: str) -> list[list[str]]:
    """Return the texts of the rows of all tables."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [re.findall(r">([^<>\n]+)<", row) for row in rows]


class TestPage:
    def test_shows_the_same_sums_by_day_dag_and_model(self, client: TestClient, session: Session) -> None:
        record(session, [video("a", cost_usd=1234.565), video("b", status="failed", cost_usd=0.01)])
        record(session, [video("c", status="queued", price_usd=0.5), video("d", status="failed", cost_usd=0)], run=2)
        sums = ["1", "1", "2", "$1,234.57", "$0.50", "$0.01", "1", "0", "$1,235.08", "$1,235.08"]
        page = client.get("/spend").text
        rows = cells(page)
        assert rows[1::3] == [["2026-03-15", *sums], ["shop", *sums], [MODEL, *sums]]
        assert rows[2::3] == [["Total", *sums]] * 3
        assert page.count("$1,235.08 on 2026-03-15") == 2

    def test_stacks_the_amounts_of_each_day(self, client: TestClient, session: Session) -> None:
        record(session, [video("a", cost_usd=1), video("b", price_usd=2), video("c", status="failed", cost_usd=1)])
        record(session, [video("d", cost_usd=1, submitted_at="2026-03-31T00:00:00Z")], run=2)
        page = client.get("/spend", params={"from": "2026-03-14"}).text
        assert re.findall(r'<rect class="(\w+)" x="(\d+)" y="([\d.]+)" width="8" height="([\d.]+)"/>', page) == [
            ("billed", "10", "75.0", "25.0"),
            ("expected", "10", "25.0", "50.0"),
            ("failed", "10", "0.0", "25.0"),
            ("billed", "170", "75.0", "25.0"),
        ]
        assert 'viewBox="0 0 180 100"' in page

    def test_without_amounts_has_no_chart(self, client: TestClient, session: Session) -> None:
        record(session, [video()])
        page = client.get("/spend").text
        assert "<svg" not in page
        assert cells(page)[1][-1] == "$0.00"

    def test_without_videos_has_no_table(self, client: TestClient) -> None:
        response = client.get("/spend", params={"from": "2025-01-01", "to": "2025-01-02"})
        assert (response.status_code, "<table" in response.text) == (200, False)
        assert 'value="2025-01-01"' in response.text

    def test_of_one_dag_counts_only_that_dag(self, client: TestClient, session: Session) -> None:
        record(session, [video("a")])
        record(session, [video("b")], dag_id="=cmd", run=2)
        page = client.get("/spend").text
        (href,) = re.findall(r'<a href="([^"]*dag_id=shop)">', page)
        assert cells(client.get(href.replace("&amp;", "&")).text)[-1][1] == "1"
        assert cells(page)[-1][1] == "2"

    @pytest.mark.parametrize("path", ["/spend", "/spend.csv"])
    def test_of_other_dags_is_empty(self, client: TestClient, session: Session, path: str) -> None:
        record(session, [video()], dag_id="secret")
        for params in ({}, {"dag_id": "secret"}):
            assert not re.search(MODEL, client.get(path, params=params).text)

    @pytest.mark.parametrize("path", ["/spend", "/spend.csv"])
    def test_needs_the_permissions_of_the_list(
        self, client: TestClient, auth_manager: FakeAuthManager, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert client.get(path).status_code == 200
        assert sorted(auth_manager.checked) == [("GET", "TASK_INSTANCE"), ("GET", "XCOM")]
        monkeypatch.setattr(auth_manager, "is_authorized_dag", lambda **_: False)
        assert client.get(path).status_code == 403

    @pytest.mark.parametrize("path", ["/spend", "/spend.csv"])
    def test_needs_a_user(self, path: str) -> None:
        assert TestClient(videos_app()).get(path).status_code == 401

    def test_escapes_every_text(self, client: TestClient, session: Session) -> None:
        attack = "\"'><script>alert(1)</script>"
        record(session, [video(model=attack)])
        page = client.get("/spend", params={"dag_id": "", "from": attack}).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page

    def test_adds_up_the_models_that_have_no_room(self, client: TestClient, session: Session) -> None:
        record(session, [video(f"video_{number}", model=f"m{number}", cost_usd=number) for number in range(1, 111)])
        rows = cells(client.get("/spend").text)
        assert (rows[-103][0], rows[-102][0], rows[-3][0]) == ("Model", "m110", "m11")
        assert (rows[-2][:2], rows[-2][4], rows[-1][4]) == (["10 others", "10"], "$55.00", "$6,105.00")


class TestExport:
    def test_has_a_line_per_group(self, client: TestClient, session: Session) -> None:
        record(session, [video("a", cost_usd=0.1), video("b", cost_usd=0.2), video("c", price_usd=0.3)])
        record(session, [video("d", status="failed", cost_usd=0.4), video("e", status="failed", cost_usd=0)], run=2)
        record(session, [video("f", status="queued")], run=3)
        response = client.get("/spend.csv")
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        assert response.headers["content-disposition"] == (
            'attachment; filename="video-spend-2026-03-02-to-2026-03-31.csv"'
        )
        group = {"day": "2026-03-15", "dag_id": "shop", "task_id": "make_video", "model": MODEL}
        numbers = ("videos", "billed_usd", "expected_usd", "refunded_videos", "videos_without_price")
        assert list(csv.DictReader(StringIO(response.text))) == [
            {**group, "outcome": outcome, **dict(zip(numbers, values, strict=True))}
            for outcome, values in (
                ("failed", ("2", "0.400000", "0.000000", "1", "0")),
                ("in progress", ("1", "0.000000", "0.000000", "0", "1")),
                ("saved", ("3", "0.300000", "0.300000", "0", "0")),
            )
        ]

    @pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
    def test_has_no_formulas(self, client: TestClient, session: Session, start: str) -> None:
        model = f'{start}HYPERLINK("https://evil.example", "x"),\n=1+1'
        record(session, [video(model=model)], dag_id="=cmd")
        (line,) = csv.DictReader(StringIO(client.get("/spend.csv").text, newline=""))
        assert (line["dag_id"], line["model"]) == ("'=cmd", f"'{model}")


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("0", "$0.00"), ("0.005", "$0.01"), ("0.0049", "$0.00"), ("2.675", "$2.68"), ("1234567.8", "$1,234,567.80")],
)
def test_amounts_are_rounded_half_up_to_cents(amount: str, shown: str) -> None:
    assert spend_page.usd(Decimal(amount)) == shown


def test_task_that_submitted_a_video_is_counted(session: Session) -> None:
    """The record of a task has every field that is read, as JSON."""
    recorded = RecordedSubmission(
        "", "", "", "key", video_id="v", status="completed", model=MODEL, posted_at=NOON.timestamp(), cost_usd=0.5
    )
    record(session, json.loads(json.dumps([recorded.as_video(None)])), at=NOON + timedelta(days=2))
    group = Group(NOON.date(), "shop", "make_video", MODEL, "saved")
    assert find_spend(session, SHOP, MARCH) == {group: Spend(saved=1, billed=in_usd("0.5"))}
