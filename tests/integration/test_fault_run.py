"""A bad night in the triggerer: 200 videos wait at once while a third of all polls fail and the key is rotated."""

from __future__ import annotations

import asyncio
import selectors
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping
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
from tests.integration.conftest import API_KEY, connect
from tests.integration.emulator_process import EmulatorProcess

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

VIDEOS = 200
#: Seconds that the videos take: from half to one and a half of it.
LATENCY = 120.0
POLL_INTERVAL = 10.0
#: Polls per second: of a connection that says nothing of it, and of the vendor.
QUERY_RATE, VENDORS_QUERY_RATE = 40, 50
#: Seconds that all of it may take, far more than it does.
RETRY_TIMEOUT = 4 * 3600.0
NEW_KEY = "sk-rotated-0123456789abcdef"
ORDER = {
    "model": "grok-video-1.5",
    "prompt": "push in",
    "video_generation_mode": "text_to_video",
    "duration": 1,
}
#: Real seconds: only the polls that are left hanging take them.
TIMEOUT = 1.0
HANGING = {"kind": "delay", "seconds": 2 * TIMEOUT, "after": True, "probability": 0.03, "times": 8}
#: Each strikes this share of the polls that the others before it let through, 30 % together.
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
#: Answers that are no failures and tell nothing, or tell it in another form.
ODDITIES: list[dict[str, Any]] = [
    {"kind": "task_status", "value": "pondering", "when": "unfinished"},
    {"kind": "variant", "name": "nested"},
    {"kind": "no_url"},
]
#: Seconds from the start at which so many polls in a row are refused.
BURSTS = {12.0: 6, 70.0: 10}
RETRY_AFTER = 3.0
#: Seconds from the start at which the key is rotated.
ROTATION = 45.0


class SkippedTime:
    """The time that everything here and the emulator go by; spans in which nothing can happen are skipped.

    While a poll is under way, time passes as it really does.
    """

    def __init__(self, emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch) -> None:
        self._emulator = emulator
        self._skipped = 0.0
        self.under_way = 0
        self.clients: set[httpx.AsyncClient] = set()
        #: When each poll was sent, in monotonic seconds.
        self.sent_at: list[float] = []
        for name in ("time", "monotonic"):
            monkeypatch.setattr(time, name, self._ahead(getattr(time, name)))
        monkeypatch.setattr(httpx.AsyncClient, "send", self._counted(httpx.AsyncClient.send))

    def skip(self, seconds: float) -> None:
        self._emulator.advance(seconds)
        self._skipped += seconds

    def _ahead(self, real: Any) -> Any:
        return lambda: real() + self._skipped

    def _counted(self, send: Any) -> Any:
        async def counted(client: httpx.AsyncClient, *args: Any, **kwargs: Any) -> Any:
            self.under_way += 1
            self.clients.add(client)
            self.sent_at.append(time.monotonic())
            try:
                return await send(client, *args, **kwargs)
            finally:
                self.under_way -= 1

        return counted


class SkippingSelector(selectors.DefaultSelector):
    """Skips the time in which an event loop would do nothing but wait for its next timer."""

    def __init__(self, skipped: SkippedTime) -> None:
        super().__init__()
        self._skipped = skipped

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self._skipped.under_way:
            return super().select(timeout)
        self._skipped.skip(timeout)
        return []


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers are due as soon as nothing is under way, in its threads neither."""

    def __init__(self, skipped: SkippedTime) -> None:
        super().__init__(SkippingSelector(skipped))
        self._skipped = skipped

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._skipped.under_way += 1
        future.add_done_callback(self._returned)
        return future

    def _returned(self, _future: asyncio.Future[Any]) -> None:
        self._skipped.under_way -= 1


@dataclass(frozen=True)
class Night:
    """What came of it. Moments are the emulator's epoch seconds.

    :param events: What each video's trigger yielded, until it ended.
    :param noticed_at: When each trigger ended.
    :param polls: What the emulator was asked about each video, in order.
    :param sent_at: When the polls were sent, in monotonic seconds.
    :param look_ups: How often the connection was read.
    :param counts: Requests by endpoint.
    """

    started_at: float
    events: Mapping[str, list[dict[str, Any]]]
    noticed_at: Mapping[str, float]
    polls: Mapping[str, list[dict[str, Any]]]
    sent_at: list[float]
    clients: set[httpx.AsyncClient]
    look_ups: int
    counts: Mapping[str, int]
    faults: list[dict[str, Any]]
    ledger: Mapping[str, Any]

    def arrivals(self, *, status: int | None = None) -> list[float]:
        """Return when polls reached the emulator: all, or those that were answered with ``status``."""
        return sorted(
            poll["emulator_time"] for polls in self.polls.values() for poll in polls if status in {None, poll["status"]}
        )


@pytest.fixture(scope="module")
def night() -> Night:
    options: dict[str, Any] = {"latency": LATENCY, "latency_spread": 0.5, "balance": 1000, "submit_rps": 0}
    with (
        EmulatorProcess(api_key=API_KEY, **options) as emulator,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        return night_of(emulator, monkeypatch)


def night_of(emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch) -> Night:
    video_ids = [submitted(emulator) for _ in range(VIDEOS)]
    emulator.clear_requests()
    order_faults(emulator)
    connect(monkeypatch, emulator, extra={"timeout": TIMEOUT})
    look_ups = counted_look_ups(monkeypatch)
    skipped = SkippedTime(emulator, monkeypatch)
    started_at = time.time()
    events: dict[str, list[dict[str, Any]]] = {video_id: [] for video_id in video_ids}
    noticed_at: dict[str, float] = {}

    async def watch(video_id: str) -> None:
        end_time = started_at + RETRY_TIMEOUT
        trigger = ToAPIsVideoTrigger(video_id, "toapis_default", poll_interval=POLL_INTERVAL, end_time=end_time)
        async for event in stored_and_loaded(trigger).run():
            events[video_id].append(cast("dict[str, Any]", event.payload))
        noticed_at[video_id] = time.time()

    async def refuse(after: float, times: int) -> None:
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
                tasks.create_task(refuse(after, times))
            tasks.create_task(rotate())

    with asyncio.Runner(loop_factory=lambda: SkippingLoop(skipped)) as runner:
        runner.run(everything())
    return Night(
        started_at=started_at,
        events=events,
        noticed_at=noticed_at,
        polls=polls_by_video(emulator),
        sent_at=skipped.sent_at,
        clients=skipped.clients,
        look_ups=len(look_ups),
        counts=emulator.request_counts(),
        faults=emulator.faults(),
        ledger=emulator.ledger(),
    )


def submitted(emulator: EmulatorProcess) -> str:
    response = emulator.api("/v1/videos/generations", "POST", json=ORDER)
    return str(response.raise_for_status().json()["id"])


def order_faults(emulator: EmulatorProcess) -> None:
    emulator.add_fault(on="status", **HANGING)
    for fault in (*FAILURES, *ODDITIES):
        emulator.add_fault(on="status", times=-1, probability=SHARE, **fault)


def counted_look_ups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that the id of each connection is put into when it is read, from now on."""
    looked_up: list[str] = []
    read = ToAPIsHook.async_settings

    async def counted(hook: ToAPIsHook) -> Any:
        looked_up.append(hook.toapis_conn_id)
        return await read(hook)

    monkeypatch.setattr(ToAPIsHook, "async_settings", counted)
    return looked_up


def polls_by_video(emulator: EmulatorProcess) -> dict[str, list[dict[str, Any]]]:
    polls: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for poll in sorted(emulator.requests(), key=itemgetter("emulator_time")):
        polls[poll["path"].rpartition("/")[2]].append(poll)
    return polls


def most_in_a_second(moments: list[float]) -> int:
    """Return the most of the ``moments``, which are in order, that lie within one second."""
    return max(bisect_left(moments, moment + 1.0) - number for number, moment in enumerate(moments))


def test_it_was_a_bad_night(night: Night) -> None:
    struck = {fault["id"]: fault["struck"] for fault in night.faults}
    failures = [fault["struck"] for fault in night.faults if fault["kind"] in {"drop", "html", "status", "error"}]
    assert all(struck.values()), night.faults
    assert 0.25 < sum(failures) / len(night.sent_at) < 0.4
    assert len(night.arrivals(status=429)) == sum(BURSTS.values())


def test_every_video_is_noticed_once(night: Night) -> None:
    noticed = {
        video_id: [(event["status"], event["video_id"]) for event in events]
        for video_id, events in night.events.items()
    }
    assert len(noticed) == VIDEOS
    assert noticed == {video_id: [("success", video_id)] for video_id in noticed}


def test_waiting_orders_nothing(night: Night) -> None:
    assert set(night.counts) == {"status"}
    assert (night.ledger["posted"], night.ledger["count"]) == (VIDEOS, VIDEOS)


def test_no_video_is_asked_for_faster_than_every_five_seconds(night: Night) -> None:
    moments = [[poll["emulator_time"] for poll in polls] for polls in night.polls.values()]
    assert min(after - before for of_video in moments for before, after in pairwise(of_video)) >= 5


def test_no_video_is_asked_for_more_often_than_at_its_interval_and_most_are_less(night: Night) -> None:
    for video_id, noticed_at in night.noticed_at.items():
        assert len(night.polls[video_id]) <= 1 + (noticed_at - night.started_at) / POLL_INTERVAL
    assert len(night.sent_at) / VIDEOS < 8


def test_no_video_is_asked_for_once_it_is_noticed(night: Night) -> None:
    for video_id, noticed_at in night.noticed_at.items():
        assert night.polls[video_id][-1]["emulator_time"] < noticed_at


def test_budget_is_used_and_no_second_holds_more_polls(night: Night) -> None:
    # One more than that: on a busy machine a poll may leave late and the next one in time.
    assert QUERY_RATE / 2 < most_in_a_second(night.sent_at) <= QUERY_RATE + 1
    # The way to the emulator takes one poll longer than another.
    assert most_in_a_second(night.arrivals()) <= VENDORS_QUERY_RATE


def test_refused_poll_keeps_all_of_them_quiet_as_long_as_it_says(night: Night) -> None:
    arrivals = night.arrivals()
    for refused_at in night.arrivals(status=429):
        # Others may have been under way when the answer came.
        assert not [moment for moment in arrivals if refused_at + 1 < moment < refused_at + RETRY_AFTER - 0.1]


def test_key_is_rotated_at_the_cost_of_few_look_ups_and_refusals(night: Night) -> None:
    refusals = [[poll["status"] for poll in polls].count(401) for polls in night.polls.values()]
    assert max(refusals) <= 1
    # The one that finds out, and those that were under way with it.
    assert sum(refusals) <= 10
    # The connection is read again at most every five seconds while polls fail, and every five minutes anyway.
    assert night.look_ups <= (max(night.noticed_at.values()) - night.started_at) / 5 + 2


def test_all_share_one_client_for_each_key_and_leave_none_open(night: Night) -> None:
    assert [client.is_closed for client in night.clients] == [True, True]
