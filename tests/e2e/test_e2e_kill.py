"""Airflow's processes are killed with SIGKILL, and each video is billed once and saved."""

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
from tests.e2e.killing import KillEnvironment, Method, Outcome, RunningTask
from tests.integration.emulator_process import EmulatorProcess

#: Environment variable with the seed of the random choices. Each run prints its seed.
SEED = "TOAPIS_KILL_SEED"

#: Time limit in seconds. A run takes 3 to 5 minutes on two cores.
TIME_LIMIT = 900.0

COMPONENTS = ("scheduler", "triggerer")
METHODS: Mapping[str, Method | None] = {
    "a task that starts": "execute",
    "a task that resumes": "execute_complete",
    "a task": None,
}

#: Videos of each DAG in ``dags/killed_videos.py``.
VIDEOS = {"killed_while_deferred": 20, "killed_while_waiting": 4}

#: Numbers of kills: of each component, of tasks in ``execute``, of tasks in ``execute_complete``, of tasks in either
#: method, and of tasks that wait in the worker.
COMPONENT_KILLS, EXECUTE_KILLS, COMPLETE_KILLS, LATE_KILLS, WAITING_KILLS = 3, 3, 2, 3, 3

#: Videos are never ready by themselves. The test finishes a few at a time.
LATENCY, AT_A_TIME = 3600.0, 2

#: Seconds by which the service delays the response to an accepted submission, and seconds by which it delays a file.
#: Processes can be killed during these delays.
SUBMISSION_DELAY, FILE_DELAY = 0.7, 1.5

#: Maximum seconds from the selection of a running task to its kill: for a short task, and for a task that waits.
TASK_LIFE, WAITING_LIFE = 1.5, 4.0


@pytest.fixture(scope="module")
def environment(
    tmp_path_factory: pytest.TempPathFactory, print_now: Callable[[str], None]
) -> Iterator[KillEnvironment]:
    seed = os.environ.get(SEED) or secrets.token_hex(4)
    print_now(f"{SEED}={seed}")
    # Without replay, the service bills a second submission with a known idempotency key.
    # Without progress, each video is polled every few seconds.
    service = EmulatorProcess(latency=LATENCY, no_progress=True, no_replay=True)
    rng = random.Random(seed)
    with KillEnvironment.start(
        service, "killed_videos.py", tmp_path_factory, rng=rng, seconds=TIME_LIMIT
    ) as environment:
        yield environment


@pytest.fixture(scope="module")
def deferred(
    environment: KillEnvironment, tmp_path_factory: pytest.TempPathFactory, print_now: Callable[[str], None]
) -> Outcome:
    """Run videos that wait in the triggerer, while components and tasks are killed."""
    environment.emulator.add_fault(on="submit", kind="delay", seconds=SUBMISSION_DELAY, after=True, times=-1)
    environment.emulator.add_fault(on="result", kind="delay", seconds=FILE_DELAY, times=-1)
    run = start(environment, "killed_while_deferred", tmp_path_factory.mktemp("deferred"))
    killed: list[str | RunningTask] = []
    with environment.videos_finish(run, AT_A_TIME):
        for steps, victim in plan(environment.rng, VIDEOS[run.dag_id]):
            environment.wait_for(f"{steps} steps", partial(has_reached, environment, run, steps))
            if victim in COMPONENTS:
                environment.kill_component(victim)
                killed.append(victim)
            else:
                killed.append(environment.kill_task(run, METHODS[victim], TASK_LIFE))
        return wait_for_end(environment, run, killed, print_now)


@pytest.fixture(scope="module")
def waiting(
    environment: KillEnvironment,
    deferred: Outcome,
    tmp_path_factory: pytest.TempPathFactory,
    print_now: Callable[[str], None],
) -> Outcome:
    """Run videos whose tasks wait in the worker, and kill these tasks."""
    billed_before = len(deferred.billed)
    run = start(environment, "killed_while_waiting", tmp_path_factory.mktemp("waiting"))
    environment.wait_for("all submissions", partial(has_reached, environment, run, billed_before + VIDEOS[run.dag_id]))
    killed: list[str | RunningTask] = [
        environment.kill_task(run, "execute", WAITING_LIFE) for _ in range(WAITING_KILLS)
    ]
    with environment.videos_finish(run, VIDEOS[run.dag_id]):
        return wait_for_end(environment, run, killed, print_now, billed_before)


def start(environment: KillEnvironment, dag_id: str, output: Path) -> Run:
    products = environment.emulator.get("/shop/products").json()["products"]
    images = [product["image"] for product in products if product["image"].startswith("http")]
    run_id = environment.airflow.trigger(dag_id, {"images": images, "output_directory": str(output)})
    return Run(environment.airflow, dag_id, run_id, output)


def plan(rng: random.Random, videos: int) -> list[tuple[int, str]]:
    """Return the kills in order, each as the number of steps before the kill and the name of the victim.

    Each video has two steps: it is submitted, and it is saved.

    Tasks in ``execute_complete`` are killed before the last kill of the scheduler, because later tasks start again in
    ``execute``.
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
        for steps in spread(rng, first * videos, last * videos, count)
    )


def spread(rng: random.Random, first: float, last: float, count: int) -> list[int]:
    """Return a random number from each of ``count`` equal parts of a range."""
    part = (last - first) / count
    return [int(first + part * (number + rng.random())) for number in range(count)]


def has_reached(environment: KillEnvironment, run: Run, steps: int) -> bool:
    submitted, saved = int(environment.emulator.ledger()["posted"]), len(list(run.output.glob("*.mp4")))
    return submitted + saved >= steps


def wait_for_end(
    environment: KillEnvironment,
    run: Run,
    killed: list[str | RunningTask],
    print_now: Callable[[str], None],
    billed_before: int = 0,
) -> Outcome:
    state = environment.airflow.wait_for_run(run.dag_id, run.run_id, environment.deadline - time.monotonic())
    outcome = Outcome(run, state, killed, environment.emulator.ledger()["billed"][billed_before:])
    counts = Counter(victim if isinstance(victim, str) else f"a task in {victim.method}" for victim in killed)
    print_now(f"{run.dag_id}: killed " + ", ".join(f"{count} times {name}" for name, count in sorted(counts.items())))
    return outcome


@pytest.fixture(params=["deferred", "waiting"])
def outcome(request: pytest.FixtureRequest) -> Outcome:
    ended_run: Outcome = request.getfixturevalue(request.param)
    return ended_run


def test_all_components_and_methods_were_killed(deferred: Outcome) -> None:
    assert Counter(victim for victim in deferred.killed if isinstance(victim, str)) == dict.fromkeys(
        COMPONENTS, COMPONENT_KILLS
    )
    assert len(deferred.interrupted_tasks) >= 3
    assert {task.method for task in deferred.interrupted_tasks} == {"execute", "execute_complete"}


def test_waiting_tasks_were_killed(waiting: Outcome) -> None:
    assert len(waiting.interrupted_tasks) >= 2


def test_every_task_succeeds(outcome: Outcome) -> None:
    assert outcome.state == "success", outcome.instances
    assert {instance["state"] for instance in outcome.instances} == {"success"}


def test_every_video_is_billed_exactly_once(outcome: Outcome) -> None:
    assert len(outcome.billed) == VIDEOS[outcome.run.dag_id]
    assert {line["status"] for line in outcome.billed} == {"settled"}
    assert sorted(line["id"] for line in outcome.billed) == sorted(result["id"] for result in outcome.results)


def test_every_file_has_the_content_of_the_service(outcome: Outcome, environment: KillEnvironment) -> None:
    environment.emulator.clear_faults()
    for number, result in enumerate(outcome.results):
        made = environment.emulator.api(f"/v1/videos/generations/{result['id']}").json()
        original = environment.emulator.get(made["result"]["data"][0]["url"]).content
        saved = outcome.run.output / f"product-{number:02}.mp4"
        assert result["output_path"] == str(saved)
        assert (
            hashlib.sha256(saved.read_bytes()).hexdigest() == hashlib.sha256(original).hexdigest() == result["sha256"]
        )


def test_retry_logs_the_reattached_video_and_that_nothing_more_is_billed(outcome: Outcome) -> None:
    reattached = 0
    for task in outcome.interrupted_tasks:
        log, video_id = outcome.log_after(task), outcome.results[task.map_index]["id"]
        if re.search(
            rf"Re-attached to the video of an earlier attempt .* Nothing more is billed\.\nVideo {video_id},", log
        ):
            reattached += 1
        else:
            # The task was killed before its submission, or after its video was saved.
            assert re.search(
                rf"Submitted video.*\nVideo {video_id},|Video {video_id} is already saved .* Nothing is submitted", log
            ), log
    assert reattached > 0
