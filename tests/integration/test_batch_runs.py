"""Several runs, and a feed that changes, on one directory: nothing is billed twice, dropped, or over the limit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_toapis.batch import worker_pass
from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.manifest import Manifest
from airflow_provider_toapis.batch.row_job import RowJob
from airflow_provider_toapis.batch.runner import Batch
from airflow_provider_toapis.batch.worker_pass import WorkerPass
from airflow_provider_toapis.exceptions import ToAPIsBatchError, ToAPIsRequestError, ToAPIsWaitInterruptedError
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.triggers.video import ToAPIsVideoBatchTrigger
from tests.airflow_task import FakeTaskInstance, attempt, fired, stored_and_loaded
from tests.errors import claims_nothing_was_billed
from tests.integration.conftest import Clock, posts
from tests.integration.emulator_process import EmulatorProcess
from tests.integration.test_batch_operator import HOUR, Shop, billed, ordered, shop

__all__ = ["shop"]

TIMEOUT = 1800
NO_ROUTE = {"message": "no Route matched with those values"}
NOT_FOUND = {"error": {"code": "task_not_exist", "message": "Task not found"}}


class Run:
    """One task instance, which goes on one step at a time."""

    def __init__(self, shop: Shop, run_id: str, **fields: Any) -> None:
        self.ti = FakeTaskInstance(task_id="catalog", run_id=run_id, map_index=fields.pop("map_index", -1))
        self._make = shop.writes(deferrable=True, **fields)
        self.result: Any = None
        self._next: Callable[[], Any] | None = lambda: self._make().execute(self.ti.context)

    @property
    def is_over(self) -> bool:
        return self._next is None

    def step(self) -> None:
        """Run to the next deferral, or to the end."""
        step, self._next = self._next, None
        assert step is not None
        try:
            self.result = step()
        except TaskDeferred as deferred:
            waiting = deferred
            self._next = lambda: self._resumed(waiting)
        except ToAPIsBatchError as error:
            self.result = error

    def _resumed(self, deferred: TaskDeferred) -> Any:
        event = {"event": self.event(cast("ToAPIsVideoBatchTrigger", deferred.trigger))}
        return self._make().resume_execution(deferred.method_name, event, self.ti.context)

    def event(self, trigger: ToAPIsVideoBatchTrigger) -> dict[str, Any]:
        """Wait for the trigger."""
        return fired(stored_and_loaded(trigger))

    def finish(self) -> Any:
        while not self.is_over:
            self.step()
        return self.result


class WokenRun(Run):
    """A run that is woken by and by, as if some of its videos were final."""

    def event(self, trigger: ToAPIsVideoBatchTrigger) -> dict[str, Any]:
        """Wait for none of the videos."""
        count = len(trigger.video_ids)
        return {"status": "success", "final": hex(2**count - 1), "waiting": 0}


class TestTwoRuns:
    def test_rows_are_billed_once_when_two_runs_submit_them_at_the_same_time(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(30)
        results: dict[str, Any] = {}

        def night(run_id: str) -> None:
            ti = FakeTaskInstance(task_id="catalog", run_id=run_id)
            results[run_id] = attempt(shop.writes(), ti)

        nights = [threading.Thread(target=night, args=(run_id,)) for run_id in ("first", "second")]
        for one in nights:
            one.start()
        for one in nights:
            one.join()
        assert ordered(service) == 30
        assert results.keys() == {"first", "second"}
        assert {entry["state"] for entry in shop.manifest().values()} == {"saved"}
        assert [result["failed"] for result in results.values()] == [0, 0]
        assert shop.night()["unchanged"] == 30
        assert ordered(service) == 30

    def test_row_that_another_process_is_submitting_is_not_submitted(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(2)
        monkeypatch.setattr(worker_pass, "CLAIM_CHECKS", 2)
        with monkeypatch.context() as killed:
            # The worker dies between the claim and the POST.
            killed.setattr("airflow_provider_toapis.api.client.ToAPIsClient._send_submission", _die)
            with pytest.raises(KeyboardInterrupt):
                shop.night()
        claims = list((shop.folder / ".manifest" / "claims").iterdir())
        assert claims
        with pytest.raises(ToAPIsBatchError, match="Another process is submitting this row"):
            shop.retry()
        assert ordered(service) == 2 - len(claims)
        for claim in claims:
            os.utime(claim, (time.time() - 301, time.time() - 301))
        assert shop.retry()["saved"] == 2
        assert ordered(service) == 2

    def test_runs_take_turns_and_both_end_well(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(10)
        first, second = Run(shop, "first"), Run(shop, "second")
        for run in (first, second, first, second):
            if not run.is_over:
                run.step()
        for run in (first, second):
            assert run.finish()["failed"] == 0
        assert {entry["state"] for entry in shop.manifest().values()} == {"saved"}
        assert ordered(service) == 10

    def test_video_that_never_ends_ends_both_runs(self, service: EmulatorProcess, shop: Shop, clock: Clock) -> None:
        shop.feed(2)
        service.add_fault(on="status", kind="task_status", value="in_progress", times=-1)
        began = clock.time()
        runs = [WokenRun(shop, run_id, timeout=TIMEOUT) for run_id in ("first", "second")]
        while clock.time() - began < 6 * HOUR and not all(run.is_over for run in runs):
            for run in runs:
                if not run.is_over:
                    run.step()
                clock.sleep(30)
        assert all(run.is_over for run in runs)
        assert clock.time() - began < 2 * TIMEOUT + 600
        assert any(isinstance(run.result, ToAPIsBatchError) for run in runs)
        assert {entry["state"] for entry in shop.manifest().values()} == {"interrupted"}

    def test_slow_run_does_not_forget_what_another_one_has_saved(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(3)
        compact = Manifest.compact

        def compact_after_another_run(manifest: Manifest) -> bool:
            monkeypatch.setattr(Manifest, "compact", compact)
            other = shop.writes(requests=[*shop.rows, {**shop.rows[0], "key": "new"}])
            attempt(other, FakeTaskInstance(task_id="catalog", run_id="other"))
            return compact(manifest)

        monkeypatch.setattr(Manifest, "compact", compact_after_another_run)
        assert shop.night()["saved"] == 3
        assert shop.manifest().keys() == {"sku-0", "sku-1", "sku-2", "new"}
        shop.rows.append({**shop.rows[0], "key": "new"})
        assert shop.night()["unchanged"] == 4
        assert ordered(service) == 4

    def test_videos_of_two_runs_with_different_feeds_stay_named(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(2)
        changed = [{**row, "prompt": f"Changed {row['key']}"} for row in shop.rows]
        first, second = Run(shop, "first"), Run(shop, "second", requests=changed)
        flush = WorkerPass._flush

        def flush_after_another_run(one_pass: WorkerPass) -> None:
            monkeypatch.setattr(WorkerPass, "_flush", flush)
            second.step()
            flush(one_pass)

        monkeypatch.setattr(WorkerPass, "_flush", flush_after_another_run)
        first.step()
        ids = {video["id"] for video in billed(service)}
        assert len(ids) == 4
        first.finish()
        for entry in shop.manifest().values():
            assert entry["video_id"] in ids
            (dropped,) = entry["superseded"]
            ids -= {entry["video_id"], dropped["video_id"]}
            assert dropped["price_usd"] == "0.10"
        assert ids == set()
        # The changed row's video takes the place of the one that was saved.
        assert second.finish()["saved"] == 2
        assert [entry["superseded"] for entry in shop.manifest().values()] == [[], []]
        assert ordered(service) == 4


class TestRowChangesWhileItsVideoIsMade:
    """One run waits for a row's video when another one, whose feed has changed, submits the next."""

    @pytest.fixture
    def feeds(self, shop: Shop) -> tuple[Any, Any]:
        shop.feed(1)
        return [dict(shop.rows[0])], [{**shop.rows[0], "prompt": "Something else happens"}]

    def test_older_video_is_not_saved_over_the_newer_one(
        self, service: EmulatorProcess, shop: Shop, feeds: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wait = ToAPIsVideoBatchOperator._wait_until_some_final

        def wait_for_another_run(operator: Any, *args: Any) -> Any:
            monkeypatch.setattr(ToAPIsVideoBatchOperator, "_wait_until_some_final", wait)
            event = wait(operator, *args)
            attempt(shop.writes(requests=feeds[1]), FakeTaskInstance(task_id="catalog", run_id="newer"))
            return event

        monkeypatch.setattr(ToAPIsVideoBatchOperator, "_wait_until_some_final", wait_for_another_run)
        shop.rows = feeds[0]
        shop.night()
        older, newer = (video["id"] for video in billed(service))
        entry = shop.manifest()["sku-0"]
        assert (entry["video_id"], [video["video_id"] for video in entry["superseded"]]) == (newer, [older])
        assert entry["sha256"] == hashlib.sha256((shop.folder / "sku-0.mp4").read_bytes()).hexdigest()
        shop.rows = feeds[1]
        assert (shop.night()["unchanged"], ordered(service)) == (1, 2)

    @pytest.mark.parametrize("ends", [False, True], ids=["submitted", "saved"])
    def test_row_that_changes_during_the_download_ends_with_the_newer_video(
        self,
        service: EmulatorProcess,
        shop: Shop,
        feeds: tuple[Any, Any],
        monkeypatch: pytest.MonkeyPatch,
        ends: bool,
    ) -> None:
        older, newer = (
            Run(shop, run_id, requests=rows) for run_id, rows in zip(("older", "newer"), feeds, strict=True)
        )
        older.step()
        fetched = RowJob._save

        def fetched_late(orders: RowJob, entry: Any, task: Any) -> Any:
            monkeypatch.setattr(RowJob, "_save", fetched)
            newer.finish() if ends else newer.step()
            return fetched(orders, entry, task)

        monkeypatch.setattr(RowJob, "_save", fetched_late)
        older.finish()
        if not ends:
            newer.finish()
        entry = shop.manifest()["sku-0"]
        assert (entry["state"], entry["video_id"]) == ("saved", billed(service)[1]["id"])
        assert entry["sha256"] == hashlib.sha256((shop.folder / "sku-0.mp4").read_bytes()).hexdigest()
        shop.rows = feeds[1]
        assert (shop.night()["unchanged"], ordered(service)) == (1, 2)


def _die(*_: object) -> Any:
    # Neither a thread's nor a task's error: the process is gone.
    raise KeyboardInterrupt


class TestOwner:
    def test_another_task_is_rejected_and_takes_nothing(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        shop.leaves_under_way(service)
        before = sorted(shop.folder.rglob("*"))
        ti = FakeTaskInstance(task_id="other", run_id="scheduled__0")
        with pytest.raises(ToAPIsRequestError, match=r"owner\.json.*'catalog'") as rejected:
            attempt(shop.writes(), ti)
        assert isinstance(rejected.value, AirflowFailException)
        assert sorted(shop.folder.rglob("*")) == before
        assert shop.night()["saved"] == 3
        (shop.folder / ".manifest" / "owner.json").unlink()
        assert attempt(shop.writes(), ti)["unchanged"] == 3
        assert ordered(service) == 3

    def test_second_map_index_of_a_run_is_rejected_and_the_first_goes_on(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(2)
        first, second = (Run(shop, "tonight", map_index=index) for index in (0, 1))
        first.step()
        with pytest.raises(ToAPIsRequestError, match="map index 0"):
            second.step()
        assert first.finish()["saved"] == 2
        assert Run(shop, "tomorrow", map_index=1).finish()["unchanged"] == 2
        assert ordered(service) == 2

    @pytest.mark.parametrize("name", ["owner.json", "plans/*.json"])
    def test_half_of_a_file_does_not_give_up_videos_that_are_billed(
        self, service: EmulatorProcess, shop: Shop, name: str
    ) -> None:
        shop.feed(2)
        shop.leaves_under_way(service)
        (file,) = (shop.folder / ".manifest").glob(name)
        content = file.read_text()
        file.write_text(content[: len(content) // 2])
        with pytest.raises(ToAPIsWaitInterruptedError, match=file.name) as interrupted:
            shop.retry()
        assert not isinstance(interrupted.value, AirflowFailException)
        assert not claims_nothing_was_billed(interrupted.value)
        file.write_text(content)
        assert (shop.retry()["saved"], ordered(service)) == (2, 2)

    def test_dry_run_of_another_task_may_look(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(2)
        shop.night()
        plan = attempt(shop.writes(dry_run=True), FakeTaskInstance(task_id="plan"))
        assert plan["unchanged"] == 2


class TestBudget:
    def test_prompts_that_change_between_attempts_are_the_next_run_s(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(6)
        service.add_fault(on="submit", kind="task_failed", times=2, code="generation_failed", message="no GPU")
        with pytest.raises(ToAPIsBatchError):
            shop.night(max_cost_usd="0.60", max_failures=0)
        for edit in range(2):
            for row in shop.rows:
                row["prompt"] = f"Edited {edit}: {row['key']}"
            result = shop.retry(max_cost_usd="0.60", max_failures=0)
            assert (result["saved"], result["postponed"], result["failed"]) == (0, 6, 0)
        assert ordered(service) == 6
        assert "next run" in shop.manifest()["sku-0"]["submission"]["reason"]
        assert shop.night(max_cost_usd="0.60")["saved"] == 6

    def test_every_video_of_a_run_counts(self, service: EmulatorProcess, shop: Shop, clock: Clock) -> None:
        """Also those whose results are lost, of which the row knows only the newest."""
        shop.feed(2)
        service.add_fault(on="result", kind="truncate", times=-1)
        with pytest.raises(ToAPIsBatchError):
            shop.night(max_cost_usd="0.45", max_failures=0)
        for _ in range(3):
            clock.sleep(25 * HOUR)
            with pytest.raises(ToAPIsBatchError):
                shop.retry(max_cost_usd="0.45", max_failures=0)
        assert ordered(service) == 4
        with pytest.raises(ToAPIsRequestError, match=r"max_cost_usd.*spent 0\.40 USD"):
            shop.retry(max_cost_usd="0.45", max_failures=0)
        assert ordered(service) == 4

    def test_videos_that_another_run_took_over_count(self, service: EmulatorProcess, shop: Shop, clock: Clock) -> None:
        shop.feed(5)
        first, second = (Run(shop, run_id, max_cost_usd="0.50") for run_id in ("first", "second"))
        first.step()
        assert second.finish()["saved"] == 5
        first.finish()
        for row in shop.rows:
            (shop.folder / f"{row['key']}.mp4").unlink()
        clock.sleep(25 * HOUR)
        with pytest.raises(ToAPIsRequestError, match=r"spent 0\.50 USD"):
            attempt(shop.writes(max_cost_usd="0.50"), first.ti.next_attempt())
        assert ordered(service) == 5
        assert attempt(shop.writes(max_cost_usd="0.50"), second.ti.next_attempt())["saved"] == 5

    def test_refunded_videos_do_not_count(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(5)
        service.add_fault(on="submit", kind="task_failed", times=5, code="generation_failed", message="no GPU")
        with pytest.raises(ToAPIsBatchError):
            shop.night(max_cost_usd="0.50", max_failures=0)
        assert shop.retry(max_cost_usd="0.50")["saved"] == 5
        assert ordered(service) == 10
        assert {spend["price_usd"] for spend in shop.manifest()["sku-0"]["costs"]} == {"0", "0.10"}

    def test_submission_that_was_not_noted_counts(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A retry that submits nothing is within any budget."""
        shop.feed(3)
        with monkeypatch.context() as killed:
            killed.setattr(WorkerPass, "_flush", _die)
            with pytest.raises(KeyboardInterrupt):
                shop.night(max_cost_usd="0.30")
        shop.rows[0]["prompt"] = "Changed since"
        result = shop.retry(max_cost_usd="0.30")
        assert (result["saved"], result["postponed"]) == (3, 0)
        assert {spend["price_usd"] for entry in shop.manifest().values() for spend in entry["costs"]} == {"0.10"}
        assert ordered(service) == 3

    def test_feed_that_is_replaced_during_a_run_is_the_next_run_s(
        self, service: EmulatorProcess, shop: Shop, tmp_path: Path
    ) -> None:
        shop.feed(4)
        feed = tmp_path / "feed.jsonl"

        def write(**fields: Any) -> None:
            feed.write_text("".join(f"{json.dumps(row | fields)}\n" for row in shop.rows))

        write(duration=10)
        run = Run(shop, "tonight", requests=str(feed), max_active=2, max_cost_usd="0.40")
        run.step()
        assert ordered(service) == 2
        write(duration=15)
        result = run.finish()
        assert (result["saved"], result["postponed"]) == (2, 2)
        assert ordered(service) == 2
        assert sum(float(video["cost_usd"]) for video in billed(service)) <= 0.40

    def test_video_in_progress_of_a_row_that_changed_since_is_saved(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(1)
        shop.leaves_under_way(service)
        shop.rows[0]["prompt"] = "Something else happens"
        result = shop.retry()
        assert (result["saved"], result["superseded"]) == (1, 0)
        assert ordered(service) == 1
        assert (shop.night()["saved"], ordered(service)) == (1, 2)

    @pytest.mark.parametrize("field", ["max_cost_usd", "price_usd"])
    @pytest.mark.parametrize("value", ["", " ", "None", "null", [], {}, True, "nan", "-1"])
    def test_value_that_is_no_amount_is_rejected(
        self, service: EmulatorProcess, shop: Shop, field: str, value: object
    ) -> None:
        shop.feed(1)
        with pytest.raises(ToAPIsRequestError, match=field):
            shop.night(**{field: value})
        assert posts(service) == []

    @pytest.mark.parametrize("field", ["max_cost_usd", "price_usd"])
    def test_template_that_renders_to_none_is_rejected(self, service: EmulatorProcess, shop: Shop, field: str) -> None:
        shop.feed(1)
        operator = shop.writes(**{field: "{{ params.nothing }}"})()
        setattr(operator, field, None)
        with pytest.raises(ToAPIsRequestError, match=f"{field}=None"):
            operator.execute(shop.ti.context)
        assert posts(service) == []


class TestBilled:
    def test_video_that_is_superseded_is_named_with_its_cost(
        self, service: EmulatorProcess, shop: Shop, logged: Callable[[], str]
    ) -> None:
        shop.feed(2)
        shop.leaves_under_way(service)
        dropped = {video["client_business_id"]: video["id"] for video in billed(service)}
        for row in shop.rows:
            row["prompt"] = f"Changed {row['key']}"
        result = shop.night()
        assert (result["saved"], result["superseded"]) == (2, 2)
        named = [video for entry in shop.manifest().values() for video in entry["superseded"]]
        assert {video["client_business_id"]: video["video_id"] for video in named} == dropped
        assert {video["price_usd"] for video in named} == {"0.10"}
        for video_id in dropped.values():
            assert f"video {video_id} is superseded" in logged()
        assert "expected price 0.10 USD" in logged()
        assert shop.night()["superseded"] == 0

    def test_videos_of_rows_that_are_missing_tonight_are_saved(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        shop.leaves_under_way(service)
        rows, shop.rows = shop.rows, shop.rows[:1]
        shop.night()
        manifest = shop.manifest()
        assert {key: entry["in_feed"] for key, entry in manifest.items()} == {
            "sku-0": True,
            "sku-1": False,
            "sku-2": False,
        }
        assert {entry["state"] for entry in manifest.values()} == {"saved"}
        shop.rows = rows
        assert shop.night()["unchanged"] == 3
        assert ordered(service) == 3


class TestKnown:
    """A video whose id is known is not billed again within a day, whatever look-ups by key find."""

    def test_video_whose_file_was_deleted_is_saved_again(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(1)
        shop.night()
        (shop.folder / "sku-0.mp4").unlink()
        service.add_fault(on="status", kind="status", status=404, body=NO_ROUTE, times=1)
        assert shop.night()["saved"] == 1
        assert (len(posts(service)), ordered(service)) == (1, 1)

    def test_video_that_the_service_does_not_find_for_a_moment_is_not_replaced(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(1)
        shop.night()
        (shop.folder / "sku-0.mp4").unlink()
        service.add_fault(on="status", kind="status", status=404, body=NOT_FOUND, times=-1)
        with pytest.raises(ToAPIsBatchError, match="less than 24 hours ago"):
            shop.night(max_failures=0)
        service.clear_faults()
        assert shop.retry()["saved"] == 1
        assert ordered(service) == 1

    def test_video_of_a_row_that_is_changed_back_is_adopted(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(1)
        first = shop.rows[0]["prompt"]
        shop.leaves_under_way(service)
        (video,) = billed(service)
        shop.rows[0]["prompt"] = "Something else happens"
        shop.night()
        assert [each["video_id"] for each in shop.manifest()["sku-0"]["superseded"]] == [video["id"]]
        shop.rows[0]["prompt"] = first
        service.add_fault(on="status", kind="status", status=404, body=NO_ROUTE, times=1)
        shop.night()
        entry = shop.manifest()["sku-0"]
        assert (entry["video_id"], entry["superseded"]) == (video["id"], [])
        assert ordered(service) == 2


class TestNotNoted:
    """Videos that were submitted by a worker that died before it noted them."""

    @pytest.fixture
    def rows(self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        shop.feed(3)
        with monkeypatch.context() as killed:
            killed.setattr(WorkerPass, "_flush", _die)
            with pytest.raises(KeyboardInterrupt):
                shop.night()
        for claim in (shop.folder / ".manifest" / "claims").iterdir():
            os.utime(claim, (time.time() - 301, time.time() - 301))
        return list(shop.rows)

    @staticmethod
    def claims(shop: Shop) -> list[str]:
        return [claim.name for claim in (shop.folder / ".manifest" / "claims").iterdir()]

    def test_those_of_changed_rows_are_named(
        self, service: EmulatorProcess, shop: Shop, rows: list[dict[str, Any]], logged: Callable[[], str]
    ) -> None:
        ids = {video["id"] for video in billed(service)}
        assert len(ids) == 3
        shop.rows = [{**row, "prompt": f"Changed {row['key']}"} for row in rows]
        result = shop.night()
        assert (result["saved"], result["superseded"]) == (3, 3)
        named = [video for entry in shop.manifest().values() for video in entry["superseded"]]
        assert {video["video_id"] for video in named} == ids
        assert {video["price_usd"] for video in named} == {"0.10"}
        for video_id in ids:
            assert f"video {video_id} is superseded" in logged()
        assert self.claims(shop) == []
        assert ordered(service) == 6

    def test_those_of_missing_rows_are_saved(
        self, service: EmulatorProcess, shop: Shop, rows: list[dict[str, Any]]
    ) -> None:
        shop.rows = rows[:1]
        shop.night()
        assert {entry["state"] for entry in shop.manifest().values()} == {"saved"}
        assert self.claims(shop) == []
        shop.rows = rows
        assert shop.night()["unchanged"] == 3
        assert ordered(service) == 3

    def test_those_that_are_not_found_are_named_once_in_the_log(
        self, service: EmulatorProcess, shop: Shop, rows: list[dict[str, Any]], logged: Callable[[], str]
    ) -> None:
        lost = self.claims(shop)
        assert len(lost) == 3
        shop.rows = [{**row, "prompt": f"Changed {row['key']}"} for row in rows]
        service.add_fault(on="status", kind="status", status=404, body=NOT_FOUND, times=3)
        assert shop.night()["saved"] == 3
        for business_id in lost:
            assert f"client_business_id {business_id} for an earlier version" in logged()
        assert self.claims(shop) == []


class TestForgotten:
    @pytest.fixture
    def saved(self, service: EmulatorProcess, shop: Shop) -> Shop:
        shop.feed(2)
        shop.ti.earlier_result = shop.night()
        return shop

    def rejected(self, shop: Shop, ti: FakeTaskInstance, **fields: Any) -> str:
        with pytest.raises(ToAPIsRequestError) as rejected:
            attempt(shop.writes(**fields), ti)
        assert isinstance(rejected.value, AirflowFailException)
        assert '{"version": 1}' in str(rejected.value)
        return str(rejected.value)

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_emptied_manifest_beside_saved_videos_bills_nothing(
        self, service: EmulatorProcess, saved: Shop, dry_run: bool
    ) -> None:
        (saved.folder / "manifest.jsonl").write_text("")
        said = self.rejected(saved, FakeTaskInstance(task_id="catalog", run_id="next"), dry_run=dry_run)
        assert str(saved.folder / "manifest.jsonl") in said
        assert ordered(service) == 2

    def test_emptied_manifest_beside_a_part_of_a_worker_that_died_bills_nothing(
        self, service: EmulatorProcess, saved: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved.rows.append({**saved.rows[0], "key": "new"})
        with monkeypatch.context() as killed:
            killed.setattr(Batch, "run_pass", _die)
            with pytest.raises(KeyboardInterrupt):
                saved.night()
        (saved.folder / "manifest.jsonl").write_text("")
        assert "'sku-0'" in self.rejected(saved, FakeTaskInstance(task_id="catalog", run_id="next"))
        assert ordered(service) == 2

    def test_manifest_without_some_of_the_saved_rows_bills_nothing(self, service: EmulatorProcess, saved: Shop) -> None:
        manifest = saved.folder / "manifest.jsonl"
        lines = manifest.read_text().splitlines(keepends=True)
        manifest.write_text(lines[0])
        self.rejected(saved, FakeTaskInstance(task_id="catalog", run_id="next"))
        assert ordered(service) == 2
        manifest.write_text("".join(lines))
        assert saved.night()["unchanged"] == 2

    def test_missing_manifest_beside_the_videos_of_the_feed_bills_nothing(
        self, service: EmulatorProcess, saved: Shop
    ) -> None:
        (saved.folder / "manifest.jsonl").unlink()
        assert "'sku-0'" in self.rejected(saved, FakeTaskInstance(task_id="catalog", run_id="next"))
        assert ordered(service) == 2

    def test_share_that_is_not_mounted_bills_nothing(self, service: EmulatorProcess, saved: Shop) -> None:
        saved.folder.rename(saved.folder.with_name("away"))
        ti = FakeTaskInstance(task_id="catalog", run_id="next")
        ti.earlier_result = {"saved": 2, "unchanged": 0, "manifest": str(saved.folder / "manifest.jsonl")}
        assert "earlier runs" in self.rejected(saved, ti)
        assert ordered(service) == 2

    def test_share_that_is_lost_during_the_wait_bills_nothing(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        run = Run(shop, "tonight")
        run.step()
        away = shop.folder.with_name("away")
        shop.folder.rename(away)
        with pytest.raises(ToAPIsWaitInterruptedError, match=r"manifest\.jsonl") as interrupted:
            run.step()
        assert not isinstance(interrupted.value, AirflowFailException)
        assert len(posts(service)) == 3
        if shop.folder.exists():
            shutil.rmtree(shop.folder)
        away.rename(shop.folder)
        assert attempt(shop.writes(), run.ti.next_attempt())["saved"] == 3
        assert len(posts(service)) == 3

    @pytest.mark.parametrize(
        "earlier",
        [
            None,
            [],
            {"saved": 2, "manifest": "/elsewhere/manifest.jsonl"},
            {"saved": 0, "unchanged": 0},
            {"estimated_cost_usd": "1"},
        ],
    )
    def test_first_run_in_a_directory_is_no_loss(self, service: EmulatorProcess, shop: Shop, earlier: Any) -> None:
        shop.feed(1)
        shop.folder.mkdir()
        (shop.folder / "of another one.mp4").touch()
        ti = FakeTaskInstance(task_id="catalog", run_id="first")
        ti.earlier_result = (
            {"manifest": str(shop.folder / "manifest.jsonl"), **earlier} if isinstance(earlier, dict) else earlier
        )
        assert attempt(shop.writes(), ti)["saved"] == 1

    def test_manifest_that_holds_only_the_version_starts_over(self, service: EmulatorProcess, saved: Shop) -> None:
        (saved.folder / "manifest.jsonl").write_text('{"version": 1}\n')
        ti = FakeTaskInstance(task_id="catalog", run_id="next")
        ti.earlier_result = {"saved": 2, "manifest": str(saved.folder / "manifest.jsonl")}
        assert attempt(saved.writes(), ti)["saved"] == 2
        assert saved.manifest().keys() == {"sku-0", "sku-1"}


class TestKilled:
    def test_nothing_more_is_submitted_after_a_kill(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(60)
        operator = shop.writes()()
        order = WorkerPass._submit

        def order_and_be_killed(one_pass: WorkerPass, threads: Any, entry: Any, row: Any) -> None:
            order(one_pass, threads, entry, row)
            if entry.key == "sku-9":
                operator.on_kill()

        ti = FakeTaskInstance(task_id="catalog", run_id="scheduled__1")
        with monkeypatch.context() as patch:
            patch.setattr(WorkerPass, "_submit", order_and_be_killed)
            with pytest.raises(ToAPIsWaitInterruptedError, match="killed"):
                operator.execute(ti.context)
        assert ordered(service) <= 10
        entries = Manifest(Directory(str(shop.folder))).entries.values()
        assert sum(entry.state == "pending" for entry in entries) >= 50
        assert {entry.state for entry in entries} <= {"pending", "submitted"}
        for claim in (shop.folder / ".manifest" / "claims").iterdir():
            os.utime(claim, (time.time() - 301, time.time() - 301))
        assert attempt(shop.writes(), ti.next_attempt())["saved"] == 60
        assert ordered(service) == 60
