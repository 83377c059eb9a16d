"""A catalog on a real Airflow whose worker and triggerer are killed: it ends in time, and nothing is paid twice."""

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
from tests.e2e.killing import RunningTask, Scene
from tests.integration.emulator_process import EmulatorProcess

ROWS = 300
#: Orders per second that the service allows, and of which the connection knows.
SUBMIT_RATE = 5.0
#: Polls per second that the service allows this test.
QUERY_RATE = 40.0
#: Seconds that a video takes, and by how much of them it may differ.
LATENCY, LATENCY_SPREAD = 120.0, 0.2
#: Rows after which the worker is killed: some of them are in no part of the manifest yet.
ORDERED_BEFORE_KILL = 120
#: The whole may take so much more than orders, the longest video and its download.
TARGET = 1.1
TIME_LIMIT = 600.0


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    # Without replay, only the operator's own care keeps a second order from being a second video.
    service = EmulatorProcess(
        latency=LATENCY, latency_spread=LATENCY_SPREAD, submit_rps=SUBMIT_RATE, no_replay=True, balance=1_000
    )
    chance = random.Random(1)
    with Scene.set(service, "nightly_batch.py", tmp_path_factory, chance=chance, seconds=TIME_LIMIT) as scene:
        yield scene


class Shop:
    """The feed of a shop, and its nights."""

    def __init__(self, scene: Scene, directory: Path) -> None:
        self.scene = scene
        self.output = directory / "videos"
        self._feed = directory / "feed.jsonl"
        picture = scene.emulator.get("/shop/products").json()["products"][0]["image"]
        self.rows = [{"key": f"sku-{n:03}", "prompt": f"It turns, {n}", "image": picture} for n in range(ROWS)]

    def begin_night(self) -> Run:
        self._feed.write_text("\n".join(map(json.dumps, self.rows)))
        settings = {"feed": str(self._feed), "output_directory": str(self.output)}
        run_id = self.scene.airflow.trigger("nightly_batch", settings)
        return Run(self.scene.airflow, "nightly_batch", run_id, self.output)

    def end_night(self, run: Run) -> dict[str, Any]:
        state = self.scene.airflow.wait_for_run(run.dag_id, run.run_id, self.scene.deadline - time.monotonic())
        assert state == "success", run.task_instances("make_videos")
        result: dict[str, Any] = run.xcom("make_videos")
        return result

    def billed(self) -> list[dict[str, Any]]:
        return list(self.scene.emulator.ledger()["billed"])

    def manifest(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output / "manifest.jsonl").read_text().splitlines()]

    def video(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the service says of a video in the manifest, asked more slowly than its limit is."""
        time.sleep(1 / QUERY_RATE)
        answer = self.scene.emulator.api(f"/v1/videos/generations/{line['video_id']}")
        said: dict[str, Any] = answer.raise_for_status().json()
        return said

    def wait_until_ordered(self, count: int) -> None:
        self.scene.wait_for(f"{count} orders", lambda: int(self.scene.emulator.ledger()["posted"]) >= count)

    def wait_until_deferred(self, run: Run) -> None:
        def is_deferred() -> bool:
            return [instance["state"] for instance in run.task_instances("make_videos")] == ["deferred"]

        self.scene.wait_for("a deferred task", is_deferred)


@pytest.fixture(scope="module")
def shop(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(scene, tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def first_night(shop: Shop, say: Callable[[str], None]) -> Run:
    """The run in whose middle the worker is killed while it orders, and the triggerer while it waits."""
    scene = shop.scene
    began = time.time()
    run = shop.begin_night()
    shop.wait_until_ordered(ORDERED_BEFORE_KILL)
    task: RunningTask = scene.wait_for("a running task", lambda: next(iter(scene.running(run)), None))
    psutil.Process(task.pid).kill()
    say(f"worker killed after {int(scene.emulator.ledger()['posted'])} orders, {time.time() - began:.0f} s")
    shop.wait_until_ordered(ROWS)
    shop.wait_until_deferred(run)
    say(f"triggerer killed after {time.time() - began:.0f} s")
    scene.kill_component("triggerer")
    shop.end_night(run)
    say(time_taken(shop))
    return run


def time_taken(shop: Shop) -> str:
    """Compare what the night took to what the service needs; a figure, no test: it is the machine's as well."""
    requests = shop.scene.emulator.requests()
    first_order = min(request["time"] for request in requests if request["endpoint"] == "submit")
    last_file = max(file.stat().st_mtime for file in shop.output.glob("*.mp4"))
    longest = max(video["completed_at"] - video["created_at"] for video in map(shop.video, shop.manifest()))
    taken, needed = last_file - first_order, ROWS / SUBMIT_RATE + longest
    return (
        f"{taken:.0f} s from the first order to the last file, where orders and the longest video take {needed:.0f} s:"
        f" {taken / needed:.3f} (target: {TARGET})"
    )


def test_each_row_is_made_and_billed_once_and_its_file_is_what_the_service_made(first_night: Run, shop: Shop) -> None:
    billed = {bill["id"]: bill for bill in shop.billed()}
    manifest = shop.manifest()
    assert len(billed) == len(manifest) == ROWS
    assert {line["video_id"] for line in manifest} == billed.keys()
    assert int(shop.scene.emulator.ledger()["posted"]) == ROWS
    for line in manifest:
        original = shop.scene.emulator.get(shop.video(line)["result"]["data"][0]["url"]).content
        kept = shop.output / line["file"]
        assert hashlib.sha256(kept.read_bytes()).hexdigest() == hashlib.sha256(original).hexdigest() == line["sha256"]


def test_log_of_the_second_attempt_tells_what_became_of_the_first(first_night: Run, shop: Shop) -> None:
    log = shop.scene.airflow.task_log(first_night.dag_id, first_night.run_id, "make_videos", try_number=2)
    assert "re-attached to video" in log
    assert "Nothing more is billed" in log
    assert f"{ROWS} saved, 0 submitted, 0 pending, 0 failed" in log


def test_same_catalog_again_bills_nothing(first_night: Run, shop: Shop) -> None:
    result = shop.end_night(shop.begin_night())
    assert (result["saved"], result["unchanged"], result["failed"]) == (0, ROWS, 0)
    assert len(shop.billed()) == ROWS


def test_only_changed_rows_are_made_again_and_a_vanished_one_is_reported(first_night: Run, shop: Shop) -> None:
    for row in shop.rows[:10]:
        row["prompt"] += ", in the evening"
    del shop.rows[-1]
    billed_before = len(shop.billed())
    run = shop.begin_night()
    shop.wait_until_ordered(ROWS + 10)
    for bill in shop.billed()[billed_before:]:
        shop.scene.emulator.finish(bill["id"])
    result = shop.end_night(run)
    assert (result["saved"], result["unchanged"], result["removed"]) == (10, ROWS - 11, 1)
    assert len(shop.billed()) == billed_before + 10
