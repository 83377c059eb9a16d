"""Each part of a cluster is killed once and stopped once. Each video is billed once and saved."""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from dev.airflow.airflow_instance import AirflowApiError
from dev.cluster.cluster import Cluster
from tests.integration.emulator_process import EmulatorProcess

#: Environment variable with the seed of the random choices. Each run prints its seed.
SEED = "TOAPIS_CLUSTER_SEED"
#: Time limit in seconds.
TIME_LIMIT = 25 * 60.0
VIDEOS, ROWS = 200, 1000
#: Mean seconds that a video takes, and the maximum relative deviation from the mean.
LATENCY, LATENCY_SPREAD = 60.0, 0.5
#: Polls per second of each of the two triggerers. The service allows 50, and the workers poll too.
QUERY_RATE = 15
#: Submissions per second of the batch. The service allows 5, and the mapped tasks submit too.
SUBMIT_RATE = 2.5
#: Seconds for which a stopped part stays down, and range of the seconds between two kills or stops.
DOWN_SECONDS = 20.0
PAUSE_SECONDS = (5.0, 20.0)
#: Parts that are killed once and stopped once.
PARTS = ("worker-1", "worker-2", "triggerer-1", "triggerer-2", "scheduler", "redis", "postgres")

_LEFT_BEHIND = sqlalchemy.text("SELECT state, count(*) FROM task_instance WHERE state <> 'success' GROUP BY state")


@dataclass(frozen=True)
class Outcome:
    """Result after all runs have ended."""

    cluster: Cluster
    emulator: EmulatorProcess
    directory: Path
    states: dict[str, str]
    results: dict[str, Any]
    events: int

    @cached_property
    def billed(self) -> list[dict[str, Any]]:
        return list(self.emulator.ledger()["billed"])


class Run:
    """One run of each DAG in a cluster whose parts are killed and stopped."""

    def __init__(
        self, cluster: Cluster, emulator: EmulatorProcess, directory: Path, print_now: Callable[[str], None]
    ) -> None:
        self.cluster = cluster
        self._print = print_now
        self.emulator = emulator
        self._deadline = time.monotonic() + TIME_LIMIT
        image = f"{emulator.url}/shop/images/sneaker.jpg"
        feed = directory / "feed.jsonl"
        rows = [{"key": f"sku-{n:04}", "prompt": f"It turns, {n}", "image": image} for n in range(ROWS)]
        feed.write_text("\n".join(map(json.dumps, rows)))
        confs = {
            "cluster_videos": {"image": image, "directory": str(directory / "mapped")},
            "cluster_batch": {"feed": str(feed), "directory": str(directory / "batch")},
        }
        self.ids = {dag_id: cluster.airflow.trigger(dag_id, conf) for dag_id, conf in confs.items()}
        self._began = time.monotonic()

    def wait(self, seconds: float) -> None:
        """Wait, and restart parts that have ended by themselves."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for part in self.cluster.revive():
                self.log(f"{part} ended by itself and is restarted")
            time.sleep(0.5)
        assert time.monotonic() < self._deadline, f"Timed out. {self.emulator.ledger()['count']} videos are billed."

    def take_down(self, part: str, action: str) -> None:
        """Kill a part, or stop it for some seconds."""
        self.log(f"{part} is {action}, {self.emulator.ledger()['count']} videos billed")
        if action == "killed":
            self.cluster.kill(part)
        else:
            self.cluster.stop(part)
            self.wait(DOWN_SECONDS)
        self.cluster.start(part)

    def states(self) -> dict[str, str]:
        """Return the state of each run, or nothing while Airflow does not respond."""
        try:
            return {dag_id: self.cluster.airflow.run_state(dag_id, run_id) for dag_id, run_id in self.ids.items()}
        except AirflowApiError:
            return {}

    def log(self, message: str) -> None:
        self._print(f"{time.monotonic() - self._began:5.0f} s: {message}")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, print_now: Callable[[str], None]) -> Iterator[Outcome]:
    seed = os.environ.get(SEED) or secrets.token_hex(4)
    print_now(f"{SEED}={seed}")
    rng = random.Random(seed)
    directory = tmp_path_factory.mktemp("cluster")
    with EmulatorProcess(latency=LATENCY, latency_spread=LATENCY_SPREAD, balance=1000) as emulator:
        extra = json.dumps({"query_rate": QUERY_RATE, "submit_rate": SUBMIT_RATE})
        connection = {"conn_type": "toapis", "host": emulator.url, "password": "sk-emulator", "extra": extra}
        dags = Path(__file__).parent / "dags"
        with Cluster(directory / "parts", dags, connections={"toapis_default": connection}) as cluster:
            run = Run(cluster, emulator, directory, print_now)
            events = [(part, action) for part in PARTS for action in ("killed", "stopped")]
            rng.shuffle(events)
            for part, action in events:
                run.wait(rng.uniform(*PAUSE_SECONDS))
                run.take_down(part, action)
            unfinished = set(run.states().values()) != {"success"}
            remaining = "videos are still in progress" if unfinished else "all runs are done"
            run.log(f"all parts were killed and stopped; {remaining}")
            while not (states := run.states()) or set(states.values()) & {"queued", "running"}:
                run.wait(2)
            run.log(f"{states}")
            results = {"batch": cluster.airflow.xcom("cluster_batch", run.ids["cluster_batch"], "make_videos")}
            yield Outcome(cluster, emulator, directory, states, results, len(events))


def test_all_runs_succeed(outcome: Outcome) -> None:
    assert outcome.states == {"cluster_videos": "success", "cluster_batch": "success"}
    assert outcome.results["batch"]["saved"] == ROWS


def test_each_video_is_billed_once(outcome: Outcome) -> None:
    assert len(outcome.billed) == VIDEOS + ROWS
    assert len({line["client_business_id"] for line in outcome.billed}) == VIDEOS + ROWS


def test_each_file_has_the_content_of_the_service(outcome: Outcome) -> None:
    files = {path.name: path for path in (outcome.directory / "mapped").glob("*.mp4")}
    assert len(files) == VIDEOS
    receipts = [
        path for path in (outcome.directory / "mapped").glob("*.json") if not path.name.endswith(".toapis.json")
    ]
    saved = [json.loads(path.read_text()) for path in receipts]
    manifest = (outcome.directory / "batch" / "manifest.jsonl").read_text().splitlines()
    batch = [json.loads(line) for line in manifest]
    expected = {receipt["id"]: Path(receipt["output_path"]) for receipt in saved}
    expected |= {line["video_id"]: outcome.directory / "batch" / line["file"] for line in batch}
    assert expected.keys() == {line["id"] for line in outcome.billed}
    for video_id, path in expected.items():
        # Stay below the service's rate limit.
        time.sleep(1 / 45)
        response = outcome.emulator.api(f"/v1/videos/generations/{video_id}").raise_for_status().json()
        made = outcome.emulator.get(response["result"]["data"][0]["url"]).raise_for_status().content
        assert hashlib.sha256(path.read_bytes()).hexdigest() == hashlib.sha256(made).hexdigest()


def test_no_unfinished_task_instance_or_trigger_remains(outcome: Outcome) -> None:
    database = sqlalchemy.create_engine(outcome.cluster.postgres.url)
    with database.connect() as connection:
        assert connection.execute(_LEFT_BEHIND).all() == []
    deadline = time.monotonic() + 60
    while True:
        with database.connect() as connection:
            triggers = connection.execute(sqlalchemy.text("SELECT count(*) FROM trigger")).scalar()
        if triggers == 0:
            break
        assert time.monotonic() < deadline, f"{triggers} triggers are left"
        time.sleep(1)
    database.dispose()


def test_both_triggerers_together_respect_the_query_rate(outcome: Outcome, print_now: Callable[[str], None]) -> None:
    polls = [request for request in outcome.emulator.requests() if request["endpoint"] == "status"]
    rejected = Counter(request["status"] for request in polls)[429]
    print_now(f"{len(polls)} polls, {rejected} of them rate limited; {outcome.events} kills and stops")
    assert rejected == 0
