"""What the benchmarks of waiting measure with: the service that they ask, and what is made of its log."""

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
from dev.benchmarks._stub_service import READY_PATH, STATUS_PATH, Poll, StubService, Video

CREATED_AT = 1_700_000_000.5


def video(
    index: int = 7, *, reports_progress: bool = True, created_at: float = CREATED_AT, seconds: float = 200
) -> Video:
    return Video.lasting("shoes-1", index, created_at, seconds, reports_progress=reports_progress)


@pytest.mark.parametrize("reports_progress", [True, False])
def test_id_says_everything_about_the_video(reports_progress: bool) -> None:
    assert Video.parse(video(reports_progress=reports_progress).id) == video(reports_progress=reports_progress)


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
def test_honest_video_reports_whole_percents_rounded_down(seconds: float, status: TaskStatus, progress: int) -> None:
    task = parse_video_task(video().status_body(CREATED_AT + seconds))
    assert task is not None
    assert (task.status, task.progress, task.is_ready) == (status, progress, seconds >= 200)


def test_video_without_progress_reports_none_until_it_is_ready() -> None:
    silent = video(reports_progress=False)
    assert [silent.status_body(CREATED_AT + seconds)["progress"] for seconds in (0, 100, 199.9, 200)] == [0, 0, 0, 100]


def test_ready_video_says_when_it_was_made() -> None:
    task = parse_video_task(video().status_body(CREATED_AT + 500))
    assert task is not None
    assert task.created_at is not None
    assert task.completed_at is not None
    assert (task.completed_at - task.created_at).total_seconds() == 200


@pytest.fixture(scope="module")
def service() -> Iterator[StubService]:
    with StubService() as running:
        yield running


def test_service_answers_from_the_id_and_logs_who_asked(service: StubService) -> None:
    now = time.time()
    waiting, ready = video(1, created_at=now), video(2, created_at=now - 300)
    with httpx.Client(base_url=service.url, trust_env=False) as one, httpx.Client(base_url=service.url) as other:
        assert one.get(f"{STATUS_PATH}/{waiting.id}").json()["status"] == "queued"
        assert one.get(f"{STATUS_PATH}/{ready.id}").json()["status"] == "completed"
        assert other.get(f"{READY_PATH}/{waiting.id}").status_code == 404
        assert other.get(f"{READY_PATH}/{ready.id}").status_code == 200
    asked = service.polls("shoes-1")
    assert [poll.video_id for poll in asked] == [waiting.id, ready.id, waiting.id, ready.id]
    first, second, third, fourth = (poll.connection for poll in asked)
    assert first == second != third == fourth
    assert all(now <= poll.received_at <= time.time() for poll in asked)
    assert service.polls("hats") == []


def test_service_ends_with_its_block() -> None:
    with StubService() as running:
        url = running.url
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_busiest_second_begins_anywhere() -> None:
    assert busiest_second([0.0, 0.9, 1.1, 1.2, 1.8, 3.0]) == 4


def test_request_exactly_a_second_later_belongs_to_the_next_second() -> None:
    assert busiest_second(number / 4 for number in range(100)) == 4


def test_gaps_are_per_video_and_begin_with_its_creation() -> None:
    one, other = video(1, created_at=100.0), video(2, created_at=100.0)
    asked = [(105.0, one), (140.0, other), (125.0, one)]
    assert sorted(poll_intervals(Poll(at, each.id, 0) for at, each in asked)) == [5.0, 20.0, 40.0]


def test_percentile_lies_within_the_values() -> None:
    assert percentile_95([float(number) for number in range(101)]) == 95.0
    assert percentile_95([1.0, 2.0]) <= 2.0


async def test_heartbeat_sees_a_blocked_event_loop() -> None:
    began = time.monotonic()
    async with Heartbeat() as heartbeat:
        await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251 - that is what has to be seen
        await asyncio.sleep(0.02)
    # It was to wake up after a hundredth of a second.
    assert 0.08 < heartbeat.longest_block < time.monotonic() - began


class EndsWith(BaseTrigger):
    def __init__(self, payload: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.payload = payload

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        yield TriggerEvent(self.payload)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("payload", [True, {"status": "success"}])
async def test_success_is_noticed_now(payload: Any) -> None:
    before = time.time()
    assert before <= await noticed_at(EndsWith(payload)) <= time.time()


async def test_wait_that_ends_otherwise_is_no_notice() -> None:
    with pytest.raises(RuntimeError, match="timeout"):
        await noticed_at(EndsWith({"status": "timeout"}))


def test_dag_file_is_parsed_and_serialized_as_the_dag_processor_does() -> None:
    parse_time = pytest.importorskip("dev.benchmarks.parse_time", exc_type=ImportError)
    for source in (parse_time.OURS, parse_time.PEER):
        cost = parse_time.cost_of(source.format(tasks=3), 3)
        assert cost.parse > 0
        assert cost.serialize > 0
        assert cost.dag_processor == cost.parse + cost.serialize
        assert cost.worker == cost.airflow_modules + cost.parse


def test_dag_file_that_airflow_cannot_read_is_not_measured() -> None:
    parse_time = pytest.importorskip("dev.benchmarks.parse_time", exc_type=ImportError)
    with pytest.raises(RuntimeError, match="no_such_name"):
        parse_time.cost_of("from airflow.sdk import DAG\nno_such_name", 1)
    with pytest.raises(RuntimeError, match="4 tasks"):
        parse_time.cost_of(parse_time.OURS.format(tasks=3), 4)
