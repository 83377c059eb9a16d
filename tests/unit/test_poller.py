"""The one that asks for all videos that wait for the same connection: what they share, and what they do not."""

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
MADE_IN_A_MINUTE = {
    "model": "m",
    "created_at": int(START),
    "completed_at": int(START) + 60,
    "result": {"data": [{"url": "https://files.example/v.mp4"}]},
}
#: Who writes a line of the log, or asks; Airflow keeps such variables for each trigger.
WRITER: ContextVar[str] = ContextVar("WRITER", default="nobody")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> PolledService:
    return PolledService.installed(monkeypatch)


def settings(*, key: str = KEY, query_rate: float = 40.0, base_url: str = "") -> ClientSettings:
    return ClientSettings(api_key=key, query_rate=query_rate, base_url=base_url)


async def wait(
    video_id: str = "video_1", *, conn_id: str = CONN_ID, begin: float = 0.0, end_time: float | None = None
) -> WaitStatus:
    """Wait for a video from ``begin`` on, and ask for it after five seconds and about every five seconds."""
    await asyncio.sleep(begin)
    async with shared_poller(conn_id) as poller:
        return (await poller.wait_for(video_id, poll_interval=5.0, end_time=end_time)).status


async def ends(*waits: Awaitable[WaitStatus]) -> list[WaitStatus | BaseException]:
    return list(await asyncio.gather(*waits, return_exceptions=True))


async def wait_for_many(number: int, *, apart: float = 0.0) -> set[WaitStatus]:
    """Wait for ``video_0``, ``video_1`` ..., and begin so many seconds after one another."""
    return set(await asyncio.gather(*(wait(f"video_{index}", begin=index * apart) for index in range(number))))


def at(moment: float, action: Callable[[], object]) -> None:
    """Do something at a moment of the event loop."""
    asyncio.get_running_loop().call_at(moment, action)


def distances(moments: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(moments)]


class TestSharing:
    @in_virtual_time
    async def test_many_waiters_share_one_client_and_one_look_up(self, service: PolledService) -> None:
        assert await wait_for_many(50) == {"success"}
        assert len(service.clients) == len(service.look_ups) == 1

    @in_virtual_time
    async def test_connections_are_kept_apart(self, service: PolledService) -> None:
        await asyncio.gather(*(wait(conn_id=conn_id) for conn_id in ("a", "b", "a")))
        assert sorted(service.look_ups) == [("a", 5), ("b", 5)]
        assert len(service.clients) == 2

    def test_event_loops_are_kept_apart(self, service: PolledService) -> None:
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
    async def test_last_one_out_closes_the_client_and_leaves_no_task(self, service: PolledService) -> None:
        async with shared_poller(CONN_ID):
            assert await wait() == "success"
            assert service.open_clients == 1
        assert service.open_clients == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    @in_virtual_time
    async def test_later_waiter_gets_a_client_of_its_own(self, service: PolledService) -> None:
        await wait()
        await wait()
        assert len(service.clients) == len(service.look_ups) == 2
        assert service.open_clients == 0

    @in_virtual_time
    async def test_what_earlier_videos_took_is_remembered(self, service: PolledService) -> None:
        begin = 20

        def answer(_: str) -> VideoTask:
            if now() < begin:
                return task("completed", **MADE_IN_A_MINUTE)
            return READY if now() >= begin + 60 else task("in_progress", model="m", created_at=int(START) + begin)

        service.answer = answer
        await wait_for_many(20)
        await ends(*(wait(f"video_{conn_id}", conn_id=conn_id, begin=begin - now()) for conn_id in (CONN_ID, "other")))
        assert service.asked_for(f"video_{CONN_ID}") == pytest.approx([begin + 5, begin + 60])
        assert service.asked_for("video_other")[1] < begin + 11

    @in_virtual_time
    async def test_deadlines_are_each_waiter_s_own(self, service: PolledService) -> None:
        assert await ends(wait("video_1", end_time=START + 33), wait("video_2")) == ["timeout", "success"]
        assert service.asked_for("video_1")[-1] == pytest.approx(33)


class TestCancelling:
    @pytest.mark.parametrize(
        ("moment", "asked"), [(2, 0), (5.5, 0), (8.5, 1)], ids=["asleep", "queued", "poll under way"]
    )
    @in_virtual_time
    async def test_canceled_waiter_disturbs_no_other(self, service: PolledService, moment: float, asked: int) -> None:
        service.connection, service.travel = settings(query_rate=1), 2.0
        waiters = [asyncio.create_task(wait(f"video_{index}")) for index in range(4)]
        at(moment, waiters[2].cancel)
        await asyncio.wait(waiters)
        assert [waiter.cancelled() or waiter.result() for waiter in waiters] == ["success", "success", True, "success"]
        assert len(service.asked_for("video_2")) == asked
        assert service.open_clients == 0

    @pytest.mark.parametrize("answer", [READY, ToAPIsServerError("502"), RuntimeError("a mistake of ours")], ids=repr)
    @in_virtual_time
    async def test_answer_to_nobody_disturbs_nobody(
        self, service: PolledService, answer: VideoTask | Exception
    ) -> None:
        service.travel = 2.0
        service.answer = lambda video_id: answer if video_id == "video_0" else READY
        waiters = [asyncio.create_task(wait(f"video_{index}")) for index in range(2)]
        at(6, waiters[0].cancel)
        await asyncio.wait(waiters)
        assert waiters[0].cancelled()
        assert waiters[1].result() == "success"

    @pytest.mark.parametrize("moment", [2, 5.5], ids=["asleep", "poll under way"])
    @in_virtual_time
    async def test_last_one_that_is_canceled_leaves_nothing_open(self, service: PolledService, moment: float) -> None:
        service.travel = 2.0
        waiter = asyncio.create_task(wait())
        at(moment, waiter.cancel)
        await asyncio.wait([waiter])
        assert waiter.cancelled()
        assert service.open_clients == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}


class TestBudget:
    @pytest.mark.parametrize("query_rate", [2.0, 20.0])
    @in_virtual_time
    async def test_rate_is_that_of_the_connection(self, service: PolledService, query_rate: float) -> None:
        service.connection, service.answer = settings(query_rate=query_rate), lambda _: READY
        await wait_for_many(11)
        assert now() - 5 == pytest.approx(10 / query_rate, rel=0.1)

    @in_virtual_time
    async def test_it_is_kept_however_many_wait_and_nobody_starves(self, service: PolledService) -> None:
        service.connection = settings(query_rate=10)
        service.answer = lambda _: READY if now() >= 600 else RUNNING
        assert await wait_for_many(500) == {"success"}
        moments = service.asked_at
        assert all(later - earlier >= 1 for earlier, later in zip(moments, moments[10:], strict=False))
        # A round takes 53 s at this rate, and then each rests for 5.
        for index in range(500):
            assert max(distances([0.0, *service.asked_for(f"video_{index}")])) <= 60

    @in_virtual_time
    async def test_who_waits_longest_is_asked_for_first(self, service: PolledService) -> None:
        service.connection = settings(query_rate=1)
        begins = random.Random(1).sample(range(20), 20)
        await asyncio.gather(*(wait(f"video_{begin}", begin=begin / 10) for begin in begins))
        assert [poll.video_id for poll in service.polls[:20]] == [f"video_{index}" for index in range(20)]

    @in_virtual_time
    async def test_slow_answers_do_not_hold_other_polls_up(self, service: PolledService) -> None:
        service.travel = 30.0
        await wait_for_many(20)
        assert service.asked_at[19] < 6

    @in_virtual_time
    async def test_no_more_than_a_hundred_polls_are_under_way(self, service: PolledService) -> None:
        service.travel = 30.0
        await wait_for_many(101)
        assert service.asked_at[99] < 8
        assert service.asked_at[100] >= 35

    @in_virtual_time
    async def test_nothing_left_pauses_the_polls_of_all(self, service: PolledService) -> None:
        service.headers, service.answer = {"x-ratelimit-remaining": "0"}, lambda _: READY
        await wait_for_many(10)
        assert min(distances(service.asked_at)) >= 1


class TestRateLimit:
    @pytest.fixture(autouse=True)
    def limit(self, service: PolledService) -> None:
        """Refuse all polls of a second; an answer takes half of one."""
        service.travel = 0.5
        limited = ToAPIsRateLimitError("GET returned 429.", http_status=429, retry_after=5)
        service.answer = lambda _: limited if now() < 6.5 else READY if now() >= 60 else RUNNING

    @in_virtual_time
    async def test_pauses_and_slows_down_the_polls_of_all(self, service: PolledService) -> None:
        assert await wait_for_many(100) == {"success"}
        # The first refusal comes half a second after the first poll; it asks for five seconds.
        refused = [moment for moment in service.asked_at if moment < 10]
        resumed = service.asked_at[len(refused) :]
        assert max(refused) <= 5.5
        assert resumed[0] >= 10.5
        # Half of the rate, and what has grown back since.
        assert 20 < sum(moment < resumed[0] + 1 for moment in resumed) < 30

    @in_virtual_time
    async def test_is_told_once_and_not_once_for_each_video(
        self, service: PolledService, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger="airflow_provider_toapis")
        await wait_for_many(100)
        told = [text for text in caplog.messages if "429" in text or "asked for again" in text]
        assert told == ["GET returned 429. Polling more slowly for a while."]


class TestPauseOfMinutes:
    @in_virtual_time
    async def test_each_waiting_task_logs_its_beginning_once(
        self, service: PolledService, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A task whose poll is not sent at all meets the pause too."""
        caplog.set_level(logging.INFO, logger="airflow_provider_toapis")
        limited = ToAPIsRateLimitError("GET returned 429.", http_status=429, retry_after=125)
        service.answer = lambda _: limited if now() < 7 else READY if now() >= 200 else RUNNING
        assert await ends(wait("video_1"), wait("video_2", begin=5)) == ["success", "success"]
        for video_id, seconds in (("video_1", 125), ("video_2", 120)):
            told = [text for text in caplog.messages if video_id in text and "pauses" in text]
            assert told == [
                f"Polling of video {video_id} pauses for {seconds} s: the service limits the rate (HTTP 429)."
            ]


class TestHangingResponses:
    """A response that never ends holds up nobody but its own wait, and that one until its deadline."""

    @in_virtual_time
    async def test_waits_end_at_their_deadline_and_healthy_videos_are_polled(self, service: PolledService) -> None:
        service.hanging = {f"video_{index}" for index in range(100)}
        service.answer = lambda _: READY
        hanging = [wait(f"video_{index}", end_time=START + 40) for index in range(100)]
        assert await ends(*hanging, wait("healthy", begin=8)) == ["timeout"] * 100 + ["success"]
        assert now() <= 55
        assert service.asked_for("healthy") <= [50.5]
        assert service.open_clients == 0

    @in_virtual_time
    async def test_request_is_canceled_with_its_wait(self, service: PolledService) -> None:
        service.hanging = {"video_1"}
        waiter = asyncio.create_task(wait("video_1"))
        async with shared_poller(CONN_ID):
            at(20, waiter.cancel)
            await asyncio.wait([waiter])
            await asyncio.sleep(0.1)
            assert service.canceled == ["video_1"]


class TestErrors:
    @in_virtual_time
    async def test_error_about_one_video_reaches_its_waiter_only(self, service: PolledService) -> None:
        missing = ToAPIsNotFoundError("GET returned 404.", http_status=404)
        service.answer = lambda video_id: missing if video_id == "video_1" else READY if now() >= 300 else RUNNING
        assert await ends(wait("video_1"), wait("video_2")) == ["error", "success"]

    @in_virtual_time
    async def test_unexpected_error_reaches_its_waiter_only(self, service: PolledService) -> None:
        unexpected, service.travel = RuntimeError("a mistake of ours"), 1.0
        service.answer = lambda video_id: unexpected if video_id == "video_1" else READY if now() >= 60 else RUNNING
        assert await ends(wait("video_1"), wait("video_2"), wait("video_3")) == [unexpected, "success", "success"]
        assert service.open_clients == 0

    @in_virtual_time
    async def test_nobody_waits_for_a_poller_that_broke(
        self, service: PolledService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(_: str) -> None:
            raise RuntimeError("no such metric")

        with monkeypatch.context() as patch:
            patch.setattr("airflow_provider_toapis.triggers.poller.metrics.video_polled", broken)
            async with shared_poller(CONN_ID):
                failures = await ends(wait("video_1"), wait("video_2"))
                failures += await ends(wait("video_3"))
        assert [type(failure) for failure in failures] == [ExceptionGroup] * 3
        assert await wait() == "success"


class TestRefusedKey:
    @in_virtual_time
    async def test_connection_is_read_again_every_five_seconds_at_most(self, service: PolledService) -> None:
        service.accepted_key = NEW_KEY
        assert await wait_for_many(60, apart=0.5) == {"error"}
        assert len(service.look_ups) > 5
        assert min(distances(service.looked_up_at)) >= 5

    @in_virtual_time
    async def test_client_is_kept_while_the_connection_says_nothing_new(self, service: PolledService) -> None:
        service.accepted_key = NEW_KEY
        await wait_for_many(60, apart=0.5)
        assert len(service.clients) == 1

    @in_virtual_time
    async def test_working_key_is_not_read_again(self, service: PolledService) -> None:
        await wait_for_many(10, apart=1)
        assert service.looked_up_at == [5]

    @pytest.mark.parametrize("forgotten_for", [0.0, 3.0], ids=["at once", "a moment later"])
    @in_virtual_time
    async def test_rotation_fails_nobody(self, service: PolledService, forgotten_for: float) -> None:
        def rotate() -> None:
            service.accepted_key = NEW_KEY

        def tell_airflow() -> None:
            service.connection = settings(key=NEW_KEY)

        at(30, rotate)
        at(30 + forgotten_for, tell_airflow)
        waiting = asyncio.create_task(wait_for_many(100, apart=0.1))
        await asyncio.sleep(50)
        assert [client.settings.api_key for client in service.clients] == [KEY, NEW_KEY]
        assert {poll.key for poll in service.polls if poll.at > 40} == {NEW_KEY}
        assert await waiting == {"success"}
        assert service.open_clients == 0

    @in_virtual_time
    async def test_rotation_fails_nobody_while_the_connection_cannot_be_read(self, service: PolledService) -> None:
        def rotate() -> None:
            service.accepted_key, service.connection = NEW_KEY, AirflowException("no answer")

        def recover() -> None:
            service.connection = settings(key=NEW_KEY)

        at(30, rotate)
        at(50, recover)
        assert await wait_for_many(100, apart=0.1) == {"success"}

    @in_virtual_time
    async def test_refusal_that_comes_late_does_not_make_the_new_key_doubtful(self, service: PolledService) -> None:
        service.travel = 4.0
        service.accepted_key = NEW_KEY

        def tell_airflow() -> None:
            service.connection = settings(key=NEW_KEY)

        at(9, tell_airflow)
        assert await wait_for_many(20, apart=0.5) == {"success"}
        assert len(service.look_ups) == 2

    @in_virtual_time
    async def test_new_rate_comes_with_a_new_key(self, service: PolledService) -> None:
        service.accepted_key = NEW_KEY

        def tell_airflow() -> None:
            service.connection = settings(key=NEW_KEY, query_rate=1)

        at(10, tell_airflow)
        await wait_for_many(10)
        assert min(distances([moment for moment in service.asked_at if moment > 16])) >= 1


class TestConnection:
    @in_virtual_time
    async def test_look_up_that_fails_is_repeated_and_fails_nobody(self, service: PolledService) -> None:
        def recover() -> None:
            service.connection = settings()

        service.connection = AirflowException("the secrets backend does not answer")
        at(20, recover)
        assert await wait_for_many(50, apart=0.2) == {"success"}
        assert min(distances(service.looked_up_at)) >= 5

    @in_virtual_time
    async def test_connection_without_a_key_for_a_while_fails_nobody_and_asks_nobody(
        self, service: PolledService
    ) -> None:
        service.connection = ToAPIsAuthError("no key")
        at(300, lambda: setattr(service, "connection", settings()))
        assert await ends(wait("video_1", end_time=START + 100), *(wait() for _ in range(5))) == [
            "timeout",
            *["success"] * 5,
        ]
        assert min(service.asked_at) >= 300

    @in_virtual_time
    async def test_host_that_is_corrected_is_used_by_those_who_wait_and_who_join(self, service: PolledService) -> None:
        wrong, right = "http://wrong.example", "http://right.example"
        service.connection = settings(base_url=wrong)
        polls: list[str] = []

        def answer(_: str) -> VideoTask | Exception:
            polls.append(service.clients[-1].settings.base_url)
            return ToAPIsConnectionError("no such host", sent=False) if polls[-1] == wrong else READY

        service.answer = answer
        at(15, lambda: setattr(service, "connection", settings(base_url=right)))
        assert await ends(wait("video_1"), wait("video_2", begin=30)) == ["success", "success"]
        assert set(polls) == {wrong, right}
        assert now() < 60
        assert service.open_clients == 0

    @pytest.mark.parametrize(
        "trouble",
        [ToAPIsNotFoundError("404"), ToAPIsServerError("HTML"), ToAPIsConnectionError("timed out")],
        ids=["not found", "foreign", "no response"],
    )
    @in_virtual_time
    async def test_any_trouble_but_a_rate_limit_makes_the_connection_doubtful(
        self, service: PolledService, trouble: Exception
    ) -> None:
        service.answer = lambda _: READY if now() >= 30 else trouble
        await wait()
        assert len(service.look_ups) > 1
        assert min(distances(service.looked_up_at)) >= 5

    @in_virtual_time
    async def test_rejected_key_is_read_again_at_once_although_other_failures_have_just_had_it_read(
        self, service: PolledService
    ) -> None:
        def rotate() -> None:
            service.accepted_key = NEW_KEY
            service.connection = settings(key=NEW_KEY)

        service.answer = lambda _: ToAPIsServerError("HTML") if now() < 40 else READY
        at(20.5, rotate)
        assert await wait_for_many(50, apart=0.5) == {"success"}
        # The first rejection has it read; later ones come from polls that were on their way.
        rejected_at = min(moment for moment in service.asked_at if moment > 20.5)
        assert any(rejected_at <= moment <= rejected_at + 1 for moment in service.looked_up_at)

    @in_virtual_time
    async def test_connection_that_works_is_read_again_now_and_then(self, service: PolledService) -> None:
        service.answer = lambda _: READY if now() >= 1000 else RUNNING
        at(10, lambda: setattr(service, "connection", settings(query_rate=1)))
        assert await wait_for_many(5) == {"success"}
        assert service.looked_up_at == pytest.approx([5, 305, 605, 905], abs=10)
        assert min(distances([moment for moment in service.asked_at if moment > 320])) >= 1

    @in_virtual_time
    async def test_client_that_works_is_used_while_the_connection_cannot_be_read(self, service: PolledService) -> None:
        service.answer = lambda _: READY if now() >= 1000 else RUNNING
        at(10, lambda: setattr(service, "connection", AirflowException("no answer")))
        assert await wait_for_many(5) == {"success"}
        assert max(distances(service.asked_for("video_1"))) < 20

    @in_virtual_time
    async def test_look_up_that_hangs_holds_no_deadline_up_and_is_never_canceled(
        self, service: PolledService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ended: list[str] = []

        async def hanging(_: ToAPIsHook) -> ClientSettings:
            try:
                await asyncio.sleep(200)
            except asyncio.CancelledError:
                ended.append("canceled")
                raise
            ended.append("answered")
            return settings()

        monkeypatch.setattr(ToAPIsHook, "async_settings", hanging)
        waits = asyncio.gather(wait("video_1", end_time=START + 50), wait("video_2"))
        assert list(await asyncio.wait_for(asyncio.shield(waits), 400)) == ["timeout", "success"]
        assert ended == ["answered"]

    @in_virtual_time
    async def test_look_up_that_hangs_later_holds_no_poll_up(
        self, service: PolledService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service.answer = lambda _: READY if now() >= 1000 else RUNNING
        original = ToAPIsHook.async_settings

        async def hanging(hook: ToAPIsHook) -> ClientSettings:
            if now() > 10:
                await asyncio.sleep(1e6)
            return await original(hook)

        monkeypatch.setattr(ToAPIsHook, "async_settings", hanging)
        assert await wait("video_1") == "success"
        assert max(distances(service.asked_at)) < 20
        assert service.open_clients == 0

    @in_virtual_time
    async def test_connection_that_is_missing_for_a_while_fails_nobody(
        self, service: PolledService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ToAPIsHook, "async_settings", ASYNC_SETTINGS)
        at(300, lambda: monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", connection_json()))
        assert await wait_for_many(10) == {"success"}
        assert min(service.asked_at) >= 300

    @in_virtual_time
    async def test_connection_with_a_bad_value_is_read_until_it_is_mended(
        self, service: PolledService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ToAPIsHook, "async_settings", ASYNC_SETTINGS)
        monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", bad := connection_json(query_rate=0))
        at(40, lambda: monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", bad.replace("0}", "10}")))
        assert await ends(wait("video_1", end_time=START + 30), wait("video_2")) == ["timeout", "success"]
        assert min(service.asked_at) >= 40


class TestLog:
    @pytest.fixture
    def lines(self) -> Iterator[list[tuple[str, str]]]:
        """Lines of the provider's log, each with who wrote it."""
        written: list[tuple[str, str]] = []

        class Recorder(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                written.append((WRITER.get(), record.getMessage()))

        logger, recorder = logging.getLogger("airflow_provider_toapis"), Recorder()
        level = logger.level
        logger.addHandler(recorder)
        logger.setLevel(logging.INFO)
        yield written
        logger.removeHandler(recorder)
        logger.setLevel(level)

    @in_virtual_time
    async def test_each_waiter_writes_its_own_news_and_polls_are_nobody_s(
        self, service: PolledService, lines: list[tuple[str, str]]
    ) -> None:
        askers: list[str] = []

        def answer(_: str) -> VideoTask | Exception:
            askers.append(WRITER.get())
            return ToAPIsConnectionError("dropped") if now() < 10 else READY if now() >= 60 else RUNNING

        async def trigger(video_id: str) -> None:
            WRITER.set(video_id)
            await wait(video_id)

        service.answer = answer
        await asyncio.gather(*(trigger(f"video_{index}") for index in range(5)))
        assert set(askers) == {"nobody"}
        assert sorted({writer for writer, _ in lines}) == [f"video_{index}" for index in range(5)]
        for writer, text in lines:
            assert text.startswith((f"Video {writer}", f"Polling video {writer}"))

    @in_virtual_time
    async def test_what_concerns_all_is_nobody_s(self, service: PolledService, lines: list[tuple[str, str]]) -> None:
        limited = ToAPIsRateLimitError("GET returned 429.", http_status=429)
        service.answer = lambda _: limited if now() < 10 else READY
        WRITER.set("video_1")
        await wait("video_1")
        assert lines[0] == ("nobody", "GET returned 429. Polling more slowly for a while.")

    @in_virtual_time
    async def test_connection_that_cannot_be_read_is_told_once_however_many_wait(
        self, service: PolledService, lines: list[tuple[str, str]]
    ) -> None:
        service.connection = AirflowException("the secrets backend does not answer")
        WRITER.set("batch")
        async with shared_poller(CONN_ID) as poller:
            watching = partial(poller.wait_for, poll_interval=5.0, end_time=START + 600, log_level=logging.DEBUG)
            await asyncio.gather(*(watching(f"video_{index}") for index in range(20)))
        ((writer, text),) = lines
        assert writer == "nobody"
        assert text.startswith("Connection 'toapis_default' cannot be read (AirflowException).")


def connection_json(**extra: object) -> str:
    return json.dumps({"conn_type": "toapis", "password": KEY, "extra": extra})
