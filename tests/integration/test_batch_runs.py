"""Several batch runs and changing feeds on one directory: no video is billed twice or lost, and budgets hold."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_toapis.batch import manifest, worker_pass
from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.feed_files import _Lines
from airflow_provider_toapis.batch.manifest import Manifest
from airflow_provider_toapis.batch.row_job import RowJob
from airflow_provider_toapis.batch.runner import Batch
from airflow_provider_toapis.batch.worker_pass import WorkerPass
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsBatchError,
    ToAPIsRequestError,
    ToAPIsWaitInterruptedError,
)
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.triggers.video import ToAPIsVideoBatchTrigger
from tests.airflow_task import FakeTaskInstance, attempt, fired, stored_and_loaded
from tests.catalog_entries import entry as catalog_entry
from tests.errors import claims_nothing_was_billed
from tests.integration.conftest import Clock, posts
from tests.integration.emulator_process import EmulatorProcess
from tests.integration.test_batch_operator import HOUR, Shop, billed, shop, submission_count

__all__ = ["shop"]

TIMEOUT = 1800
NO_ROUTE = {"message": "no Route matched with those values"}
NO_KEY = {"error": {"code": "invalid_api_key", "message": "Invalid API key"}}
NOT_FOUND = {"error": {"code": "task_not_exist", "message": "Task not found"}}


class Run:
    """One task instance that runs one step at a time."""

    def __init__(self, shop: Shop, run_id: str, **fields: Any) -> None:
        self.ti = FakeTaskInstance(task_id="catalog", run_id=run_id, map_index=fields.pop("map_index", -1))
        self._make = shop.dag_task(deferrable=True, **fields)
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


class ResumedRun(Run):
    """A run that is always resumed immediately, as if its videos were final."""

    def event(self, trigger: ToAPIsVideoBatchTrigger) -> dict[str, Any]:
        """Return an event without waiting for the videos."""
        count = len(trigger.video_ids)
        return {"status": "success", "final": hex(2**count - 1), "waiting": 0}


class TestTwoRuns:
    def test_rows_are_billed_once_when_two_runs_submit_them_at_the_same_time(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(30)
        results: dict[str, Any] = {}

        def run_batch(run_id: str) -> None:
            ti = FakeTaskInstance(task_id="catalog", run_id=run_id)
            results[run_id] = attempt(shop.dag_task(), ti)

        threads = [threading.Thread(target=run_batch, args=(run_id,)) for run_id in ("first", "second")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert submission_count(service) == 30
        assert results.keys() == {"first", "second"}
        assert {entry["state"] for entry in shop.manifest().values()} == {"saved"}
        assert [result["failed"] for result in results.values()] == [0, 0]
        assert shop.run_nightly()["unchanged"] == 30
        assert submission_count(service) == 30

    def test_row_that_another_process_is_submitting_is_not_submitted(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(2)
        monkeypatch.setattr(worker_pass, "CLAIM_CHECKS", 2)
        with monkeypatch.context() as killed:
            # The worker dies between the claim and the submission.
            killed.setattr("airflow_provider_toapis.api.client.ToAPIsClient._send_submission", _die)
            with pytest.raises(KeyboardInterrupt):
                shop.run_nightly()
        claims = list((shop.directory / ".manifest" / "claims").iterdir())
        assert claims
        with pytest.raises(ToAPIsBatchError, match="Another process is submitting this row"):
            shop.retry()
        assert submission_count(service) == 2 - len(claims)
        for claim in claims:
            os.utime(claim, (time.time() - 301, time.time() - 301))
        assert shop.retry()["saved"] == 2
        assert submission_count(service) == 2

    def test_runs_that_take_turns_both_succeed(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(10)
        first, second = Run(shop, "first"), Run(shop, "second")
        for run in (first, second, first, second):
            if not run.is_over:
                run.step()
        for run in (first, second):
            assert run.finish()["failed"] == 0
        assert {entry["state"] for entry in shop.manifest().values()} == {"saved"}
        assert submission_count(service) == 10

    def test_video_that_never_completes_times_out_both_runs(
        self, service: EmulatorProcess, shop: Shop, clock: Clock
    ) -> None:
        shop.feed(2)
        service.add_fault(on="status", kind="task_status", value="in_progress", times=-1)
        began = clock.time()
        runs = [ResumedRun(shop, run_id, timeout=TIMEOUT) for run_id in ("first", "second")]
        while clock.time() - began < 6 * HOUR and not all(run.is_over for run in runs):
            for run in runs:
                if not run.is_over:
                    run.step()
                clock.sleep(30)
        assert all(run.is_over for run in runs)
        assert clock.time() - began < 2 * TIMEOUT + 600
        assert any(isinstance(run.result, ToAPIsBatchError) for run in runs)
        assert {entry["state"] for entry in shop.manifest().values()} == {"interrupted"}

    def test_slow_run_keeps_the_entries_that_another_run_has_saved(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(3)
        compact = Manifest.compact

        def compact_after_another_run(manifest: Manifest) -> bool:
            monkeypatch.setattr(Manifest, "compact", compact)
            other = shop.dag_task(requests=[*shop.rows, {**shop.rows[0], "key": "new"}])
            attempt(other, FakeTaskInstance(task_id="catalog", run_id="other"))
            return compact(manifest)

        monkeypatch.setattr(Manifest, "compact", compact_after_another_run)
        assert shop.run_nightly()["saved"] == 3
        assert shop.manifest().keys() == {"sku-0", "sku-1", "sku-2", "new"}
        shop.rows.append({**shop.rows[0], "key": "new"})
        assert shop.run_nightly()["unchanged"] == 4
        assert submission_count(service) == 4

    def test_videos_of_two_runs_with_different_feeds_stay_in_the_manifest(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(2)
        changed = [{**row, "prompt": f"Changed {row['key']}"} for row in shop.rows]
        first, second = Run(shop, "first"), Run(shop, "second", requests=changed)
        flush = WorkerPass._record

        def flush_after_another_run(one_pass: WorkerPass) -> None:
            monkeypatch.setattr(WorkerPass, "_record", flush)
            second.step()
            flush(one_pass)

        monkeypatch.setattr(WorkerPass, "_record", flush_after_another_run)
        first.step()
        ids = {video["id"] for video in billed(service)}
        assert len(ids) == 4
        first.finish()
        for entry in shop.manifest().values():
            assert entry["video_id"] in ids
            (superseded,) = entry["superseded"]
            ids -= {entry["video_id"], superseded["video_id"]}
            assert superseded["price_usd"] == "0.10"
        assert ids == set()
        # The changed row's video replaces the saved one.
        assert second.finish()["saved"] == 2
        assert [entry["superseded"] for entry in shop.manifest().values()] == [[], []]
        assert submission_count(service) == 4


class TestRowChangesDuringGeneration:
    """One run waits for a row's video. Meanwhile the feed changes, and another run submits the row's next video."""

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
            attempt(shop.dag_task(requests=feeds[1]), FakeTaskInstance(task_id="catalog", run_id="newer"))
            return event

        monkeypatch.setattr(ToAPIsVideoBatchOperator, "_wait_until_some_final", wait_for_another_run)
        shop.rows = feeds[0]
        shop.run_nightly()
        older, newer = (video["id"] for video in billed(service))
        entry = shop.manifest()["sku-0"]
        assert (entry["video_id"], [video["video_id"] for video in entry["superseded"]]) == (newer, [older])
        assert entry["sha256"] == hashlib.sha256((shop.directory / "sku-0.mp4").read_bytes()).hexdigest()
        shop.rows = feeds[1]
        assert (shop.run_nightly()["unchanged"], submission_count(service)) == (1, 2)

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
        save = RowJob._save

        def save_late(job: RowJob, entry: Any, task: Any) -> Any:
            monkeypatch.setattr(RowJob, "_save", save)
            newer.finish() if ends else newer.step()
            return save(job, entry, task)

        monkeypatch.setattr(RowJob, "_save", save_late)
        older.finish()
        if not ends:
            newer.finish()
        entry = shop.manifest()["sku-0"]
        assert (entry["state"], entry["video_id"]) == ("saved", billed(service)[1]["id"])
        assert entry["sha256"] == hashlib.sha256((shop.directory / "sku-0.mp4").read_bytes()).hexdigest()
        shop.rows = feeds[1]
        assert (shop.run_nightly()["unchanged"], submission_count(service)) == (1, 2)


def _die(*_: object) -> Any:
    # No ``except Exception`` catches this error, just as no code catches a kill.
    raise KeyboardInterrupt


class TestOwner:
    def test_another_task_is_rejected_and_changes_nothing(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        shop.leave_videos_in_progress(service)
        before = sorted(shop.directory.rglob("*"))
        ti = FakeTaskInstance(task_id="other", run_id="scheduled__0")
        with pytest.raises(ToAPIsRequestError, match=r"owner\.json.*'catalog'") as rejected:
            attempt(shop.dag_task(), ti)
        assert isinstance(rejected.value, AirflowFailException)
        assert sorted(shop.directory.rglob("*")) == before
        assert shop.run_nightly()["saved"] == 3
        (shop.directory / ".manifest" / "owner.json").unlink()
        assert attempt(shop.dag_task(), ti)["unchanged"] == 3
        assert submission_count(service) == 3

    def test_second_map_index_of_a_run_is_rejected_and_the_first_continues(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(2)
        first, second = (Run(shop, "tonight", map_index=index) for index in (0, 1))
        first.step()
        with pytest.raises(ToAPIsRequestError, match="map index 0"):
            second.step()
        assert first.finish()["saved"] == 2
        assert Run(shop, "tomorrow", map_index=1).finish()["unchanged"] == 2
        assert submission_count(service) == 2

    @pytest.mark.parametrize("name", ["owner.json", "plans/*.json"])
    def test_truncated_state_file_interrupts_the_run_without_losing_billed_videos(
        self, service: EmulatorProcess, shop: Shop, name: str
    ) -> None:
        shop.feed(2)
        shop.leave_videos_in_progress(service)
        (file,) = (shop.directory / ".manifest").glob(name)
        content = file.read_text()
        file.write_text(content[: len(content) // 2])
        with pytest.raises(ToAPIsWaitInterruptedError, match=file.name) as interrupted:
            shop.retry()
        assert not isinstance(interrupted.value, AirflowFailException)
        assert not claims_nothing_was_billed(interrupted.value)
        file.write_text(content)
        assert (shop.retry()["saved"], submission_count(service)) == (2, 2)

    def test_dry_run_of_another_task_is_allowed(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(2)
        shop.run_nightly()
        plan = attempt(shop.dag_task(dry_run=True), FakeTaskInstance(task_id="plan"))
        assert plan["unchanged"] == 2


class TestBudget:
    def test_prompts_changed_between_attempts_are_submitted_by_the_next_run(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(6)
        service.add_fault(on="submit", kind="task_failed", times=2, code="generation_failed", message="no GPU")
        with pytest.raises(ToAPIsBatchError):
            shop.run_nightly(max_cost_usd="0.60", max_failures=0)
        for edit in range(2):
            for row in shop.rows:
                row["prompt"] = f"Edited {edit}: {row['key']}"
            result = shop.retry(max_cost_usd="0.60", max_failures=0)
            assert (result["saved"], result["postponed"], result["failed"]) == (0, 6, 0)
        assert submission_count(service) == 6
        assert "next run" in shop.manifest()["sku-0"]["submission"]["reason"]
        assert shop.run_nightly(max_cost_usd="0.60")["saved"] == 6

    def test_every_video_of_a_run_counts_for_max_cost(self, service: EmulatorProcess, shop: Shop, clock: Clock) -> None:
        """Lost results count too, although the row names only the newest video."""
        shop.feed(2)
        service.add_fault(on="result", kind="truncate", times=-1)
        with pytest.raises(ToAPIsBatchError):
            shop.run_nightly(max_cost_usd="0.45", max_failures=0)
        for _ in range(3):
            clock.sleep(25 * HOUR)
            with pytest.raises(ToAPIsBatchError):
                shop.retry(max_cost_usd="0.45", max_failures=0)
        assert submission_count(service) == 4
        with pytest.raises(ToAPIsRequestError, match=r"max_cost_usd.*spent 0\.40 USD"):
            shop.retry(max_cost_usd="0.45", max_failures=0)
        assert submission_count(service) == 4

    def test_videos_that_another_run_reattached_count_for_max_cost(
        self, service: EmulatorProcess, shop: Shop, clock: Clock
    ) -> None:
        shop.feed(5)
        first, second = (Run(shop, run_id, max_cost_usd="0.50") for run_id in ("first", "second"))
        first.step()
        assert second.finish()["saved"] == 5
        first.finish()
        for row in shop.rows:
            (shop.directory / f"{row['key']}.mp4").unlink()
        clock.sleep(25 * HOUR)
        with pytest.raises(ToAPIsRequestError, match=r"spent 0\.50 USD"):
            attempt(shop.dag_task(max_cost_usd="0.50"), first.ti.next_attempt())
        assert submission_count(service) == 5
        assert attempt(shop.dag_task(max_cost_usd="0.50"), second.ti.next_attempt())["saved"] == 5

    def test_refunded_videos_do_not_count_for_max_cost(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(5)
        service.add_fault(on="submit", kind="task_failed", times=5, code="generation_failed", message="no GPU")
        with pytest.raises(ToAPIsBatchError):
            shop.run_nightly(max_cost_usd="0.50", max_failures=0)
        assert shop.retry(max_cost_usd="0.50")["saved"] == 5
        assert submission_count(service) == 10
        assert {spend["price_usd"] for spend in shop.manifest()["sku-0"]["costs"]} == {"0", "0.10"}

    def test_unrecorded_submission_counts_for_max_cost(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A retry that submits nothing is within any budget."""
        shop.feed(3)
        with monkeypatch.context() as killed:
            killed.setattr(WorkerPass, "_record", _die)
            with pytest.raises(KeyboardInterrupt):
                shop.run_nightly(max_cost_usd="0.30")
        shop.rows[0]["prompt"] = "Changed since"
        result = shop.retry(max_cost_usd="0.30")
        assert (result["saved"], result["postponed"]) == (3, 0)
        assert {spend["price_usd"] for entry in shop.manifest().values() for spend in entry["costs"]} == {"0.10"}
        assert submission_count(service) == 3

    def test_feed_replaced_during_a_run_is_used_by_the_next_run(
        self, service: EmulatorProcess, shop: Shop, tmp_path: Path
    ) -> None:
        shop.feed(4)
        feed = tmp_path / "feed.jsonl"

        def write(**fields: Any) -> None:
            feed.write_text("".join(f"{json.dumps(row | fields)}\n" for row in shop.rows))

        write(duration=10)
        run = Run(shop, "tonight", requests=str(feed), max_active=2, max_cost_usd="0.40")
        run.step()
        assert submission_count(service) == 2
        write(duration=15)
        result = run.finish()
        assert (result["saved"], result["postponed"]) == (2, 2)
        assert submission_count(service) == 2
        assert sum(float(video["cost_usd"]) for video in billed(service)) <= 0.40

    def test_video_in_progress_of_a_changed_row_is_saved(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(1)
        shop.leave_videos_in_progress(service)
        shop.rows[0]["prompt"] = "Something else happens"
        result = shop.retry()
        assert (result["saved"], result["superseded"]) == (1, 0)
        assert submission_count(service) == 1
        assert (shop.run_nightly()["saved"], submission_count(service)) == (1, 2)

    @pytest.mark.parametrize("field", ["max_cost_usd", "price_usd"])
    @pytest.mark.parametrize("value", ["", " ", "None", "null", [], {}, True, "nan", "-1"])
    def test_value_that_is_not_an_amount_is_rejected(
        self, service: EmulatorProcess, shop: Shop, field: str, value: object
    ) -> None:
        shop.feed(1)
        with pytest.raises(ToAPIsRequestError, match=field):
            shop.run_nightly(**{field: value})
        assert posts(service) == []

    @pytest.mark.parametrize("field", ["max_cost_usd", "price_usd"])
    def test_template_that_renders_to_none_is_rejected(self, service: EmulatorProcess, shop: Shop, field: str) -> None:
        shop.feed(1)
        operator = shop.dag_task(**{field: "{{ params.nothing }}"})()
        setattr(operator, field, None)
        with pytest.raises(ToAPIsRequestError, match=f"{field}=None"):
            operator.execute(shop.ti.context)
        assert posts(service) == []


class TestWakeups:
    """A resumed attempt reads what is in progress, and continues with the feed where it stopped."""

    @pytest.fixture(autouse=True)
    def small_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Load only one or two pending rows at once."""
        monkeypatch.setattr(manifest, "_QUEUE_BLOCK", 2000)

    @pytest.fixture
    def feed(self, shop: Shop, tmp_path: Path) -> Path:
        shop.feed(24)
        return tmp_path / "feed.jsonl"

    @staticmethod
    def write(feed: Path, rows: list[dict[str, Any]]) -> None:
        feed.write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def test_resumed_attempt_reads_no_row_twice(
        self, service: EmulatorProcess, shop: Shop, feed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.write(feed, shop.rows)
        run = Run(shop, "tonight", requests=str(feed), max_active=5)
        run.step()
        read: list[str] = []
        next_line = _Lines.__next__

        def recorded(lines: _Lines) -> str:
            read.append(line := next_line(lines))
            return line

        monkeypatch.setattr(_Lines, "__next__", recorded)
        full_reads: list[Manifest] = []
        read_all = Manifest._read_all

        def counted(manifest: Manifest) -> None:
            full_reads.append(manifest)
            read_all(manifest)

        monkeypatch.setattr(Manifest, "_read_all", counted)
        passes = 0
        while not run.is_over:
            run.step()
            passes += 1
        assert (run.result["saved"], submission_count(service)) == (24, 24)
        # At each pass, the row at which the earlier pass stopped is read again.
        assert len(read) <= 19 + passes
        # Only the compaction at the end needs all rows.
        assert len(full_reads) == 1
        assert [*shop.manifest()] == [row["key"] for row in shop.rows]

    @pytest.mark.parametrize("change", ["inserted", "reversed", "removed"])
    def test_planned_rows_are_submitted_if_the_feed_changes_during_the_wait(
        self, service: EmulatorProcess, shop: Shop, feed: Path, change: str
    ) -> None:
        self.write(feed, shop.rows)
        run = Run(shop, "tonight", requests=str(feed), max_active=5, max_failures=1.0)
        run.step()
        new = [{**shop.rows[0], "key": f"new-{number}"} for number in range(3)]
        changed = {"inserted": [*new, *shop.rows], "reversed": shop.rows[::-1], "removed": shop.rows[:-1]}[change]
        self.write(feed, changed)
        run.finish()
        removed = change == "removed"
        assert (run.result["saved"], run.result["failed"]) == (24 - removed, removed)
        assert submission_count(service) == 24 - removed
        states = {key: entry["state"] for key, entry in shop.manifest().items()}
        assert states == {row["key"]: "saved" for row in shop.rows} | ({"sku-23": "failed"} if removed else {})

    def test_rows_of_a_list_are_submitted_in_several_passes(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(24)
        run = Run(shop, "tonight", max_active=5)
        assert (run.finish()["saved"], submission_count(service)) == (24, 24)

    def test_pass_that_submits_nothing_more_needs_no_feed(
        self, service: EmulatorProcess, shop: Shop, feed: Path
    ) -> None:
        self.write(feed, shop.rows)
        run = Run(shop, "tonight", requests=str(feed))
        run.step()
        feed.unlink()
        assert (run.finish()["saved"], submission_count(service)) == (24, 24)

    @pytest.mark.parametrize("death", ["WorkerPass._record", "Batch.save_checkpoint", "Manifest.narrow"])
    def test_worker_that_dies_in_a_resumed_pass_loses_no_video(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch, death: str
    ) -> None:
        shop.feed(24)
        run = Run(shop, "tonight", max_active=5)
        run.step()
        run.step()
        class_name, _, method = death.partition(".")
        with monkeypatch.context() as killed:
            killed.setattr({"WorkerPass": WorkerPass, "Batch": Batch, "Manifest": Manifest}[class_name], method, _die)
            with pytest.raises(KeyboardInterrupt):
                run.step()
        for claim in (shop.directory / ".manifest" / "claims").iterdir():
            os.utime(claim, (time.time() - 301, time.time() - 301))
        assert attempt(shop.dag_task(max_active=5), run.ti.next_attempt())["saved"] == 24
        assert submission_count(service) == 24

    def test_old_checkpoint_is_not_used(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(24)
        run = Run(shop, "tonight", max_active=5)
        run.step()
        monkeypatch.setattr(Batch, "save_checkpoint", lambda _: None)
        assert (run.finish()["saved"], submission_count(service)) == (24, 24)

    def test_rejected_key_during_a_pass_delays_rows_until_the_next_pass(
        self, service: EmulatorProcess, shop: Shop, feed: Path
    ) -> None:
        self.write(feed, shop.rows)
        run = Run(shop, "tonight", requests=str(feed), max_active=5)
        run.step()
        service.add_fault(on="submit", kind="status", status=401, body=NO_KEY, times=2)
        # On a busy machine, all five videos are saved in this pass. Then the attempt ends with the error.
        with suppress(ToAPIsAuthError):
            run.step()
        assert submission_count(service) < 10
        if run.is_over:
            result = attempt(shop.dag_task(requests=str(feed), max_active=5), run.ti.next_attempt())
        else:
            result = run.finish()
        assert (set(shop.manifest()), submission_count(service)) == ({row["key"] for row in shop.rows}, 24)
        assert result["failed"] == 0

    @pytest.mark.parametrize("compacts", [True, False])
    def test_rows_that_another_run_recorded_during_the_wait_are_not_lost(
        self, service: EmulatorProcess, shop: Shop, compacts: bool
    ) -> None:
        shop.feed(24)
        run = Run(shop, "tonight", max_active=5)
        run.step()
        other = Manifest(Directory(str(shop.directory)))
        other.update(catalog_entry("other", "failed"))
        if compacts:
            other.compact()
        else:
            other.flush()
        assert (run.finish()["saved"], submission_count(service)) == (24, 24)
        assert shop.manifest().keys() == {"other", *(row["key"] for row in shop.rows)}


class TestSupersededVideos:
    def test_superseded_video_is_reported_with_its_cost(
        self, service: EmulatorProcess, shop: Shop, logged: Callable[[], str]
    ) -> None:
        shop.feed(2)
        shop.leave_videos_in_progress(service)
        superseded = {video["client_business_id"]: video["id"] for video in billed(service)}
        for row in shop.rows:
            row["prompt"] = f"Changed {row['key']}"
        result = shop.run_nightly()
        assert (result["saved"], result["superseded"]) == (2, 2)
        named = [video for entry in shop.manifest().values() for video in entry["superseded"]]
        assert {video["client_business_id"]: video["video_id"] for video in named} == superseded
        assert {video["price_usd"] for video in named} == {"0.10"}
        for video_id in superseded.values():
            assert f"video {video_id} is superseded" in logged()
        assert "expected price 0.10 USD" in logged()
        assert shop.run_nightly()["superseded"] == 0

    def test_videos_of_rows_missing_from_the_feed_are_saved(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        shop.leave_videos_in_progress(service)
        rows, shop.rows = shop.rows, shop.rows[:1]
        shop.run_nightly()
        manifest = shop.manifest()
        assert {key: entry["in_feed"] for key, entry in manifest.items()} == {
            "sku-0": True,
            "sku-1": False,
            "sku-2": False,
        }
        assert {entry["state"] for entry in manifest.values()} == {"saved"}
        shop.rows = rows
        assert shop.run_nightly()["unchanged"] == 3
        assert submission_count(service) == 3


class TestRecordedVideos:
    """A video whose id is recorded is not billed again within a day, even if look-ups by key do not find it."""

    def test_video_whose_file_was_deleted_is_saved_again(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(1)
        shop.run_nightly()
        (shop.directory / "sku-0.mp4").unlink()
        service.add_fault(on="status", kind="status", status=404, body=NO_ROUTE, times=1)
        assert shop.run_nightly()["saved"] == 1
        assert (len(posts(service)), submission_count(service)) == (1, 1)

    def test_video_temporarily_not_found_is_not_replaced(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(1)
        shop.run_nightly()
        (shop.directory / "sku-0.mp4").unlink()
        service.add_fault(on="status", kind="status", status=404, body=NOT_FOUND, times=-1)
        with pytest.raises(ToAPIsBatchError, match="less than 24 hours ago"):
            shop.run_nightly(max_failures=0)
        service.clear_faults()
        assert shop.retry()["saved"] == 1
        assert submission_count(service) == 1

    def test_row_that_is_changed_back_reattaches_to_its_video(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(1)
        first = shop.rows[0]["prompt"]
        shop.leave_videos_in_progress(service)
        (video,) = billed(service)
        shop.rows[0]["prompt"] = "Something else happens"
        shop.run_nightly()
        assert [each["video_id"] for each in shop.manifest()["sku-0"]["superseded"]] == [video["id"]]
        shop.rows[0]["prompt"] = first
        service.add_fault(on="status", kind="status", status=404, body=NO_ROUTE, times=1)
        shop.run_nightly()
        entry = shop.manifest()["sku-0"]
        assert (entry["video_id"], entry["superseded"]) == (video["id"], [])
        assert submission_count(service) == 2


class TestUnrecordedVideos:
    """Videos of a worker that died before it recorded them."""

    @pytest.fixture
    def rows(self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        shop.feed(3)
        with monkeypatch.context() as killed:
            killed.setattr(WorkerPass, "_record", _die)
            with pytest.raises(KeyboardInterrupt):
                shop.run_nightly()
        for claim in (shop.directory / ".manifest" / "claims").iterdir():
            os.utime(claim, (time.time() - 301, time.time() - 301))
        return list(shop.rows)

    @staticmethod
    def claims(shop: Shop) -> list[str]:
        return [claim.name for claim in (shop.directory / ".manifest" / "claims").iterdir()]

    def test_unrecorded_videos_of_changed_rows_are_reported(
        self, service: EmulatorProcess, shop: Shop, rows: list[dict[str, Any]], logged: Callable[[], str]
    ) -> None:
        ids = {video["id"] for video in billed(service)}
        assert len(ids) == 3
        shop.rows = [{**row, "prompt": f"Changed {row['key']}"} for row in rows]
        result = shop.run_nightly()
        assert (result["saved"], result["superseded"]) == (3, 3)
        named = [video for entry in shop.manifest().values() for video in entry["superseded"]]
        assert {video["video_id"] for video in named} == ids
        assert {video["price_usd"] for video in named} == {"0.10"}
        for video_id in ids:
            assert f"video {video_id} is superseded" in logged()
        assert self.claims(shop) == []
        assert submission_count(service) == 6

    def test_unrecorded_videos_of_missing_rows_are_saved(
        self, service: EmulatorProcess, shop: Shop, rows: list[dict[str, Any]]
    ) -> None:
        shop.rows = rows[:1]
        shop.run_nightly()
        assert {entry["state"] for entry in shop.manifest().values()} == {"saved"}
        assert self.claims(shop) == []
        shop.rows = rows
        assert shop.run_nightly()["unchanged"] == 3
        assert submission_count(service) == 3

    def test_unrecorded_videos_that_are_not_found_are_logged_once(
        self, service: EmulatorProcess, shop: Shop, rows: list[dict[str, Any]], logged: Callable[[], str]
    ) -> None:
        lost = self.claims(shop)
        assert len(lost) == 3
        shop.rows = [{**row, "prompt": f"Changed {row['key']}"} for row in rows]
        service.add_fault(on="status", kind="status", status=404, body=NOT_FOUND, times=3)
        assert shop.run_nightly()["saved"] == 3
        for business_id in lost:
            assert f"(client_business_id {business_id}) for an earlier version" in logged()
        assert self.claims(shop) == []


class TestLostManifest:
    @pytest.fixture
    def saved(self, service: EmulatorProcess, shop: Shop) -> Shop:
        shop.feed(2)
        shop.ti.earlier_result = shop.run_nightly()
        return shop

    def rejected(self, shop: Shop, ti: FakeTaskInstance, **fields: Any) -> str:
        with pytest.raises(ToAPIsRequestError) as rejected:
            attempt(shop.dag_task(**fields), ti)
        assert isinstance(rejected.value, AirflowFailException)
        assert '{"version": 1}' in str(rejected.value)
        return str(rejected.value)

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_emptied_manifest_with_saved_videos_bills_nothing(
        self, service: EmulatorProcess, saved: Shop, dry_run: bool
    ) -> None:
        (saved.directory / "manifest.jsonl").write_text("")
        message = self.rejected(saved, FakeTaskInstance(task_id="catalog", run_id="next"), dry_run=dry_run)
        assert str(saved.directory / "manifest.jsonl") in message
        assert submission_count(service) == 2

    def test_emptied_manifest_with_a_manifest_part_bills_nothing(
        self, service: EmulatorProcess, saved: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved.rows.append({**saved.rows[0], "key": "new"})
        with monkeypatch.context() as killed:
            killed.setattr(Batch, "run_pass", _die)
            with pytest.raises(KeyboardInterrupt):
                saved.run_nightly()
        (saved.directory / "manifest.jsonl").write_text("")
        assert "'sku-0'" in self.rejected(saved, FakeTaskInstance(task_id="catalog", run_id="next"))
        assert submission_count(service) == 2

    def test_manifest_without_some_of_the_saved_rows_bills_nothing(self, service: EmulatorProcess, saved: Shop) -> None:
        manifest = saved.directory / "manifest.jsonl"
        lines = manifest.read_text().splitlines(keepends=True)
        manifest.write_text(lines[0])
        self.rejected(saved, FakeTaskInstance(task_id="catalog", run_id="next"))
        assert submission_count(service) == 2
        manifest.write_text("".join(lines))
        assert saved.run_nightly()["unchanged"] == 2

    def test_missing_manifest_with_saved_videos_of_the_feed_bills_nothing(
        self, service: EmulatorProcess, saved: Shop
    ) -> None:
        (saved.directory / "manifest.jsonl").unlink()
        assert "'sku-0'" in self.rejected(saved, FakeTaskInstance(task_id="catalog", run_id="next"))
        assert submission_count(service) == 2

    def test_unmounted_share_bills_nothing(self, service: EmulatorProcess, saved: Shop) -> None:
        saved.directory.rename(saved.directory.with_name("away"))
        ti = FakeTaskInstance(task_id="catalog", run_id="next")
        ti.earlier_result = {"saved": 2, "unchanged": 0, "manifest": str(saved.directory / "manifest.jsonl")}
        assert "earlier runs" in self.rejected(saved, ti)
        assert submission_count(service) == 2

    def test_share_lost_during_the_wait_bills_nothing(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        run = Run(shop, "tonight")
        run.step()
        away = shop.directory.with_name("away")
        shop.directory.rename(away)
        with pytest.raises(ToAPIsWaitInterruptedError, match=r"manifest\.jsonl") as interrupted:
            run.step()
        assert not isinstance(interrupted.value, AirflowFailException)
        assert len(posts(service)) == 3
        if shop.directory.exists():
            shutil.rmtree(shop.directory)
        away.rename(shop.directory)
        assert attempt(shop.dag_task(), run.ti.next_attempt())["saved"] == 3
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
    def test_first_run_in_a_directory_is_not_reported_as_a_lost_manifest(
        self, service: EmulatorProcess, shop: Shop, earlier: Any
    ) -> None:
        shop.feed(1)
        shop.directory.mkdir()
        (shop.directory / "of another one.mp4").touch()
        ti = FakeTaskInstance(task_id="catalog", run_id="first")
        ti.earlier_result = (
            {"manifest": str(shop.directory / "manifest.jsonl"), **earlier} if isinstance(earlier, dict) else earlier
        )
        assert attempt(shop.dag_task(), ti)["saved"] == 1

    def test_manifest_with_only_the_version_starts_over(self, service: EmulatorProcess, saved: Shop) -> None:
        (saved.directory / "manifest.jsonl").write_text('{"version": 1}\n')
        ti = FakeTaskInstance(task_id="catalog", run_id="next")
        ti.earlier_result = {"saved": 2, "manifest": str(saved.directory / "manifest.jsonl")}
        assert attempt(saved.dag_task(), ti)["saved"] == 2
        assert saved.manifest().keys() == {"sku-0", "sku-1"}


class TestKill:
    def test_nothing_more_is_submitted_after_a_kill(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(60)
        operator = shop.dag_task()()
        submit = WorkerPass._submit

        def submit_and_kill(one_pass: WorkerPass, threads: Any, entry: Any, row: Any) -> None:
            submit(one_pass, threads, entry, row)
            if entry.key == "sku-9":
                operator.on_kill()

        ti = FakeTaskInstance(task_id="catalog", run_id="scheduled__1")
        with monkeypatch.context() as patch:
            patch.setattr(WorkerPass, "_submit", submit_and_kill)
            with pytest.raises(ToAPIsWaitInterruptedError, match="killed"):
                operator.execute(ti.context)
        assert submission_count(service) <= 10
        entries = Manifest(Directory(str(shop.directory))).entries.values()
        assert sum(entry.state == "pending" for entry in entries) >= 50
        assert {entry.state for entry in entries} <= {"pending", "submitted"}
        for claim in (shop.directory / ".manifest" / "claims").iterdir():
            os.utime(claim, (time.time() - 301, time.time() - 301))
        assert attempt(shop.dag_task(), ti.next_attempt())["saved"] == 60
        assert submission_count(service) == 60
