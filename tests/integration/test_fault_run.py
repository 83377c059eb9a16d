"""200 videos wait in one triggerer while a third of all polls fail and the API key is rotated."""

from __future__ import annotations

import asyncio
import selectors
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Any, TypeVar, TypeVarTuple, cast

import httpx
import pytest

from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.triggers.video import ToAPIsVideoTrigger
from tests.airflow_task import stored_and_loaded
from tests.integration.conftest import API_KEY, connect, recorded_clients
from tests.integration.emulator_process import EmulatorProcess

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

VIDEOS = 200
#: Mean seconds that a video takes. The actual time is between 50 % and 150 % of it.
LATENCY = 120.0
POLL_INTERVAL = 10.0
#: Polls per second: the default of a connection, and the limit of the service.
QUERY_RATE, SERVICE_QUERY_RATE = 40, 50
#: Time limit in seconds, far more than needed.
RETRY_TIMEOUT = 4 * 3600.0
NEW_KEY = "sk-rotated-0123456789abcdef"
SUBMISSION = {
    "model": "grok-video-1.5",
    "prompt": "push in",
    "video_generation_mode": "text_to_video",
    "duration": 1,
}
#: Timeout in real seconds. Only the hanging polls take so long.
TIMEOUT = 1.0
HANGING = {"kind": "delay", "seconds": 2 * TIMEOUT, "after": True, "probability": 0.03, "times": 8}
#: Share of the remaining polls to which each fault applies, about 30 % together.
SHARE = 0.032
FAILURES: list[dict[str, Any]] = [
    {"kind": "drop"},
    {"kind": "drop", "reset": True},
    {"kind": "drop", "after": True},
    {"kind": "html"},
    {"kind": "html", "status": 200},
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 503, "body": "upstream connect error", "content_type": "text/plain"},
    {"kind": "error", "name": "gateway_timeout"},
    {"kind": "error", "name": "cloudflare_timeout"},
    {"kind": "error", "name": "all_channels_failed"},
    {"kind": "error", "name": "task_not_exist"},
]
#: Responses that are not failures, but have unusual values or forms.
UNUSUAL_RESPONSES: list[dict[str, Any]] = [
    {"kind": "task_status", "value": "pondering", "when": "unfinished"},
    {"kind": "variant", "name": "nested"},
    {"kind": "no_url"},
]
#: Number of polls in a row that are rate limited, by seconds from the start.
BURSTS = {12.0: 6, 70.0: 10}
RETRY_AFTER = 3.0
#: Seconds from the start at which the key is rotated.
ROTATION = 45.0


class SkippedTime:
    """Clock of this process and of the emulator. It skips the time in which nothing can happen.

    While a poll is in flight, time passes at its normal speed.
    """

    def __init__(self, emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch) -> None:
        self._emulator = emulator
        self._skipped = 0.0
        self.in_flight = 0
        self.clients = recorded_clients(monkeypatch, httpx.AsyncClient)
        #: Monotonic time of each poll.
        self.sent_at: list[float] = []
        for name in ("time", "monotonic"):
            monkeypatch.setattr(time, name, self._ahead(getattr(time, name)))
        transport = httpx.AsyncHTTPTransport
        monkeypatch.setattr(transport, "handle_async_request", self._counted(transport.handle_async_request))

    def skip(self, seconds: float) -> None:
        self._emulator.advance(seconds)
        self._skipped += seconds

    def _ahead(self, real: Any) -> Any:
        return lambda: real() + self._skipped

    def _counted(self, send: Any) -> Any:
        async def counted(transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> Any:
            self.in_flight += 1
            self.sent_at.append(time.monotonic())
            try:
                return await send(transport, request)
            finally:
                self.in_flight -= 1

        return counted


class SkippingSelector(selectors.DefaultSelector):
    """Skips the time in which an event loop only waits for its next timer."""

    def __init__(self, skipped_time: SkippedTime) -> None:
        super().__init__()
        self._skipped = skipped_time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self._skipped.in_flight:
            return super().select(timeout)
        self._skipped.skip(timeout)
        return []


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop that skips the wait for timers while no poll and no thread is running."""

    def __init__(self, skipped_time: SkippedTime) -> None:
        super().__init__(SkippingSelector(skipped_time))
        self._skipped = skipped_time

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._skipped.in_flight += 1
        future.add_done_callback(self._returned)
        return future

    def _returned(self, _future: asyncio.Future[Any]) -> None:
        self._skipped.in_flight -= 1


@dataclass(frozen=True)
class FaultRun:
    """Result of the run. All times except ``sent_at`` are the emulator's epoch seconds.

    :param events: Events of each video's trigger, by video id.
    :param ended_at: Time at which each trigger ended, by video id.
    :param polls: Requests for each video that reached the emulator, in order.
    :param sent_at: Monotonic times at which the polls were sent.
    :param connection_reads: Number of times that the connection was read.
    :param counts: Requests by endpoint.
    """

    started_at: float
    events: Mapping[str, list[dict[str, Any]]]
    ended_at: Mapping[str, float]
    polls: Mapping[str, list[dict[str, Any]]]
    sent_at: list[float]
    clients: Sequence[httpx.Client | httpx.AsyncClient]
    connection_reads: int
    counts: Mapping[str, int]
    faults: list[dict[str, Any]]
    ledger: Mapping[str, Any]

    def arrivals(self, *, status: int | None = None) -> list[float]:
        """Return the times at which polls reached the emulator.

        :param status: Count only polls whose response had this status.
        """
        return sorted(
            poll["emulator_time"] for polls in self.polls.values() for poll in polls if status in {None, poll["status"]}
        )


@pytest.fixture(scope="module")
def fault_run() -> FaultRun:
    options: dict[str, Any] = {"latency": LATENCY, "latency_spread": 0.5, "balance": 1000, "submit_rps": 0}
    with (
        EmulatorProcess(api_key=API_KEY, **options) as emulator,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        return run_with_faults(emulator, monkeypatch)


def run_with_faults(emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch) -> FaultRun:
    video_ids = [submit(emulator) for _ in range(VIDEOS)]
    emulator.clear_requests()
    add_faults(emulator)
    connect(monkeypatch, emulator, extra={"timeout": TIMEOUT})
    connection_reads = count_connection_reads(monkeypatch)
    skipped_time = SkippedTime(emulator, monkeypatch)
    started_at = time.time()
    events: dict[str, list[dict[str, Any]]] = {video_id: [] for video_id in video_ids}
    ended_at: dict[str, float] = {}

    async def watch(video_id: str) -> None:
        end_time = started_at + RETRY_TIMEOUT
        trigger = ToAPIsVideoTrigger(video_id, "toapis_default", poll_interval=POLL_INTERVAL, end_time=end_time)
        async for event in stored_and_loaded(trigger).run():
            events[video_id].append(cast("dict[str, Any]", event.payload))
        ended_at[video_id] = time.time()

    async def rate_limit(after: float, times: int) -> None:
        await asyncio.sleep(after)
        headers = {"Retry-After": str(int(RETRY_AFTER))}
        emulator.add_fault(on="status", kind="status", status=429, headers=headers, times=times)

    async def rotate() -> None:
        await asyncio.sleep(ROTATION)
        emulator.rotate_api_key(NEW_KEY)
        connect(monkeypatch, emulator, password=NEW_KEY, extra={"timeout": TIMEOUT})

    async def everything() -> None:
        async with asyncio.timeout(2 * RETRY_TIMEOUT), asyncio.TaskGroup() as tasks:
            for video_id in video_ids:
                tasks.create_task(watch(video_id))
            for after, times in BURSTS.items():
                tasks.create_task(rate_limit(after, times))
            tasks.create_task(rotate())

    with asyncio.Runner(loop_factory=lambda: SkippingLoop(skipped_time)) as runner:
        runner.run(everything())
    return FaultRun(
        started_at=started_at,
        events=events,
        ended_at=ended_at,
        polls=polls_by_video(emulator),
        sent_at=skipped_time.sent_at,
        clients=skipped_time.clients,
        connection_reads=len(connection_reads),
        counts=emulator.request_counts(),
        faults=emulator.faults(),
        ledger=emulator.ledger(),
    )


def submit(emulator: EmulatorProcess) -> str:
    response = emulator.api("/v1/videos/generations", "POST", json=SUBMISSION)
    return str(response.raise_for_status().json()["id"])


def add_faults(emulator: EmulatorProcess) -> None:
    emulator.add_fault(on="status", **HANGING)
    for fault in (*FAILURES, *UNUSUAL_RESPONSES):
        emulator.add_fault(on="status", times=-1, probability=SHARE, **fault)


def count_connection_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the id of each connection is appended when it is read."""
    reads: list[str] = []
    read = ToAPIsHook.async_settings

    async def counted(hook: ToAPIsHook) -> Any:
        reads.append(hook.toapis_conn_id)
        return await read(hook)

    monkeypatch.setattr(ToAPIsHook, "async_settings", counted)
    return reads


def polls_by_video(emulator: EmulatorProcess) -> dict[str, list[dict[str, Any]]]:
    polls: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for poll in sorted(emulator.requests(), key=itemgetter("emulator_time")):
        polls[poll["path"].rpartition("/")[2]].append(poll)
    return polls


def most_in_a_second(moments: list[float]) -> int:
    """Return the maximum number of the sorted ``moments`` within one second."""
    return max(bisect_left(moments, moment + 1.0) - number for number, moment in enumerate(moments))


def test_all_faults_were_applied(fault_run: FaultRun) -> None:
    struck = {fault["id"]: fault["struck"] for fault in fault_run.faults}
    failures = [fault["struck"] for fault in fault_run.faults if fault["kind"] in {"drop", "html", "status", "error"}]
    assert all(struck.values()), fault_run.faults
    assert 0.25 < sum(failures) / len(fault_run.sent_at) < 0.4
    assert len(fault_run.arrivals(status=429)) == sum(BURSTS.values())


def test_every_trigger_fires_once(fault_run: FaultRun) -> None:
    events_by_video = {
        video_id: [(event["status"], event["video_id"]) for event in events]
        for video_id, events in fault_run.events.items()
    }
    assert len(events_by_video) == VIDEOS
    assert events_by_video == {video_id: [("success", video_id)] for video_id in events_by_video}


def test_wait_submits_nothing(fault_run: FaultRun) -> None:
    assert set(fault_run.counts) == {"status"}
    assert (fault_run.ledger["posted"], fault_run.ledger["count"]) == (VIDEOS, VIDEOS)


def test_polls_of_a_video_are_at_least_five_seconds_apart(fault_run: FaultRun) -> None:
    moments = [[poll["emulator_time"] for poll in polls] for polls in fault_run.polls.values()]
    assert min(after - before for of_video in moments for before, after in pairwise(of_video)) >= 5


def test_polls_of_a_video_do_not_exceed_its_poll_interval(fault_run: FaultRun) -> None:
    for video_id, ended_at in fault_run.ended_at.items():
        assert len(fault_run.polls[video_id]) <= 1 + (ended_at - fault_run.started_at) / POLL_INTERVAL
    assert len(fault_run.sent_at) / VIDEOS < 8


def test_video_is_not_polled_after_its_trigger_fired(fault_run: FaultRun) -> None:
    for video_id, ended_at in fault_run.ended_at.items():
        assert fault_run.polls[video_id][-1]["emulator_time"] < ended_at


def test_query_rate_is_used_and_not_exceeded(fault_run: FaultRun) -> None:
    # One more is accepted, because a busy machine can send one poll late and the next poll in time.
    assert QUERY_RATE / 2 < most_in_a_second(fault_run.sent_at) <= QUERY_RATE + 1
    # More than QUERY_RATE can arrive in one second, because the transfer times of polls differ.
    assert most_in_a_second(fault_run.arrivals()) <= SERVICE_QUERY_RATE


def test_rate_limited_poll_pauses_all_polls_for_retry_after(fault_run: FaultRun) -> None:
    arrivals = fault_run.arrivals()
    for limited_at in fault_run.arrivals(status=429):
        # Other polls can be in flight when the response arrives.
        assert not [moment for moment in arrivals if limited_at + 1 < moment < limited_at + RETRY_AFTER - 0.1]


def test_key_rotation_causes_few_connection_reads_and_rejections(fault_run: FaultRun) -> None:
    rejections = [[poll["status"] for poll in polls].count(401) for polls in fault_run.polls.values()]
    assert max(rejections) <= 1
    # The first rejected poll, and the polls that were in flight at the same time.
    assert sum(rejections) <= 10
    # The connection is read again at most every five seconds while polls fail, and every five minutes anyway.
    assert fault_run.connection_reads <= (max(fault_run.ended_at.values()) - fault_run.started_at) / 5 + 2


def test_all_triggers_share_one_client_per_key_and_close_it(fault_run: FaultRun) -> None:
    assert [client.is_closed for client in fault_run.clients] == [True, True]
