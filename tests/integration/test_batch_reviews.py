"""Reviews between the runs of a batch: a redo bills exactly one video of its row, and an approval bills nothing."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.manifest import Manifest
from airflow_provider_toapis.batch.manifest_entry import ManifestEntry, Review, RowStatus, time_now
from airflow_provider_toapis.batch.reviews import Reviews, approved_videos
from airflow_provider_toapis.batch.runner import Batch
from airflow_provider_toapis.exceptions import ToAPIsBatchError, ToAPIsRequestError
from tests.airflow_task import FakeTaskInstance, attempt
from tests.integration.conftest import API_KEY, LATENCY, Clock, posts, render_once
from tests.integration.emulator_process import EmulatorProcess
from tests.integration.test_batch_dead_workers import NO_GPU, age_claims, claims, kill, unrecorded
from tests.integration.test_batch_operator import BOTH_WAIT_MODES, HOUR, Shop, billed, shop, submission_count
from tests.integration.test_batch_runs import NOT_FOUND, Run

__all__ = ["kill", "shop"]


def saved_id(directory: str | Path, key: str) -> str:
    """Return the id of the row's saved video, as a page shows it to a reviewer."""
    saved = recorded(directory, key).saved
    assert saved is not None
    return saved.video_id


def recorded(directory: str | Path, key: str) -> ManifestEntry:
    return Manifest(Directory(str(directory))).entries[key]


def decide(shop: Shop, decision: Any, *keys: str, comment: str = "", video_id: str | None = None) -> None:
    for key in keys:
        review = Review(decision, video_id or saved_id(shop.directory, key), comment, "ann", time_now())
        Reviews(Directory(str(shop.directory))).add(key, review)


def delete_reviews(shop: Shop) -> None:
    shutil.rmtree(shop.directory / ".manifest" / "reviews")


def die(*_: object) -> None:
    raise KeyboardInterrupt


def ids(shop: Shop) -> dict[str, str]:
    return {key: entry["video_id"] for key, entry in shop.manifest().items()}


@pytest.fixture
def catalog(service: EmulatorProcess, shop: Shop) -> Shop:
    """Return a shop whose three videos are saved."""
    shop.feed(3)
    shop.run_nightly()
    return shop


class TestNights:
    @BOTH_WAIT_MODES
    def test_next_run_makes_exactly_the_redone_rows_again(
        self, service: EmulatorProcess, shop: Shop, deferrable: bool
    ) -> None:
        shop.feed(6)
        shop.run_nightly(deferrable=deferrable)
        first = ids(shop)
        decide(shop, "approve", "sku-0", "sku-1", comment="Good")
        decide(shop, "redo", "sku-2", "sku-3", comment="The sole is cut off")
        plan = shop.run_nightly(dry_run=True)
        assert (plan["changed"], plan["unchanged"], plan["new"], plan["estimated_cost_usd"]) == (2, 4, 0, 0.2)
        with pytest.raises(ToAPIsRequestError, match="max_cost_usd"):
            shop.run_nightly(max_cost_usd="0.19")
        assert submission_count(service) == 6

        result = shop.run_nightly(deferrable=deferrable, max_cost_usd="0.20")
        assert (result["saved"], result["unchanged"], result["cost_usd"]) == (2, 4, 0.2)
        second = ids(shop)
        assert {key for key in first if first[key] != second[key]} == {"sku-2", "sku-3"}
        assert submission_count(service) == 8
        manifest = shop.manifest()
        assert {key: line["redos"] for key, line in manifest.items() if line["redos"]} == {"sku-2": 1, "sku-3": 1}
        for key in ("sku-2", "sku-3"):
            assert (manifest[key]["review"]["comment"], manifest[key]["superseded"]) == ("The sole is cut off", [])
            assert manifest[key]["review"]["video_id"] == first[key]
        assert manifest["sku-5"]["review"] is None
        assert [video["key"] for video in approved_videos(str(shop.directory))] == ["sku-0", "sku-1"]

        result = shop.run_nightly(deferrable=deferrable, max_cost_usd="0")
        assert (result["saved"], result["unchanged"], submission_count(service)) == (0, 6, 8)
        assert ids(shop) == second

    def test_old_file_stays_until_the_new_one_is_complete(self, service: EmulatorProcess, catalog: Shop) -> None:
        file = catalog.directory / "sku-1.mp4"
        size = file.stat().st_size
        file.write_bytes(bytes(size))
        decide(catalog, "redo", "sku-1")
        run = Run(catalog, "second", max_failures=0)
        run.step()
        assert (file.read_bytes(), submission_count(service)) == (bytes(size), 4)
        service.add_fault(on="result", kind="truncate", times=-1)
        assert isinstance(run.finish(), ToAPIsBatchError)
        assert file.read_bytes() == bytes(size)
        service.clear_faults()
        assert catalog.run_nightly()["saved"] == 1
        assert file.read_bytes() != bytes(size)
        assert submission_count(service) == 4

    def test_each_redo_of_the_newest_video_bills_once(self, service: EmulatorProcess, catalog: Shop) -> None:
        seen = {saved_id(catalog.directory, "sku-0")}
        for number in range(1, 4):
            decide(catalog, "redo", "sku-0")
            decide(catalog, "redo", "sku-0", comment="Once more")
            assert catalog.run_nightly(max_cost_usd="0.10")["saved"] == 1
            assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
            seen.add(saved_id(catalog.directory, "sku-0"))
            assert (submission_count(service), len(seen)) == (3 + number, 1 + number)

    def test_decision_before_the_run_can_be_changed(self, service: EmulatorProcess, catalog: Shop) -> None:
        for decision in ("redo", "approve", "redo", "approve"):
            decide(catalog, decision, "sku-0")
            assert catalog.run_nightly(dry_run=True)["changed"] == (decision == "redo")
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        decide(catalog, "redo", "sku-0")
        assert catalog.run_nightly(max_cost_usd="0.10")["saved"] == 1
        assert submission_count(service) == 4

    def test_approvals_bill_nothing(self, service: EmulatorProcess, catalog: Shop) -> None:
        for _ in range(2):
            decide(catalog, "approve", "sku-0", "sku-1", "sku-2", comment="Good")
            assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert submission_count(service) == 3
        assert {line["review"]["decision"] for line in catalog.manifest().values()} == {"approve"}

    def test_redo_is_saved_after_the_review_directory_is_deleted(self, service: EmulatorProcess, catalog: Shop) -> None:
        decide(catalog, "redo", "sku-0", comment="dark")
        catalog.run_nightly()
        made = ids(catalog)
        delete_reviews(catalog)
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert (ids(catalog), submission_count(service)) == (made, 4)
        assert catalog.manifest()["sku-0"]["review"]["comment"] == "dark"

    def test_redone_video_with_a_deleted_file_is_downloaded_again(
        self, service: EmulatorProcess, catalog: Shop
    ) -> None:
        decide(catalog, "redo", "sku-0")
        catalog.run_nightly()
        made = ids(catalog)
        (catalog.directory / "sku-0.mp4").unlink()
        delete_reviews(catalog)
        assert catalog.run_nightly(max_cost_usd="0")["saved"] == 1
        assert (ids(catalog), submission_count(service)) == (made, 4)


class TestChangedRows:
    def test_changed_row_with_a_redo_is_billed_once(self, service: EmulatorProcess, catalog: Shop) -> None:
        decide(catalog, "redo", "sku-0", "sku-1")
        catalog.rows[0]["revision"] = 2
        catalog.rows[1]["prompt"] = "Something else happens"
        assert catalog.run_nightly(max_cost_usd="0.20")["saved"] == 2
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert submission_count(service) == 5

    def test_redone_row_that_changes_later_is_billed_once_more(self, service: EmulatorProcess, catalog: Shop) -> None:
        decide(catalog, "redo", "sku-0")
        catalog.run_nightly()
        catalog.rows[0]["revision"] = 2
        assert catalog.run_nightly(max_cost_usd="0.10")["saved"] == 1
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert submission_count(service) == 5

    def test_removed_row_is_redone_when_it_is_back(self, service: EmulatorProcess, catalog: Shop) -> None:
        decide(catalog, "redo", "sku-0")
        row = catalog.rows.pop(0)
        assert catalog.run_nightly(max_cost_usd="0")["removed"] == 1
        catalog.rows.append(row)
        assert catalog.run_nightly(max_cost_usd="0.10")["saved"] == 1
        catalog.rows.remove(row)
        assert catalog.run_nightly(max_cost_usd="0")["removed"] == 1
        catalog.rows.append(row)
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert submission_count(service) == 4

    def test_row_removed_while_its_redo_is_in_progress_is_saved(self, service: EmulatorProcess, catalog: Shop) -> None:
        decide(catalog, "redo", "sku-0")
        Run(catalog, "second").step()
        row = catalog.rows.pop(0)
        decide(catalog, "approve", "sku-0")
        catalog.run_nightly(max_cost_usd="0")
        assert catalog.manifest()["sku-0"]["redos"] == 1
        catalog.rows.append(row)
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert submission_count(service) == 4

    def test_redo_of_a_replaced_video_has_no_effect(self, service: EmulatorProcess, catalog: Shop) -> None:
        shown = saved_id(catalog.directory, "sku-0")
        catalog.rows[0]["prompt"] = "Something else happens"
        catalog.run_nightly()
        decide(catalog, "redo", "sku-0", comment="Too dark", video_id=shown)
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert catalog.manifest()["sku-0"]["review"]["comment"] == "Too dark"
        assert submission_count(service) == 4

    def test_redo_of_a_video_whose_replacement_is_in_progress_has_no_effect(
        self, service: EmulatorProcess, catalog: Shop
    ) -> None:
        catalog.rows[0]["prompt"] = "Something else happens"
        Run(catalog, "second").step()
        decide(catalog, "redo", "sku-0")
        result = catalog.run_nightly(max_cost_usd="0")
        assert (result["saved"], result["superseded"]) == (1, 0)
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert submission_count(service) == 4

    def test_row_with_a_redo_that_is_rejected_keeps_its_video(self, service: EmulatorProcess, catalog: Shop) -> None:
        before = ids(catalog)
        decide(catalog, "redo", "sku-0")
        service.add_fault(on="submit", kind="error", name="content_policy")
        assert catalog.run_nightly(max_failures=1)["failed"] == 1
        assert catalog.run_nightly(max_cost_usd="0")["rejected"] == 1
        assert (ids(catalog), submission_count(service)) == (before, 3)
        decide(catalog, "approve", "sku-0")
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3


class TestRunInProgress:
    def test_run_does_not_submit_redos_that_its_plan_lacks(self, service: EmulatorProcess, catalog: Shop) -> None:
        catalog.rows.append({**catalog.rows[0], "key": "new"})
        run = Run(catalog, "second", max_cost_usd="1")
        run.step()
        decide(catalog, "redo", "sku-0", comment="Too dark")
        assert run.finish()["saved"] == 1
        decide(catalog, "redo", "new")
        for ti in (run.ti.next_attempt(), run.ti.cleared()):
            result = attempt(catalog.dag_task(max_cost_usd="1"), ti)
            assert (result["postponed"], result["unchanged"]) == (2, 2)
        assert catalog.manifest()["sku-0"]["review"]["comment"] == "Too dark"
        assert submission_count(service) == 4
        assert catalog.run_nightly(max_cost_usd="0.20")["saved"] == 2
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 4
        assert submission_count(service) == 6

    def test_postponed_redo_can_be_canceled(self, service: EmulatorProcess, catalog: Shop) -> None:
        decide(catalog, "redo", "sku-0")
        assert catalog.retry()["postponed"] == 1
        decide(catalog, "approve", "sku-0")
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert (catalog.manifest()["sku-0"]["state"], submission_count(service)) == ("saved", 3)

    @pytest.mark.parametrize("reviews", ["approved", "deleted"])
    def test_video_of_a_redo_in_progress_is_saved(self, service: EmulatorProcess, catalog: Shop, reviews: str) -> None:
        decide(catalog, "redo", "sku-0")
        run = Run(catalog, "second")
        run.step()
        decide(catalog, "approve", "sku-0") if reviews == "approved" else delete_reviews(catalog)
        result = catalog.run_nightly(max_cost_usd="0")
        assert (result["saved"], result["superseded"]) == (1, 0)
        run.finish()
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert (catalog.manifest()["sku-0"]["redos"], submission_count(service)) == (1, 4)

    def test_two_runs_at_once_bill_a_redo_once(self, service: EmulatorProcess, catalog: Shop) -> None:
        decide(catalog, "redo", "sku-0", "sku-1", "sku-2")
        results: list[Any] = []

        def run_batch(run_id: str) -> None:
            results.append(attempt(catalog.dag_task(), FakeTaskInstance(task_id="catalog", run_id=run_id)))

        threads = [threading.Thread(target=run_batch, args=(run_id,)) for run_id in ("second", "third")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [result["failed"] for result in results] == [0, 0]
        assert submission_count(service) == 6
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3

    def test_redo_of_a_video_that_was_saved_by_a_worker_whose_clock_is_ahead(
        self, service: EmulatorProcess, catalog: Shop, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        catalog.rows[0]["revision"] = 2
        with monkeypatch.context() as ahead:
            for module in ("row_job", "transitions"):
                ahead.setattr(f"airflow_provider_toapis.batch.{module}.time_now", lambda: "2099-01-01T00:00:00Z")
            catalog.run_nightly()
        decide(catalog, "redo", "sku-0")
        with monkeypatch.context() as killed:
            killed.setattr(Batch, "publish", die)
            with pytest.raises(KeyboardInterrupt):
                catalog.run_nightly()
        assert saved_id(catalog.directory, "sku-0") == billed(service)[-1]["id"]
        clock.sleep(25 * HOUR)
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert submission_count(service) == 5


class TestDeadWorkers:
    @pytest.mark.parametrize("next_one", ["retry", "run"])
    @pytest.mark.parametrize("then", ["nothing", "approve", "redo", "delete"])
    def test_redo_of_a_worker_that_died_after_the_submission_is_saved(
        self, service: EmulatorProcess, catalog: Shop, kill: Callable[..., None], next_one: str, then: str
    ) -> None:
        decide(catalog, "redo", "sku-0", "sku-1")
        kill(lambda: catalog.run_nightly(max_cost_usd="0.20"))
        assert (submission_count(service), len(claims(catalog))) == (5, 2)
        if then == "delete":
            delete_reviews(catalog)
        elif then != "nothing":
            decide(catalog, then, "sku-0", "sku-1")
        run = catalog.retry if next_one == "retry" else catalog.run_nightly
        result = run(max_cost_usd="0.20")
        assert (result["saved"], result["superseded"]) == (2, 0)
        assert {key: line["redos"] for key, line in catalog.manifest().items()} == {"sku-0": 1, "sku-1": 1, "sku-2": 0}
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert (submission_count(service), unrecorded(service, catalog)) == (5, [])

    def test_approval_while_the_video_of_a_redo_cannot_be_looked_up_loses_no_video(
        self, service: EmulatorProcess, catalog: Shop, kill: Callable[..., None]
    ) -> None:
        decide(catalog, "redo", "sku-0")
        kill(catalog.run_nightly)
        decide(catalog, "approve", "sku-0")
        service.add_fault(on="status", kind="status", status=503, times=-1)
        catalog.run_nightly(max_cost_usd="0")
        service.clear_faults()
        catalog.run_nightly(max_cost_usd="0")
        assert (submission_count(service), unrecorded(service, catalog)) == (4, [])
        decide(catalog, "redo", "sku-0")
        assert catalog.run_nightly(max_cost_usd="0")["saved"] == 1
        assert saved_id(catalog.directory, "sku-0") == billed(service)[-1]["id"]
        assert submission_count(service) == 4

    def test_approval_after_a_worker_died_before_the_submission_bills_nothing(
        self, service: EmulatorProcess, catalog: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decide(catalog, "redo", "sku-0")
        with monkeypatch.context() as killed:
            killed.setattr("airflow_provider_toapis.api.client.ToAPIsClient._send_submission", die)
            with pytest.raises(KeyboardInterrupt):
                catalog.run_nightly()
        assert len(claims(catalog)) == 1
        decide(catalog, "approve", "sku-0")
        assert catalog.retry(max_cost_usd="0.10")["unchanged"] == 3
        age_claims(catalog)
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert (submission_count(service), claims(catalog)) == (3, [])
        decide(catalog, "redo", "sku-0")
        assert catalog.run_nightly(max_cost_usd="0.10")["saved"] == 1
        assert submission_count(service) == 4


class TestFailures:
    def test_failed_generation_of_a_redo_is_repeated(self, service: EmulatorProcess, catalog: Shop) -> None:
        before = ids(catalog)
        decide(catalog, "redo", "sku-0")
        service.add_fault(**NO_GPU, times=1)
        with pytest.raises(ToAPIsBatchError):
            catalog.run_nightly(max_failures=0)
        assert (ids(catalog), submission_count(service)) == (before, 4)
        assert catalog.retry(max_failures=0)["saved"] == 1
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert submission_count(service) == 5

    def test_run_submits_a_redo_at_most_max_generations_times(self, service: EmulatorProcess, catalog: Shop) -> None:
        decide(catalog, "redo", "sku-0")
        service.add_fault(**NO_GPU, times=-1)
        with pytest.raises(ToAPIsBatchError):
            catalog.run_nightly(max_failures=0, max_generations=2)
        for _ in range(3):
            with pytest.raises(ToAPIsBatchError):
                catalog.retry(max_failures=0, max_generations=2)
        assert submission_count(service) == 5

    @pytest.mark.parametrize("failures", [1, 2])
    def test_approval_after_a_failed_generation_cancels_the_redo(
        self, service: EmulatorProcess, catalog: Shop, failures: int
    ) -> None:
        before = ids(catalog)
        decide(catalog, "redo", "sku-0")
        service.add_fault(**NO_GPU, times=-1)
        with pytest.raises(ToAPIsBatchError):
            catalog.run_nightly(max_failures=0)
        for _ in range(failures - 1):
            with pytest.raises(ToAPIsBatchError):
                catalog.retry(max_failures=0)
        service.clear_faults()
        decide(catalog, "approve", "sku-0")
        assert catalog.retry(max_cost_usd="1")["unchanged"] == 3
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert (ids(catalog), submission_count(service)) == (before, 3 + failures)
        decide(catalog, "redo", "sku-0")
        assert catalog.run_nightly(max_cost_usd="0.10")["saved"] == 1
        assert submission_count(service) == 4 + failures

    def test_canceled_redo_whose_generations_all_failed_is_submitted_by_the_second_run_after_it(
        self, service: EmulatorProcess, catalog: Shop
    ) -> None:
        """As for a row that is changed and changed back, the first run finds the failed generations again."""
        decide(catalog, "redo", "sku-0")
        service.add_fault(**NO_GPU, times=-1)
        with pytest.raises(ToAPIsBatchError):
            catalog.run_nightly(max_failures=0, max_generations=1)
        service.clear_faults()
        decide(catalog, "approve", "sku-0")
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        decide(catalog, "redo", "sku-0")
        with pytest.raises(ToAPIsBatchError, match="max_generations"):
            catalog.run_nightly(max_failures=0, max_generations=1)
        assert submission_count(service) == 4
        assert catalog.run_nightly(max_failures=0, max_generations=1)["saved"] == 1
        assert submission_count(service) == 5

    def test_expired_result_of_a_redo_is_replaced_once(
        self, service: EmulatorProcess, catalog: Shop, clock: Clock
    ) -> None:
        decide(catalog, "redo", "sku-0")
        Run(catalog, "second").step()
        service.finish(billed(service)[-1]["id"])
        clock.sleep(25 * HOUR)
        assert catalog.run_nightly(max_failures=1)["failed"] == 1
        assert catalog.run_nightly(max_cost_usd="0.10")["saved"] == 1
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert submission_count(service) == 5


class TestWithoutReplay:
    """A service that bills every submission, even one with a known idempotency key."""

    @pytest.fixture(scope="class")
    @classmethod
    def running_emulator(cls) -> Any:
        options: dict[str, Any] = {"latency": LATENCY, "latency_spread": 0, "submit_rps": 0, "query_rps": 0}
        with EmulatorProcess(api_key=API_KEY, no_replay=True, **options) as emulator:
            render_once(emulator)
            yield emulator

    def test_redo_of_a_dead_worker_is_not_submitted_again(
        self, service: EmulatorProcess, catalog: Shop, kill: Callable[..., None]
    ) -> None:
        decide(catalog, "redo", "sku-0")
        kill(catalog.run_nightly)
        service.add_fault(on="status", kind="status", status=404, body=NOT_FOUND, times=2)
        assert catalog.retry()["saved"] == 1
        assert len(posts(service)) == submission_count(service) == 4

    def test_lost_response_to_a_redo_is_looked_up(self, service: EmulatorProcess, catalog: Shop) -> None:
        decide(catalog, "redo", "sku-0")
        service.add_fault(on="submit", kind="error", name="internal_error", after=True)
        assert catalog.run_nightly(max_failures=0)["saved"] == 1
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert submission_count(service) == 4


class TestDataOfOthers:
    def test_broken_review_files_change_no_row(self, service: EmulatorProcess, catalog: Shop) -> None:
        reviews = catalog.directory / ".manifest" / "reviews"
        reviews.mkdir()
        for name in ("redo.json", f"{'0' * 16}-{'0' * 16}-1790000000000-redo.json", ".nfs0001"):
            (reviews / name).write_text("[")
        (reviews / "a directory").mkdir()
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        assert submission_count(service) == 3

    def test_manifest_of_a_release_without_reviews_bills_nothing(self, service: EmulatorProcess, catalog: Shop) -> None:
        lines = [
            {name: value for name, value in line.items() if name not in {"redos", "review"}}
            for line in catalog.manifest().values()
        ]
        (catalog.directory / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        assert catalog.run_nightly(max_cost_usd="0")["unchanged"] == 3
        decide(catalog, "redo", "sku-0")
        assert catalog.run_nightly(max_cost_usd="0.10")["saved"] == 1
        assert submission_count(service) == 4

    def test_invalid_row_keeps_its_redo(self, service: EmulatorProcess, catalog: Shop) -> None:
        decide(catalog, "redo", "sku-0")
        catalog.rows[0]["duration"] = 99
        with pytest.raises(ToAPIsRequestError, match="1 row is invalid"):
            catalog.run_nightly()
        del catalog.rows[0]["duration"]
        assert catalog.run_nightly(max_cost_usd="0.10")["saved"] == 1
        assert submission_count(service) == 4


def test_redo_in_a_bucket_bills_once(service: EmulatorProcess, s3_client: Any, image: str) -> None:
    s3_client.create_bucket(Bucket="reviewed")
    shop = Shop(image, Path("unused"))
    shop.feed(2)
    output_path = "s3://aws_default@reviewed/videos/"
    shop.run_nightly(output_path=output_path)
    directory = Directory(output_path)
    old = s3_client.get_object(Bucket="reviewed", Key="videos/sku-0.mp4")["LastModified"]
    decisions: tuple[tuple[Literal["approve", "redo"], str], ...] = (
        ("approve", ""),
        ("redo", "Größe falsch"),
        ("redo", "zu dunkel"),
    )
    for decision, comment in decisions:
        review = Review(decision, saved_id(output_path, "sku-0"), comment, "ann", time_now())
        assert Reviews(directory).add("sku-0", review).startswith("s3://aws_default@reviewed/videos/.manifest/reviews/")
    assert shop.run_nightly(output_path=output_path, dry_run=True)["changed"] == 1
    assert shop.run_nightly(output_path=output_path, max_cost_usd="0.10")["saved"] == 1
    assert shop.run_nightly(output_path=output_path, max_cost_usd="0")["unchanged"] == 2
    assert submission_count(service) == 3
    entry = recorded(output_path, "sku-0")
    assert entry.saved is not None
    assert entry.review is not None
    assert (entry.state, entry.saved.redos, entry.review.comment) == (RowStatus.SAVED, 1, "zu dunkel")
    assert s3_client.get_object(Bucket="reviewed", Key="videos/sku-0.mp4")["LastModified"] >= old
    Reviews(directory).add("sku-1", Review("approve", saved_id(output_path, "sku-1"), "", "ann", time_now()))
    assert [video["path"] for video in approved_videos(output_path)] == [f"{output_path}sku-1.mp4"]
