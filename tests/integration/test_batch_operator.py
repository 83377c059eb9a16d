"""The batch operator over real HTTP: each row is billed once, and again only if it changes."""

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
BOTH_WAIT_MODES = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "in the worker"])


class Shop:
    """Runs the nightly batch of a shop: each run is a new Airflow run, each attempt a new try."""

    def __init__(self, image: str, directory: Path) -> None:
        self.directory = directory
        self.image = image
        self.rows: Any = []
        self.run_count = 0
        self.ti = FakeTaskInstance()

    def feed(self, count: int) -> None:
        self.rows = [{"key": f"sku-{n}", "prompt": f"{PROMPT} {n}", "image": self.image} for n in range(count)]

    def dag_task(self, **fields: Any) -> Callable[[], ToAPIsVideoBatchOperator]:
        defaults: dict[str, Any] = {
            "task_id": "catalog",
            "requests": self.rows,
            "output_path": str(self.directory),
            "deferrable": False,
        }
        return lambda: ToAPIsVideoBatchOperator(**(defaults | fields))

    def run_nightly(self, **fields: Any) -> Any:
        self.run_count += 1
        self.ti = FakeTaskInstance(task_id="catalog", run_id=f"scheduled__{self.run_count}")
        return attempt(self.dag_task(**fields), self.ti)

    def leave_videos_in_progress(self, service: EmulatorProcess) -> None:
        """Run up to the deferral, and finish the videos without saving them."""
        self.ti = FakeTaskInstance(task_id="catalog", run_id="scheduled__0")
        waiting = deferral(lambda: self.dag_task(deferrable=True)().execute(self.ti.context))
        for video_id in cast("ToAPIsVideoBatchTrigger", waiting.trigger).video_ids:
            service.finish(video_id)

    def retry(self, **fields: Any) -> Any:
        return attempt(self.dag_task(**fields), self.ti.next_attempt())

    def manifest(self) -> dict[str, dict[str, Any]]:
        lines = (self.directory / "manifest.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        assert len({entry["key"] for entry in entries}) == len(entries)
        return {entry["key"]: entry for entry in entries}


@pytest.fixture
def shop(image: str, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Shop:
    # Otherwise the triggerer's event loop waits for these seconds in real time.
    monkeypatch.setattr("airflow_provider_toapis.operators.batch.SECONDS_BETWEEN_RESUMPTIONS", 0.0)
    return Shop(image, tmp_path / "videos")


def billed(service: EmulatorProcess) -> list[dict[str, Any]]:
    return list(service.ledger()["billed"])


def submission_count(service: EmulatorProcess) -> int:
    return int(service.ledger()["posted"])


class TestCatalog:
    @BOTH_WAIT_MODES
    def test_every_row_is_submitted_once_and_saved(
        self, service: EmulatorProcess, shop: Shop, deferrable: bool
    ) -> None:
        shop.feed(12)
        result = shop.run_nightly(deferrable=deferrable)
        assert (result["saved"], result["unchanged"], result["failed"]) == (12, 0, 0)
        assert result["cost_usd"] == 1.2
        manifest = shop.manifest()
        assert {entry["video_id"] for entry in manifest.values()} == {video["id"] for video in billed(service)}
        for key, entry in manifest.items():
            content = (shop.directory / f"{key}.mp4").read_bytes()
            assert (entry["state"], entry["file"], entry["size"]) == ("saved", f"{key}.mp4", len(content))
            assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert "sku-11" in Path(result["report"]).read_text()
        assert list((shop.directory / ".manifest").glob("**/*.jsonl")) == []

    def test_second_run_bills_nothing(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(5)
        shop.run_nightly()
        service.clear_requests()
        result = shop.run_nightly()
        assert (result["saved"], result["unchanged"]) == (0, 5)
        assert len(billed(service)) == 5
        assert set(service.request_counts()) <= {"pricing"}


class TestChangedRows:
    def test_changed_rows_are_submitted_again_and_replace_their_files(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(4)
        shop.run_nightly()
        before = shop.manifest()
        shop.rows[1]["prompt"] = "Something else happens"
        shop.rows[2]["revision"] = 2
        result = shop.run_nightly()
        assert (result["saved"], result["unchanged"]) == (2, 2)
        after = shop.manifest()
        changed = {key for key in after if after[key]["video_id"] != before[key]["video_id"]}
        assert changed == {"sku-1", "sku-2"}
        assert len(billed(service)) == 6

    def test_removed_file_is_downloaded_again_and_not_billed(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(2)
        shop.run_nightly()
        (shop.directory / "sku-1.mp4").unlink()
        result = shop.run_nightly()
        assert (result["saved"], result["unchanged"]) == (1, 1)
        assert (shop.directory / "sku-1.mp4").exists()
        assert len(billed(service)) == 2

    def test_removed_row_is_reported_and_its_video_stays(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        shop.run_nightly()
        del shop.rows[0]
        assert shop.run_nightly()["removed"] == 1
        entry = shop.manifest()["sku-0"]
        assert (entry["in_feed"], entry["file"]) == (False, "sku-0.mp4")
        shop.feed(3)
        assert shop.run_nightly()["unchanged"] == 3
        assert len(billed(service)) == 3

    def test_changed_content_of_a_local_image_is_a_changed_row(
        self, service: EmulatorProcess, shop: Shop, image_file: Path
    ) -> None:
        shop.rows = [{"key": "a", "prompt": PROMPT, "image": str(image_file)}]
        shop.run_nightly()
        assert shop.run_nightly()["unchanged"] == 1
        other = service.get("/shop/images/mug.jpg").raise_for_status().content
        image_file.write_bytes(other)
        plan = shop.run_nightly(dry_run=True)
        assert (plan["changed"], plan["unchanged"]) == (1, 0)


class TestFeed:
    @pytest.mark.parametrize("ending", ["jsonl", "csv"])
    def test_feed_file_is_read(self, service: EmulatorProcess, shop: Shop, tmp_path: Path, ending: str) -> None:
        rows = [f'{{"key": "a", "prompt": "one", "image": "{shop.image}"}}', ""]
        if ending == "csv":
            rows = ["key,prompt,image,duration", f"a,one,{shop.image},10"]
        feed = tmp_path / f"feed.{ending}"
        feed.write_text("\n".join(rows))
        assert shop.run_nightly(requests=str(feed))["saved"] == 1
        assert shop.manifest()["a"]["prompt"] == "one"
        assert len(billed(service)) == 1

    def test_all_invalid_rows_are_reported_before_any_submission(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(4)
        shop.rows[0]["duration"] = 99
        shop.rows[1]["key"] = "sku-3"
        shop.rows[2]["promt"] = "x"
        with pytest.raises(ToAPIsRequestError) as rejected:
            shop.run_nightly()
        for part in ("3 rows", "Row 1 (key 'sku-0')", "duration=99", "Row 3", "promt", "Row 4", "first used in row 2"):
            assert part in str(rejected.value)
        assert isinstance(rejected.value, AirflowFailException)
        assert posts(service) == []

    @pytest.mark.parametrize("requests", [None, {"key": "a", "prompt": "x"}, 5], ids=["None", "dictionary", "number"])
    def test_value_that_is_not_a_feed_is_rejected_permanently(
        self, service: EmulatorProcess, shop: Shop, requests: Any
    ) -> None:
        with pytest.raises(
            ToAPIsRequestError, match=f"requests='{type(requests).__name__}'.*a list of rows"
        ) as rejected:
            shop.run_nightly(requests=requests)
        assert isinstance(rejected.value, AirflowFailException)
        assert posts(service) == []

    def test_rows_with_rendered_none_or_lone_surrogates_are_rejected_before_any_submission(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(30)
        invalid: dict[str, Any] = {
            "prompt": f"{PROMPT} \ud83d",
            "image": "None",
            "parameters": {"title": "\ud83d"},
            "aspect_ratio": "None",
            "model": "None",
            "key": "\ud83d",
        }
        for number, (field, value) in enumerate(invalid.items(), start=10):
            shop.rows[number][field] = value
        shop.rows[20]["prompt"] = "None"
        with pytest.raises(ToAPIsRequestError, match="7 rows") as rejected:
            shop.run_nightly()
        message = str(rejected.value)
        for number, field in enumerate(invalid, start=11):
            assert re.search(rf"^Row {number}\b.*: Invalid {field}[=.]", message, re.M)
        assert re.search(r"^Row 21 \(key 'sku-20'\): Invalid prompt='None'", message, re.M)
        assert PROMPT not in message
        assert billed(service) == []

    def test_dry_run_returns_the_plan_and_writes_nothing(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        shop.run_nightly()
        shop.feed(5)
        shop.rows[0]["prompt"] = "New words"
        shop.rows[4]["duration"] = "long"
        before = shop.manifest()
        plan = shop.run_nightly(dry_run=True)
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
    def test_plan_over_max_cost_is_rejected_before_any_submission(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(5)
        with pytest.raises(ToAPIsRequestError, match=r"0\.50 USD.*max_cost_usd=0\.49"):
            shop.run_nightly(max_cost_usd="0.49")
        assert posts(service) == []
        assert shop.retry(max_cost_usd=0.5)["saved"] == 5

    def test_unknown_price_with_max_cost_is_rejected(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(2)
        with pytest.raises(ToAPIsRequestError, match=r"price_usd.*brand-new"):
            shop.run_nightly(model="brand-new", max_cost_usd=1)
        assert (
            shop.run_nightly(model="brand-new", max_cost_usd=1, price_usd=0.3, dry_run=True)["estimated_cost_usd"]
            == 0.6
        )

    def test_insufficient_balance_is_reported_before_any_submission(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        service.add_fault(
            on="balance",
            kind="status",
            status=200,
            body={"success": True, "remain_balance": 0.2, "remain_credits": 40, "credits_per_usd": 200},
        )
        with pytest.raises(ToAPIsQuotaError, match=r"0\.30 USD.*0\.20 USD"):
            shop.run_nightly()
        assert posts(service) == []


NEWER_MODEL = {"model": "grok-video-1.5", "duration": 4}
PER_SECOND = {"charge_type": "per_second", "price_basis": "output_seconds", "unit": "second", "unit_price": "0.01"}
#: A price with several parts.
PARTS = {**PER_SECOND, "minimum_charge_usd": "0.50", "input_image_unit_price": "0.05", "free_input_image_count": 1}
UNCLEAR_PRICES = pytest.mark.parametrize(
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
    def test_all_price_parts_are_in_estimate_budget_bill_and_report(
        self, service: EmulatorProcess, shop: Shop, logged: Callable[[], str]
    ) -> None:
        service.list_prices("grok-video-1.5", PARTS)
        shop.feed(2)
        assert shop.run_nightly(dry_run=True, **NEWER_MODEL)["estimated_cost_usd"] == 1.0
        with pytest.raises(ToAPIsRequestError, match=r"1\.00 USD.*max_cost_usd=0\.99"):
            shop.run_nightly(max_cost_usd="0.99", **NEWER_MODEL)
        assert posts(service) == []
        result = shop.retry(max_cost_usd="1.00", **NEWER_MODEL)
        assert "Expected cost: 1.00 USD" in logged()
        assert (result["saved"], result["cost_usd"]) == (2, 1.0)
        assert [charge["cost_usd"] for charge in billed(service)] == ["0.50", "0.50"]
        assert "$1.00" in Path(result["report"]).read_text()

    def test_additional_images_are_in_the_estimate(self, service: EmulatorProcess, shop: Shop) -> None:
        service.list_prices("grok-video-1.5", {**PARTS, "minimum_charge_usd": "0.05"})
        shop.feed(1)
        shop.rows[0]["image"] = [f"{shop.image}?{n}" for n in range(3)]
        assert shop.run_nightly(dry_run=True, **NEWER_MODEL)["estimated_cost_usd"] == 0.14
        shop.run_nightly(**NEWER_MODEL)
        assert [charge["cost_usd"] for charge in billed(service)] == ["0.14"]

    def test_expected_price_is_shown_until_the_billed_price_is_known(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        service.list_prices("grok-video-1.5-preview", {**PARTS, "minimum_charge_usd": "0.75"})
        service.add_fault(on="status", kind="variant", remove=["billing"], times=-1)
        shop.feed(1)
        result = shop.run_nightly()
        (entry,) = shop.manifest().values()
        assert (entry["price_usd"], entry["billed"]) == ("0.75", False)
        assert "$0.75" in Path(result["report"]).read_text()

    def test_estimate_uses_the_most_expensive_window(self, service: EmulatorProcess, shop: Shop) -> None:
        windows = [{"start": "09:00", "end": "12:00", "unit_price": "0.03"}]
        service.list_prices("grok-video-1.5", {**PER_SECOND, "pricing_peak_windows": windows})
        shop.feed(1)
        assert shop.run_nightly(dry_run=True, **NEWER_MODEL)["estimated_cost_usd"] == 0.12

    def test_balance_is_compared_with_all_price_parts(self, service: EmulatorProcess, shop: Shop) -> None:
        service.list_prices("grok-video-1.5", {**PARTS, "minimum_charge_usd": "60"})
        shop.feed(2)
        with pytest.raises(ToAPIsQuotaError, match=r"120 USD"):
            shop.run_nightly(**NEWER_MODEL)
        assert posts(service) == []

    @UNCLEAR_PRICES
    def test_unsupported_price_is_treated_as_unknown(
        self, service: EmulatorProcess, shop: Shop, entry: dict[str, Any]
    ) -> None:
        service.list_prices("grok-video-1.5", entry)
        shop.feed(1)
        assert shop.run_nightly(dry_run=True, **NEWER_MODEL)["estimated_cost_usd"] is None
        with pytest.raises(ToAPIsRequestError, match=r"price_usd.*grok-video-1\.5"):
            shop.run_nightly(max_cost_usd=100, **NEWER_MODEL)
        assert posts(service) == []
        assert shop.run_nightly(dry_run=True, price_usd="0.3", **NEWER_MODEL)["estimated_cost_usd"] == 0.3

    def test_model_catalog_price_does_not_replace_an_unsupported_listed_price(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        service.list_prices("grok-video-1.5-preview", PER_SECOND, currency="CNY")
        shop.feed(1)
        assert shop.run_nightly(dry_run=True)["estimated_cost_usd"] is None

    def test_model_without_prices_is_not_free(self, service: EmulatorProcess, shop: Shop) -> None:
        service.list_prices("grok-video-1.5")
        shop.feed(1)
        assert shop.run_nightly(dry_run=True, **NEWER_MODEL)["estimated_cost_usd"] is None

    def test_unavailable_price_list_falls_back_to_the_model_catalog(self, service: EmulatorProcess, shop: Shop) -> None:
        service.add_fault(on="pricing", kind="error", name="pricing_unavailable", times=-1)
        shop.feed(1)
        assert shop.run_nightly(dry_run=True, **NEWER_MODEL)["estimated_cost_usd"] is None
        assert shop.run_nightly(dry_run=True)["estimated_cost_usd"] == 0.1


class TestState:
    """The XCom ``toapis_batch``: counts, and what the run has spent."""

    @staticmethod
    def state(shop: Shop) -> tuple[dict[str, int], list[tuple[Any, ...]], str | None]:
        xcom = shop.ti.xcoms["toapis_batch"]
        assert xcom["manifest"] == f"{xcom['output_path']}/manifest.jsonl" == f"{shop.directory}/manifest.jsonl"
        counts = {name: value for name, value in xcom.items() if isinstance(value, int) and value}
        return counts, [tuple(group.values())[1:] for group in xcom["spend"]], xcom["reason"]

    @BOTH_WAIT_MODES
    def test_state_is_known_during_the_wait(
        self, service: EmulatorProcess, shop: Shop, clock: Clock, deferrable: bool
    ) -> None:
        shop.feed(3)
        shop.run_nightly()
        shop.feed(5)
        shop.ti = FakeTaskInstance(task_id="catalog", run_id="second")
        during: list[Any] = []
        if deferrable:
            deferral(lambda: shop.dag_task(deferrable=True)().execute(shop.ti.context))
            during.append(self.state(shop))
        else:
            clock.on_sleep = lambda _: during.append("toapis_batch" in shop.ti.xcoms and self.state(shop))
            attempt(shop.dag_task(), shop.ti)
        assert during[-1] == ({"submitted": 2, "unchanged": 3}, [("submitted", 2, 0.0, 0.2, 0)], None)

    def test_state_is_known_before_the_first_submission(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(3)
        before: list[Any] = []
        run_pass = Batch.run_pass

        def watched(batch: Batch, maybe_final: Any) -> None:
            before.append((self.state(shop), submission_count(service)))
            run_pass(batch, maybe_final)

        monkeypatch.setattr(Batch, "run_pass", watched)
        shop.run_nightly()
        assert before[0] == (({"pending": 3}, [], None), 0)

    @BOTH_WAIT_MODES
    def test_state_of_a_failed_attempt_has_its_reason(
        self, service: EmulatorProcess, shop: Shop, deferrable: bool
    ) -> None:
        shop.feed(4)
        service.add_fault(on="submit", kind="task_failed", times=1, code="generation_failed", message="no GPU")
        with pytest.raises(ToAPIsBatchError) as failed:
            shop.run_nightly(max_failures=0, deferrable=deferrable)
        groups = [("failed", 1, 0.0, 0.0, 0), ("saved", 3, 0.3, 0.0, 0)]
        assert self.state(shop) == ({"saved": 3, "failed": 1}, groups, str(failed.value))
        shop.retry()
        groups = [("failed", 1, 0.0, 0.0, 0), ("saved", 4, 0.4, 0.0, 0)]
        assert self.state(shop) == ({"saved": 4}, groups, None)
        shop.run_nightly()
        assert self.state(shop) == ({"unchanged": 4}, [], None)

    def test_state_of_a_rejected_plan_has_its_reason(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(2)
        with pytest.raises(ToAPIsRequestError) as rejected:
            shop.run_nightly(max_cost_usd="0.10")
        assert self.state(shop) == ({}, [], str(rejected.value))

    def test_video_without_a_price_is_counted(self, service: EmulatorProcess, shop: Shop) -> None:
        service.list_prices("grok-video-1.5-preview", {"charge_type": "per_moon", "unit_price": "1"})
        service.add_fault(on="status", kind="variant", remove=["billing"], times=-1)
        shop.feed(2)
        shop.run_nightly()
        assert self.state(shop) == ({"saved": 2}, [("saved", 2, 0.0, 0.0, 2)], None)

    def test_sum_of_many_prices_is_exact(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        shop.run_nightly()
        assert self.state(shop)[1] == [("saved", 3, 0.3, 0.0, 0)]

    def test_state_that_cannot_be_pushed_does_not_fail_the_task(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        push = FakeTaskInstance.xcom_push

        def fail(self: FakeTaskInstance, key: str, value: Any) -> None:
            if key == "toapis_batch":
                raise RuntimeError("the API server is down")
            push(self, key, value)

        monkeypatch.setattr(FakeTaskInstance, "xcom_push", fail)
        shop.feed(2)
        assert shop.run_nightly()["saved"] == 2
        assert "toapis_batch" not in shop.ti.xcoms


class TestFailures:
    def test_failures_within_max_failures_do_not_fail_the_task(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(4)
        service.add_fault(on="submit", kind="status", status=400, body={"error": {"message": "no such image"}})
        result = shop.run_nightly(max_failures=1)
        assert (result["saved"], result["failed"]) == (3, 1)
        (failed,) = [entry for entry in shop.manifest().values() if entry["state"] == "failed"]
        assert "no such image" in failed["submission"]["reason"]
        assert shop.run_nightly()["saved"] == 1
        assert len(billed(service)) == 4

    def test_failures_above_max_failures_fail_the_task_and_the_retry_submits_only_missing_rows(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(6)
        service.add_fault(on="submit", kind="task_failed", times=2, code="generation_failed", message="no GPU")
        with pytest.raises(ToAPIsBatchError, match="2 rows failed"):
            shop.run_nightly(max_failures=1)
        assert sum(entry["state"] == "saved" for entry in shop.manifest().values()) == 4
        result = shop.retry(max_failures=1)
        assert (result["saved"], result["failed"]) == (6, 0)
        assert len({video["client_business_id"] for video in billed(service)}) == len(billed(service)) == 8

    def test_rejected_content_is_not_submitted_again_until_the_row_changes(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(3)
        service.add_fault(on="submit", kind="error", name="content_policy")
        assert shop.run_nightly(max_failures=1)["failed"] == 1
        assert (shop.run_nightly()["rejected"], submission_count(service)) == (1, 2)
        (row,) = [row for row in shop.rows if shop.manifest()[row["key"]]["state"] == "rejected"]
        row["prompt"] = "A quiet image"
        assert shop.run_nightly()["saved"] == 1

    def test_insufficient_quota_stops_submissions_and_keeps_videos_in_progress(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(40)
        fault = service.add_fault(
            on="submit", kind="status", status=402, body={"error": {"message": "quota"}}, times=-1
        )
        assert fault
        with pytest.raises(ToAPIsQuotaError):
            shop.run_nightly()
        assert len(posts(service)) < 40
        service.clear_faults()
        assert shop.retry()["saved"] == 40
        assert len(billed(service)) == 40

    def test_retry_reattaches_to_a_late_video(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(2)
        service.add_fault(on="status", kind="task_status", value="in_progress", times=-1)
        with pytest.raises(ToAPIsBatchError, match="not ready before the timeout"):
            shop.run_nightly(timeout=1)
        service.clear_faults()
        assert shop.retry()["saved"] == 2
        assert len(billed(service)) == 2


class TestRedaction:
    """Reasons of failures do not quote the parameters of a request, because these can be sensitive."""

    SECRET = "no logos of the competitor, no red shoes"

    @BOTH_WAIT_MODES
    @pytest.mark.parametrize("level", ["row", "operator"])
    def test_failure_reason_quotes_no_text_of_the_parameters(
        self, service: EmulatorProcess, shop: Shop, level: str, deferrable: bool
    ) -> None:
        shop.feed(1)
        parameters = {"metadata": {"negative_prompt": [self.SECRET]}}
        if level == "row":
            shop.rows[0]["parameters"] = parameters
        message = f"cannot follow '{self.SECRET[3:30]}'"
        service.add_fault(on="submit", kind="task_failed", code="generation_failed", message=message)
        with pytest.raises(ToAPIsBatchError, match="generation_failed") as failed:
            shop.run_nightly(deferrable=deferrable, parameters=parameters if level == "operator" else None)
        assert "logos" not in str(failed.value)
        assert "logos" not in (shop.directory / "manifest.jsonl").read_text()

    def test_rejection_reason_quotes_no_text_of_the_parameters(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(1)
        shop.rows[0]["parameters"] = {"metadata": {"negative_prompt": self.SECRET}}
        body = {"error": {"message": f"odd: {self.SECRET}"}}
        service.add_fault(on="submit", kind="status", status=400, body=body)
        with pytest.raises(ToAPIsBatchError, match="odd") as failed:
            shop.run_nightly()
        assert "logos" not in str(failed.value)

    def test_parameters_of_type_str_are_not_quoted(self, service: EmulatorProcess, shop: Shop) -> None:
        with pytest.raises(ToAPIsRequestError, match="parameters='str'"):
            shop.run_nightly(parameters=self.SECRET)


def hide_videos(service: EmulatorProcess) -> None:
    """Let the service find none of its videos, by id or by key."""
    for video in billed(service):
        for name in ("id", "client_business_id"):
            service.add_fault(on="status", kind="error", name="task_not_exist", match=video[name], times=-1)


class TestLostVideos:
    """Videos in progress have expired or are not found when the next run looks them up."""

    @pytest.fixture
    def busy_shop(self, service: EmulatorProcess, shop: Shop) -> Shop:
        shop.feed(2)
        shop.leave_videos_in_progress(service)
        return shop

    @BOTH_WAIT_MODES
    def test_retry_submits_an_expired_video_again(
        self, service: EmulatorProcess, busy_shop: Shop, clock: Clock, logged: Callable[[], str], deferrable: bool
    ) -> None:
        clock.sleep(25 * HOUR)
        with pytest.raises(ToAPIsBatchError, match="was billed and is lost"):
            busy_shop.run_nightly(deferrable=deferrable, max_generations=1)
        assert "Price of the lost video: 0.10 USD" in logged()
        assert {entry["state"] for entry in busy_shop.manifest().values()} == {"failed"}
        # The lost videos count for max_cost_usd of the run that submitted them, not of this run.
        result = busy_shop.retry(deferrable=deferrable, max_generations=1, max_cost_usd="0.20")
        assert (result["saved"], result["failed"]) == (2, 0)
        assert len({video["client_business_id"] for video in billed(service)}) == len(billed(service)) == 4

    def test_next_run_submits_an_expired_video_again(
        self, service: EmulatorProcess, busy_shop: Shop, clock: Clock
    ) -> None:
        clock.sleep(25 * HOUR)
        assert busy_shop.run_nightly(max_failures=2)["failed"] == 2
        assert busy_shop.run_nightly(dry_run=True)["estimated_cost_usd"] == 0.2
        assert busy_shop.run_nightly(max_failures=0, max_generations=1)["saved"] == 2
        assert len(billed(service)) == 4

    def test_expired_video_without_url_is_submitted_again(
        self, service: EmulatorProcess, busy_shop: Shop, clock: Clock
    ) -> None:
        clock.sleep(25 * HOUR)
        service.add_fault(on="status", kind="no_url", times=2)
        assert busy_shop.run_nightly(max_failures=2)["failed"] == 2
        assert busy_shop.retry()["saved"] == 2
        assert len(billed(service)) == 4

    def test_expired_video_with_a_working_url_is_saved(
        self, service: EmulatorProcess, busy_shop: Shop, clock: Clock
    ) -> None:
        clock.sleep(HOUR)
        service.add_fault(on="status", kind="variant", merge={"expires_at": 1}, times=-1)
        assert busy_shop.run_nightly()["saved"] == 2
        assert len(billed(service)) == 2

    def test_video_in_progress_with_expires_at_in_the_past_is_not_lost(
        self, service: EmulatorProcess, busy_shop: Shop
    ) -> None:
        service.add_fault(on="status", kind="variant", merge={"status": "in_progress", "expires_at": 1}, times=-1)
        with pytest.raises(ToAPIsBatchError, match="not ready before the timeout"):
            busy_shop.run_nightly(timeout=1)
        assert {entry["state"] for entry in busy_shop.manifest().values()} == {"interrupted"}

    @pytest.mark.parametrize("next_one", ["retry", "run"])
    def test_video_not_found_after_a_day_is_submitted_again(
        self, service: EmulatorProcess, busy_shop: Shop, clock: Clock, next_one: str
    ) -> None:
        clock.sleep(25 * HOUR)
        service.reset()
        service.advance(clock.offset)
        with pytest.raises(ToAPIsBatchError):
            busy_shop.run_nightly()
        # The state of a video that can still be found is `interrupted`.
        assert {line["state"] for line in busy_shop.manifest().values()} == {"failed"}
        assert posts(service) == []
        run = busy_shop.retry if next_one == "retry" else busy_shop.run_nightly
        assert run(max_failures=0, max_generations=1)["saved"] == 2
        assert submission_count(service) == 2

    @pytest.mark.parametrize("next_one", ["retry", "run"])
    def test_video_not_found_within_a_day_is_not_submitted_again(
        self, service: EmulatorProcess, busy_shop: Shop, clock: Clock, next_one: str
    ) -> None:
        clock.sleep(HOUR)
        hide_videos(service)
        run = busy_shop.retry if next_one == "retry" else busy_shop.run_nightly
        for once_more in (busy_shop.run_nightly, run):
            with pytest.raises(ToAPIsBatchError):
                once_more()
        service.clear_faults()
        assert run()["saved"] == 2
        assert submission_count(service) == 2

    @pytest.mark.parametrize("status", [401, 403])
    def test_video_that_cannot_be_looked_up_is_not_submitted_again(
        self, service: EmulatorProcess, busy_shop: Shop, clock: Clock, status: int
    ) -> None:
        clock.sleep(25 * HOUR)
        service.add_fault(on="status", kind="status", status=status, body={"error": {"message": "no"}}, times=-1)
        with pytest.raises(ToAPIsBatchError):
            busy_shop.run_nightly()
        with pytest.raises(ToAPIsBatchError):
            busy_shop.retry()
        assert {entry["state"] for entry in busy_shop.manifest().values()} == {"interrupted"}
        assert submission_count(service) == 2


def invalid_row(shop: Shop, _: EmulatorProcess) -> dict[str, Any]:
    return {"requests": [*shop.rows, {"key": "bad", "duration": 99}]}


def no_feed(_: Shop, __: EmulatorProcess) -> dict[str, Any]:
    return {"requests": None}


def over_budget(shop: Shop, _: EmulatorProcess) -> dict[str, Any]:
    return {"requests": [*shop.rows, {**shop.rows[0], "key": "new"}], "max_cost_usd": 0.05}


def low_balance(shop: Shop, service: EmulatorProcess) -> dict[str, Any]:
    body = {"success": True, "remain_balance": 0.05, "remain_credits": 10, "credits_per_usd": 200}
    service.add_fault(on="balance", kind="status", status=200, body=body, times=-1)
    return {"requests": [*shop.rows, {**shop.rows[0], "key": "new"}]}


class TestRejectedPlan:
    """A plan is rejected while videos of the previous run are not saved yet."""

    @pytest.fixture
    def busy_shop(self, service: EmulatorProcess, shop: Shop) -> Shop:
        shop.feed(3)
        shop.leave_videos_in_progress(service)
        return shop

    @BOTH_WAIT_MODES
    @pytest.mark.parametrize("cause", [invalid_row, no_feed, over_budget, low_balance])
    def test_videos_in_progress_are_saved_before_the_plan_is_rejected(
        self, service: EmulatorProcess, busy_shop: Shop, cause: Callable[..., dict[str, Any]], deferrable: bool
    ) -> None:
        # One of the videos is not ready yet.
        service.add_fault(on="status", kind="task_status", value="in_progress", times=3)
        with pytest.raises((ToAPIsRequestError, ToAPIsQuotaError)) as raised:
            busy_shop.run_nightly(**cause(busy_shop, service), deferrable=deferrable)
        assert isinstance(raised.value, AirflowFailException)
        assert {entry["state"] for entry in busy_shop.manifest().values()} == {"saved"}
        assert "sku-2" in (busy_shop.directory / "index.html").read_text()
        assert submission_count(service) == 3
        service.clear_faults()
        assert busy_shop.run_nightly()["unchanged"] == 3

    def test_submissions_of_the_previous_run_do_not_count_for_max_cost(
        self, service: EmulatorProcess, busy_shop: Shop
    ) -> None:
        with pytest.raises(ToAPIsRequestError):
            busy_shop.run_nightly(**invalid_row(busy_shop, service))
        new = {**busy_shop.rows[0], "key": "new"}
        assert busy_shop.retry(requests=[*busy_shop.rows, new], max_cost_usd=0.15)["saved"] == 4
        assert [entry["reattached"] for entry in busy_shop.manifest().values()] == [True, True, True, False]
        result = busy_shop.retry(requests=[*busy_shop.rows, new, {**new, "key": "newer"}], max_cost_usd=0.15)
        assert (result["saved"], result["postponed"]) == (4, 1)
        assert submission_count(service) == 4

    def test_rejected_plan_with_a_late_video_can_be_retried(self, service: EmulatorProcess, busy_shop: Shop) -> None:
        service.add_fault(on="status", kind="task_status", value="in_progress", times=-1)
        bad = invalid_row(busy_shop, service)
        with pytest.raises(ToAPIsWaitInterruptedError, match="1 row is invalid") as late:
            busy_shop.run_nightly(**bad, timeout=1)
        assert not isinstance(late.value, AirflowFailException)
        service.clear_faults()
        with pytest.raises(ToAPIsRequestError, match="1 row is invalid"):
            busy_shop.retry(**bad)
        assert {entry["state"] for entry in busy_shop.manifest().values()} == {"saved"}
        assert submission_count(service) == 3

    def test_plan_that_is_valid_after_the_wait_is_carried_out(self, service: EmulatorProcess, busy_shop: Shop) -> None:
        service.add_fault(on="status", kind="task_status", value="in_progress", times=3)
        ti = FakeTaskInstance(task_id="catalog", run_id="scheduled__1")
        bad = busy_shop.dag_task(**invalid_row(busy_shop, service), deferrable=True)
        waiting = deferral(lambda: bad().execute(ti.context))
        event = {"event": fired(stored_and_loaded(cast("Any", waiting.trigger)))}
        good = busy_shop.dag_task(requests=[*busy_shop.rows, {**busy_shop.rows[0], "key": "new"}])
        assert good().resume_execution("execute_complete", event, ti.context)["saved"] == 4
        assert submission_count(service) == 4

    def test_lost_video_does_not_delay_the_rejection(
        self, service: EmulatorProcess, busy_shop: Shop, clock: Clock
    ) -> None:
        clock.sleep(25 * HOUR)
        with pytest.raises(ToAPIsRequestError, match="1 row is invalid"):
            busy_shop.run_nightly(**invalid_row(busy_shop, service))
        assert busy_shop.run_nightly()["saved"] == 3
        assert submission_count(service) == 6

    def test_rejected_api_key_leaves_videos_in_progress_to_a_retry(
        self, service: EmulatorProcess, busy_shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            connect(patch, service, password="sk-another-0123456789")
            with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
                busy_shop.run_nightly()
        assert not isinstance(interrupted.value, AirflowFailException)
        assert busy_shop.retry()["saved"] == 3
        assert submission_count(service) == 3

    def test_dry_run_downloads_nothing(self, service: EmulatorProcess, busy_shop: Shop) -> None:
        with pytest.raises(ToAPIsRequestError, match="a list of rows"):
            busy_shop.run_nightly(requests=None, dry_run=True)
        assert list(busy_shop.directory.glob("*.mp4")) == []


class TestKilled:
    def test_retry_after_worker_died_between_submissions_bills_no_row_twice(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(30)
        shop.ti = FakeTaskInstance(task_id="catalog", run_id="scheduled__1")
        with monkeypatch.context() as killed:
            # Write nothing about the submissions, as if the worker was killed after the last response.
            killed.setattr(Manifest, "flush", lambda self: [])
            deferral(lambda: shop.dag_task(deferrable=True)().execute(shop.ti.context))
        assert submission_count(service) == 30
        result = shop.retry(deferrable=False)
        assert result["saved"] == 30
        assert len(billed(service)) == 30

    def test_next_run_reattaches_to_videos_in_progress(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(8)
        shop.ti = FakeTaskInstance(task_id="catalog", run_id="scheduled__0")
        deferral(lambda: shop.dag_task(deferrable=True)().execute(shop.ti.context))
        assert shop.run_nightly()["saved"] == 8
        assert len(billed(service)) == 8

    def test_max_active_is_never_exceeded(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(25)
        shop.ti = FakeTaskInstance(task_id="catalog", run_id="scheduled__0")
        deferred = deferral(lambda: shop.dag_task(deferrable=True, max_active=7)().execute(shop.ti.context))
        assert submission_count(service) == 7
        assert len(cast("ToAPIsVideoBatchTrigger", deferred.trigger).video_ids) == 7
        assert shop.retry(deferrable=True, max_active=7)["saved"] == 25
        assert len(billed(service)) == 25

    def test_success_event_for_unfinished_videos_defers_again(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        shop.ti = FakeTaskInstance(task_id="catalog", run_id="scheduled__0")
        deferral(lambda: shop.dag_task(deferrable=True)().execute(shop.ti.context))
        event = {"status": "success", "final": "0x7", "waiting": 0}
        again = deferral(
            lambda: shop.dag_task(deferrable=True)().resume_execution(
                "execute_complete", {"event": event}, shop.ti.context
            )
        )
        assert len(cast("ToAPIsVideoBatchTrigger", again.trigger).video_ids) == 3
        assert len(billed(service)) == 3


@pytest.mark.parametrize("lost_input", ["connection", "feed", "directory"])
def test_input_lost_during_the_wait_does_not_permanently_fail_a_batch_with_billed_videos(
    service: EmulatorProcess, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost_input: str
) -> None:
    shop.feed(3)
    feed = tmp_path / "feed.jsonl"
    feed.write_text("".join(f"{json.dumps(row)}\n" for row in shop.rows))
    make = shop.dag_task(requests=str(feed), deferrable=True, max_active=2)
    waiting = deferral(lambda: make().execute(shop.ti.context))
    assert waiting.trigger is not None
    for video_id in waiting.trigger.serialize()[1]["video_ids"]:
        service.finish(video_id)
    event = {"event": {"status": "success", "final": "0x3", "waiting": 0}}
    needed, away = feed if lost_input == "feed" else shop.directory, tmp_path / "away"
    with monkeypatch.context() as patch:
        if lost_input == "connection":
            patch.delenv("AIRFLOW_CONN_TOAPIS_DEFAULT")
        else:
            needed.rename(away)
            if lost_input == "directory":
                needed.touch()
        with pytest.raises(ToAPIsWaitInterruptedError, match="submitted and billed") as interrupted:
            make().resume_execution("execute_complete", event, shop.ti.context)
        assert not isinstance(interrupted.value, AirflowFailException)
        assert not claims_nothing_was_billed(interrupted.value)
        if lost_input != "connection":
            needed.unlink(missing_ok=True)
            away.rename(needed)
    assert attempt(make, shop.ti.next_attempt())["saved"] == 3
    assert submission_count(service) == 3


def test_feed_that_breaks_during_submissions_does_not_permanently_fail_billed_rows(
    service: EmulatorProcess, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.feed(4)
    feed = tmp_path / "feed.jsonl"
    # Long rows, so that the last ones are read from the file after the first ones were submitted.
    lines = [json.dumps(row | {"prompt": f"{row['key']} {'slowly ' * 4000}"}) for row in shop.rows]
    feed.write_text("\n".join(lines))
    make = shop.dag_task(requests=str(feed), deferrable=True)
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
    assert 0 < submission_count(service) < 4

    feed.write_text("\n".join(lines))
    waiting = deferral(lambda: make().execute(shop.ti.next_attempt().context))
    assert waiting.trigger is not None
    assert submission_count(service) == 4


def test_missing_api_key_at_the_retry_does_not_permanently_fail_billed_videos(
    service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.feed(2)
    make = shop.dag_task(deferrable=True)
    deferral(lambda: make().execute(shop.ti.context))
    with monkeypatch.context() as patch:
        connect(patch, service, password="")
        with pytest.raises(ToAPIsWaitInterruptedError, match="may have submitted") as interrupted:
            make().execute(shop.ti.next_attempt().context)
    assert not isinstance(interrupted.value, AirflowFailException)
    deferral(lambda: make().execute(shop.ti.next_attempt().context))
    assert submission_count(service) == 2
