"""Every part of a cluster is killed, and stopped for a while, and each video is made, paid once and kept."""

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

#: Environment variable that repeats the choices of an earlier run, which printed it.
SEED = "TOAPIS_CLUSTER_SEED"
#: Seconds for everything.
TIME_LIMIT = 25 * 60.0
VIDEOS, ROWS = 200, 1000
#: Seconds from an order to its video, and by how much of them it may differ.
LATENCY, LATENCY_SPREAD = 60.0, 0.5
#: Of the service's 50 polls per second, for each of two triggerers; the workers ask too.
QUERY_RATE = 15
#: Of the service's 5 orders per second, for the batch; the mapped tasks order besides.
SUBMIT_RATE = 2.5
#: Seconds for which a part that is stopped stays down, and between two of these events.
DOWN_SECONDS = 20.0
CALM_SECONDS = (5.0, 20.0)
#: Those that are killed and stopped; each of them once.
VICTIMS = ("worker-1", "worker-2", "triggerer-1", "triggerer-2", "scheduler", "redis", "postgres")

_LEFT_BEHIND = sqlalchemy.text("SELECT state, count(*) FROM task_instance WHERE state <> 'success' GROUP BY state")


@dataclass(frozen=True)
class Night:
    """What is there once everything has ended."""

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
    """One run of each DAG, in a cluster that loses its parts meanwhile."""

    def __init__(
        self, cluster: Cluster, emulator: EmulatorProcess, directory: Path, say: Callable[[str], None]
    ) -> None:
        self.cluster = cluster
        self._say = say
        self.emulator = emulator
        self._deadline = time.monotonic() + TIME_LIMIT
        picture = f"{emulator.url}/shop/images/sneaker.jpg"
        feed = directory / "feed.jsonl"
        rows = [{"key": f"sku-{n:04}", "prompt": f"It turns, {n}", "image": picture} for n in range(ROWS)]
        feed.write_text("\n".join(map(json.dumps, rows)))
        confs = {
            "cluster_videos": {"image": picture, "directory": str(directory / "mapped")},
            "cluster_batch": {"feed": str(feed), "directory": str(directory / "batch")},
        }
        self.ids = {dag_id: cluster.airflow.trigger(dag_id, conf) for dag_id, conf in confs.items()}
        self._began = time.monotonic()

    def pass_time(self, seconds: float) -> None:
        """Let the run go on, and start again what ended by itself."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for part in self.cluster.revive():
                self.tell(f"{part} ended by itself and is started again")
            time.sleep(0.5)
        assert time.monotonic() < self._deadline, f"Time is up. {self.emulator.ledger()['count']} videos are billed."

    def lose(self, part: str, how: str) -> None:
        """Kill a part, or stop it for a while."""
        self.tell(f"{part} is {how}, {self.emulator.ledger()['count']} videos billed")
        if how == "killed":
            self.cluster.kill(part)
        else:
            self.cluster.stop(part)
            self.pass_time(DOWN_SECONDS)
        self.cluster.start(part)

    def states(self) -> dict[str, str]:
        """Return the state of each run; nothing while Airflow does not answer."""
        try:
            return {dag_id: self.cluster.airflow.run_state(dag_id, run_id) for dag_id, run_id in self.ids.items()}
        except AirflowApiError:
            return {}

    def tell(self, what: str) -> None:
        self._say(f"{time.monotonic() - self._began:5.0f} s: {what}")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, say: Callable[[str], None]) -> Iterator[Night]:
    seed = os.environ.get(SEED) or secrets.token_hex(4)
    say(f"{SEED}={seed}")
    chance = random.Random(seed)
    directory = tmp_path_factory.mktemp("cluster")
    with EmulatorProcess(latency=LATENCY, latency_spread=LATENCY_SPREAD, balance=1000) as emulator:
        extra = json.dumps({"query_rate": QUERY_RATE, "submit_rate": SUBMIT_RATE})
        connection = {"conn_type": "toapis", "host": emulator.url, "password": "sk-emulator", "extra": extra}
        dags = Path(__file__).parent / "dags"
        with Cluster(directory / "parts", dags, connections={"toapis_default": connection}) as cluster:
            run = Run(cluster, emulator, directory, say)
            events = [(part, how) for part in VICTIMS for how in ("killed", "stopped")]
            chance.shuffle(events)
            for part, how in events:
                run.pass_time(chance.uniform(*CALM_SECONDS))
                run.lose(part, how)
            unfinished = set(run.states().values()) != {"success"}
            run.tell(
                f"all was lost that was to be lost; {'videos are still being made' if unfinished else 'all is done'}"
            )
            while not (states := run.states()) or set(states.values()) & {"queued", "running"}:
                run.pass_time(2)
            run.tell(f"{states}")
            results = {"batch": cluster.airflow.xcom("cluster_batch", run.ids["cluster_batch"], "make_videos")}
            yield Night(cluster, emulator, directory, states, results, len(events))


def test_everything_ends_in_success(night: Night) -> None:
    assert night.states == {"cluster_videos": "success", "cluster_batch": "success"}
    assert night.results["batch"]["saved"] == ROWS


def test_each_video_is_billed_once(night: Night) -> None:
    assert len(night.billed) == VIDEOS + ROWS
    assert len({line["client_business_id"] for line in night.billed}) == VIDEOS + ROWS


def test_each_file_is_what_the_service_made(night: Night) -> None:
    files = {path.name: path for path in (night.directory / "mapped").glob("*.mp4")}
    assert len(files) == VIDEOS
    receipts = [path for path in (night.directory / "mapped").glob("*.json") if not path.name.endswith(".toapis.json")]
    kept = [json.loads(path.read_text()) for path in receipts]
    manifest = (night.directory / "batch" / "manifest.jsonl").read_text().splitlines()
    batch = [json.loads(line) for line in manifest]
    wanted = {receipt["id"]: Path(receipt["output_path"]) for receipt in kept}
    wanted |= {line["video_id"]: night.directory / "batch" / line["file"] for line in batch}
    assert wanted.keys() == {line["id"] for line in night.billed}
    for video_id, path in wanted.items():
        # Below the service's limit.
        time.sleep(1 / 45)
        answer = night.emulator.api(f"/v1/videos/generations/{video_id}").raise_for_status().json()
        made = night.emulator.get(answer["result"]["data"][0]["url"]).raise_for_status().content
        assert hashlib.sha256(path.read_bytes()).hexdigest() == hashlib.sha256(made).hexdigest()


def test_no_task_instance_and_no_trigger_is_left_behind(night: Night) -> None:
    database = sqlalchemy.create_engine(night.cluster.postgres.url)
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


def test_limits_of_the_service_are_kept_by_both_triggerers_together(night: Night, say: Callable[[str], None]) -> None:
    asked = [request for request in night.emulator.requests() if request["endpoint"] == "status"]
    refused = Counter(request["status"] for request in asked)[429]
    say(f"{len(asked)} polls, {refused} of them refused; {night.events} parts lost")
    assert refused == 0
