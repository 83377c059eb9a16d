"""Airflow metrics of a final video."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest.mock import MagicMock

import pendulum
import pytest

from airflow_provider_toapis import metrics
from airflow_provider_toapis.api.responses import TaskStatus, VideoTask

CREATED = pendulum.datetime(2026, 11, 23, 12)


@pytest.fixture
def stats(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    recorder = MagicMock()
    monkeypatch.setattr(metrics, "Stats", recorder)
    return recorder


def video(status: TaskStatus, **fields: Any) -> VideoTask:
    return VideoTask(id="video_1", status=status, raw_status=str(status), model="veo3.1-fast", **fields)


def calls(recorder: MagicMock) -> list[tuple[str, Any]]:
    return [(f"{kind} {arguments[0]}", arguments[1:]) for kind, arguments, _ in recorder.mock_calls]


def test_completed_video_emits_count_duration_and_cost(stats: MagicMock) -> None:
    task = video(
        TaskStatus.COMPLETED,
        created_at=CREATED,
        completed_at=CREATED.add(seconds=90),
        billing={"status": "settled", "cost_usd": 0.0725},
    )
    metrics.video_finished(task)
    assert calls(stats) == [
        ("incr toapis.videos_completed", ()),
        ("timing toapis.video_seconds", (timedelta(seconds=90),)),
        ("incr toapis.billed_usd", (0.0725,)),
    ]
    assert all(call.kwargs == {"tags": {"model": "veo3.1-fast"}} for call in stats.mock_calls)


def test_missing_facts_emit_no_metrics(stats: MagicMock) -> None:
    metrics.video_finished(video(TaskStatus.COMPLETED))
    assert calls(stats) == [("incr toapis.videos_completed", ())]


def test_failed_video_emits_no_cost(stats: MagicMock) -> None:
    metrics.video_finished(video(TaskStatus.FAILED, billing={"status": "refunded", "cost_usd": 0.07}))
    assert calls(stats) == [("incr toapis.videos_failed", ())]
