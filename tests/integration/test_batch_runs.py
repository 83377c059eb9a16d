"""Several runs, and a feed that changes, on one directory: nothing is billed twice, dropped, or over the limit."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_toapis.batch import worker_pass
from airflow_provider_toapis.batch.folder import Folder
from airflow_provider_toapis.batch.manifest import Manifest
from airflow_provider_toapis.batch.worker_pass import WorkerPass
from airflow_provider_toapis.exceptions import ToAPIsBatchError, ToAPIsRequestError, ToAPIsWaitInterruptedError
from airflow_provider_toapis.triggers.video import ToAPIsVideoBatchTrigger
from tests.airflow_task import FakeTaskInstance, attempt, fired, stored_and_loaded
from tests.integration.conftest import Clock, posts
from tests.integration.emulator_process import EmulatorProcess
from tests.integration.test_batch_operator import HOUR, Shop, billed, ordered, shop

__all__ = ["shop"]

TIMEOUT = 1800


class Run:
    """One task instance, which goes on one step at a time."""

    def __init__(self, shop: Shop, run_id: str, **fields: Any) -> None:
        self.ti = FakeTaskInstance(task_id="catalogue", run_id=run_id, map_index=fields.pop("map_index", -1))
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
            ti = FakeTaskInstance(task_id="catalogue", run_id=run_id)
            results[run_id] = attempt(shop.writes(), ti)

        nights = [threading.Thread(target=night, args=(run_id,)) for run_id in ("first", "second")]
        for one in nights:
            one.start()
        for one in nights:
            one.join()
        assert ordered(service) == 30
        assert results.keys() == {"first", "second"}
        assert {entry["state"] for entry in shop.manifest().values()} == {"kept"}
        assert [result["failed"] for result in results.values()] == [0, 0]
        assert shop.night()["skipped"] == 30
        assert ordered(service) == 30

    def test_row_that_another_process_is_submitting_is_not_submitted(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(2)
        monkeypatch.setattr(worker_pass, "LOOKS", 2)
        with monkeypatch.context() as killed:
            # The worker dies between the claim and the POST.
            killed.setattr("airflow_provider_toapis.api.client.ToAPIsClient._ordered", _die)
            with pytest.raises(KeyboardInterrupt):
                shop.night()
        claims = list((shop.folder / ".manifest" / "orders").iterdir())
        assert claims
        with pytest.raises(ToAPIsBatchError, match="Another process is submitting this row"):
            shop.retry()
        assert ordered(service) == 2 - len(claims)
        for claim in claims:
            os.utime(claim, (time.time() - 301, time.time() - 301))
        assert shop.retry()["made"] == 2
        assert ordered(service) == 2

    def test_runs_take_turns_and_both_end_well(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(10)
        first, second = Run(shop, "first"), Run(shop, "second")
        for run in (first, second, first, second):
            if not run.is_over:
                run.step()
        for run in (first, second):
            assert run.finish()["failed"] == 0
        assert {entry["state"] for entry in shop.manifest().values()} == {"kept"}
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
        assert {entry["state"] for entry in shop.manifest().values()} == {"unfinished"}

    def test_slow_run_does_not_forget_what_another_one_has_saved(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(3)
        compact = Manifest.compact

        def compact_after_another_run(manifest: Manifest) -> bool:
            monkeypatch.setattr(Manifest, "compact", compact)
            other = shop.writes(requests=[*shop.rows, {**shop.rows[0], "key": "new"}])
            attempt(other, FakeTaskInstance(task_id="catalogue", run_id="other"))
            return compact(manifest)

        monkeypatch.setattr(Manifest, "compact", compact_after_another_run)
        assert shop.night()["made"] == 3
        assert shop.manifest().keys() == {"sku-0", "sku-1", "sku-2", "new"}
        shop.rows.append({**shop.rows[0], "key": "new"})
        assert shop.night()["skipped"] == 4
        assert ordered(service) == 4


def _die(*_: object) -> Any:
    # Neither a thread's nor a task's error: the process is gone.
    raise KeyboardInterrupt


class TestOwner:
    def test_another_task_is_rejected_and_takes_nothing(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(3)
        shop.leaves_under_way(service)
        before = sorted(shop.folder.rglob("*"))
        ti = FakeTaskInstance(task_id="other", run_id="scheduled__0")
        with pytest.raises(ToAPIsRequestError, match=r"owner\.json.*'catalogue'") as rejected:
            attempt(shop.writes(), ti)
        assert isinstance(rejected.value, AirflowFailException)
        assert sorted(shop.folder.rglob("*")) == before
        assert shop.night()["made"] == 3
        (shop.folder / ".manifest" / "owner.json").unlink()
        assert attempt(shop.writes(), ti)["skipped"] == 3
        assert ordered(service) == 3

    def test_second_map_index_of_a_run_is_rejected_and_the_first_goes_on(
        self, service: EmulatorProcess, shop: Shop
    ) -> None:
        shop.feed(2)
        first, second = (Run(shop, "tonight", map_index=index) for index in (0, 1))
        first.step()
        with pytest.raises(ToAPIsRequestError, match="map index 0"):
            second.step()
        assert first.finish()["made"] == 2
        assert Run(shop, "tomorrow", map_index=1).finish()["skipped"] == 2
        assert ordered(service) == 2

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
            assert (result["made"], result["postponed"], result["failed"]) == (0, 6, 0)
        assert ordered(service) == 6
        assert "next run" in shop.manifest()["sku-0"]["order"]["reason"]
        assert shop.night(max_cost_usd="0.60")["made"] == 6

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
        assert (result["made"], result["postponed"]) == (2, 2)
        assert ordered(service) == 2
        assert sum(float(video["cost_usd"]) for video in billed(service)) <= 0.40

    def test_video_in_progress_of_a_row_that_changed_since_is_saved(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(1)
        shop.leaves_under_way(service)
        shop.rows[0]["prompt"] = "Something else happens"
        result = shop.retry()
        assert (result["made"], result["superseded"]) == (1, 0)
        assert ordered(service) == 1
        assert (shop.night()["made"], ordered(service)) == (1, 2)

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
        assert (result["made"], result["superseded"]) == (2, 2)
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
        assert {entry["state"] for entry in manifest.values()} == {"kept"}
        shop.rows = rows
        assert shop.night()["skipped"] == 3
        assert ordered(service) == 3


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
        said = self.rejected(saved, FakeTaskInstance(task_id="catalogue", run_id="next"), dry_run=dry_run)
        assert str(saved.folder / "manifest.jsonl") in said
        assert ordered(service) == 2

    def test_missing_manifest_beside_the_videos_of_the_feed_bills_nothing(
        self, service: EmulatorProcess, saved: Shop
    ) -> None:
        (saved.folder / "manifest.jsonl").unlink()
        assert "'sku-0'" in self.rejected(saved, FakeTaskInstance(task_id="catalogue", run_id="next"))
        assert ordered(service) == 2

    def test_share_that_is_not_mounted_bills_nothing(self, service: EmulatorProcess, saved: Shop) -> None:
        saved.folder.rename(saved.folder.with_name("away"))
        ti = FakeTaskInstance(task_id="catalogue", run_id="next")
        ti.earlier_result = {"made": 2, "skipped": 0, "manifest": str(saved.folder / "manifest.jsonl")}
        assert "earlier runs" in self.rejected(saved, ti)
        assert ordered(service) == 2

    @pytest.mark.parametrize(
        "earlier",
        [
            None,
            [],
            {"made": 2, "manifest": "/elsewhere/manifest.jsonl"},
            {"made": 0, "skipped": 0},
            {"estimate_usd": "1"},
        ],
    )
    def test_first_run_in_a_directory_is_no_loss(self, service: EmulatorProcess, shop: Shop, earlier: Any) -> None:
        shop.feed(1)
        shop.folder.mkdir()
        (shop.folder / "of another one.mp4").touch()
        ti = FakeTaskInstance(task_id="catalogue", run_id="first")
        ti.earlier_result = (
            {"manifest": str(shop.folder / "manifest.jsonl"), **earlier} if isinstance(earlier, dict) else earlier
        )
        assert attempt(shop.writes(), ti)["made"] == 1

    def test_manifest_that_holds_only_the_version_starts_over(self, service: EmulatorProcess, saved: Shop) -> None:
        (saved.folder / "manifest.jsonl").write_text('{"version": 1}\n')
        ti = FakeTaskInstance(task_id="catalogue", run_id="next")
        ti.earlier_result = {"made": 2, "manifest": str(saved.folder / "manifest.jsonl")}
        assert attempt(saved.writes(), ti)["made"] == 2
        assert saved.manifest().keys() == {"sku-0", "sku-1"}


class TestKilled:
    def test_nothing_more_is_submitted_after_a_kill(
        self, service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.feed(60)
        operator = shop.writes()()
        order = WorkerPass._order

        def order_and_be_killed(one_pass: WorkerPass, threads: Any, entry: Any, row: Any) -> None:
            order(one_pass, threads, entry, row)
            if entry.key == "sku-9":
                operator.on_kill()

        ti = FakeTaskInstance(task_id="catalogue", run_id="scheduled__1")
        with monkeypatch.context() as patch:
            patch.setattr(WorkerPass, "_order", order_and_be_killed)
            with pytest.raises(ToAPIsWaitInterruptedError, match="killed"):
                operator.execute(ti.context)
        assert ordered(service) <= 10
        entries = Manifest(Folder(str(shop.folder))).entries.values()
        assert sum(entry.state == "wanted" for entry in entries) >= 50
        assert {entry.state for entry in entries} <= {"wanted", "ordered"}
        for claim in (shop.folder / ".manifest" / "orders").iterdir():
            os.utime(claim, (time.time() - 301, time.time() - 301))
        assert attempt(shop.writes(), ti.next_attempt())["made"] == 60
        assert ordered(service) == 60
