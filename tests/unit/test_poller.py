"""Shared status poller: one per event loop and connection."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from functools import partial
from itertools import pairwise

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_toapis.api.polling import WaitStatus
from airflow_provider_toapis.api.responses import VideoTask
from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsConnectionError,
    ToAPIsNotFoundError,
    ToAPIsRateLimitError,
    ToAPIsServerError,
)
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.triggers.poller import VideoPoller, shared_poller
from tests.unit.polled_service import KEY, READY, RUNNING, PolledService, task
from tests.unit.virtual_time import START, VirtualTimeLoop, in_virtual_time, now

CONN_ID = "toapis_default"
NEW_KEY = "sk-rotated-0123456789"
ASYNC_SETTINGS = ToAPIsHook.async_settings
COMPLETED_IN_A_MINUTE = {
    "model": "m",
    "created_at": int(START),
    "completed_at": int(START) + 60,
    "result": {"data": [{"url": "https://files.example/v.mp4"}]},
}
#: Context of a log line or a poll; Airflow sets such variables for each trigger.
LOG_CONTEXT: ContextVar[str] = ContextVar("WRITER", default="no trigger")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> PolledService:
    return PolledService.installed(monkeypatch)


def settings(*, key: str = KEY, query_rate: float = 40.0, base_url: str = "") -> ClientSettings:
    return ClientSettings(api_key=key, query_rate=query_rate, base_url=base_url)


async def wait(
    video_id: str = "video_1",
    *,
    conn_id: str = CONN_ID,
    start: float = 0.0,
    end_time: float | None = None,
    fallback_interval: float | None = None,
) -> WaitStatus:
    """Wait for a video from ``start`` on, and poll it about every five seconds."""
    await asyncio.sleep(start)
    async with shared_poller(conn_id) as poller:
        result = await poller.wait_for(
            video_id, poll_interval=5.0, end_time=end_time, fallback_interval=fallback_interval
        )
        return result.status


async def results_of(*waits: Awaitable[WaitStatus]) -> list[WaitStatus | BaseException]:
    return list(await asyncio.gather(*waits, return_exceptions=True))


async def wait_for_many(number: int, *, apart: float = 0.0) -> set[WaitStatus]:
    """Wait for ``video_0``, ``video_1`` ..., and start each ``apart`` seconds after the previous one."""
    return set(await asyncio.gather(*(wait(f"video_{index}", start=index * apart) for index in range(number))))


def call_at(moment: float, action: Callable[[], object]) -> None:
    """Call ``action`` at a time of the event loop."""
    asyncio.get_running_loop().call_at(moment, action)


def gaps(moments: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(moments)]


class TestSharing:
    @in_virtual_time
    async def test_waiters_share_one_client_and_one_connection_read(self, service: PolledService) -> None:
        assert await wait_for_many(50) == {"success"}
        assert len(service.clients) == len(service.connection_reads) == 1

    @in_virtual_time
    async def test_connections_do_not_share_a_client(self, service: PolledService) -> None:
        await asyncio.gather(*(wait(conn_id=conn_id) for conn_id in ("a", "b", "a")))
        assert sorted(service.connection_reads) == [("a", 5), ("b", 5)]
        assert len(service.clients) == 2

    def test_event_loops_do_not_share_a_poller(self, service: PolledService) -> None:
        waiters = [shared_poller(CONN_ID) for _ in range(2)]

        async def enter(index: int) -> VideoPoller:
            return await waiters[index].__aenter__()

        async def leave(index: int) -> None:
            await waiters[index].__aexit__(None, None, None)

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as one, asyncio.Runner(loop_factory=VirtualTimeLoop) as other:
            assert one.run(enter(0)) is not other.run(enter(1))
            one.run(leave(0))
            other.run(leave(1))

    @in_virtual_time
    async def test_last_waiter_closes_the_client_and_leaves_no_task(self, service: PolledService) -> None:
        async with shared_poller(CONN_ID):
            assert await wait() == "success"
            assert service.open_clients == 1
        assert service.open_clients == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    @in_virtual_time
    async def test_later_waiter_gets_a_new_client(self, service: PolledService) -> None:
        await wait()
        await wait()
        assert len(service.clients) == len(service.connection_reads) == 2
        assert service.open_clients == 0

    @in_virtual_time
    async def test_history_of_earlier_videos_delays_polls(self, service: PolledService) -> None:
        start = 20

        def respond(_: str) -> VideoTask:
            if now() < start:
                return task("completed", **COMPLETED_IN_A_MINUTE)
            return READY if now() >= start + 60 else task("in_progress", model="m", created_at=int(START) + start)

        service.respond = respond
        await wait_for_many(20)
        await results_of(
            *(wait(f"video_{conn_id}", conn_id=conn_id, start=start - now()) for conn_id in (CONN_ID, "other"))
        )
        assert service.poll_times_of(f"video_{CONN_ID}") == pytest.approx([start + 5, start + 60])
        assert service.poll_times_of("video_other")[1] < start + 11

    @in_virtual_time
    async def test_interrupted_waits_poll_a_video_no_more_often_than_one_wait(self, service: PolledService) -> None:
        service.respond = lambda _: task("queued")
        for _ in range(12):
            waiter = asyncio.ensure_future(wait())
            call_at(now() + 10, waiter.cancel)
            await results_of(waiter)
        assert len(service.poll_times) >= 4
        # A queued video is polled every five intervals.
        assert all(22.5 <= gap <= 32.5 for gap in gaps(service.poll_times))

    @in_virtual_time
    async def test_video_is_not_polled_again_right_after_an_interrupted_poll(self, service: PolledService) -> None:
        service.latency = 60
        waiter = asyncio.ensure_future(wait())
        call_at(6, waiter.cancel)
        await results_of(waiter, wait(start=7))
        assert service.poll_times == [5, 12]

    @in_virtual_time
    async def test_wait_for_a_video_with_webhook_starts_with_a_new_schedule(self, service: PolledService) -> None:
        for _ in range(2):
            waiter = asyncio.ensure_future(wait(fallback_interval=300))
            call_at(now() + 20, waiter.cancel)
            await results_of(waiter)
        first, second = service.poll_times
        assert 5 <= first <= 10
        assert 25 <= second <= 30

    @in_virtual_time
    async def test_each_waiter_has_its_own_deadline(self, service: PolledService) -> None:
        assert await results_of(wait("video_1", end_time=START + 33), wait("video_2")) == ["timeout", "success"]
        assert service.poll_times_of("video_1")[-1] == pytest.approx(33)


class TestCanceling:
    @pytest.mark.parametrize(
        ("moment", "poll_count"), [(2, 0), (5.5, 0), (8.5, 1)], ids=["asleep", "queued", "poll in progress"]
    )
    @in_virtual_time
    async def test_canceled_waiter_does_not_affect_others(
        self, service: PolledService, moment: float, poll_count: int
    ) -> None:
        service.connection, service.latency = settings(query_rate=1), 2.0
        waiters = [asyncio.create_task(wait(f"video_{index}")) for index in range(4)]
        call_at(moment, waiters[2].cancel)
        await asyncio.wait(waiters)
        assert [waiter.cancelled() or waiter.result() for waiter in waiters] == ["success", "success", True, "success"]
        assert len(service.poll_times_of("video_2")) == poll_count
        assert service.open_clients == 0

    @pytest.mark.parametrize("response", [READY, ToAPIsServerError("502"), RuntimeError("a bug")], ids=repr)
    @in_virtual_time
    async def test_response_for_a_canceled_waiter_does_not_affect_others(
        self, service: PolledService, response: VideoTask | Exception
    ) -> None:
        service.latency = 2.0
        service.respond = lambda video_id: response if video_id == "video_0" else READY
        waiters = [asyncio.create_task(wait(f"video_{index}")) for index in range(2)]
        call_at(6, waiters[0].cancel)
        await asyncio.wait(waiters)
        assert waiters[0].cancelled()
        assert waiters[1].result() == "success"

    @pytest.mark.parametrize("moment", [2, 5.5], ids=["asleep", "poll in progress"])
    @in_virtual_time
    async def test_canceling_the_last_waiter_closes_the_client(self, service: PolledService, moment: float) -> None:
        service.latency = 2.0
        waiter = asyncio.create_task(wait())
        call_at(moment, waiter.cancel)
        await asyncio.wait([waiter])
        assert waiter.cancelled()
        assert service.open_clients == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}


class TestRateLimiting:
    @pytest.mark.parametrize("query_rate", [2.0, 20.0])
    @in_virtual_time
    async def test_query_rate_of_the_connection_limits_polls(self, service: PolledService, query_rate: float) -> None:
        service.connection, service.respond = settings(query_rate=query_rate), lambda _: READY
        await wait_for_many(11)
        assert now() - 5 == pytest.approx(10 / query_rate, rel=0.1)

    @in_virtual_time
    async def test_rate_limit_holds_for_many_waiters_and_polls_every_video(self, service: PolledService) -> None:
        service.connection = settings(query_rate=10)
        service.respond = lambda _: READY if now() >= 600 else RUNNING
        assert await wait_for_many(500) == {"success"}
        moments = service.poll_times
        assert all(later - earlier >= 1 for earlier, later in zip(moments, moments[10:], strict=False))
        # At this rate, a poll of each video takes 53 s in total. After its poll, each wait pauses for 5 s.
        for index in range(500):
            assert max(gaps([0.0, *service.poll_times_of(f"video_{index}")])) <= 60

    @in_virtual_time
    async def test_longest_waiting_video_is_polled_first(self, service: PolledService) -> None:
        service.connection = settings(query_rate=1)
        starts = random.Random(1).sample(range(20), 20)
        await asyncio.gather(*(wait(f"video_{start}", start=start / 10) for start in starts))
        assert [poll.video_id for poll in service.polls[:20]] == [f"video_{index}" for index in range(20)]

    @in_virtual_time
    async def test_slow_responses_do_not_delay_other_polls(self, service: PolledService) -> None:
        service.latency = 30.0
        await wait_for_many(20)
        assert service.poll_times[19] < 6

    @in_virtual_time
    async def test_at_most_a_hundred_polls_run_concurrently(self, service: PolledService) -> None:
        service.latency = 30.0
        await wait_for_many(101)
        assert service.poll_times[99] < 8
        assert service.poll_times[100] >= 35

    @in_virtual_time
    async def test_exhausted_rate_limit_header_pauses_all_polls(self, service: PolledService) -> None:
        service.headers, service.respond = {"x-ratelimit-remaining": "0"}, lambda _: READY
        await wait_for_many(10)
        assert min(gaps(service.poll_times)) >= 1


class TestRateLimit:
    @pytest.fixture(autouse=True)
    def limit(self, service: PolledService) -> None:
        """Reject all polls for one second; a response takes half a second."""
        service.latency = 0.5
        limited = ToAPIsRateLimitError("GET returned 429.", http_status=429, retry_after=5)
        service.respond = lambda _: limited if now() < 6.5 else READY if now() >= 60 else RUNNING

    @in_virtual_time
    async def test_rate_limit_pauses_and_slows_down_all_polls(self, service: PolledService) -> None:
        assert await wait_for_many(100) == {"success"}
        # The first rejection arrives 0.5 s after the first poll, with a Retry-After of 5 s.
        rejected_times = [moment for moment in service.poll_times if moment < 10]
        resumed = service.poll_times[len(rejected_times) :]
        assert max(rejected_times) <= 5.5
        assert resumed[0] >= 10.5
        # The rate was halved from 40 to 20 polls per second, and has recovered a little since then.
        assert 20 < sum(moment < resumed[0] + 1 for moment in resumed) < 30

    @in_virtual_time
    async def test_rate_limit_is_logged_once_and_not_per_video(
        self, service: PolledService, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger="airflow_provider_toapis")
        await wait_for_many(100)
        logged = [text for text in caplog.messages if "429" in text or "asked for again" in text]
        assert logged == ["GET returned 429. Polling more slowly for a while."]


class TestLongPause:
    @in_virtual_time
    async def test_each_waiting_task_logs_the_start_of_a_pause_once(
        self, service: PolledService, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A task whose poll was not sent because of the pause logs the pause too."""
        caplog.set_level(logging.INFO, logger="airflow_provider_toapis")
        limited = ToAPIsRateLimitError("GET returned 429.", http_status=429, retry_after=125)
        service.respond = lambda _: limited if now() < 7 else READY if now() >= 200 else RUNNING
        assert await results_of(wait("video_1"), wait("video_2", start=5)) == ["success", "success"]
        for video_id, seconds in (("video_1", 125), ("video_2", 120)):
            logged = [text for text in caplog.messages if video_id in text and "pauses" in text]
            assert logged == [
                f"Polling of video {video_id} pauses for {seconds} s: the service limits the rate (HTTP 429)."
            ]


class TestHangingResponses:
    """A response that never ends delays only its own wait, until its deadline."""

    @in_virtual_time
    async def test_hanging_waits_time_out_and_healthy_videos_are_polled(self, service: PolledService) -> None:
        service.hanging = {f"video_{index}" for index in range(100)}
        service.respond = lambda _: READY
        hanging = [wait(f"video_{index}", end_time=START + 40) for index in range(100)]
        assert await results_of(*hanging, wait("healthy", start=8)) == ["timeout"] * 100 + ["success"]
        assert now() <= 55
        assert service.poll_times_of("healthy") <= [50.5]
        assert service.open_clients == 0

    @in_virtual_time
    async def test_hanging_request_is_canceled_with_its_wait(self, service: PolledService) -> None:
        service.hanging = {"video_1"}
        waiter = asyncio.create_task(wait("video_1"))
        async with shared_poller(CONN_ID):
            call_at(20, waiter.cancel)
            await asyncio.wait([waiter])
            await asyncio.sleep(0.1)
            assert service.canceled == ["video_1"]


class TestErrors:
    @in_virtual_time
    async def test_error_about_one_video_reaches_its_waiter_only(self, service: PolledService) -> None:
        missing = ToAPIsNotFoundError("GET returned 404.", http_status=404)
        service.respond = lambda video_id: missing if video_id == "video_1" else READY if now() >= 300 else RUNNING
        assert await results_of(wait("video_1"), wait("video_2")) == ["error", "success"]

    @in_virtual_time
    async def test_unexpected_error_reaches_its_waiter_only(self, service: PolledService) -> None:
        unexpected, service.latency = RuntimeError("a bug"), 1.0
        service.respond = lambda video_id: unexpected if video_id == "video_1" else READY if now() >= 60 else RUNNING
        assert await results_of(wait("video_1"), wait("video_2"), wait("video_3")) == [unexpected, "success", "success"]
        assert service.open_clients == 0

    @in_virtual_time
    async def test_failed_poller_fails_its_waiters_and_is_replaced(
        self, service: PolledService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: str) -> None:
            raise RuntimeError("no such metric")

        with monkeypatch.context() as patch:
            patch.setattr("airflow_provider_toapis.triggers.poller.metrics.video_polled", fail)
            async with shared_poller(CONN_ID):
                failures = await results_of(wait("video_1"), wait("video_2"))
                failures += await results_of(wait("video_3"))
        assert [type(failure) for failure in failures] == [ExceptionGroup] * 3
        assert await wait() == "success"


class TestRejectedKey:
    @in_virtual_time
    async def test_connection_is_read_at_most_every_five_seconds(self, service: PolledService) -> None:
        service.accepted_key = NEW_KEY
        assert await wait_for_many(60, apart=0.5) == {"error"}
        assert len(service.connection_reads) > 5
        assert min(gaps(service.connection_read_times)) >= 5

    @in_virtual_time
    async def test_client_is_kept_while_the_connection_is_unchanged(self, service: PolledService) -> None:
        service.accepted_key = NEW_KEY
        await wait_for_many(60, apart=0.5)
        assert len(service.clients) == 1

    @in_virtual_time
    async def test_working_key_is_not_read_again(self, service: PolledService) -> None:
        await wait_for_many(10, apart=1)
        assert service.connection_read_times == [5]

    @pytest.mark.parametrize("airflow_delay", [0.0, 3.0], ids=["at once", "a moment later"])
    @in_virtual_time
    async def test_key_rotation_fails_no_waiter(self, service: PolledService, airflow_delay: float) -> None:
        def rotate() -> None:
            service.accepted_key = NEW_KEY

        def update_connection() -> None:
            service.connection = settings(key=NEW_KEY)

        call_at(30, rotate)
        call_at(30 + airflow_delay, update_connection)
        waiting = asyncio.create_task(wait_for_many(100, apart=0.1))
        await asyncio.sleep(50)
        assert [client.settings.api_key for client in service.clients] == [KEY, NEW_KEY]
        assert {poll.key for poll in service.polls if poll.at > 40} == {NEW_KEY}
        assert await waiting == {"success"}
        assert service.open_clients == 0

    @in_virtual_time
    async def test_key_rotation_fails_no_waiter_while_the_connection_is_unreadable(
        self, service: PolledService
    ) -> None:
        def rotate() -> None:
            service.accepted_key, service.connection = NEW_KEY, AirflowException("no response")

        def recover() -> None:
            service.connection = settings(key=NEW_KEY)

        call_at(30, rotate)
        call_at(50, recover)
        assert await wait_for_many(100, apart=0.1) == {"success"}

    @in_virtual_time
    async def test_late_rejection_of_old_key_does_not_cause_another_connection_read(
        self, service: PolledService
    ) -> None:
        service.latency = 4.0
        service.accepted_key = NEW_KEY

        def update_connection() -> None:
            service.connection = settings(key=NEW_KEY)

        call_at(9, update_connection)
        assert await wait_for_many(20, apart=0.5) == {"success"}
        assert len(service.connection_reads) == 2

    @in_virtual_time
    async def test_new_query_rate_is_used_with_new_key(self, service: PolledService) -> None:
        service.accepted_key = NEW_KEY

        def update_connection() -> None:
            service.connection = settings(key=NEW_KEY, query_rate=1)

        call_at(10, update_connection)
        await wait_for_many(10)
        assert min(gaps([moment for moment in service.poll_times if moment > 16])) >= 1


class TestConnection:
    @in_virtual_time
    async def test_failed_connection_read_is_retried_and_fails_no_waiter(self, service: PolledService) -> None:
        def recover() -> None:
            service.connection = settings()

        service.connection = AirflowException("the secrets backend does not respond")
        call_at(20, recover)
        assert await wait_for_many(50, apart=0.2) == {"success"}
        assert min(gaps(service.connection_read_times)) >= 5

    @in_virtual_time
    async def test_connection_without_key_fails_no_waiter_and_sends_no_poll(self, service: PolledService) -> None:
        service.connection = ToAPIsAuthError("no key")
        call_at(300, lambda: setattr(service, "connection", settings()))
        assert await results_of(wait("video_1", end_time=START + 100), *(wait() for _ in range(5))) == [
            "timeout",
            *["success"] * 5,
        ]
        assert min(service.poll_times) >= 300

    @in_virtual_time
    async def test_corrected_host_is_used_by_current_and_new_waiters(self, service: PolledService) -> None:
        wrong, right = "http://wrong.example", "http://right.example"
        service.connection = settings(base_url=wrong)
        polls: list[str] = []

        def respond(_: str) -> VideoTask | Exception:
            polls.append(service.clients[-1].settings.base_url)
            return ToAPIsConnectionError("no such host", sent=False) if polls[-1] == wrong else READY

        service.respond = respond
        call_at(15, lambda: setattr(service, "connection", settings(base_url=right)))
        assert await results_of(wait("video_1"), wait("video_2", start=30)) == ["success", "success"]
        assert set(polls) == {wrong, right}
        assert now() < 60
        assert service.open_clients == 0

    @pytest.mark.parametrize(
        "poll_error",
        [ToAPIsNotFoundError("404"), ToAPIsServerError("HTML"), ToAPIsConnectionError("timed out")],
        ids=["not found", "foreign", "no response"],
    )
    @in_virtual_time
    async def test_poll_error_other_than_rate_limit_rereads_the_connection(
        self, service: PolledService, poll_error: Exception
    ) -> None:
        service.respond = lambda _: READY if now() >= 30 else poll_error
        await wait()
        assert len(service.connection_reads) > 1
        assert min(gaps(service.connection_read_times)) >= 5

    @in_virtual_time
    async def test_rejected_key_rereads_the_connection_at_once_after_other_errors(self, service: PolledService) -> None:
        def rotate() -> None:
            service.accepted_key = NEW_KEY
            service.connection = settings(key=NEW_KEY)

        service.respond = lambda _: ToAPIsServerError("HTML") if now() < 40 else READY
        # Because of the other errors, the connection is read about every five seconds: at 5, 10, 15 and 20 s.
        call_at(18, rotate)
        assert await wait_for_many(50, apart=0.5) == {"success"}
        # The first rejection causes the read before the next poll, unless that poll was already sent.
        rejected_at, _, later = sorted(moment for moment in service.poll_times if moment > 18)[:3]
        assert any(rejected_at <= moment <= later for moment in service.connection_read_times)

    @in_virtual_time
    async def test_working_connection_is_reread_periodically(self, service: PolledService) -> None:
        service.respond = lambda _: READY if now() >= 1000 else RUNNING
        call_at(10, lambda: setattr(service, "connection", settings(query_rate=1)))
        assert await wait_for_many(5) == {"success"}
        assert service.connection_read_times == pytest.approx([5, 305, 605, 905], abs=10)
        assert min(gaps([moment for moment in service.poll_times if moment > 320])) >= 1

    @in_virtual_time
    async def test_working_client_is_used_while_the_connection_is_unreadable(self, service: PolledService) -> None:
        service.respond = lambda _: READY if now() >= 1000 else RUNNING
        call_at(10, lambda: setattr(service, "connection", AirflowException("no response")))
        assert await wait_for_many(5) == {"success"}
        assert max(gaps(service.poll_times_of("video_1"))) < 20

    @in_virtual_time
    async def test_hanging_connection_read_delays_no_deadline_and_is_not_canceled(
        self, service: PolledService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ended: list[str] = []

        async def hanging(_: ToAPIsHook) -> ClientSettings:
            try:
                await asyncio.sleep(200)
            except asyncio.CancelledError:
                ended.append("canceled")
                raise
            ended.append("responded")
            return settings()

        monkeypatch.setattr(ToAPIsHook, "async_settings", hanging)
        waits = asyncio.gather(wait("video_1", end_time=START + 50), wait("video_2"))
        assert list(await asyncio.wait_for(asyncio.shield(waits), 400)) == ["timeout", "success"]
        assert ended == ["responded"]

    @in_virtual_time
    async def test_hanging_connection_reread_delays_no_poll(
        self, service: PolledService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service.respond = lambda _: READY if now() >= 1000 else RUNNING
        original = ToAPIsHook.async_settings

        async def hanging(hook: ToAPIsHook) -> ClientSettings:
            if now() > 10:
                await asyncio.sleep(1e6)
            return await original(hook)

        monkeypatch.setattr(ToAPIsHook, "async_settings", hanging)
        assert await wait("video_1") == "success"
        assert max(gaps(service.poll_times)) < 20
        assert service.open_clients == 0

    @in_virtual_time
    async def test_temporarily_missing_connection_fails_no_waiter(
        self, service: PolledService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ToAPIsHook, "async_settings", ASYNC_SETTINGS)
        call_at(300, lambda: monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", connection_json()))
        assert await wait_for_many(10) == {"success"}
        assert min(service.poll_times) >= 300

    @in_virtual_time
    async def test_invalid_connection_is_reread_until_it_is_corrected(
        self, service: PolledService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ToAPIsHook, "async_settings", ASYNC_SETTINGS)
        monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", bad := connection_json(query_rate=0))
        call_at(40, lambda: monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", bad.replace("0}", "10}")))
        assert await results_of(wait("video_1", end_time=START + 30), wait("video_2")) == ["timeout", "success"]
        assert min(service.poll_times) >= 40


class TestLog:
    @pytest.fixture
    def log_lines(self) -> Iterator[list[tuple[str, str]]]:
        """Lines of the provider's log, each with its context."""
        recorded: list[tuple[str, str]] = []

        class Recorder(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                recorded.append((LOG_CONTEXT.get(), record.getMessage()))

        logger, recorder = logging.getLogger("airflow_provider_toapis"), Recorder()
        level = logger.level
        logger.addHandler(recorder)
        logger.setLevel(logging.INFO)
        yield recorded
        logger.removeHandler(recorder)
        logger.setLevel(level)

    @in_virtual_time
    async def test_waiters_log_in_their_own_context_and_polls_run_in_none(
        self, service: PolledService, log_lines: list[tuple[str, str]]
    ) -> None:
        pollers: list[str] = []

        def respond(_: str) -> VideoTask | Exception:
            pollers.append(LOG_CONTEXT.get())
            return ToAPIsConnectionError("dropped") if now() < 10 else READY if now() >= 60 else RUNNING

        async def trigger(video_id: str) -> None:
            LOG_CONTEXT.set(video_id)
            await wait(video_id)

        service.respond = respond
        await asyncio.gather(*(trigger(f"video_{index}") for index in range(5)))
        assert set(pollers) == {"no trigger"}
        assert sorted({log_context for log_context, _ in log_lines}) == [f"video_{index}" for index in range(5)]
        for log_context, text in log_lines:
            assert text.startswith((f"Video {log_context}", f"Polling video {log_context}"))

    @in_virtual_time
    async def test_shared_messages_are_logged_without_waiter_context(
        self, service: PolledService, log_lines: list[tuple[str, str]]
    ) -> None:
        limited = ToAPIsRateLimitError("GET returned 429.", http_status=429)
        service.respond = lambda _: limited if now() < 10 else READY
        LOG_CONTEXT.set("video_1")
        await wait("video_1")
        assert log_lines[0] == ("no trigger", "GET returned 429. Polling more slowly for a while.")

    @in_virtual_time
    async def test_unreadable_connection_is_logged_once_for_all_waiters(
        self, service: PolledService, log_lines: list[tuple[str, str]]
    ) -> None:
        service.connection = AirflowException("the secrets backend does not respond")
        LOG_CONTEXT.set("batch")
        async with shared_poller(CONN_ID) as poller:
            wait_quietly = partial(poller.wait_for, poll_interval=5.0, end_time=START + 600, log_level=logging.DEBUG)
            await asyncio.gather(*(wait_quietly(f"video_{index}") for index in range(20)))
        ((log_context, text),) = log_lines
        assert log_context == "no trigger"
        assert text.startswith("Connection 'toapis_default' cannot be read (AirflowException).")


def connection_json(**extra: object) -> str:
    return json.dumps({"conn_type": "toapis", "password": KEY, "extra": extra})
