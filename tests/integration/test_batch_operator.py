"""A catalog over real HTTP: each row is made once, kept, and made again only when it changed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_toapis.batch.manifest import Manifest
from airflow_provider_toapis.batch.runner import Batch
from airflow_provider_toapis.exceptions import (
    ToAPIsBatchError,
    ToAPIsQuotaError,
    ToAPIsRequestError,
    ToAPIsWaitInterruptedError,
)
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.triggers.video import ToAPIsVideoBatchTrigger
from tests.airflow_task import FakeTaskInstance, attempt, deferral, fired, stored_and_loaded
from tests.errors import claims_nothing_was_billed
from tests.integration.conftest import PROMPT, Clock, connect, posts
from tests.integration.emulator_process import EmulatorProcess

HOUR = 3600
BOTH_WAYS = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "in the worker"])


class Shop:
    """Runs the nightly batch of a shop: each run is a new Airflow run, each attempt a new try."""

    def __init__(self, picture: str, folder: Path) -> None:
        self.folder = folder
        self.picture = picture
        self.rows: Any = []
        self.nights = 0
        self.ti = FakeTaskInstance()

    def feed(self, count: int) -> None:
        self.rows = [{"key": f"sku-{n}", "prompt": f"{PROMPT} {n}", "image": self.picture} for n in range(count)]

    def writes(self, **fields: Any) -> Callable[[], ToAPIsVideoBatchOperator]:
        defaults: dict[str, Any] = {
            "task_id": "catalog",
            "requests": self.rows,
            "output_path": str(self.folder),
            "deferrable": False,
        }
        return lambda: ToAPIsVideoBatchOperator(**(defaults | fields))

    def night(self, **fields: Any) -> Any:
        self.nights += 1
        self.ti = FakeTaskInstance(task_id="catalog", run_id=f"scheduled__{self.nights}")
        return attempt(self.writes(**fields), self.ti)

    def leaves_under_way(self, service: EmulatorProcess) -> None:
        """Let a night end while its videos wait to be fetched."""
        self.ti = FakeTaskInstance(task_id="catalog", run_id="scheduled__0")
        waiting = deferral(lambda: self.writes(deferrable=True)().execute(self.ti.context))
        for video_id in cast("ToAPIsVideoBatchTrigger", waiting.trigger).video_ids:
            service.finish(video_id)

    def retry(self, **fields: Any) -> Any:
        return attempt(self.writes(**fields), self.ti.next_attempt())

    def manifest(self) -> dict[str, dict[str, Any]]:
        lines = (self.folder / "manifest.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        assert len({entry["key"] for entry in entries}) == len(entries)
        return {entry["key"]: entry for entry in entries}


@pytest.fixture
def shop(picture: str, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Shop:
    # The loop of the triggerer really waits for it.
    monkeypatch.setattr("airflow_provider_toapis.operators.batch.SECONDS_BETWEEN_RESUMPTIONS", 0.0)
    return Shop(picture, tmp_path / "videos")


def billed(service: EmulatorProcess) -> list[dict[str, Any]]:
    return list(service.ledger()["billed"])


def ordered(service: EmulatorProcess) -> int:
    return int(service.ledger()["posted"])


class TestCatalog:
    @BOTH_WAYS
    def test_every_row_is_made_once_and_kept(self, service: EmulatorProcess, shop: Shop, deferrable: bool) -> None:
        shop.feed(12)
        result = shop.night(deferrable=deferrable)
        assert (result["saved"], result["unchanged"], result["failed"]) == (12, 0, 0)
        assert result["cost_usd"] == 1.2
        manifest = shop.manifest()
        assert {entry["video_id"] for entry in manifest.values()} == {video["id"] for video in billed(service)}
        for key, entry in manifest.items():
            content = (shop.folder / f"{key}.mp4").read_bytes()
            assert (entry["state"], entry["file"], entry["size"]) == ("saved", f"{key}.mp4", len(content))
            assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert "sku-11" in Path(result["report"]).read_text()
        assert list((shop.folder / ".manifest").glob("**/*.jsonl")) == []

    def test_second_night_bills_nothing(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(5)
        shop.night()
        service.clear_requests()
        result = shop.night()
        assert (result["saved"], result["unchanged"]) == (0, 5)
        assert len(billed(service)) == 5
        assert set(service.request_counts()) <= {"pricing"}


class TestOnlyWhatChanged:
    def test_changed_rows_are_made_again_and_take_the_place_of_the_old_files(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(4)
        shop.night()
        before = shop.manifest()
        shop.rows[1]["prompt"] = "Something else happens"
        shop.rows[2]["revision"] = 2
        result = shop.night()
        assert (result["saved"], result["unchanged"]) == (2, 2)
        after = shop.manifest()
        changed = {key for key in after if after[key]["video_id"] != before[key]["video_id"]}
        assert changed == {"sku-1", "sku-2"}
        assert len(billed(service)) == 6

    def test_removed_file_is_fetched_again_and_not_ordered(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(2)
        shop.night()
        (shop.folder / "sku-1.mp4").unlink()
        result = shop.night()
        assert (result["saved"], result["unchanged"]) == (1, 1)
        assert (shop.folder / "sku-1.mp4").exists()
        assert len(billed(service)) == 2

    def test_vanished_row_is_reported_and_its_video_stays(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        shop.night()
        del shop.rows[0]
        assert shop.night()["removed"] == 1
        entry = shop.manifest()["sku-0"]
        assert (entry["in_feed"], entry["file"]) == (False, "sku-0.mp4")
        shop.feed(3)
        assert shop.night()["unchanged"] == 3
        assert len(billed(service)) == 3

    def test_changed_content_of_a_local_picture_makes_another_video(
        self, service: EmulatorProcess, shop: Shop, picture_file: Path
    ) -> None:
        shop.rows = [{"key": "a", "prompt": PROMPT, "image": str(picture_file)}]
        shop.night()
        assert shop.night()["unchanged"] == 1
        other = service.get("/shop/images/mug.jpg").raise_for_status().content
        picture_file.write_bytes(other)
        plan = shop.night(dry_run=True)
        assert (plan["changed"], plan["unchanged"]) == (1, 0)


class TestFeed:
    @pytest.mark.parametrize("ending", ["jsonl", "csv"])
    def test_file_is_read(self, service: EmulatorProcess, shop: Shop, tmp_path: Path, ending: str) -> None:
        rows = [f'{{"key": "a", "prompt": "one", "image": "{shop.picture}"}}', ""]
        if ending == "csv":
            rows = ["key,prompt,image,duration", f"a,one,{shop.picture},10"]
        feed = tmp_path / f"feed.{ending}"
        feed.write_text("\n".join(rows))
        assert shop.night(requests=str(feed))["saved"] == 1
        assert shop.manifest()["a"]["prompt"] == "one"
        assert len(billed(service)) == 1

    def test_all_bad_rows_are_told_before_anything_is_paid(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(4)
        shop.rows[0]["duration"] = 99
        shop.rows[1]["key"] = "sku-3"
        shop.rows[2]["promt"] = "x"
        with pytest.raises(ToAPIsRequestError) as refused:
            shop.night()
        for told in ("3 rows", "Row 1 (key 'sku-0')", "duration=99", "Row 3", "promt", "Row 4", "first used in row 2"):
            assert told in str(refused.value)
        assert isinstance(refused.value, AirflowFailException)
        assert posts(service) == []

    @pytest.mark.parametrize("given", [None, {"key": "a", "prompt": "x"}, 5], ids=["None", "dictionary", "number"])
    def test_what_is_no_feed_is_refused_for_good(self, service: EmulatorProcess, shop: Shop, given: Any) -> None:
        with pytest.raises(ToAPIsRequestError, match=f"requests='{type(given).__name__}'.*a list of rows") as refused:
            shop.night(requests=given)
        assert isinstance(refused.value, AirflowFailException)
        assert posts(service) == []

    def test_rows_that_a_template_or_a_cut_text_spoiled_are_rejected_before_anything_is_billed(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(30)
        spoiled: dict[str, Any] = {
            "prompt": f"{PROMPT} \ud83d",
            "image": "None",
            "parameters": {"title": "\ud83d"},
            "aspect_ratio": "None",
            "model": "None",
            "key": "\ud83d",
        }
        for number, (field, value) in enumerate(spoiled.items(), start=10):
            shop.rows[number][field] = value
        shop.rows[20]["prompt"] = "None"
        with pytest.raises(ToAPIsRequestError, match="7 rows") as rejected:
            shop.night()
        message = str(rejected.value)
        for number, field in enumerate(spoiled, start=11):
            assert re.search(rf"^Row {number}\b.*: Invalid {field}[=.]", message, re.M)
        assert re.search(r"^Row 21 \(key 'sku-20'\): Invalid prompt='None'", message, re.M)
        assert PROMPT not in message
        assert billed(service) == []

    def test_dry_run_returns_the_plan_and_leaves_no_trace(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        shop.night()
        shop.feed(5)
        shop.rows[0]["prompt"] = "New words"
        shop.rows[4]["duration"] = "long"
        before = shop.manifest()
        plan = shop.night(dry_run=True)
        problems = plan.pop("errors")
        assert len(problems) == 1
        assert plan == {
            "new": 1,
            "changed": 1,
            "unchanged": 2,
            "submitted": 0,
            "rejected": 0,
            "invalid": 1,
            "removed": 0,
            "superseded": 0,
            "estimated_cost_usd": 0.2,
        }
        assert shop.manifest() == before
        assert len(billed(service)) == 3


class TestBudget:
    def test_too_expensive_is_refused_before_anything_is_paid(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(5)
        with pytest.raises(ToAPIsRequestError, match=r"0\.50 USD.*max_cost_usd=0\.49"):
            shop.night(max_cost_usd="0.49")
        assert posts(service) == []
        assert shop.retry(max_cost_usd=0.5)["saved"] == 5

    def test_unknown_price_is_refused_where_there_is_a_budget(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(2)
        with pytest.raises(ToAPIsRequestError, match=r"price_usd.*brand-new"):
            shop.night(model="brand-new", max_cost_usd=1)
        assert shop.night(model="brand-new", max_cost_usd=1, price_usd=0.3, dry_run=True)["estimated_cost_usd"] == 0.6

    def test_balance_that_is_too_small_is_told_at_once(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        service.add_fault(
            on="balance",
            kind="status",
            status=200,
            body={"success": True, "remain_balance": 0.2, "remain_credits": 40, "credits_per_usd": 200},
        )
        with pytest.raises(ToAPIsQuotaError, match=r"0\.30 USD.*0\.20 USD"):
            shop.night()
        assert posts(service) == []


SUCCESSOR = {"model": "grok-video-1.5", "duration": 4}
PER_SECOND = {"charge_type": "per_second", "price_basis": "output_seconds", "unit": "second", "unit_price": "0.01"}
#: The example of a price with several parts.
PARTS = {**PER_SECOND, "minimum_charge_usd": "0.50", "input_image_unit_price": "0.05", "free_input_image_count": 1}
UNCLEAR = pytest.mark.parametrize(
    "entry",
    [
        {**PER_SECOND, "audio_unit_price": "0.02"},
        {**PER_SECOND, "unit_price": "0"},
        {**PER_SECOND, "unit_price": "-0.01"},
        {**PER_SECOND, "image_token_prices": {"image_output": "8"}},
        {**PER_SECOND, "pricing_peak_windows": {"09:00": "0.05"}},
        {"charge_type": "per_token", "unit": "1m_tokens", "unit_price": "4"},
        {},
    ],
    ids=["unknown part", "zero", "negative", "tokens", "windows", "per token", "nothing"],
)


class TestListedPrices:
    def test_every_part_is_in_estimate_budget_bill_and_page(
        self, service: EmulatorProcess, shop: Shop, logged: Callable[[], str]
    ) -> None:
        service.list_prices("grok-video-1.5", PARTS)
        shop.feed(2)
        assert shop.night(dry_run=True, **SUCCESSOR)["estimated_cost_usd"] == 1.0
        with pytest.raises(ToAPIsRequestError, match=r"1\.00 USD.*max_cost_usd=0\.99"):
            shop.night(max_cost_usd="0.99", **SUCCESSOR)
        assert posts(service) == []
        result = shop.retry(max_cost_usd="1.00", **SUCCESSOR)
        assert "Expected cost: 1.00 USD" in logged()
        assert (result["saved"], result["cost_usd"]) == (2, 1.0)
        assert [charge["cost_usd"] for charge in billed(service)] == ["0.50", "0.50"]
        assert "$1.00" in Path(result["report"]).read_text()

    def test_further_images_count(self, service: EmulatorProcess, shop: Shop) -> None:
        service.list_prices("grok-video-1.5", {**PARTS, "minimum_charge_usd": "0.05"})
        shop.feed(1)
        shop.rows[0]["image"] = [f"{shop.picture}?{n}" for n in range(3)]
        assert shop.night(dry_run=True, **SUCCESSOR)["estimated_cost_usd"] == 0.14
        shop.night(**SUCCESSOR)
        assert [charge["cost_usd"] for charge in billed(service)] == ["0.14"]

    def test_expected_price_is_in_manifest_and_page_until_the_bill_is_known(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        service.list_prices("grok-video-1.5-preview", {**PARTS, "minimum_charge_usd": "0.75"})
        service.add_fault(on="status", kind="variant", remove=["billing"], times=-1)
        shop.feed(1)
        result = shop.night()
        (entry,) = shop.manifest().values()
        assert (entry["price_usd"], entry["billed"]) == ("0.75", False)
        assert "$0.75" in Path(result["report"]).read_text()

    def test_dearest_window_counts(self, service: EmulatorProcess, shop: Shop) -> None:
        windows = [{"start": "09:00", "end": "12:00", "unit_price": "0.03"}]
        service.list_prices("grok-video-1.5", {**PER_SECOND, "pricing_peak_windows": windows})
        shop.feed(1)
        assert shop.night(dry_run=True, **SUCCESSOR)["estimated_cost_usd"] == 0.12

    def test_balance_is_compared_with_every_part(self, service: EmulatorProcess, shop: Shop) -> None:
        service.list_prices("grok-video-1.5", {**PARTS, "minimum_charge_usd": "60"})
        shop.feed(2)
        with pytest.raises(ToAPIsQuotaError, match=r"120 USD"):
            shop.night(**SUCCESSOR)
        assert posts(service) == []

    @UNCLEAR
    def test_price_that_is_not_understood_is_unknown(
        self, service: EmulatorProcess, shop: Shop, entry: dict[str, Any]
    ) -> None:
        service.list_prices("grok-video-1.5", entry)
        shop.feed(1)
        assert shop.night(dry_run=True, **SUCCESSOR)["estimated_cost_usd"] is None
        with pytest.raises(ToAPIsRequestError, match=r"price_usd.*grok-video-1\.5"):
            shop.night(max_cost_usd=100, **SUCCESSOR)
        assert posts(service) == []
        assert shop.night(dry_run=True, price_usd="0.3", **SUCCESSOR)["estimated_cost_usd"] == 0.3

    def test_old_price_of_the_catalog_is_no_substitute(self, service: EmulatorProcess, shop: Shop) -> None:
        service.list_prices("grok-video-1.5-preview", PER_SECOND, currency="CNY")
        shop.feed(1)
        assert shop.night(dry_run=True)["estimated_cost_usd"] is None

    def test_model_without_prices_is_not_free(self, service: EmulatorProcess, shop: Shop) -> None:
        service.list_prices("grok-video-1.5")
        shop.feed(1)
        assert shop.night(dry_run=True, **SUCCESSOR)["estimated_cost_usd"] is None

    def test_fixed_price_of_the_successor_is_gone(self, service: EmulatorProcess, shop: Shop) -> None:
        service.add_fault(on="pricing", kind="error", name="pricing_unavailable", times=-1)
        shop.feed(1)
        assert shop.night(dry_run=True, **SUCCESSOR)["estimated_cost_usd"] is None
        assert shop.night(dry_run=True)["estimated_cost_usd"] == 0.1


class TestFailures:
    def test_few_are_told_and_the_next_attempt_is_not_needed(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(4)
        service.add_fault(on="submit", kind="status", status=400, body={"error": {"message": "no such picture"}})
        result = shop.night(max_failures=1)
        assert (result["saved"], result["failed"]) == (3, 1)
        (failed,) = [entry for entry in shop.manifest().values() if entry["state"] == "failed"]
        assert "no such picture" in failed["submission"]["reason"]
        assert shop.night()["saved"] == 1
        assert len(billed(service)) == 4

    def test_too_many_fail_the_task_and_a_retry_makes_only_what_is_missing(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(6)
        service.add_fault(on="submit", kind="task_failed", times=2, code="generation_failed", message="no GPU")
        with pytest.raises(ToAPIsBatchError, match="2 rows failed"):
            shop.night(max_failures=1)
        assert sum(entry["state"] == "saved" for entry in shop.manifest().values()) == 4
        result = shop.retry(max_failures=1)
        assert (result["saved"], result["failed"]) == (6, 0)
        assert len({video["client_business_id"] for video in billed(service)}) == len(billed(service)) == 8

    def test_refused_content_is_not_ordered_again_until_the_row_changes(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(3)
        service.add_fault(on="submit", kind="error", name="content_policy")
        assert shop.night(max_failures=1)["failed"] == 1
        assert (shop.night()["rejected"], ordered(service)) == (1, 2)
        (refused,) = [row for row in shop.rows if shop.manifest()[row["key"]]["state"] == "rejected"]
        refused["prompt"] = "A quiet picture"
        assert shop.night()["saved"] == 1

    def test_no_money_stops_the_orders_and_keeps_what_is_under_way(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(40)
        fault = service.add_fault(
            on="submit", kind="status", status=402, body={"error": {"message": "quota"}}, times=-1
        )
        assert fault
        with pytest.raises(ToAPIsQuotaError):
            shop.night()
        assert len(posts(service)) < 40
        service.clear_faults()
        assert shop.retry()["saved"] == 40
        assert len(billed(service)) == 40

    def test_late_video_is_gone_on_with_by_the_next_attempt(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(2)
        service.add_fault(on="status", kind="task_status", value="in_progress", times=-1)
        with pytest.raises(ToAPIsBatchError, match="not ready in time"):
            shop.night(timeout=1)
        service.clear_faults()
        assert shop.retry()["saved"] == 2
        assert len(billed(service)) == 2


class TestPrivate:
    """What the author writes stands in no reason."""

    SECRET = "no logos of the competitor, no red shoes"

    @BOTH_WAYS
    @pytest.mark.parametrize("whose", ["row", "operator"])
    def test_failed_video_quotes_no_text_of_the_parameters(
        self, service: EmulatorProcess, shop: Shop, whose: str, deferrable: bool
    ) -> None:
        shop.feed(1)
        parameters = {"metadata": {"negative_prompt": [self.SECRET]}}
        if whose == "row":
            shop.rows[0]["parameters"] = parameters
        message = f"cannot follow '{self.SECRET[3:30]}'"
        service.add_fault(on="submit", kind="task_failed", code="generation_failed", message=message)
        with pytest.raises(ToAPIsBatchError, match="generation_failed") as failed:
            shop.night(deferrable=deferrable, parameters=parameters if whose == "operator" else None)
        assert "logos" not in str(failed.value)
        assert "logos" not in (shop.folder / "manifest.jsonl").read_text()

    def test_refused_order_quotes_no_text_of_the_parameters(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(1)
        shop.rows[0]["parameters"] = {"metadata": {"negative_prompt": self.SECRET}}
        body = {"error": {"message": f"odd: {self.SECRET}"}}
        service.add_fault(on="submit", kind="status", status=400, body=body)
        with pytest.raises(ToAPIsBatchError, match="odd") as failed:
            shop.night()
        assert "logos" not in str(failed.value)

    def test_parameters_that_are_a_text_are_not_quoted(self, service: EmulatorProcess, shop: Shop) -> None:
        with pytest.raises(ToAPIsRequestError, match="parameters='str'"):
            shop.night(parameters=self.SECRET)


def forget(service: EmulatorProcess) -> None:
    """Let the service find none of its videos, by id or by key."""
    for video in billed(service):
        for name in ("id", "client_business_id"):
            service.add_fault(on="status", kind="error", name="task_not_exist", match=video[name], times=-1)


class TestGone:
    """What is under way is not there any more when the next night asks for it."""

    @pytest.fixture
    def left(self, service: EmulatorProcess, shop: Shop) -> Shop:
        shop.feed(2)
        shop.leaves_under_way(service)
        return shop

    @BOTH_WAYS
    def test_expired_video_is_ordered_anew_by_the_next_attempt(
        self, service: EmulatorProcess, left: Shop, clock: Clock, logged: Callable[[], str], deferrable: bool
    ) -> None:
        clock.sleep(25 * HOUR)
        with pytest.raises(ToAPIsBatchError, match="was billed and is lost"):
            left.night(deferrable=deferrable, max_generations=1)
        assert "Price of the lost video: 0.10 USD" in logged()
        assert {entry["state"] for entry in left.manifest().values()} == {"failed"}
        # What is lost was another night's money.
        result = left.retry(deferrable=deferrable, max_generations=1, max_cost_usd="0.20")
        assert (result["saved"], result["failed"]) == (2, 0)
        assert len({video["client_business_id"] for video in billed(service)}) == len(billed(service)) == 4

    def test_expired_video_is_ordered_anew_by_the_next_night(
        self, service: EmulatorProcess, left: Shop, clock: Clock
    ) -> None:
        clock.sleep(25 * HOUR)
        assert left.night(max_failures=2)["failed"] == 2
        assert left.night(dry_run=True)["estimated_cost_usd"] == 0.2
        assert left.night(max_failures=0, max_generations=1)["saved"] == 2
        assert len(billed(service)) == 4

    def test_expired_video_whose_link_is_gone_too_is_ordered_anew(
        self, service: EmulatorProcess, left: Shop, clock: Clock
    ) -> None:
        clock.sleep(25 * HOUR)
        service.add_fault(on="status", kind="no_url", times=2)
        assert left.night(max_failures=2)["failed"] == 2
        assert left.retry()["saved"] == 2
        assert len(billed(service)) == 4

    def test_expired_video_whose_link_still_lives_is_kept(
        self, service: EmulatorProcess, left: Shop, clock: Clock
    ) -> None:
        clock.sleep(HOUR)
        service.add_fault(on="status", kind="variant", merge={"expires_at": 1}, times=-1)
        assert left.night()["saved"] == 2
        assert len(billed(service)) == 2

    def test_video_that_is_being_made_is_not_lost_whatever_it_says_of_its_result(
        self, service: EmulatorProcess, left: Shop
    ) -> None:
        service.add_fault(on="status", kind="variant", merge={"status": "in_progress", "expires_at": 1}, times=-1)
        with pytest.raises(ToAPIsBatchError, match="not ready in time"):
            left.night(timeout=1)
        assert {entry["state"] for entry in left.manifest().values()} == {"interrupted"}

    @pytest.mark.parametrize("next_one", ["retry", "night"])
    def test_video_that_the_service_has_forgotten_after_a_day_is_ordered_anew(
        self, service: EmulatorProcess, left: Shop, clock: Clock, next_one: str
    ) -> None:
        clock.sleep(25 * HOUR)
        service.reset()
        service.advance(clock.offset)
        with pytest.raises(ToAPIsBatchError):
            left.night()
        # A video that may still be found is `interrupted`.
        assert {line["state"] for line in left.manifest().values()} == {"failed"}
        assert posts(service) == []
        run = left.retry if next_one == "retry" else left.night
        assert run(max_failures=0, max_generations=1)["saved"] == 2
        assert ordered(service) == 2

    @pytest.mark.parametrize("next_one", ["retry", "night"])
    def test_video_that_the_service_does_not_find_within_a_day_is_not_ordered_anew(
        self, service: EmulatorProcess, left: Shop, clock: Clock, next_one: str
    ) -> None:
        clock.sleep(HOUR)
        forget(service)
        run = left.retry if next_one == "retry" else left.night
        for once_more in (left.night, run):
            with pytest.raises(ToAPIsBatchError):
                once_more()
        service.clear_faults()
        assert run()["saved"] == 2
        assert ordered(service) == 2

    @pytest.mark.parametrize("status", [401, 403])
    def test_video_that_cannot_be_asked_for_is_not_ordered_anew(
        self, service: EmulatorProcess, left: Shop, clock: Clock, status: int
    ) -> None:
        clock.sleep(25 * HOUR)
        service.add_fault(on="status", kind="status", status=status, body={"error": {"message": "no"}}, times=-1)
        with pytest.raises(ToAPIsBatchError):
            left.night()
        with pytest.raises(ToAPIsBatchError):
            left.retry()
        assert {entry["state"] for entry in left.manifest().values()} == {"interrupted"}
        assert ordered(service) == 2


def invalid_row(shop: Shop, _: EmulatorProcess) -> dict[str, Any]:
    return {"requests": [*shop.rows, {"key": "bad", "duration": 99}]}


def no_feed(_: Shop, __: EmulatorProcess) -> dict[str, Any]:
    return {"requests": None}


def too_expensive(shop: Shop, _: EmulatorProcess) -> dict[str, Any]:
    return {"requests": [*shop.rows, {**shop.rows[0], "key": "new"}], "max_cost_usd": 0.05}


def no_money(shop: Shop, service: EmulatorProcess) -> dict[str, Any]:
    body = {"success": True, "remain_balance": 0.05, "remain_credits": 10, "credits_per_usd": 200}
    service.add_fault(on="balance", kind="status", status=200, body=body, times=-1)
    return {"requests": [*shop.rows, {**shop.rows[0], "key": "new"}]}


class TestRefused:
    """A plan is refused while videos of the night before wait to be fetched."""

    @pytest.fixture
    def left(self, service: EmulatorProcess, shop: Shop) -> Shop:
        shop.feed(3)
        shop.leaves_under_way(service)
        return shop

    @BOTH_WAYS
    @pytest.mark.parametrize("refused", [invalid_row, no_feed, too_expensive, no_money])
    def test_what_is_under_way_is_fetched_before_the_refusal_is_told(
        self, service: EmulatorProcess, left: Shop, refused: Callable[..., dict[str, Any]], deferrable: bool
    ) -> None:
        # One of them has to be waited for yet.
        service.add_fault(on="status", kind="task_status", value="in_progress", times=3)
        with pytest.raises((ToAPIsRequestError, ToAPIsQuotaError)) as told:
            left.night(**refused(left, service), deferrable=deferrable)
        assert isinstance(told.value, AirflowFailException)
        assert {entry["state"] for entry in left.manifest().values()} == {"saved"}
        assert "sku-2" in (left.folder / "index.html").read_text()
        assert ordered(service) == 3
        service.clear_faults()
        assert left.night()["unchanged"] == 3

    def test_what_the_night_before_has_ordered_is_no_money_of_this_one(
        self, service: EmulatorProcess, left: Shop
    ) -> None:
        with pytest.raises(ToAPIsRequestError):
            left.night(**invalid_row(left, service))
        new = {**left.rows[0], "key": "new"}
        assert left.retry(requests=[*left.rows, new], max_cost_usd=0.15)["saved"] == 4
        assert [entry["reattached"] for entry in left.manifest().values()] == [True, True, True, False]
        result = left.retry(requests=[*left.rows, new, {**new, "key": "newer"}], max_cost_usd=0.15)
        assert (result["saved"], result["postponed"]) == (4, 1)
        assert ordered(service) == 4

    def test_late_video_makes_the_refusal_worth_a_retry(self, service: EmulatorProcess, left: Shop) -> None:
        service.add_fault(on="status", kind="task_status", value="in_progress", times=-1)
        bad = invalid_row(left, service)
        with pytest.raises(ToAPIsWaitInterruptedError, match="1 row is invalid") as late:
            left.night(**bad, timeout=1)
        assert not isinstance(late.value, AirflowFailException)
        service.clear_faults()
        with pytest.raises(ToAPIsRequestError, match="1 row is invalid"):
            left.retry(**bad)
        assert {entry["state"] for entry in left.manifest().values()} == {"saved"}
        assert ordered(service) == 3

    def test_plan_that_is_no_longer_refused_after_the_wait_is_carried_out(
        self, service: EmulatorProcess, left: Shop
    ) -> None:
        service.add_fault(on="status", kind="task_status", value="in_progress", times=3)
        ti = FakeTaskInstance(task_id="catalog", run_id="scheduled__1")
        bad = left.writes(**invalid_row(left, service), deferrable=True)
        waiting = deferral(lambda: bad().execute(ti.context))
        event = {"event": fired(stored_and_loaded(cast("Any", waiting.trigger)))}
        good = left.writes(requests=[*left.rows, {**left.rows[0], "key": "new"}])
        assert good().resume_execution("execute_complete", event, ti.context)["saved"] == 4
        assert ordered(service) == 4

    def test_lost_video_does_not_hold_the_refusal_up(self, service: EmulatorProcess, left: Shop, clock: Clock) -> None:
        clock.sleep(25 * HOUR)
        with pytest.raises(ToAPIsRequestError, match="1 row is invalid"):
            left.night(**invalid_row(left, service))
        assert left.night()["saved"] == 3
        assert ordered(service) == 6

    def test_key_that_is_refused_leaves_them_to_a_retry(
        self, service: EmulatorProcess, left: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            connect(patch, service, password="sk-another-0123456789")
            with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
                left.night()
        assert not isinstance(interrupted.value, AirflowFailException)
        assert left.retry()["saved"] == 3
        assert ordered(service) == 3

    def test_dry_run_fetches_nothing(self, service: EmulatorProcess, left: Shop) -> None:
        with pytest.raises(ToAPIsRequestError, match="a list of rows"):
            left.night(requests=None, dry_run=True)
        assert list(left.folder.glob("*.mp4")) == []


class TestKilled:
    def test_worker_that_dies_between_orders_pays_for_none_twice(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(30)
        shop.ti = FakeTaskInstance(task_id="catalog", run_id="scheduled__1")
        with monkeypatch.context() as killed:
            # Nothing of the orders is written: as if the worker was killed right after the last of them was answered.
            killed.setattr(Manifest, "flush", lambda self: [])
            deferral(lambda: shop.writes(deferrable=True)().execute(shop.ti.context))
        assert ordered(service) == 30
        result = shop.retry(deferrable=False)
        assert result["saved"] == 30
        assert len(billed(service)) == 30

    def test_next_night_goes_on_with_what_the_last_one_left_under_way(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(8)
        shop.ti = FakeTaskInstance(task_id="catalog", run_id="scheduled__0")
        deferral(lambda: shop.writes(deferrable=True)().execute(shop.ti.context))
        assert shop.night()["saved"] == 8
        assert len(billed(service)) == 8

    def test_window_is_never_exceeded(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(25)
        shop.ti = FakeTaskInstance(task_id="catalog", run_id="scheduled__0")
        deferred = deferral(lambda: shop.writes(deferrable=True, max_active=7)().execute(shop.ti.context))
        assert ordered(service) == 7
        assert len(cast("ToAPIsVideoBatchTrigger", deferred.trigger).video_ids) == 7
        assert shop.retry(deferrable=True, max_active=7)["saved"] == 25
        assert len(billed(service)) == 25

    def test_event_is_only_a_hint(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        shop.ti = FakeTaskInstance(task_id="catalog", run_id="scheduled__0")
        deferral(lambda: shop.writes(deferrable=True)().execute(shop.ti.context))
        event = {"status": "success", "final": "0x7", "waiting": 0}
        again = deferral(
            lambda: shop.writes(deferrable=True)().resume_execution(
                "execute_complete", {"event": event}, shop.ti.context
            )
        )
        assert len(cast("ToAPIsVideoBatchTrigger", again.trigger).video_ids) == 3
        assert len(billed(service)) == 3


@pytest.mark.parametrize("gone", ["connection", "feed", "folder"])
def test_what_goes_bad_during_the_wait_does_not_fail_a_batch_with_paid_videos_for_good(
    service: EmulatorProcess, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    shop.feed(2)
    feed = tmp_path / "feed.jsonl"
    feed.write_text("".join(f"{json.dumps(row)}\n" for row in shop.rows))
    make = shop.writes(requests=str(feed), deferrable=True)
    waiting = deferral(lambda: make().execute(shop.ti.context))
    assert waiting.trigger is not None
    for video_id in waiting.trigger.serialize()[1]["video_ids"]:
        service.finish(video_id)
    event = {"event": {"status": "success", "final": "0x3", "waiting": 0}}
    needed, away = feed if gone == "feed" else shop.folder, tmp_path / "away"
    with monkeypatch.context() as patch:
        if gone == "connection":
            patch.delenv("AIRFLOW_CONN_TOAPIS_DEFAULT")
        else:
            needed.rename(away)
            if gone == "folder":
                needed.touch()
        with pytest.raises(ToAPIsWaitInterruptedError, match="submitted and billed") as interrupted:
            make().resume_execution("execute_complete", event, shop.ti.context)
        assert not isinstance(interrupted.value, AirflowFailException)
        assert not claims_nothing_was_billed(interrupted.value)
        if gone != "connection":
            needed.unlink(missing_ok=True)
            away.rename(needed)
    assert attempt(make, shop.ti.next_attempt())["saved"] == 2
    assert ordered(service) == 2


def test_feed_that_breaks_while_its_rows_are_ordered_does_not_fail_the_paid_ones_for_good(
    service: EmulatorProcess, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.feed(4)
    feed = tmp_path / "feed.jsonl"
    # Rows so long that the last ones are read from the file after the first ones were ordered.
    lines = [json.dumps(row | {"prompt": f"{row['key']} {'slowly ' * 4000}"}) for row in shop.rows]
    feed.write_text("\n".join(lines))
    make = shop.writes(requests=str(feed), deferrable=True)
    begin = Batch.apply_plan

    def rewritten_meanwhile(batch: Batch, plan: Any) -> None:
        begin(batch, plan)
        feed.write_bytes(feed.read_bytes()[:-10] + b"\xc3")

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "apply_plan", rewritten_meanwhile)
        with pytest.raises(ToAPIsWaitInterruptedError, match="submitted and billed") as interrupted:
            make().execute(shop.ti.context)
    assert not isinstance(interrupted.value, AirflowFailException)
    assert not claims_nothing_was_billed(interrupted.value)
    assert 0 < ordered(service) < 4

    feed.write_text("\n".join(lines))
    waiting = deferral(lambda: make().execute(shop.ti.next_attempt().context))
    assert waiting.trigger is not None
    assert ordered(service) == 4


def test_key_that_is_gone_when_a_retry_begins_does_not_fail_paid_videos_for_good(
    service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.feed(2)
    make = shop.writes(deferrable=True)
    deferral(lambda: make().execute(shop.ti.context))
    with monkeypatch.context() as patch:
        connect(patch, service, password="")
        with pytest.raises(ToAPIsWaitInterruptedError, match="may have submitted") as interrupted:
            make().execute(shop.ti.next_attempt().context)
    assert not isinstance(interrupted.value, AirflowFailException)
    deferral(lambda: make().execute(shop.ti.next_attempt().context))
    assert ordered(service) == 2
