"""Batches whose workers died after a POST, or whose files came and went: nothing is lost, nothing is billed twice."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from airflow_provider_toapis.batch import worker_pass
from airflow_provider_toapis.batch.feed import Row
from airflow_provider_toapis.batch.manifest_entry import ManifestEntry
from airflow_provider_toapis.batch.row_job import RowJob
from airflow_provider_toapis.batch.transitions import Outcome
from airflow_provider_toapis.batch.worker_pass import WorkerPass
from airflow_provider_toapis.exceptions import ToAPIsBatchError, ToAPIsRequestError
from tests.airflow_task import deferral
from tests.integration.conftest import API_KEY, LATENCY, Clock, render_once
from tests.integration.emulator_process import EmulatorProcess
from tests.integration.test_batch_operator import HOUR, Shop, billed, ordered, shop
from tests.integration.test_batch_runs import NO_ROUTE, NOT_FOUND, Run

if TYPE_CHECKING:
    from airflow_provider_toapis.triggers.video import ToAPIsVideoBatchTrigger

__all__ = ["shop"]

#: Of many faults: a generation that fails, and what fetches nothing.
NO_GPU: dict[str, Any] = {"on": "submit", "kind": "task_failed", "code": "generation_failed", "message": "no GPU"}


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Run an attempt whose worker dies after its POSTs, before it notes what came of them."""

    def die(_: WorkerPass) -> None:
        raise KeyboardInterrupt

    def killed(attempt: Callable[[], object]) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(WorkerPass, "_flush", die)
            with pytest.raises(KeyboardInterrupt):
                attempt()

    return killed


def claims(shop: Shop) -> list[Path]:
    return sorted((shop.folder / ".manifest" / "claims").iterdir())


def age_claims(shop: Shop) -> None:
    for claim in claims(shop):
        os.utime(claim, (time.time() - 301, time.time() - 301))


def unnamed(service: EmulatorProcess, shop: Shop) -> list[str]:
    """Return the billed videos that no line of the manifest names."""
    manifest = json.dumps(list(shop.manifest().values()))
    return [video["id"] for video in billed(service) if video["id"] not in manifest]


class TestFollowUp:
    def test_older_video_of_a_missing_row_does_not_replace_the_newer_one(
        self, service: EmulatorProcess, shop: Shop, clock: Clock, kill: Callable[..., None]
    ) -> None:
        shop.feed(2)
        kill(shop.night)
        service.add_fault(on="status", kind="status", status=503, times=4)
        newer = {**shop.rows[0], "prompt": "The newer form"}
        shop.rows[0] = newer
        shop.night()
        saved = shop.manifest()["sku-0"]["video_id"]
        age_claims(shop)
        shop.rows = shop.rows[1:]
        shop.night()
        assert shop.manifest()["sku-0"]["video_id"] == saved
        assert unnamed(service, shop) == []
        count = ordered(service)
        shop.rows.append(newer)
        clock.sleep(25 * HOUR)
        shop.night()
        assert ordered(service) == count

    def test_plan_that_is_rejected_saves_them(
        self, service: EmulatorProcess, shop: Shop, clock: Clock, kill: Callable[..., None]
    ) -> None:
        shop.feed(3)
        kill(shop.night)
        rows, shop.rows = shop.rows, [*shop.rows, {"key": "bad"}]
        with pytest.raises(ToAPIsRequestError):
            shop.retry()
        clock.sleep(25 * HOUR)
        shop.rows = rows
        assert shop.night()["unchanged"] == 3
        assert ordered(service) == 3

    def test_balance_that_paid_for_them_is_no_reason_to_reject_the_plan(
        self, service: EmulatorProcess, shop: Shop, kill: Callable[..., None]
    ) -> None:
        shop.feed(3)
        kill(shop.night)
        balance = {"success": True, "remain_balance": 0.05, "remain_credits": 10, "credits_per_usd": 200}
        service.add_fault(on="balance", kind="status", status=200, body=balance, times=-1)
        assert shop.retry()["saved"] == 3
        assert ordered(service) == 3

    def test_foreign_not_found_does_not_forget_a_claim(
        self, service: EmulatorProcess, shop: Shop, kill: Callable[..., None]
    ) -> None:
        shop.feed(3)
        kill(shop.night)
        age_claims(shop)
        shop.rows = shop.rows[:1]
        service.add_fault(on="status", kind="status", status=404, body=NO_ROUTE, times=3)
        shop.night()
        shop.night()
        assert unnamed(service, shop) == []

    def test_row_that_the_manifest_has_lost_is_saved(
        self, service: EmulatorProcess, shop: Shop, kill: Callable[..., None]
    ) -> None:
        shop.feed(3)
        kill(shop.night)
        for part in (shop.folder / ".manifest").glob("*.jsonl"):
            part.unlink()
        shop.rows = shop.rows[:1]
        shop.night()
        assert unnamed(service, shop) == []
        assert (shop.folder / "sku-2.mp4").exists()

    def test_outage_ends_it_and_loses_nothing(
        self, service: EmulatorProcess, shop: Shop, clock: Clock, kill: Callable[..., None]
    ) -> None:
        shop.feed(20)
        kill(shop.night)
        posted = ordered(service)
        began = clock.time()
        service.add_fault(on="status", kind="status", status=503, times=6)
        assert shop.retry()["saved"] == 20
        assert clock.time() - began < 20 * 60
        assert ordered(service) == 20 >= posted

    def test_response_that_names_no_id_is_no_video(
        self, service: EmulatorProcess, shop: Shop, kill: Callable[..., None]
    ) -> None:
        shop.feed(1)
        kill(shop.night)
        service.add_fault(on="status", kind="status", status=200, body={"status": "in_progress"}, times=4)
        waiting = deferral(lambda: shop.writes(deferrable=True)().execute(shop.ti.next_attempt().context))
        (video,) = billed(service)
        assert cast("ToAPIsVideoBatchTrigger", waiting.trigger).video_ids == [video["id"]]
        shop.retry()
        assert shop.manifest()["sku-0"]["video_id"] == video["id"]

    def test_failed_video_is_replaced_and_its_refund_counts(
        self, service: EmulatorProcess, shop: Shop, kill: Callable[..., None]
    ) -> None:
        shop.feed(2)
        service.add_fault(**NO_GPU, times=2)
        kill(lambda: shop.night(max_cost_usd="0.20"))
        for video in billed(service):
            service.finish(video["id"])
        assert shop.retry(max_cost_usd="0.20")["saved"] == 2
        assert ordered(service) == 4


class TestBudget:
    def test_price_that_the_service_billed_counts(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(10)
        service.add_fault(**NO_GPU, times=5)
        service.list_prices("grok-video-1.5-preview", {"charge_type": "per_moon", "unit_price": "1"})
        fields: dict[str, Any] = {"price_usd": "0.05", "max_cost_usd": "0.50", "max_failures": 0}
        with pytest.raises(ToAPIsBatchError):
            shop.night(**fields)
        posted = ordered(service)
        saved = [entry for entry in shop.manifest().values() if entry["state"] == "saved"]
        assert all(entry["costs"][0]["price_usd"] == entry["price_usd"] for entry in saved)
        with pytest.raises(ToAPIsRequestError, match="max_cost_usd"):
            shop.retry(**fields)
        assert ordered(service) == posted

    def test_expired_video_that_was_not_noted_counts(
        self, service: EmulatorProcess, shop: Shop, clock: Clock, kill: Callable[..., None]
    ) -> None:
        shop.feed(1)
        kill(lambda: shop.night(max_cost_usd="0.25"))
        service.finish(billed(service)[0]["id"])
        service.add_fault(on="result", kind="truncate", times=-1)
        for _ in range(4):
            clock.sleep(25 * HOUR)
            with pytest.raises((ToAPIsBatchError, ToAPIsRequestError)):
                shop.retry(max_cost_usd="0.25", max_failures=0)
        assert ordered(service) == 2
        assert unnamed(service, shop) == []

    def test_row_that_is_restored_in_the_same_run_costs_nothing_more(
        self, service: EmulatorProcess, shop: Shop, kill: Callable[..., None]
    ) -> None:
        shop.feed(3)
        old = dict(shop.rows[0])
        kill(lambda: shop.night(max_cost_usd="0.30"))
        shop.rows[0] = {**old, "prompt": "An edit by mistake"}
        shop.retry(max_cost_usd="0.30")
        shop.rows[0] = old
        assert shop.retry(max_cost_usd="0.30")["saved"] == 3
        assert ordered(service) == 3

    def test_deleted_file_is_saved_again_within_the_exact_limit(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        shop.night(max_cost_usd="0.30")
        (shop.folder / "sku-0.mp4").unlink()
        assert shop.retry(max_cost_usd="0.30")["saved"] == 3
        assert ordered(service) == 3


class TestFilesThatComeAndGo:
    @pytest.fixture
    def content(self, shop: Shop, clock: Clock, service: EmulatorProcess) -> bytes:
        """A video whose file is deleted, and whose result has expired."""
        shop.feed(1)
        shop.night()
        content = self.file(shop).read_bytes()
        self.file(shop).unlink()
        clock.sleep(25 * HOUR)
        return content

    @staticmethod
    def file(shop: Shop) -> Path:
        return shop.folder / "sku-0.mp4"

    def test_replacement_in_progress_is_named_when_the_file_is_back(
        self, service: EmulatorProcess, shop: Shop, content: bytes
    ) -> None:
        Run(shop, "second").step()
        self.file(shop).write_bytes(content)
        assert shop.night()["superseded"] == 1
        assert [video["video_id"] for video in shop.manifest()["sku-0"]["superseded"]] == [billed(service)[1]["id"]]

    def test_replacement_that_was_not_noted_is_named_when_the_file_is_back(
        self, service: EmulatorProcess, shop: Shop, content: bytes, kill: Callable[..., None]
    ) -> None:
        kill(shop.night)
        self.file(shop).write_bytes(content)
        shop.night()
        assert ordered(service) == 2
        assert unnamed(service, shop) == []


class TestNews:
    def test_video_that_another_run_noted_during_a_post_stays_named(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(2)
        second = Run(shop, "second", requests=[{**shop.rows[0], "prompt": "Changed"}, dict(shop.rows[1])])
        order, look = RowJob.submit, WorkerPass._refresh_if_due
        noted, looked = threading.Event(), threading.Event()

        def slow_order(orders: RowJob, entry: ManifestEntry, row: Row) -> Outcome:
            outcome = order(orders, entry, row)
            if entry.submission and entry.submission.run_id != "second" and entry.key == "sku-0":
                second.step()
                noted.set()
                looked.wait(10)
            return outcome

        def look_now(one_pass: WorkerPass) -> None:
            if one_pass._attempt.run_id != "second" and one_pass._running and not looked.is_set() and noted.wait(10):
                one_pass._refreshed_at = -1e9
                look(one_pass)
                looked.set()

        monkeypatch.setattr(RowJob, "submit", slow_order)
        monkeypatch.setattr(worker_pass.WorkerPass, "_refresh_if_due", look_now)
        shop.night()
        assert looked.is_set()
        assert len(billed(service)) == 3
        assert unnamed(service, shop) == []


class TestWithoutReplay:
    """A service that bills a repeated key again."""

    @pytest.fixture(scope="class")
    @classmethod
    def running_emulator(cls) -> Any:
        options: dict[str, Any] = {"latency": LATENCY, "latency_spread": 0, "submit_rps": 0, "query_rps": 0}
        with EmulatorProcess(api_key=API_KEY, no_replay=True, **options) as emulator:
            render_once(emulator)
            yield emulator

    def test_postponed_row_keeps_its_known_video(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(2)
        shop.night()
        shop.rows.append({**shop.rows[0], "key": "bad"})
        service.add_fault(**NO_GPU, times=1)
        with pytest.raises(ToAPIsBatchError):
            shop.night(max_failures=0)
        (shop.folder / "sku-0.mp4").unlink()
        assert shop.retry()["postponed"] == 1
        posted = ordered(service)
        service.add_fault(on="status", kind="status", status=404, body=NO_ROUTE, times=1)
        shop.night()
        assert ordered(service) == posted

    def test_claim_under_the_key_of_a_forgotten_video_holds_others_back(
        self, service: EmulatorProcess, shop: Shop, clock: Clock, kill: Callable[..., None]
    ) -> None:
        shop.feed(1)
        shop.night()
        (shop.folder / "sku-0.mp4").unlink()
        clock.sleep(25 * HOUR)
        (forgotten,) = billed(service)
        not_found: dict[str, Any] = {"on": "status", "kind": "status", "status": 404, "body": NOT_FOUND}
        service.add_fault(**not_found, times=-1, match=forgotten["id"])
        service.add_fault(**not_found, times=1, match=forgotten["client_business_id"])
        kill(shop.night)
        assert ordered(service) == 2
        service.add_fault(**not_found, times=2, match=forgotten["client_business_id"])
        assert shop.retry()["saved"] == 1
        assert ordered(service) == 2
