"""Tools of the wait benchmarks: the stub service, and the evaluation of its log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

pytest.importorskip("airflow.sdk.log", reason="needs Airflow 3.0: the benchmarks measure with it")

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_toapis.api.responses import TaskStatus, parse_video_task
from dev.benchmarks._measuring import Heartbeat, busiest_second, noticed_at, percentile_95, poll_intervals
from dev.benchmarks._stub_service import READY_PATH, STATUS_PATH, Poll, Progress, StubService, Video

CREATED_AT = 1_700_000_000.5


def video(
    index: int = 7,
    *,
    progress: Progress = Progress.LINEAR,
    created_at: float = CREATED_AT,
    seconds: float = 200,
) -> Video:
    return Video.lasting("shoes-1", index, created_at, seconds, progress)


@pytest.mark.parametrize("progress", Progress)
def test_video_id_encodes_all_fields(progress: Progress) -> None:
    assert Video.parse(video(progress=progress).id) == video(progress=progress)


@pytest.mark.parametrize(
    ("seconds", "status", "progress"),
    [
        (0, TaskStatus.QUEUED, 0),
        (1.9, TaskStatus.QUEUED, 0),
        (2, TaskStatus.IN_PROGRESS, 1),
        (99.9, TaskStatus.IN_PROGRESS, 49),
        (199.9, TaskStatus.IN_PROGRESS, 99),
        (200, TaskStatus.COMPLETED, 100),
    ],
)
def test_video_reports_whole_percents_rounded_down(seconds: float, status: TaskStatus, progress: int) -> None:
    task = parse_video_task(video().status_body(CREATED_AT + seconds))
    assert task is not None
    assert (task.status, task.progress, task.is_ready) == (status, progress, seconds >= 200)


@pytest.mark.parametrize(
    ("progress", "percents"),
    [
        (Progress.NONE, [0, 0, 0, 0, 100]),
        (Progress.STEPS, [0, 30, 30, 90, 100]),
        # This video is queued for half of its duration.
        (Progress.LATE, [0, 0, 2, 99, 100]),
    ],
)
def test_kinds_of_progress_are_reported(progress: Progress, percents: list[int]) -> None:
    bodies = [video(progress=progress).status_body(CREATED_AT + seconds) for seconds in (0, 99, 102.1, 199.9, 200)]
    assert [body["progress"] for body in bodies] == percents


def test_video_is_queued_until_its_progress_starts() -> None:
    late = video(progress=Progress.LATE)
    assert [late.status_body(CREATED_AT + seconds)["status"] for seconds in (99, 101)] == ["queued", "in_progress"]


def test_ready_video_reports_when_it_completed() -> None:
    task = parse_video_task(video().status_body(CREATED_AT + 500))
    assert task is not None
    assert task.created_at is not None
    assert task.completed_at is not None
    assert (task.completed_at - task.created_at).total_seconds() == 200


@pytest.fixture(scope="module")
def service() -> Iterator[StubService]:
    with StubService() as running:
        yield running


def test_service_responds_from_video_id_and_logs_polls(service: StubService) -> None:
    now = time.time()
    waiting, ready = video(1, created_at=now), video(2, created_at=now - 300)
    with (
        httpx.Client(base_url=service.url, trust_env=False) as first_client,
        httpx.Client(base_url=service.url) as second_client,
    ):
        assert first_client.get(f"{STATUS_PATH}/{waiting.id}").json()["status"] == "queued"
        assert first_client.get(f"{STATUS_PATH}/{ready.id}").json()["status"] == "completed"
        assert second_client.get(f"{READY_PATH}/{waiting.id}").status_code == 404
        assert second_client.get(f"{READY_PATH}/{ready.id}").status_code == 200
    polls = service.polls("shoes-1")
    assert [poll.video_id for poll in polls] == [waiting.id, ready.id, waiting.id, ready.id]
    first, second, third, fourth = (poll.connection for poll in polls)
    assert first == second != third == fourth
    assert all(now <= poll.received_at <= time.time() for poll in polls)
    assert service.polls("hats") == []


def test_service_stops_at_end_of_context() -> None:
    with StubService() as running:
        url = running.url
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_busiest_second_starts_at_any_request() -> None:
    assert busiest_second([0.0, 0.9, 1.1, 1.2, 1.8, 3.0]) == 4


def test_request_one_second_later_is_in_next_second() -> None:
    assert busiest_second(number / 4 for number in range(100)) == 4


def test_poll_intervals_are_per_video_and_start_at_creation() -> None:
    first_video, second_video = video(1, created_at=100.0), video(2, created_at=100.0)
    polls = [(105.0, first_video), (140.0, second_video), (125.0, first_video)]
    assert sorted(poll_intervals(Poll(at, each.id, 0) for at, each in polls)) == [5.0, 20.0, 40.0]


def test_percentile_is_within_the_values() -> None:
    assert percentile_95([float(number) for number in range(101)]) == 95.0
    assert percentile_95([1.0, 2.0]) <= 2.0


async def test_heartbeat_detects_blocked_event_loop() -> None:
    started = time.monotonic()
    async with Heartbeat() as heartbeat:
        await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251 - the heartbeat must detect this
        await asyncio.sleep(0.02)
    # The heartbeat sleeps for 0.01 s.
    assert 0.08 < heartbeat.longest_block < time.monotonic() - started


class FiringTrigger(BaseTrigger):
    def __init__(self, payload: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.payload = payload

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        yield TriggerEvent(self.payload)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("payload", [True, {"status": "success"}])
async def test_success_event_is_noticed_at_current_time(payload: Any) -> None:
    before = time.time()
    assert before <= await noticed_at(FiringTrigger(payload)) <= time.time()


async def test_event_without_success_raises() -> None:
    with pytest.raises(RuntimeError, match="timeout"):
        await noticed_at(FiringTrigger({"status": "timeout"}))


def test_parse_time_measures_parsing_and_serialization() -> None:
    parse_time = pytest.importorskip("dev.benchmarks.parse_time", exc_type=ImportError)
    for source in (parse_time.OURS, parse_time.PEER):
        measured = parse_time.cost_of(source.format(tasks=3), 3)
        assert measured.parse > 0
        assert measured.serialize > 0
        assert measured.dag_processor == measured.parse + measured.serialize
        assert measured.worker == measured.airflow_modules + measured.parse


def test_invalid_dag_file_is_not_measured() -> None:
    parse_time = pytest.importorskip("dev.benchmarks.parse_time", exc_type=ImportError)
    with pytest.raises(RuntimeError, match="no_such_name"):
        parse_time.cost_of("from airflow.sdk import DAG\nno_such_name", 1)
    with pytest.raises(RuntimeError, match="4 tasks"):
        parse_time.cost_of(parse_time.OURS.format(tasks=3), 4)
