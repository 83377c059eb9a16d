"""A batch in a real Airflow whose worker and triggerer are killed: it ends in time and bills no row twice."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from tests.e2e.dag_run import Run
from tests.e2e.killing import KillEnvironment, RunningTask
from tests.integration.emulator_process import EmulatorProcess

ROWS = 300
#: Submissions per second that the service and the connection allow.
SUBMIT_RATE = 10.0
#: Polls per second that the service allows this test.
QUERY_RATE = 40.0
#: Mean seconds that a video takes, and the maximum relative deviation from the mean.
LATENCY, LATENCY_SPREAD = 80.0, 0.2
#: Submissions before the worker is killed. Some of them are not in a manifest part yet.
SUBMITTED_BEFORE_KILL = 120
#: Target for a run's duration divided by the minimum duration. The minimum is the time for all submissions plus the
#: time of the longest generation.
TARGET = 1.1
TIME_LIMIT = 900.0


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillEnvironment]:
    # Without replay, the service bills a second submission with a known idempotency key.
    service = EmulatorProcess(
        latency=LATENCY, latency_spread=LATENCY_SPREAD, submit_rps=SUBMIT_RATE, no_replay=True, balance=1_000
    )
    rng = random.Random(1)
    with KillEnvironment.start(
        service, "nightly_batch.py", tmp_path_factory, rng=rng, seconds=TIME_LIMIT, submit_rate=SUBMIT_RATE
    ) as environment:
        yield environment


class Shop:
    """Runs the nightly batch of a shop."""

    def __init__(self, environment: KillEnvironment, directory: Path) -> None:
        self.environment = environment
        self.output = directory / "videos"
        self._feed = directory / "feed.jsonl"
        image = environment.emulator.get("/shop/products").json()["products"][0]["image"]
        self.rows = [{"key": f"sku-{n:03}", "prompt": f"It turns, {n}", "image": image} for n in range(ROWS)]

    def start_run(self) -> Run:
        self._feed.write_text("\n".join(map(json.dumps, self.rows)))
        settings = {"feed": str(self._feed), "output_directory": str(self.output)}
        run_id = self.environment.airflow.trigger("nightly_batch", settings)
        return Run(self.environment.airflow, "nightly_batch", run_id, self.output)

    def finish_run(self, run: Run) -> dict[str, Any]:
        state = self.environment.airflow.wait_for_run(
            run.dag_id, run.run_id, self.environment.deadline - time.monotonic()
        )
        assert state == "success", run.task_instances("make_videos")
        result: dict[str, Any] = run.xcom("make_videos")
        return result

    def billed(self) -> list[dict[str, Any]]:
        return list(self.environment.emulator.ledger()["billed"])

    def manifest(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output / "manifest.jsonl").read_text().splitlines()]

    def video(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Return the status of a video in the manifest. Wait first, to respect the service's query rate."""
        time.sleep(1 / QUERY_RATE)
        response = self.environment.emulator.api(f"/v1/videos/generations/{line['video_id']}")
        body: dict[str, Any] = response.raise_for_status().json()
        return body

    def wait_until_submitted(self, count: int) -> None:
        self.environment.wait_for(
            f"{count} submissions", lambda: int(self.environment.emulator.ledger()["posted"]) >= count
        )

    def wait_until_deferred(self, run: Run) -> None:
        def is_deferred() -> bool:
            return [instance["state"] for instance in run.task_instances("make_videos")] == ["deferred"]

        self.environment.wait_for("a deferred task", is_deferred)


@pytest.fixture(scope="module")
def shop(environment: KillEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(environment, tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def first_run(shop: Shop, print_now: Callable[[str], None]) -> Run:
    """Run the batch. Kill the worker while it submits, and the triggerer while it waits."""
    environment = shop.environment
    began = time.time()
    run = shop.start_run()
    shop.wait_until_submitted(SUBMITTED_BEFORE_KILL)
    task: RunningTask = environment.wait_for("a running task", lambda: next(iter(environment.running(run)), None))
    psutil.Process(task.pid).kill()
    print_now(
        f"worker killed after {int(environment.emulator.ledger()['posted'])} submissions, {time.time() - began:.0f} s"
    )
    shop.wait_until_submitted(ROWS)
    shop.wait_until_deferred(run)
    print_now(f"triggerer killed after {time.time() - began:.0f} s")
    environment.kill_component("triggerer")
    shop.finish_run(run)
    print_now(time_taken(shop))
    return run


def time_taken(shop: Shop) -> str:
    """Return a line that compares the run's duration with the minimum. Machines differ, so no test asserts it."""
    requests = shop.environment.emulator.requests()
    first_submission = min(request["time"] for request in requests if request["endpoint"] == "submit")
    last_file = max(file.stat().st_mtime for file in shop.output.glob("*.mp4"))
    longest = max(video["completed_at"] - video["created_at"] for video in map(shop.video, shop.manifest()))
    taken, needed = last_file - first_submission, ROWS / SUBMIT_RATE + longest
    return (
        f"{taken:.0f} s from the first submission to the last file; the minimum is {needed:.0f} s:"
        f" {taken / needed:.3f} (target: {TARGET})"
    )


def test_each_row_is_billed_once_and_its_file_has_the_content_of_the_service(first_run: Run, shop: Shop) -> None:
    billed = {bill["id"]: bill for bill in shop.billed()}
    manifest = shop.manifest()
    assert len(billed) == len(manifest) == ROWS
    assert {line["video_id"] for line in manifest} == billed.keys()
    assert int(shop.environment.emulator.ledger()["posted"]) == ROWS
    for line in manifest:
        original = shop.environment.emulator.get(shop.video(line)["result"]["data"][0]["url"]).content
        saved = shop.output / line["file"]
        assert hashlib.sha256(saved.read_bytes()).hexdigest() == hashlib.sha256(original).hexdigest() == line["sha256"]


def test_log_of_the_retry_reports_the_reattached_videos(first_run: Run, shop: Shop) -> None:
    log = shop.environment.airflow.task_log(first_run.dag_id, first_run.run_id, "make_videos", try_number=2)
    assert "re-attached to video" in log
    assert "Nothing more is billed" in log
    assert f"{ROWS} saved, 0 submitted, 0 pending, 0 failed" in log


def test_second_run_with_the_same_feed_bills_nothing(first_run: Run, shop: Shop) -> None:
    result = shop.finish_run(shop.start_run())
    assert (result["saved"], result["unchanged"], result["failed"]) == (0, ROWS, 0)
    assert len(shop.billed()) == ROWS


def test_only_changed_rows_are_submitted_again_and_a_removed_row_is_reported(first_run: Run, shop: Shop) -> None:
    for row in shop.rows[:10]:
        row["prompt"] += ", in the evening"
    del shop.rows[-1]
    billed_before = len(shop.billed())
    run = shop.start_run()
    shop.wait_until_submitted(ROWS + 10)
    for bill in shop.billed()[billed_before:]:
        shop.environment.emulator.finish(bill["id"])
    result = shop.finish_run(run)
    assert (result["saved"], result["unchanged"], result["removed"]) == (10, ROWS - 11, 1)
    assert len(shop.billed()) == billed_before + 10
