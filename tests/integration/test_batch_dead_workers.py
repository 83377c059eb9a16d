"""Batches whose workers died after a submission, or whose files were deleted: no video is lost or billed twice."""

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
from tests.integration.test_batch_operator import HOUR, Shop, billed, shop, submission_count
from tests.integration.test_batch_runs import NO_ROUTE, NOT_FOUND, Run

if TYPE_CHECKING:
    from airflow_provider_toapis.triggers.video import ToAPIsVideoBatchTrigger

__all__ = ["shop"]

#: A fault: the generation fails.
NO_GPU: dict[str, Any] = {"on": "submit", "kind": "task_failed", "code": "generation_failed", "message": "no GPU"}


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Return a function that runs an attempt whose worker dies after its submissions, before it records them."""

    def die(_: WorkerPass) -> None:
        raise KeyboardInterrupt

    def killed(attempt: Callable[[], object]) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(WorkerPass, "_record", die)
            with pytest.raises(KeyboardInterrupt):
                attempt()

    return killed


def claims(shop: Shop) -> list[Path]:
    return sorted((shop.directory / ".manifest" / "claims").iterdir())


def age_claims(shop: Shop) -> None:
    for claim in claims(shop):
        os.utime(claim, (time.time() - 301, time.time() - 301))


def unrecorded(service: EmulatorProcess, shop: Shop) -> list[str]:
    """Return the billed videos that no line of the manifest names."""
    manifest = json.dumps(list(shop.manifest().values()))
    return [video["id"] for video in billed(service) if video["id"] not in manifest]


class TestFollowUp:
    def test_older_video_of_a_missing_row_does_not_replace_the_newer_one(
        self, service: EmulatorProcess, shop: Shop, clock: Clock, kill: Callable[..., None]
    ) -> None:
        shop.feed(2)
        kill(shop.run_nightly)
        service.add_fault(on="status", kind="status", status=503, times=4)
        newer = {**shop.rows[0], "prompt": "The newer form"}
        shop.rows[0] = newer
        shop.run_nightly()
        saved = shop.manifest()["sku-0"]["video_id"]
        age_claims(shop)
        shop.rows = shop.rows[1:]
        shop.run_nightly()
        assert shop.manifest()["sku-0"]["video_id"] == saved
        assert unrecorded(service, shop) == []
        count = submission_count(service)
        shop.rows.append(newer)
        clock.sleep(25 * HOUR)
        shop.run_nightly()
        assert submission_count(service) == count

    def test_rejected_plan_saves_unrecorded_videos(
        self, service: EmulatorProcess, shop: Shop, clock: Clock, kill: Callable[..., None]
    ) -> None:
        shop.feed(3)
        kill(shop.run_nightly)
        rows, shop.rows = shop.rows, [*shop.rows, {"key": "bad"}]
        with pytest.raises(ToAPIsRequestError):
            shop.retry()
        clock.sleep(25 * HOUR)
        shop.rows = rows
        assert shop.run_nightly()["unchanged"] == 3
        assert submission_count(service) == 3

    def test_balance_spent_on_unrecorded_videos_does_not_reject_the_plan(
        self, service: EmulatorProcess, shop: Shop, kill: Callable[..., None]
    ) -> None:
        shop.feed(3)
        kill(shop.run_nightly)
        balance = {"success": True, "remain_balance": 0.05, "remain_credits": 10, "credits_per_usd": 200}
        service.add_fault(on="balance", kind="status", status=200, body=balance, times=-1)
        assert shop.retry()["saved"] == 3
        assert submission_count(service) == 3

    def test_gateway_404_does_not_remove_a_claim(
        self, service: EmulatorProcess, shop: Shop, kill: Callable[..., None]
    ) -> None:
        shop.feed(3)
        kill(shop.run_nightly)
        age_claims(shop)
        shop.rows = shop.rows[:1]
        service.add_fault(on="status", kind="status", status=404, body=NO_ROUTE, times=3)
        shop.run_nightly()
        shop.run_nightly()
        assert unrecorded(service, shop) == []

    def test_row_missing_from_the_manifest_is_saved(
        self, service: EmulatorProcess, shop: Shop, kill: Callable[..., None]
    ) -> None:
        shop.feed(3)
        kill(shop.run_nightly)
        for part in (shop.directory / ".manifest").glob("*.jsonl"):
            part.unlink()
        shop.rows = shop.rows[:1]
        shop.run_nightly()
        assert unrecorded(service, shop) == []
        assert (shop.directory / "sku-2.mp4").exists()

    def test_outage_during_follow_up_loses_no_video(
        self, service: EmulatorProcess, shop: Shop, clock: Clock, kill: Callable[..., None]
    ) -> None:
        shop.feed(20)
        kill(shop.run_nightly)
        posted = submission_count(service)
        began = clock.time()
        service.add_fault(on="status", kind="status", status=503, times=6)
        assert shop.retry()["saved"] == 20
        assert clock.time() - began < 20 * 60
        assert submission_count(service) == 20 >= posted

    def test_response_without_id_is_not_taken_for_a_video(
        self, service: EmulatorProcess, shop: Shop, kill: Callable[..., None]
    ) -> None:
        shop.feed(1)
        kill(shop.run_nightly)
        service.add_fault(on="status", kind="status", status=200, body={"status": "in_progress"}, times=4)
        waiting = deferral(lambda: shop.dag_task(deferrable=True)().execute(shop.ti.next_attempt().context))
        (video,) = billed(service)
        assert cast("ToAPIsVideoBatchTrigger", waiting.trigger).video_ids == [video["id"]]
        shop.retry()
        assert shop.manifest()["sku-0"]["video_id"] == video["id"]

    def test_failed_unrecorded_video_is_replaced_and_its_refund_counts(
        self, service: EmulatorProcess, shop: Shop, kill: Callable[..., None]
    ) -> None:
        shop.feed(2)
        service.add_fault(**NO_GPU, times=2)
        kill(lambda: shop.run_nightly(max_cost_usd="0.20"))
        for video in billed(service):
            service.finish(video["id"])
        assert shop.retry(max_cost_usd="0.20")["saved"] == 2
        assert submission_count(service) == 4


class TestBudget:
    def test_billed_price_counts_for_max_cost(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(10)
        service.add_fault(**NO_GPU, times=5)
        service.list_prices("grok-video-1.5-preview", {"charge_type": "per_moon", "unit_price": "1"})
        fields: dict[str, Any] = {"price_usd": "0.05", "max_cost_usd": "0.50", "max_failures": 0}
        with pytest.raises(ToAPIsBatchError):
            shop.run_nightly(**fields)
        posted = submission_count(service)
        saved = [entry for entry in shop.manifest().values() if entry["state"] == "saved"]
        assert all(entry["costs"][0]["price_usd"] == entry["price_usd"] for entry in saved)
        with pytest.raises(ToAPIsRequestError, match="max_cost_usd"):
            shop.retry(**fields)
        assert submission_count(service) == posted

    def test_expired_unrecorded_video_counts_for_max_cost(
        self, service: EmulatorProcess, shop: Shop, clock: Clock, kill: Callable[..., None]
    ) -> None:
        shop.feed(1)
        kill(lambda: shop.run_nightly(max_cost_usd="0.25"))
        service.finish(billed(service)[0]["id"])
        service.add_fault(on="result", kind="truncate", times=-1)
        for _ in range(4):
            clock.sleep(25 * HOUR)
            with pytest.raises((ToAPIsBatchError, ToAPIsRequestError)):
                shop.retry(max_cost_usd="0.25", max_failures=0)
        assert submission_count(service) == 2
        assert unrecorded(service, shop) == []

    def test_row_restored_in_the_same_run_is_not_billed_again(
        self, service: EmulatorProcess, shop: Shop, kill: Callable[..., None]
    ) -> None:
        shop.feed(3)
        old = dict(shop.rows[0])
        kill(lambda: shop.run_nightly(max_cost_usd="0.30"))
        shop.rows[0] = {**old, "prompt": "An edit by mistake"}
        shop.retry(max_cost_usd="0.30")
        shop.rows[0] = old
        assert shop.retry(max_cost_usd="0.30")["saved"] == 3
        assert submission_count(service) == 3

    def test_deleted_file_is_saved_again_within_max_cost(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        shop.run_nightly(max_cost_usd="0.30")
        (shop.directory / "sku-0.mp4").unlink()
        assert shop.retry(max_cost_usd="0.30")["saved"] == 3
        assert submission_count(service) == 3


class TestDeletedFiles:
    @pytest.fixture
    def content(self, shop: Shop, clock: Clock, service: EmulatorProcess) -> bytes:
        """Save a video, delete its file and let its result expire. Return the content."""
        shop.feed(1)
        shop.run_nightly()
        content = self.file(shop).read_bytes()
        self.file(shop).unlink()
        clock.sleep(25 * HOUR)
        return content

    @staticmethod
    def file(shop: Shop) -> Path:
        return shop.directory / "sku-0.mp4"

    def test_replacement_in_progress_is_reported_when_the_file_is_restored(
        self, service: EmulatorProcess, shop: Shop, content: bytes
    ) -> None:
        Run(shop, "second").step()
        self.file(shop).write_bytes(content)
        assert shop.run_nightly()["superseded"] == 1
        assert [video["video_id"] for video in shop.manifest()["sku-0"]["superseded"]] == [billed(service)[1]["id"]]

    def test_unrecorded_replacement_is_reported_when_the_file_is_restored(
        self, service: EmulatorProcess, shop: Shop, content: bytes, kill: Callable[..., None]
    ) -> None:
        kill(shop.run_nightly)
        self.file(shop).write_bytes(content)
        shop.run_nightly()
        assert submission_count(service) == 2
        assert unrecorded(service, shop) == []


class TestConcurrentRecord:
    def test_video_recorded_by_another_run_during_a_submission_stays_in_the_manifest(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(2)
        second = Run(shop, "second", requests=[{**shop.rows[0], "prompt": "Changed"}, dict(shop.rows[1])])
        submit, refresh = RowJob.submit, WorkerPass._refresh_if_due
        recorded, refreshed = threading.Event(), threading.Event()

        def slow_submit(job: RowJob, entry: ManifestEntry, row: Row) -> Outcome:
            outcome = submit(job, entry, row)
            if entry.submission and entry.submission.run_id != "second" and entry.key == "sku-0":
                second.step()
                recorded.set()
                refreshed.wait(10)
            return outcome

        def refresh_now(one_pass: WorkerPass) -> None:
            if (
                one_pass._attempt.run_id != "second"
                and one_pass._running
                and not refreshed.is_set()
                and recorded.wait(10)
            ):
                one_pass._refreshed_at = -1e9
                refresh(one_pass)
                refreshed.set()

        monkeypatch.setattr(RowJob, "submit", slow_submit)
        monkeypatch.setattr(worker_pass.WorkerPass, "_refresh_if_due", refresh_now)
        shop.run_nightly()
        assert refreshed.is_set()
        assert len(billed(service)) == 3
        assert unrecorded(service, shop) == []


class TestWithoutReplay:
    """A service that bills every submission, even one with a known idempotency key."""

    @pytest.fixture(scope="class")
    @classmethod
    def running_emulator(cls) -> Any:
        options: dict[str, Any] = {"latency": LATENCY, "latency_spread": 0, "submit_rps": 0, "query_rps": 0}
        with EmulatorProcess(api_key=API_KEY, no_replay=True, **options) as emulator:
            render_once(emulator)
            yield emulator

    def test_postponed_row_keeps_its_recorded_video(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(2)
        shop.run_nightly()
        shop.rows.append({**shop.rows[0], "key": "bad"})
        service.add_fault(**NO_GPU, times=1)
        with pytest.raises(ToAPIsBatchError):
            shop.run_nightly(max_failures=0)
        (shop.directory / "sku-0.mp4").unlink()
        assert shop.retry()["postponed"] == 1
        posted = submission_count(service)
        service.add_fault(on="status", kind="status", status=404, body=NO_ROUTE, times=1)
        shop.run_nightly()
        assert submission_count(service) == posted

    def test_claim_for_the_key_of_a_lost_video_prevents_another_submission(
        self, service: EmulatorProcess, shop: Shop, clock: Clock, kill: Callable[..., None]
    ) -> None:
        shop.feed(1)
        shop.run_nightly()
        (shop.directory / "sku-0.mp4").unlink()
        clock.sleep(25 * HOUR)
        (lost,) = billed(service)
        not_found: dict[str, Any] = {"on": "status", "kind": "status", "status": 404, "body": NOT_FOUND}
        service.add_fault(**not_found, times=-1, match=lost["id"])
        service.add_fault(**not_found, times=1, match=lost["client_business_id"])
        kill(shop.run_nightly)
        assert submission_count(service) == 2
        service.add_fault(**not_found, times=2, match=lost["client_business_id"])
        assert shop.retry()["saved"] == 1
        assert submission_count(service) == 2
