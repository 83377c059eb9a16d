"""Metrics of complete tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_toapis import metrics
from airflow_provider_toapis.exceptions import ToAPIsTaskFailedError
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from airflow_provider_toapis.sensors.video import ToAPIsVideoSensor
from tests.airflow_task import FakeTaskInstance, attempt
from tests.integration.conftest import PROMPT
from tests.integration.emulator_process import EmulatorProcess

BOTH_WAIT_MODES = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "in the worker"])


class Recorder:
    """Replaces Airflow's Stats and records its calls."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.waiting: list[float] = []

    def incr(self, name: str, count: float = 1, *, tags: dict[str, str]) -> None:
        assert all(tags.values())
        self.counts[name] += count  # type: ignore[assignment]

    def timing(self, name: str, duration: Any, *, tags: dict[str, str]) -> None:
        assert (name, tags) == ("toapis.video_seconds", {"model": "grok-video-1.5-preview"})
        self.seconds.append(duration.total_seconds())

    def gauge(self, name: str, value: float, *, tags: dict[str, str]) -> None:
        assert (name, tags["conn_id"]) == ("toapis.videos_waiting", "toapis_default")
        self.waiting.append(value)


@pytest.fixture
def stats(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(metrics, "Stats", recorder)
    return recorder


@pytest.fixture
def make_video(image: str) -> Callable[..., Any]:
    def run(ti: FakeTaskInstance, **fields: Any) -> Any:
        return attempt(lambda: ToAPIsSubmitVideoOperator(task_id="video", prompt=PROMPT, image=image, **fields), ti)

    return run


@BOTH_WAIT_MODES
def test_video_is_counted_once_although_its_task_is_cleared(
    service: EmulatorProcess, stats: Recorder, make_video: Callable[..., Any], deferrable: bool
) -> None:
    ti = FakeTaskInstance()
    make_video(ti, deferrable=deferrable)
    polls = service.request_counts()["status"]
    make_video(ti.cleared(), deferrable=deferrable)
    assert stats.counts.pop("toapis.billed_usd") == pytest.approx(0.10)
    # Look-ups before and after the submission, and after the wait, do not count as polls.
    assert 3 <= stats.counts.pop("toapis.polls") < polls
    assert stats.counts == {"toapis.videos_submitted": 1, "toapis.videos_completed": 1}
    (seconds,) = stats.seconds
    # The emulator renders in real time, which takes many virtual seconds on a busy machine.
    assert seconds >= 30
    assert stats.waiting == ([1, 0] if deferrable else [])


def test_failed_video_is_counted_as_failed(
    service: EmulatorProcess, stats: Recorder, make_video: Callable[..., Any]
) -> None:
    service.add_fault(on="submit", kind="task_failed", code="generation_failed")
    with pytest.raises(ToAPIsTaskFailedError):
        make_video(FakeTaskInstance(), deferrable=True)
    assert stats.counts["toapis.videos_failed"] == 1
    assert "toapis.videos_completed" not in stats.counts
    assert "toapis.billed_usd" not in stats.counts


@pytest.mark.usefixtures("service")
def test_sensor_counts_the_video_of_an_operator_that_did_not_wait(
    stats: Recorder, make_video: Callable[..., Any]
) -> None:
    submitted = make_video(FakeTaskInstance(), wait_for_completion=False)
    assert "toapis.videos_completed" not in stats.counts
    attempt(lambda: ToAPIsVideoSensor(task_id="video", video_id=submitted["id"], deferrable=True), FakeTaskInstance())
    assert stats.counts["toapis.videos_completed"] == 1
    assert stats.counts["toapis.billed_usd"] == pytest.approx(0.10)
