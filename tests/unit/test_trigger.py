"""The video trigger: serialization, events, polls and cancellation."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, cast

import pytest
from airflow.providers.common.compat.sdk import BaseOperator
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.polling import WaitStatus
from airflow_provider_toapis.api.responses import VideoTask
from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.exceptions import ToAPIsServerError
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.triggers.deferral import defer_until_final, wait_until_some_final
from airflow_provider_toapis.triggers.events import WaitEvent
from airflow_provider_toapis.triggers.video import ToAPIsVideoTrigger
from tests.airflow_task import deferral, fired, stored_and_loaded
from tests.unit.polled_service import READY, REJECTED, RUNNING, PolledService, task
from tests.unit.virtual_time import START, in_virtual_time, now, run

EVENT_KEYS = {"status", "video_id", "end_time", "message"}
PROMPT = "A secret shoe turns in the light"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> PolledService:
    """Return the fake service that the trigger polls, in virtual time."""
    monkeypatch.setattr(asyncio, "run", run)
    return PolledService.installed(monkeypatch)


def scripted(*responses: VideoTask | Exception) -> Callable[[str], VideoTask | Exception]:
    """Return the responses in order; the last one is repeated."""
    remaining = list(responses)
    return lambda _: remaining.pop(0) if len(remaining) > 1 else remaining[0]


class TestSerialize:
    @given(
        video_id=st.text(min_size=1),
        toapis_conn_id=st.text(min_size=1),
        poll_interval=st.floats(min_value=0.001, max_value=1e6),
        end_time=st.none() | st.floats(min_value=0, max_value=1e11),
    )
    @settings(max_examples=50)
    def test_trigger_round_trips_through_json_and_import_path(self, **arguments: Any) -> None:
        trigger = ToAPIsVideoTrigger(**arguments)
        again = stored_and_loaded(trigger)
        assert type(again) is ToAPIsVideoTrigger
        assert again.serialize() == trigger.serialize()
        assert trigger.serialize()[1] == arguments

    def test_serialization_contains_exactly_the_arguments(self) -> None:
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

    def test_constructor_reads_no_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ToAPIsHook, "get_connection", lambda *_: pytest.fail("the connection was read"))
        ToAPIsVideoTrigger("video_1").serialize()


class TestClockAhead:
    """The triggerer's clock is an hour ahead of the worker's clock, longer than the wait."""

    AHEAD = 3600.0
    TIMEOUT = 1800.0

    @staticmethod
    def deferred(event_status: WaitStatus, end_time: float, *, batch: bool) -> Any:
        task = BaseOperator(task_id="wait")
        arguments: dict[str, Any] = {"toapis_conn_id": "toapis_default", "poll_interval": 10.0, "end_time": end_time}
        videos = ["video_1", "video_2"]
        waits = {
            False: lambda: defer_until_final(task, "video_1", event_status=event_status, **arguments),
            True: lambda: wait_until_some_final(
                task, videos, deferrable=True, not_before=None, event_status=event_status, **arguments
            ),
        }
        with pytest.MonkeyPatch.context() as worker:
            worker.setattr(clock, "time", lambda: START - TestClockAhead.AHEAD)
            trigger = deferral(waits[batch]).trigger
        assert trigger is not None
        return stored_and_loaded(trigger)

    @pytest.mark.parametrize("batch", [False, True], ids=["one video", "batch"])
    def test_wait_that_times_out_too_early_is_repeated_once(self, service: PolledService, batch: bool) -> None:
        end_time = START - self.AHEAD + self.TIMEOUT
        service.respond = lambda _: READY if now() >= 900 else RUNNING
        events = [fired(self.deferred(event_status, end_time, batch=batch)) for event_status in ("success", "timeout")]
        assert [event["status"] for event in events] == ["timeout", "success"]
        assert last_poll_at(service) >= 900
        if not batch:
            assert events[1]["end_time"] == end_time

    def test_repeated_wait_ends_after_the_timeout(self, service: PolledService) -> None:
        service.respond = lambda _: RUNNING
        event = fired(self.deferred("timeout", START - self.AHEAD + self.TIMEOUT, batch=False))
        assert event["status"] == "timeout"
        assert last_poll_at(service) == pytest.approx(self.TIMEOUT)

    def test_usual_wait_has_no_new_argument_for_an_older_triggerer(self) -> None:
        assert "min_wait" not in self.deferred("success", 4e9, batch=False).serialize()[1]


def last_poll_at(service: PolledService) -> float:
    """Return the time of the last poll."""
    return service.poll_times[-1]


class TestEvent:
    @pytest.mark.parametrize(
        ("responses", "status"),
        [
            ([READY], "success"),
            ([task("queued"), task("in_progress", progress=10), READY], "success"),
            ([ToAPIsServerError("HTML"), task("no such status"), READY], "success"),
            ([task("failed", error={"code": "generation_failed", "message": PROMPT})], "failed"),
            ([REJECTED], "error"),
            ([REJECTED, READY], "success"),
            ([task("completed")], "error"),
        ],
        ids=["ready", "later", "transient errors", "failed", "rejected", "rotated key", "no URL"],
    )
    def test_event_reports_the_outcome_without_private_data(
        self, service: PolledService, responses: list[Any], status: str
    ) -> None:
        service.respond = scripted(*responses)
        end_time = 4e9
        event = fired(ToAPIsVideoTrigger("video_1", end_time=end_time))
        assert event.keys() == EVENT_KEYS
        assert (event["status"], event["video_id"], event["end_time"]) == (status, "video_1", end_time)
        assert "video_1" in event["message"]
        for private in ("http", "files.example", "Signature", PROMPT):
            assert private not in event["message"].replace("(HTTP 401)", "")
        assert service.open_clients == 0

    def test_failure_event_names_the_error_code(self, service: PolledService) -> None:
        service.respond = scripted(task("failed", error={"code": "InvalidParameter.Task", "message": PROMPT}))
        assert "InvalidParameter.Task" in fired(ToAPIsVideoTrigger("video_1"))["message"]

    def test_error_code_that_is_a_sentence_is_omitted(self, service: PolledService) -> None:
        service.respond = scripted(task("failed", error={"code": f"rejected: {PROMPT}", "message": ""}))
        assert PROMPT not in fired(ToAPIsVideoTrigger("video_1"))["message"]

    def test_first_poll_is_between_five_seconds_and_the_interval(self, service: PolledService) -> None:
        fired(ToAPIsVideoTrigger("video_1", poll_interval=30))
        assert 5 <= service.poll_times[0] <= 30

    def test_passed_deadline_is_a_timeout_after_one_poll(self, service: PolledService) -> None:
        assert fired(ToAPIsVideoTrigger("video_1", end_time=1.0))["status"] == "timeout"
        assert service.poll_times == [0]

    def test_video_ready_at_the_deadline_is_a_success(self, service: PolledService) -> None:
        service.respond = scripted(READY)
        assert fired(ToAPIsVideoTrigger("video_1", end_time=1.0))["status"] == "success"

    def test_rejected_key_rereads_the_connection_after_ten_seconds(self, service: PolledService) -> None:
        service.respond = scripted(REJECTED)
        fired(ToAPIsVideoTrigger("video_1", poll_interval=5))
        assert service.connection_read_times == service.poll_times == [5, 15]

    def test_wait_without_changes_uses_one_client(self, service: PolledService) -> None:
        service.respond = scripted(*[task("in_progress")] * 20, READY)
        fired(ToAPIsVideoTrigger("video_1"))
        assert (len(service.polls), len(service.clients)) == (21, 1)

    def test_trigger_uses_its_connection(self, service: PolledService) -> None:
        fired(ToAPIsVideoTrigger("video_1", "elsewhere"))
        assert [conn_id for conn_id, _ in service.connection_reads] == ["elsewhere"]

    def test_missing_connection_is_retried_until_the_deadline_and_logged_once(
        self, service: PolledService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def settings_at_once(hook: ToAPIsHook) -> ClientSettings:
            # Not in a thread: virtual time would advance before the thread ends.
            return hook.settings()

        monkeypatch.setattr(ToAPIsHook, "async_settings", settings_at_once)
        event = fired(ToAPIsVideoTrigger("video_1", "nowhere", end_time=START + 1800))
        assert event["status"] == "timeout"
        assert service.polls == []
        (warning,) = [record for record in caplog.records if record.name.endswith("api.polling")]
        assert warning.levelname == "WARNING"
        assert "toapis_conn_id='nowhere'" in warning.getMessage()


@in_virtual_time
async def test_canceled_trigger_closes_its_client(service: PolledService) -> None:
    service.latency = 10.0
    running = asyncio.create_task(anext(cast("Any", ToAPIsVideoTrigger("video_1", poll_interval=5).run())))
    await asyncio.sleep(7)
    assert service.open_clients == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert service.open_clients == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


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

    def test_missing_deadline_is_null_in_the_payload(self) -> None:
        payload = WaitEvent("success", "video_1", None, "").payload()
        assert payload["end_time"] is None
        assert not any(isinstance(value, float) and math.isinf(value) for value in payload.values())


class TestWebhook:
    def test_first_poll_is_early_and_later_ones_are_rare(self, service: PolledService) -> None:
        service.respond = lambda _: READY if now() >= 1000 else task("in_progress", progress=min(99, int(now() / 10)))
        fired(ToAPIsVideoTrigger("video_1", fallback_interval=300.0))
        assert 5 <= service.poll_times[0] <= 10
        gaps = [later - earlier for earlier, later in pairwise(service.poll_times)]
        assert len(gaps) == 4
        assert all(270 <= gap <= 330 for gap in gaps)

    def test_failed_polls_do_not_shorten_the_fallback_interval(self, service: PolledService) -> None:
        service.respond = scripted(*[ToAPIsServerError("HTML")] * 3, READY)
        fired(ToAPIsVideoTrigger("video_1", fallback_interval=300.0))
        assert all(later - earlier >= 270 for earlier, later in pairwise(service.poll_times))

    def test_fallback_interval_round_trips_through_the_database(self) -> None:
        trigger = ToAPIsVideoTrigger("video_1", fallback_interval=300.0)
        assert trigger.serialize()[1]["fallback_interval"] == 300.0
        assert stored_and_loaded(trigger).serialize() == trigger.serialize()

    @pytest.mark.parametrize("status", ["success", "failed"])
    def test_webhook_event_equals_the_event_of_the_trigger(self, status: WaitStatus) -> None:
        trigger = ToAPIsVideoTrigger("video_1", end_time=4e9)
        assert trigger.waits_for("video_1")
        assert not trigger.waits_for("video_2")
        resume = trigger.on_webhook("video_1", status, 1e9)
        assert resume.at < 0
        assert resume.payload.keys() == EVENT_KEYS
        assert (resume.payload["status"], resume.payload["end_time"]) == (status, 4e9)

    async def test_canceled_trigger_raises_without_the_reason_of_a_user_action(self, service: PolledService) -> None:
        service.respond = lambda _: task("in_progress")
        first: Any = anext(aiter(ToAPIsVideoTrigger("video_1").run()))
        waiting: asyncio.Task[Any] = asyncio.create_task(first)
        await asyncio.sleep(0)
        waiting.cancel("__airflow_user_action__")
        with pytest.raises(asyncio.CancelledError) as canceled:
            await waiting
        assert not canceled.value.args
        assert service.open_clients == 0
