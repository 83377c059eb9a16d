"""What the metadata database and the log get to see of a wait, and what leaves the triggerer when it ends."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_toapis.api.errors import ToAPIsError, ToAPIsServerError
from airflow_provider_toapis.api.models import VideoTask, parse_video_task
from airflow_provider_toapis.exceptions import ToAPIsAuthError
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.triggers.deferral import WaitEvent
from airflow_provider_toapis.triggers.video import ToAPIsVideoTrigger
from tests.airflow_task import fired, stored_and_loaded

EVENT_KEYS = {"status", "video_id", "end_time", "message"}
PROMPT = "A secret shoe turns in the light"


def task(status: str, **fields: Any) -> VideoTask:
    parsed = parse_video_task({"id": "video_1", "status": status, **fields})
    assert parsed is not None
    return parsed


READY = task("completed", result={"data": [{"url": "https://files.example/v.mp4?X-Amz-Signature=private"}]})


class FakeService:
    """Stands for the hook's client: answers in turn, and counts how often it was opened and closed."""

    def __init__(self, *answers: VideoTask | ToAPIsError | Callable[[], Any]) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.opened = 0
        self.closed = 0

    @asynccontextmanager
    async def client(self) -> AsyncIterator[FakeService]:
        self.opened += 1
        try:
            yield self
        finally:
            self.closed += 1

    async def get_video(self, video_id: str) -> VideoTask:
        assert video_id == "video_1"
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            await answer()
        if isinstance(answer, ToAPIsError):
            raise answer
        return cast("VideoTask", answer)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeService]:
    """Let the trigger meet a service, and make its waits last no time."""

    def meet(*answers: Any) -> FakeService:
        service = FakeService(*answers)
        monkeypatch.setattr(ToAPIsHook, "async_client", service.client)
        monkeypatch.setattr("airflow_provider_toapis.triggers.video.asyncio", NoWaiting())
        return service

    return meet


class NoWaiting:
    """Only as much of asyncio as the trigger uses."""

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        await asyncio.sleep(0)


class TestSerialize:
    @given(
        video_id=st.text(min_size=1),
        toapis_conn_id=st.text(min_size=1),
        poll_interval=st.floats(min_value=0.001, max_value=1e6),
        end_time=st.none() | st.floats(min_value=0, max_value=1e11),
    )
    @settings(max_examples=50)
    def test_round_trip_through_json_and_the_import_path_is_exact(self, **arguments: Any) -> None:
        trigger = ToAPIsVideoTrigger(**arguments)
        again = stored_and_loaded(trigger)
        assert type(again) is ToAPIsVideoTrigger
        assert again.serialize() == trigger.serialize()
        assert trigger.serialize()[1] == arguments

    def test_it_names_every_argument_and_nothing_else(self) -> None:
        path, arguments = ToAPIsVideoTrigger("video_1").serialize()
        assert path == "airflow_provider_toapis.triggers.video.ToAPIsVideoTrigger"
        assert arguments == {
            "video_id": "video_1",
            "toapis_conn_id": "toapis_default",
            "poll_interval": 10.0,
            "end_time": None,
        }

    def test_arguments_are_json_scalars(self) -> None:
        trigger = ToAPIsVideoTrigger("video_1", "my_conn", 7.5, 1_800_000_000.25)
        for value in trigger.serialize()[1].values():
            assert isinstance(value, str | float)

    def test_constructor_asks_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ToAPIsHook, "get_connection", lambda *_: pytest.fail("it read the connection"))
        ToAPIsVideoTrigger("video_1").serialize()


class TestEvent:
    @pytest.mark.parametrize(
        ("answers", "status"),
        [
            ([READY], "success"),
            ([task("queued"), task("in_progress", progress=10), READY], "success"),
            ([ToAPIsServerError("HTML"), task("no such word"), READY], "success"),
            ([task("failed", error={"code": "generation_failed", "message": PROMPT})], "failed"),
            ([ToAPIsAuthError("refused", http_status=401)], "error"),
            ([ToAPIsAuthError("refused", http_status=401), READY], "success"),
            ([task("completed")], "error"),
        ],
        ids=["ready", "later", "blips", "failed", "refused", "rotated key", "no link"],
    )
    def test_it_says_how_the_wait_ended_and_holds_nothing_private(
        self, serve: Callable[..., FakeService], answers: list[Any], status: str
    ) -> None:
        service = serve(*answers)
        end_time = 4e9
        event = fired(ToAPIsVideoTrigger("video_1", end_time=end_time))
        assert event.keys() == EVENT_KEYS
        assert (event["status"], event["video_id"], event["end_time"]) == (status, "video_1", end_time)
        assert "video_1" in event["message"]
        for private in ("http", "files.example", "Signature", PROMPT):
            assert private not in event["message"].replace("(HTTP 401)", "")
        assert service.closed == service.opened

    def test_failure_names_the_vendors_code(self, serve: Callable[..., FakeService]) -> None:
        serve(task("failed", error={"code": "InvalidParameter.Task", "message": PROMPT}))
        assert "InvalidParameter.Task" in fired(ToAPIsVideoTrigger("video_1"))["message"]

    def test_sentence_in_the_place_of_a_code_is_left_out(self, serve: Callable[..., FakeService]) -> None:
        serve(task("failed", error={"code": f"refused: {PROMPT}", "message": ""}))
        assert PROMPT not in fired(ToAPIsVideoTrigger("video_1"))["message"]

    def test_deadline_that_has_passed_is_a_timeout_after_one_last_question(
        self, serve: Callable[..., FakeService]
    ) -> None:
        service = serve(task("in_progress"))
        assert fired(ToAPIsVideoTrigger("video_1", end_time=1.0))["status"] == "timeout"
        assert service.asked == 1

    def test_video_that_is_ready_at_the_deadline_is_a_success(self, serve: Callable[..., FakeService]) -> None:
        serve(READY)
        assert fired(ToAPIsVideoTrigger("video_1", end_time=1.0))["status"] == "success"

    def test_refusal_reads_the_connection_again_once(self, serve: Callable[..., FakeService]) -> None:
        service = serve(ToAPIsAuthError("refused", http_status=401))
        fired(ToAPIsVideoTrigger("video_1"))
        assert (service.asked, service.opened, service.closed) == (2, 2, 2)

    def test_wait_without_news_keeps_one_client_open(self, serve: Callable[..., FakeService]) -> None:
        service = serve(*[task("in_progress")] * 20, READY)
        fired(ToAPIsVideoTrigger("video_1"))
        assert (service.asked, service.opened) == (21, 1)

    def test_missing_connection_ends_the_wait_and_keeps_the_video(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("airflow_provider_toapis.triggers.video.asyncio", NoWaiting())
        event = fired(ToAPIsVideoTrigger("video_1", "nowhere"))
        assert event["status"] == "error"
        assert "video_1" in event["message"]


def test_cancelled_trigger_closes_its_client(serve: Callable[..., FakeService]) -> None:
    async def scenario() -> None:
        asked = asyncio.Event()

        async def hang() -> None:
            asked.set()
            await asyncio.Event().wait()

        service = serve(hang)
        running = asyncio.create_task(anext(cast("Any", ToAPIsVideoTrigger("video_1").run())))
        await asked.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (service.opened, service.closed) == (1, 1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


class TestWaitEvent:
    @pytest.mark.parametrize("end_time", [None, 1_800_000_000.123456])
    def test_payload_round_trips(self, end_time: float | None) -> None:
        event = WaitEvent("timeout", "video_1", end_time, "not ready")
        assert event.payload().keys() == EVENT_KEYS
        assert WaitEvent.parse(json.loads(json.dumps(event.payload()))) == event

    @pytest.mark.parametrize("missing", ["end_time", "message"])
    def test_payload_of_another_version_is_read(self, missing: str) -> None:
        payload: Mapping[str, Any] = WaitEvent("success", "video_1", 5.0, "ready").payload()
        parsed = WaitEvent.parse({key: value for key, value in payload.items() if key != missing})
        assert (parsed.status, parsed.video_id) == ("success", "video_1")

    def test_no_deadline_is_not_an_infinite_number(self) -> None:
        payload = WaitEvent("success", "video_1", None, "").payload()
        assert payload["end_time"] is None
        assert not any(isinstance(value, float) and math.isinf(value) for value in payload.values())
