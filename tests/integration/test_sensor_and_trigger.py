"""The sensor in all its modes, and the trigger, over real HTTP."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
from collections.abc import Callable
from typing import Any, cast

import httpx
import pytest
from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
)

from airflow_provider_toapis.api.clock import clock as provider_clock
from airflow_provider_toapis.exceptions import (
    ToAPIsConnectionError,
    ToAPIsFinalFailureError,
    ToAPIsRequestError,
    ToAPIsWaitInterruptedError,
)
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.sensors.video import ToAPIsVideoSensor
from airflow_provider_toapis.triggers.video import ToAPIsVideoTrigger
from tests.airflow_task import FakeTaskInstance, attempt, deferral, fired
from tests.integration.conftest import API_KEY, LATENCY, PROMPT, Clock, connect, recorded_clients
from tests.integration.emulator_process import EmulatorProcess

POKE = {"mode": "poke", "deferrable": False}
RESCHEDULE = {"mode": "reschedule", "deferrable": False}
DEFERRABLE = {"deferrable": True}
ALL_MODES = pytest.mark.parametrize("mode", [POKE, RESCHEDULE, DEFERRABLE], ids=["poke", "reschedule", "deferrable"])


@pytest.fixture
def video_id(service: EmulatorProcess, image: str, clock: Clock) -> str:
    task = ToAPIsHook().submit_video(prompt=PROMPT, image=image, client_business_id="order-1")
    service.clear_requests()
    clock.slept.clear()
    return task.id


class SensorRunner:
    """Runs sensors as Airflow does, with a new object for each reschedule and after each deferral."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started = clock.time()
        self.ti = FakeTaskInstance(task_id="wait")

    def run_sensor(self, video_id: str, **fields: Any) -> Any:
        def make() -> ToAPIsVideoSensor:
            return ToAPIsVideoSensor(task_id="wait", video_id=video_id, **fields)

        while True:
            try:
                return attempt(make, self.ti)
            except AirflowRescheduleException:
                self._clock.sleep(make().poke_interval)

    def first_reschedule(self, *_: object, **__: object) -> dt.datetime:
        # Airflow compares this with the real time, which the virtual clock does not advance.
        passed = self._clock.time() - self._started
        return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=passed)


@pytest.fixture
def runner(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> SensorRunner:
    runner = SensorRunner(clock)
    monkeypatch.setattr(FakeTaskInstance, "get_first_reschedule_date", runner.first_reschedule, raising=False)
    # Airflow 2.11 reads the date of the first reschedule from its database.
    sensors = inspect.getmodule(BaseSensorOperator)
    monkeypatch.setattr(sensors, "_orig_start_date", runner.first_reschedule, raising=False)
    return runner


class TestSensor:
    @ALL_MODES
    def test_sensor_returns_the_same_result_as_the_operators(
        self, runner: SensorRunner, video_id: str, mode: dict[str, Any]
    ) -> None:
        result = runner.run_sensor(video_id, **mode)
        assert (result["id"], result["status"], result["client_business_id"]) == (video_id, "completed", "order-1")
        assert result["url"].endswith("/output.mp4")
        assert (result["output_path"], result["size"], result["sha256"]) == (None, None, None)

    @ALL_MODES
    def test_client_business_id_is_accepted_as_video_id(
        self, runner: SensorRunner, video_id: str, mode: dict[str, Any]
    ) -> None:
        assert runner.run_sensor("order-1", **mode)["id"] == video_id

    def test_completed_video_is_returned_without_deferring(
        self, service: EmulatorProcess, runner: SensorRunner, video_id: str
    ) -> None:
        service.finish(video_id)
        operator = ToAPIsVideoSensor(task_id="wait", video_id=video_id, deferrable=True)
        assert operator.execute(runner.ti.context)["id"] == video_id
        assert len(service.requests()) == 1

    def test_sensor_polls_once_before_it_defers(
        self, service: EmulatorProcess, runner: SensorRunner, video_id: str, clock: Clock
    ) -> None:
        operator = ToAPIsVideoSensor(task_id="wait", video_id=video_id, deferrable=True, poke_interval=15, timeout=300)
        deferred = deferral(lambda: operator.execute(runner.ti.context))
        assert len(service.requests()) == 1
        arguments = deferred.trigger.serialize()[1]
        assert arguments.pop("end_time") == pytest.approx(clock.time() + 300, abs=2)
        assert arguments == {"video_id": video_id, "toapis_conn_id": "toapis_default", "poll_interval": 15.0}
        assert deferred.timeout is not None
        assert deferred.timeout.total_seconds() > 300

    def test_sensor_defers_with_the_video_id_that_webhooks_use(
        self, service: EmulatorProcess, runner: SensorRunner, video_id: str, clock: Clock
    ) -> None:
        def deferred_video_id(run: Callable[[ToAPIsVideoSensor], Any]) -> str:
            sensor = ToAPIsVideoSensor(task_id="wait", video_id="order-1", deferrable=True)
            return str(deferral(lambda: run(sensor)).trigger.serialize()[1]["video_id"])

        assert deferred_video_id(lambda sensor: sensor.execute(runner.ti.context)) == video_id
        service.add_fault(on="status", kind="html")
        assert deferred_video_id(lambda sensor: sensor.execute(runner.ti.context)) == "order-1"
        event = {"status": "error", "video_id": "order-1", "end_time": clock.time() + 60, "message": ""}
        assert deferred_video_id(lambda sensor: sensor.execute_complete(runner.ti.context, event)) == video_id

    def test_key_is_found_after_a_failed_poke_although_responses_do_not_repeat_it(
        self, service: EmulatorProcess, runner: SensorRunner, video_id: str
    ) -> None:
        service.add_fault(on="status", kind="html")
        service.add_fault(on="status", kind="variant", remove=["client_business_id"], times=-1)
        assert runner.run_sensor("order-1", **DEFERRABLE)["id"] == video_id

    def test_trigger_timeout_of_airflow_finds_the_video_by_its_key(
        self, service: EmulatorProcess, runner: SensorRunner, video_id: str
    ) -> None:
        service.add_fault(on="status", kind="variant", remove=["client_business_id"], times=-1)
        sensor = ToAPIsVideoSensor(task_id="wait", video_id="order-1", deferrable=True)
        service.finish(video_id)
        resumed = sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, runner.ti.context)
        assert resumed["id"] == video_id

    def test_response_about_another_video_is_ignored_after_the_wait(
        self, service: EmulatorProcess, runner: SensorRunner, video_id: str, clock: Clock
    ) -> None:
        sensor = ToAPIsVideoSensor(task_id="wait", video_id=video_id, deferrable=True)
        deferral(lambda: sensor.execute(runner.ti.context))
        service.finish(video_id)
        other = {"id": "video_other", "status": "completed", "url": "https://files.example/v.mp4"}
        service.add_fault(on="status", kind="status", status=200, body=other)
        event = {"status": "success", "video_id": video_id, "end_time": clock.time() + 60, "message": ""}
        assert sensor.execute_complete(runner.ti.context, event)["id"] == video_id

    @ALL_MODES
    def test_failed_video_fails_the_sensor_permanently(
        self, service: EmulatorProcess, runner: SensorRunner, video_id: str, mode: dict[str, Any]
    ) -> None:
        service.finish(video_id, "failed", code="generation_failed", message="A bad day")
        with pytest.raises(ToAPIsFinalFailureError, match=rf"{video_id}.*A bad day") as failed:
            runner.run_sensor(video_id, **mode)
        assert isinstance(failed.value, AirflowFailException)

    @ALL_MODES
    def test_video_that_fails_during_the_wait_fails_the_sensor_permanently(
        self, service: EmulatorProcess, runner: SensorRunner, video_id: str, clock: Clock, *, mode: dict[str, Any]
    ) -> None:
        clock.on_sleep = lambda _: service.finish(video_id, "failed")
        with pytest.raises(ToAPIsFinalFailureError, match=video_id):
            runner.run_sensor(video_id, **mode)

    @ALL_MODES
    def test_unknown_video_is_polled_six_times_and_then_rejected(
        self, service: EmulatorProcess, runner: SensorRunner, clock: Clock, mode: dict[str, Any]
    ) -> None:
        with pytest.raises(ToAPIsRequestError, match="video_id='video_nope'") as failed:
            runner.run_sensor("video_nope", **mode)
        assert isinstance(failed.value, AirflowFailException)
        assert len(service.requests()) == 6
        assert clock.slept == [1, 2, 4, 8, 15]

    @ALL_MODES
    def test_timeout_raises_airflows_sensor_timeout(
        self, runner: SensorRunner, video_id: str, clock: Clock, mode: dict[str, Any]
    ) -> None:
        started = clock.time()
        with pytest.raises(AirflowSensorTimeout):
            runner.run_sensor(video_id, timeout=LATENCY / 2, poke_interval=10, **mode)
        assert LATENCY / 2 <= clock.time() - started <= LATENCY / 2 + 15

    @ALL_MODES
    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_soft_fail_and_never_fail_skip_instead_of_failing(
        self, service: EmulatorProcess, runner: SensorRunner, video_id: str, *, mode: dict[str, Any], flag: str
    ) -> None:
        if flag == "soft_fail":
            # In the poke modes Airflow handles the timeout, and it checks only soft_fail.
            with pytest.raises(AirflowSkipException):
                runner.run_sensor(video_id, timeout=LATENCY / 2, poke_interval=10, **mode, **{flag: True})
        service.finish(video_id, "failed")
        with pytest.raises(AirflowSkipException):
            runner.run_sensor(video_id, **mode, **{flag: True})
        with pytest.raises(AirflowSkipException):
            runner.run_sensor("video_nope", **mode, **{flag: True})

    @ALL_MODES
    def test_failed_poke_never_ends_the_wait(
        self, service: EmulatorProcess, runner: SensorRunner, video_id: str, mode: dict[str, Any]
    ) -> None:
        for fault in (
            {"kind": "html"},
            {"kind": "status", "status": 500},
            {"kind": "drop"},
            {"kind": "error", "name": "rate_limited"},
        ):
            service.add_fault(on="status", **fault)
        assert runner.run_sensor(video_id, poke_interval=5, **mode)["status"] == "completed"

    @ALL_MODES
    def test_permanently_rejected_api_key_interrupts_the_wait(
        self, service: EmulatorProcess, runner: SensorRunner, video_id: str, mode: dict[str, Any]
    ) -> None:
        service.add_fault(on="status", kind="error", name="unauthorized", times=-1)
        with pytest.raises(ToAPIsWaitInterruptedError, match=video_id) as interrupted:
            runner.run_sensor(video_id, **mode)
        assert not isinstance(interrupted.value, AirflowFailException)

    @ALL_MODES
    def test_api_key_that_is_rejected_once_is_read_again(
        self, service: EmulatorProcess, runner: SensorRunner, video_id: str, mode: dict[str, Any]
    ) -> None:
        service.add_fault(on="status", kind="error", name="unauthorized")
        assert runner.run_sensor(video_id, **mode)["id"] == video_id

    @ALL_MODES
    def test_missing_connection_is_an_error_that_can_be_retried(
        self, runner: SensorRunner, mode: dict[str, Any]
    ) -> None:
        with pytest.raises(ToAPIsConnectionError, match="toapis_conn_id='nowhere'") as failed:
            runner.run_sensor("video_1", toapis_conn_id="nowhere", **mode)
        assert not isinstance(failed.value, AirflowFailException)

    def test_event_is_checked_against_the_api(
        self, service: EmulatorProcess, runner: SensorRunner, video_id: str, clock: Clock
    ) -> None:
        sensor = ToAPIsVideoSensor(task_id="wait", video_id=video_id, deferrable=True)

        def resumed(status: str, end_time: float) -> Any:
            event = {"status": status, "video_id": video_id, "end_time": end_time, "message": ""}
            return sensor.resume_execution("execute_complete", {"event": event}, runner.ti.context)

        end_time = clock.time() + 77.5
        for status in ("success", "failed", "timeout", "error"):
            deferred = deferral(lambda status=status: resumed(status, end_time))  # type: ignore[misc]
            assert deferred.trigger.serialize()[1]["end_time"] == end_time
        with pytest.raises(AirflowSensorTimeout, match=video_id):
            resumed("success", 1.0)
        service.finish(video_id)
        assert resumed("failed", 1.0)["id"] == video_id

    def test_error_of_the_triggerer_is_logged_and_polling_slows_down(
        self, service: EmulatorProcess, runner: SensorRunner, video_id: str, clock: Clock, *, logged: Callable[[], str]
    ) -> None:
        message = f"The service rejected polls of video {video_id} (HTTP 401)."
        event = {"status": "error", "video_id": video_id, "end_time": clock.time() + 1800, "message": message}
        sensor = ToAPIsVideoSensor(task_id="wait", video_id=video_id, deferrable=True)
        deferred = deferral(lambda: sensor.execute_complete(runner.ti.context, event))
        assert deferred.trigger.serialize()[1]["poll_interval"] == 300
        assert f"The wait ended with an error: {message}" in logged()

    def test_trigger_timeout_of_airflow_is_a_sensor_timeout_unless_the_video_is_ready(
        self, service: EmulatorProcess, runner: SensorRunner, video_id: str
    ) -> None:
        def resumed(**fields: Any) -> Any:
            sensor = ToAPIsVideoSensor(task_id="wait", video_id=video_id, deferrable=True, **fields)
            return sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, runner.ti.context)

        with pytest.raises(AirflowSensorTimeout):
            resumed()
        with pytest.raises(AirflowSkipException):
            resumed(soft_fail=True)
        service.finish(video_id)
        assert resumed()["id"] == video_id

    def test_wait_submits_nothing(self, service: EmulatorProcess, runner: SensorRunner, video_id: str) -> None:
        runner.run_sensor(video_id, **DEFERRABLE)
        assert service.ledger()["posted"] == 1
        assert {entry["endpoint"] for entry in service.requests()} == {"status"}


class TestTrigger:
    def test_trigger_fires_when_the_video_is_ready(self, service: EmulatorProcess, video_id: str, clock: Clock) -> None:
        end_time = clock.time() + 600
        event = fired(ToAPIsVideoTrigger(video_id, end_time=end_time))
        assert event == {
            "status": "success",
            "video_id": video_id,
            "end_time": end_time,
            "message": f"Video {video_id} is ready.",
        }
        assert {(entry["method"], entry["endpoint"]) for entry in service.requests()} == {("GET", "status")}

    @pytest.mark.parametrize("poll_interval", [0.01, 10.0])
    def test_polls_without_progress_are_poll_interval_and_at_least_five_seconds_apart(
        self, service: EmulatorProcess, video_id: str, clock: Clock, poll_interval: float
    ) -> None:
        service.add_fault(on="status", kind="variant", when="unfinished", times=-1, merge={"progress": 0})
        fired(ToAPIsVideoTrigger(video_id, poll_interval=poll_interval, end_time=clock.time() + 600))
        first, *others = clock.slept
        assert 5 <= first <= max(5.0, poll_interval)
        assert min(others) >= max(5.0, poll_interval * 0.9)
        assert max(others) <= max(5.0, poll_interval) * 1.1

    def test_progress_determines_the_time_of_the_next_poll(
        self, service: EmulatorProcess, video_id: str, clock: Clock
    ) -> None:
        fired(ToAPIsVideoTrigger(video_id, end_time=clock.time() + 600))
        assert len(service.requests()) <= 5
        assert sum(clock.slept) <= LATENCY + 5

    def test_rotated_api_key_is_read_again(
        self, service: EmulatorProcess, video_id: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect(monkeypatch, service, password="sk-old-0123456789")
        clock.during_sleep(2, lambda: connect(monkeypatch, service, password=API_KEY))
        assert fired(ToAPIsVideoTrigger(video_id))["status"] == "success"
        assert [entry["status"] for entry in service.requests()].count(401) == 1

    @pytest.mark.parametrize(("name", "status"), [("unauthorized", 401), ("forbidden", 403)])
    def test_rejected_api_key_is_reported_without_the_services_message(
        self, service: EmulatorProcess, video_id: str, name: str, status: int
    ) -> None:
        service.add_fault(on="status", kind="error", name=name, times=-1)
        event = fired(ToAPIsVideoTrigger(video_id))
        assert event["status"] == "error"
        assert event["message"] == f"The service rejected polls of video {video_id} (HTTP {status})."

    def test_failure_is_reported_without_the_services_message(self, service: EmulatorProcess, video_id: str) -> None:
        service.finish(video_id, "failed", code="generation_failed", message=f"{PROMPT} {service.url}/x?y=z {API_KEY}")
        event = fired(ToAPIsVideoTrigger(video_id))
        assert event["message"] == f"Video {video_id} failed with code generation_failed."

    def test_failed_polls_slow_down_and_never_end_the_wait(
        self, service: EmulatorProcess, video_id: str, clock: Clock
    ) -> None:
        service.add_fault(on="status", kind="html", times=6)
        assert fired(ToAPIsVideoTrigger(video_id, end_time=clock.time() + 3600))["status"] == "success"
        assert clock.slept[:4] == sorted(clock.slept[:4])
        assert clock.slept[4] > 100
        assert max(clock.slept) <= 120 * 1.1

    def test_retry_after_is_respected(self, service: EmulatorProcess, video_id: str, clock: Clock) -> None:
        service.add_fault(on="status", kind="status", status=429, headers={"Retry-After": "90"})
        fired(ToAPIsVideoTrigger(video_id))
        assert clock.slept[1] >= 90

    def test_dropped_polls_are_retried_until_the_deadline(
        self, service: EmulatorProcess, video_id: str, clock: Clock
    ) -> None:
        service.add_fault(on="status", kind="drop", times=-1)
        event = fired(ToAPIsVideoTrigger(video_id, end_time=clock.time() + 300))
        assert event["status"] == "timeout"
        assert sum(clock.slept) == pytest.approx(300, abs=2)

    def test_second_trigger_for_the_same_video_fires_the_same_event(
        self, service: EmulatorProcess, video_id: str
    ) -> None:
        events = [fired(ToAPIsVideoTrigger(video_id)) for _ in range(2)]
        assert events[0] == events[1]
        assert service.ledger()["posted"] == 1

    def test_canceled_trigger_closes_its_client(
        self, service: EmulatorProcess, video_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The trigger is canceled while it sleeps between two polls, as is usual when a triggerer restarts.
        asleep: list[asyncio.Event] = []

        async def sleep(seconds: float) -> None:
            if seconds and service.requests():
                asleep[0].set()
                await asyncio.Event().wait()
            await asyncio.sleep(0)

        monkeypatch.setattr(provider_clock, "sleep_async", sleep)

        async def scenario() -> None:
            asleep.append(asyncio.Event())
            running = asyncio.create_task(anext(cast("Any", ToAPIsVideoTrigger(video_id).run())))
            await asleep[0].wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with monkeypatch.context() as patch:
            clients = recorded_clients(patch, httpx.AsyncClient)
            asyncio.run(scenario())
        assert [client.is_closed for client in clients] == [True]
