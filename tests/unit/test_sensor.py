"""The sensor: its arguments, and the outcome of a poke."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, PokeReturnValue

from airflow_provider_toapis.api.responses import parse_video_task
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsConnectionError,
    ToAPIsError,
    ToAPIsFinalFailureError,
    ToAPIsNotFoundError,
    ToAPIsRateLimitError,
    ToAPIsRequestError,
    ToAPIsServerError,
    ToAPIsWaitInterruptedError,
)
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.sensors.video import ToAPIsVideoSensor
from tests.airflow_task import FakeTaskInstance
from tests.clock import replace_clock

REJECTED = ToAPIsAuthError("no", http_status=401)


def task(status: str, **fields: Any) -> Any:
    return parse_video_task({"id": "video_1", "status": status, **fields})


READY = task("completed", result={"data": [{"url": "https://files.example/v.mp4"}]})


def sensor(**fields: Any) -> ToAPIsVideoSensor:
    return ToAPIsVideoSensor(task_id="wait", video_id="video_1", **fields)


@pytest.fixture
def responses(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Scripted responses of the service, in order; an error is raised."""
    scripted: list[Any] = []

    def get_video(_: ToAPIsHook, video_id: str, *, retry_timeout: float) -> Any:
        assert (video_id, retry_timeout) == ("video_1", 0)
        response = scripted.pop(0)
        if isinstance(response, ToAPIsError):
            raise response
        return response

    monkeypatch.setattr(ToAPIsHook, "get_video", get_video)
    replace_clock(monkeypatch, time.time)
    return scripted


class TestConstructor:
    def test_defaults_match_the_documentation(self) -> None:
        instance = sensor()
        assert (
            instance.poke_interval,
            instance.timeout,
            instance.deferrable,
            instance.mode,
            instance.toapis_conn_id,
        ) == (
            30.0,
            1800.0,
            False,
            "poke",
            "toapis_default",
        )

    @pytest.mark.parametrize("field", ["poke_interval", "timeout"])
    @pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "30", timedelta(0), timedelta(seconds=-5)])
    def test_invalid_number_breaks_the_dag_file_and_is_named(self, field: str, value: object) -> None:
        with pytest.raises(ToAPIsRequestError, match=f"{field}=") as rejected:
            sensor(**{field: value})
        assert isinstance(rejected.value, AirflowFailException)

    def test_timedeltas_are_accepted(self) -> None:
        instance = sensor(poke_interval=timedelta(minutes=1), timeout=timedelta(hours=1))
        assert (instance.poke_interval, instance.timeout) == (60, 3600)

    def test_id_and_connection_are_templated(self) -> None:
        assert set(ToAPIsVideoSensor.template_fields) == {"video_id", "toapis_conn_id"}


class TestPoke:
    @pytest.mark.parametrize(
        "response",
        [
            task("queued"),
            task("in_progress", progress=50),
            task("no such status"),
            task("completed"),
            ToAPIsServerError("HTML"),
            ToAPIsConnectionError("dropped"),
            ToAPIsRateLimitError("429"),
        ],
        ids=["queued", "in progress", "unknown status", "no URL", "server", "connection", "rate limit"],
    )
    def test_response_that_is_not_final_keeps_waiting(self, responses: list[Any], response: Any) -> None:
        responses.append(response)
        assert sensor().poke(FakeTaskInstance().context) is False
        assert responses == []

    def test_ready_video_is_returned_as_xcom(self, responses: list[Any]) -> None:
        responses.append(READY)
        found = sensor().poke(FakeTaskInstance().context)
        assert isinstance(found, PokeReturnValue)
        assert found.is_done
        assert isinstance(found.xcom_value, dict)
        assert (found.xcom_value["id"], found.xcom_value["url"]) == ("video_1", "https://files.example/v.mp4")

    def test_failed_video_fails_permanently(self, responses: list[Any]) -> None:
        responses.append(task("failed", error={"code": "generation_failed", "message": "no"}))
        with pytest.raises(ToAPIsFinalFailureError, match="video_1") as failed:
            sensor().poke(FakeTaskInstance().context)
        assert isinstance(failed.value, AirflowFailException)

    def test_unknown_id_fails_permanently_and_is_named(self, responses: list[Any]) -> None:
        responses += [ToAPIsNotFoundError("404")] * 6
        with pytest.raises(ToAPIsRequestError, match="video_id='video_1'"):
            sensor().poke(FakeTaskInstance().context)

    def test_single_not_found_does_not_end_the_wait(self, responses: list[Any]) -> None:
        responses += [ToAPIsNotFoundError("404"), READY]
        assert isinstance(sensor().poke(FakeTaskInstance().context), PokeReturnValue)

    def test_rejected_key_is_reread_at_once(self, responses: list[Any]) -> None:
        responses += [REJECTED, READY]
        assert isinstance(sensor().poke(FakeTaskInstance().context), PokeReturnValue)

    def test_permanently_rejected_key_interrupts_the_wait_within_one_poke(self, responses: list[Any]) -> None:
        responses += [REJECTED, REJECTED]
        with pytest.raises(ToAPIsWaitInterruptedError, match="video_1") as interrupted:
            sensor().poke(FakeTaskInstance().context)
        assert not isinstance(interrupted.value, AirflowFailException)

    def test_completed_without_url_is_polled_a_few_times(self, responses: list[Any]) -> None:
        waiting = sensor()
        responses += [task("completed")] * 20
        pokes = [waiting.poke(FakeTaskInstance().context) for _ in range(4)]
        with pytest.raises(ToAPIsWaitInterruptedError, match="without a result URL"):
            waiting.poke(FakeTaskInstance().context)
        assert pokes == [False] * 4
