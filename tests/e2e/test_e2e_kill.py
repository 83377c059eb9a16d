"""Whatever of Airflow is killed with SIGKILL, each video is made, paid once and kept."""

from __future__ import annotations

import hashlib
import os
import random
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.dag_run import Run
from tests.e2e.killing import Method, Outcome, RunningTask, Scene
from tests.integration.emulator_process import EmulatorProcess

#: Environment variable that repeats the choices of an earlier run, which printed it.
SEED = "TOAPIS_KILL_SEED"

#: Seconds for everything; about 180 are needed on two cores.
TIME_LIMIT = 450.0

COMPONENTS = ("scheduler", "triggerer")
METHODS: Mapping[str, Method | None] = {
    "a task that starts": "execute",
    "a task that resumes": "execute_complete",
    "a task": None,
}

#: Videos of each DAG in ``dags/killed_videos.py``.
VIDEOS = {"killed_while_deferred": 20, "killed_while_waiting": 4}

#: How often each component is killed, tasks at the start in ``execute``, tasks then in ``execute_complete``, tasks in
#: either, and tasks that wait in the worker.
COMPONENT_KILLS, EXECUTE_KILLS, COMPLETE_KILLS, LATE_KILLS, WAITING_KILLS = 3, 3, 2, 3, 3

#: Videos are ready when the test says so, never by themselves; some at a time, as the workers keep them.
LATENCY, AT_A_TIME = 3600.0, 2

#: Seconds that the service keeps back its answer to an order, which it has taken by then, and a file: moments at which
#: a process can die.
ORDER_DELAY, FILE_DELAY = 0.7, 1.5

#: Seconds within which a task that was seen running is killed: one that is about to end, and one that waits.
TASK_LIFE, WAITING_LIFE = 1.5, 4.0


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, say: Callable[[str], None]) -> Iterator[Scene]:
    seed = os.environ.get(SEED) or secrets.token_hex(4)
    say(f"{SEED}={seed}")
    # Without replay, only the operator's own care keeps a second order from being a second video.
    # Without progress, each is asked for every few seconds.
    service = EmulatorProcess(latency=LATENCY, no_progress=True, no_replay=True)
    chance = random.Random(seed)
    with Scene.set(service, "killed_videos.py", tmp_path_factory, chance=chance, seconds=TIME_LIMIT) as scene:
        yield scene


@pytest.fixture(scope="module")
def deferred(scene: Scene, tmp_path_factory: pytest.TempPathFactory, say: Callable[[str], None]) -> Outcome:
    """Videos that wait in the triggerer, while everything that has to do with them is killed."""
    scene.emulator.add_fault(on="submit", kind="delay", seconds=ORDER_DELAY, after=True, times=-1)
    scene.emulator.add_fault(on="result", kind="delay", seconds=FILE_DELAY, times=-1)
    run = start(scene, "killed_while_deferred", tmp_path_factory.mktemp("deferred"))
    killed: list[str | RunningTask] = []
    with scene.videos_finish(run, AT_A_TIME):
        for steps, victim in plan(scene.chance, VIDEOS[run.dag_id]):
            scene.wait_for(f"{steps} steps done", partial(has_come, scene, run, steps))
            if victim in COMPONENTS:
                scene.kill_component(victim)
                killed.append(victim)
            else:
                killed.append(scene.kill_task(run, METHODS[victim], TASK_LIFE))
        return ended(scene, run, killed, say)


@pytest.fixture(scope="module")
def waiting(
    scene: Scene, deferred: Outcome, tmp_path_factory: pytest.TempPathFactory, say: Callable[[str], None]
) -> Outcome:
    """Videos whose tasks wait in the worker, and are killed there."""
    billed_before = len(deferred.billed)
    run = start(scene, "killed_while_waiting", tmp_path_factory.mktemp("waiting"))
    scene.wait_for("every video ordered", partial(has_come, scene, run, billed_before + VIDEOS[run.dag_id]))
    killed: list[str | RunningTask] = [scene.kill_task(run, "execute", WAITING_LIFE) for _ in range(WAITING_KILLS)]
    with scene.videos_finish(run, VIDEOS[run.dag_id]):
        return ended(scene, run, killed, say, billed_before)


def start(scene: Scene, dag_id: str, output: Path) -> Run:
    products = scene.emulator.get("/shop/products").json()["products"]
    pictures = [product["image"] for product in products if product["image"].startswith("http")]
    run_id = scene.airflow.trigger(dag_id, {"pictures": pictures, "output_directory": str(output)})
    return Run(scene.airflow, dag_id, run_id, output)


def plan(chance: random.Random, videos: int) -> list[tuple[int, str]]:
    """Say after how many steps what is killed. Each video takes two: it is ordered, and it is kept.

    Tasks that resume are killed before the scheduler dies for the last time: then they are tried again from the start.
    """
    victims = [
        *((COMPONENT_KILLS, name, 0.0, 1.5) for name in COMPONENTS),
        (EXECUTE_KILLS, "a task that starts", 0.0, 0.7),
        (COMPLETE_KILLS, "a task that resumes", 0.8, 0.95),
        (LATE_KILLS, "a task", 1.0, 1.5),
    ]
    return sorted(
        (steps, name)
        for count, name, first, last in victims
        for steps in spread(chance, first * videos, last * videos, count)
    )


def spread(chance: random.Random, first: float, last: float, count: int) -> list[int]:
    """Choose a number out of each of ``count`` equal parts of a range."""
    part = (last - first) / count
    return [int(first + part * (number + chance.random())) for number in range(count)]


def has_come(scene: Scene, run: Run, steps: int) -> bool:
    ordered, kept = int(scene.emulator.ledger()["posted"]), len(list(run.output.glob("*.mp4")))
    return ordered + kept >= steps


def ended(
    scene: Scene, run: Run, killed: list[str | RunningTask], say: Callable[[str], None], billed_before: int = 0
) -> Outcome:
    state = scene.airflow.wait_for_run(run.dag_id, run.run_id, scene.deadline - time.monotonic())
    outcome = Outcome(run, state, killed, scene.emulator.ledger()["billed"][billed_before:])
    counts = Counter(victim if isinstance(victim, str) else f"a task in {victim.method}" for victim in killed)
    say(f"{run.dag_id}: killed " + ", ".join(f"{count} times {name}" for name, count in sorted(counts.items())))
    return outcome


@pytest.fixture(params=["deferred", "waiting"])
def outcome(request: pytest.FixtureRequest) -> Outcome:
    ended_run: Outcome = request.getfixturevalue(request.param)
    return ended_run


def test_everything_was_killed_again_and_again(deferred: Outcome) -> None:
    assert Counter(victim for victim in deferred.killed if isinstance(victim, str)) == dict.fromkeys(
        COMPONENTS, COMPONENT_KILLS
    )
    assert len(deferred.cut_short) >= 3
    assert {task.method for task in deferred.cut_short} == {"execute", "execute_complete"}


def test_tasks_that_wait_in_the_worker_were_killed(waiting: Outcome) -> None:
    assert len(waiting.cut_short) >= 2


def test_every_task_succeeds(outcome: Outcome) -> None:
    assert outcome.state == "success", outcome.instances
    assert {instance["state"] for instance in outcome.instances} == {"success"}


def test_every_video_is_billed_exactly_once(outcome: Outcome) -> None:
    assert len(outcome.billed) == VIDEOS[outcome.run.dag_id]
    assert {line["status"] for line in outcome.billed} == {"settled"}
    assert sorted(line["id"] for line in outcome.billed) == sorted(result["id"] for result in outcome.results)


def test_every_file_is_the_one_that_the_service_made(outcome: Outcome, scene: Scene) -> None:
    scene.emulator.clear_faults()
    for number, result in enumerate(outcome.results):
        made = scene.emulator.api(f"/v1/videos/generations/{result['id']}").json()
        original = scene.emulator.get(made["result"]["data"][0]["url"]).content
        kept = outcome.run.output / f"product-{number:02}.mp4"
        assert result["output_path"] == str(kept)
        assert hashlib.sha256(kept.read_bytes()).hexdigest() == hashlib.sha256(original).hexdigest() == result["sha256"]


def test_log_of_a_retry_names_the_video_that_it_takes_over_and_says_that_nothing_is_paid(outcome: Outcome) -> None:
    reattached = 0
    for task in outcome.cut_short:
        log, video_id = outcome.log_after(task), outcome.results[task.map_index]["id"]
        if re.search(rf"Re-attached to video {video_id} .* Nothing more is billed", log):
            reattached += 1
        else:
            # Killed before it had ordered anything, or after it had kept everything.
            assert re.search(
                rf"Submitted video {video_id}|Video {video_id} is already saved .* Nothing is submitted", log
            ), log
    assert reattached > 0
