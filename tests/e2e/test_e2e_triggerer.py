"""Many videos wait in a real triggerer that is killed during the wait."""

from __future__ import annotations

import shutil
import socket
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dev.airflow.airflow_instance import AirflowInstance
from tests.e2e.deferring import DeferredVideos
from tests.integration.emulator_process import EmulatorProcess

VIDEOS = 40
#: Seconds that a video takes, long enough to kill and restart the triggerer.
LATENCY = 60.0
#: Time limit in seconds.
TIME_LIMIT = 300.0
#: Settings with which Airflow detects a dead triggerer in seconds instead of a minute.
QUICK_RECOVERY = {
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "5",
}


@dataclass(frozen=True)
class WaitResult:
    """Result after all waits have ended.

    :param polled_at: Times at which each video was polled, in epoch seconds.
    :param metrics: Packets that StatsD received.
    :param triggerer_log: Log of the triggerer itself, without those of the tasks.
    """

    end_time: float
    events: list[dict[str, Any]]
    polled_at: dict[str, list[float]]
    metrics: list[str]
    triggerer_log: str


@pytest.fixture(scope="module")
def statsd() -> Iterator[socket.socket]:
    with socket.socket(type=socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
        listener.setblocking(False)
        yield listener


@pytest.fixture(scope="module")
def wait_result(tmp_path_factory: pytest.TempPathFactory, statsd: socket.socket) -> Iterator[WaitResult]:
    dags = tmp_path_factory.mktemp("dags")
    shutil.copy(Path(__file__).parent / "dags" / "deferred_videos.py", dags)
    metrics = {
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_PORT": str(statsd.getsockname()[1]),
    }
    with EmulatorProcess(latency=LATENCY, latency_spread=0, submit_rps=0) as service:
        connections = {"toapis_default": {"conn_type": "toapis", "host": service.url, "password": "sk-emulator"}}
        directory = tmp_path_factory.mktemp("airflow")
        with AirflowInstance(directory, dags, connections=connections, environment=QUICK_RECOVERY | metrics) as airflow:
            yield kill_while_waiting(airflow, service, statsd)


def kill_while_waiting(airflow: AirflowInstance, service: EmulatorProcess, statsd: socket.socket) -> WaitResult:
    deadline = time.monotonic() + TIME_LIMIT
    end_time = time.time() + TIME_LIMIT
    trigger = {"toapis_conn_id": "toapis_default", "poll_interval": 10.0, "end_time": end_time}
    deferred = DeferredVideos(airflow, [{"video_id": submit(service)} | trigger for _ in range(VIDEOS)])
    while service.request_counts().get("status", 0) < VIDEOS:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    airflow.kill("triggerer")
    log = airflow.component_log("triggerer")
    airflow.start("triggerer")
    while deferred.waiting():
        assert time.monotonic() < deadline
        time.sleep(1)
    polled_at = defaultdict(list)
    for request in service.requests():
        if request["endpoint"] == "status":
            polled_at[request["path"].rpartition("/")[2]].append(request["time"])
    return WaitResult(
        end_time, deferred.events(), polled_at, received(statsd), log + airflow.component_log("triggerer")
    )


def submit(service: EmulatorProcess) -> str:
    body = {
        "model": "grok-video-1.5-preview",
        "prompt": "A slow turn",
        "images": [f"{service.url}/shop/images/sneaker.jpg"],
    }
    video_id: str = service.api("/v1/videos/generations", "POST", json=body).raise_for_status().json()["id"]
    return video_id


def received(statsd: socket.socket) -> list[str]:
    packets = []
    while True:
        try:
            packets.append(statsd.recv(65536).decode())
        except BlockingIOError:
            return packets


def test_every_wait_continues_with_its_deadline(wait_result: WaitResult) -> None:
    assert [event["status"] for event in wait_result.events] == ["success"] * VIDEOS
    assert {event["end_time"] for event in wait_result.events} == {wait_result.end_time}
    assert {event["video_id"] for event in wait_result.events} == wait_result.polled_at.keys()


def test_restored_triggers_do_not_poll_more_often(wait_result: WaitResult) -> None:
    for moments in wait_result.polled_at.values():
        assert min(later - earlier for earlier, later in pairwise(moments)) > 4.5
        # Because of the restart, a video gets at most one poll more.
        assert len(moments) <= 7


def test_metrics_of_the_triggerer_are_sent(wait_result: WaitResult) -> None:
    polls = sum(packet.startswith("airflow.toapis.polls:") for packet in wait_result.metrics)
    assert polls == sum(map(len, wait_result.polled_at.values()))
    waiting = [packet.split(":")[1] for packet in wait_result.metrics if ".toapis.videos_waiting:" in packet]
    assert f"{VIDEOS}|g" in waiting
    assert waiting[-1] == "0|g"


def test_log_of_the_triggerer_itself_contains_no_video_ids(wait_result: WaitResult) -> None:
    assert "Starting the triggerer" in wait_result.triggerer_log
    assert "video_" not in wait_result.triggerer_log
