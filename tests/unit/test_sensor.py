"""The sensor: what a DAG author writes, and what one poke makes of one answer."""

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

REFUSED = ToAPIsAuthError("no", http_status=401)


def task(status: str, **fields: Any) -> Any:
    return parse_video_task({"id": "video_1", "status": status, **fields})


READY = task("completed", result={"data": [{"url": "https://files.example/v.mp4"}]})


def sensor(**fields: Any) -> ToAPIsVideoSensor:
    return ToAPIsVideoSensor(task_id="wait", video_id="video_1", **fields)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Answers of the service in turn; an error is raised."""
    given: list[Any] = []

    def get_video(_: ToAPIsHook, video_id: str, *, retry_timeout: float) -> Any:
        assert (video_id, retry_timeout) == ("video_1", 0)
        answer = given.pop(0)
        if isinstance(answer, ToAPIsError):
            raise answer
        return answer

    monkeypatch.setattr(ToAPIsHook, "get_video", get_video)
    replace_clock(monkeypatch, time.time)
    return given


class TestConstructor:
    def test_defaults_are_those_of_the_documentation(self) -> None:
        made = sensor()
        assert (made.poke_interval, made.timeout, made.deferrable, made.mode, made.toapis_conn_id) == (
            30.0,
            1800.0,
            False,
            "poke",
            "toapis_default",
        )

    @pytest.mark.parametrize("field", ["poke_interval", "timeout"])
    @pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "30", timedelta(0), timedelta(seconds=-5)])
    def test_unusable_number_breaks_the_dag_file_by_name(self, field: str, value: object) -> None:
        with pytest.raises(ToAPIsRequestError, match=f"{field}=") as refused:
            sensor(**{field: value})
        assert isinstance(refused.value, AirflowFailException)

    def test_durations_may_be_timedeltas(self) -> None:
        made = sensor(poke_interval=timedelta(minutes=1), timeout=timedelta(hours=1))
        assert (made.poke_interval, made.timeout) == (60, 3600)

    def test_id_and_connection_are_templated(self) -> None:
        assert set(ToAPIsVideoSensor.template_fields) == {"video_id", "toapis_conn_id"}


class TestPoke:
    @pytest.mark.parametrize(
        "answer",
        [
            task("queued"),
            task("in_progress", progress=50),
            task("no such word"),
            task("completed"),
            ToAPIsServerError("HTML"),
            ToAPIsConnectionError("dropped"),
            ToAPIsRateLimitError("429"),
        ],
        ids=["queued", "in progress", "unknown word", "no link", "server", "connection", "rate limit"],
    )
    def test_everything_but_a_final_answer_means_wait(self, answers: list[Any], answer: Any) -> None:
        answers.append(answer)
        assert sensor().poke(FakeTaskInstance().context) is False
        assert answers == []

    def test_ready_video_is_the_xcom_value(self, answers: list[Any]) -> None:
        answers.append(READY)
        found = sensor().poke(FakeTaskInstance().context)
        assert isinstance(found, PokeReturnValue)
        assert found.is_done
        assert isinstance(found.xcom_value, dict)
        assert (found.xcom_value["id"], found.xcom_value["url"]) == ("video_1", "https://files.example/v.mp4")

    def test_failed_video_is_final(self, answers: list[Any]) -> None:
        answers.append(task("failed", error={"code": "generation_failed", "message": "no"}))
        with pytest.raises(ToAPIsFinalFailureError, match="video_1") as failed:
            sensor().poke(FakeTaskInstance().context)
        assert isinstance(failed.value, AirflowFailException)

    def test_unknown_id_is_final_and_named(self, answers: list[Any]) -> None:
        answers += [ToAPIsNotFoundError("404")] * 6
        with pytest.raises(ToAPIsRequestError, match="video_id='video_1'"):
            sensor().poke(FakeTaskInstance().context)

    def test_single_denial_of_a_video_that_is_there_does_not_end_the_wait(self, answers: list[Any]) -> None:
        answers += [ToAPIsNotFoundError("404"), READY]
        assert isinstance(sensor().poke(FakeTaskInstance().context), PokeReturnValue)

    def test_refused_key_is_read_again_at_once(self, answers: list[Any]) -> None:
        answers += [REFUSED, READY]
        assert isinstance(sensor().poke(FakeTaskInstance().context), PokeReturnValue)

    def test_key_that_stays_refused_interrupts_the_wait_even_where_each_poke_is_a_process(
        self, answers: list[Any]
    ) -> None:
        answers += [REFUSED, REFUSED]
        with pytest.raises(ToAPIsWaitInterruptedError, match="video_1") as interrupted:
            sensor().poke(FakeTaskInstance().context)
        assert not isinstance(interrupted.value, AirflowFailException)

    def test_completed_without_a_link_is_asked_a_few_times_only(self, answers: list[Any]) -> None:
        waiting = sensor()
        answers += [task("completed")] * 20
        pokes = [waiting.poke(FakeTaskInstance().context) for _ in range(4)]
        with pytest.raises(ToAPIsWaitInterruptedError, match="without a result URL"):
            waiting.poke(FakeTaskInstance().context)
        assert pokes == [False] * 4
