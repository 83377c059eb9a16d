"""Metrics for Airflow's backends (StatsD, Datadog, OpenTelemetry); ``docs/operations.md`` lists them."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Literal

from airflow.providers.common.compat.sdk import Stats

from airflow_provider_toapis.api.responses import TaskStatus

if TYPE_CHECKING:
    from airflow_provider_toapis.api.responses import VideoTask

#: The result of a verified webhook: its task was resumed; it was recorded for a batch; its task does not wait yet, so
#: the service sends it again; no task waits for its video.
WebhookResult = Literal["resumed", "noted", "too_early", "ignored"]


def video_submitted(model: str) -> None:
    """Count a submitted video. It is billed."""
    Stats.incr("toapis.videos_submitted", tags={"model": model})


def video_finished(task: VideoTask) -> None:
    """Count a final video that a task waited for, with its time and its cost as far as the service reports them."""
    tags = {"model": task.model or "unknown"}
    if task.status is TaskStatus.FAILED:
        Stats.incr("toapis.videos_failed", tags=tags)
        return
    Stats.incr("toapis.videos_completed", tags=tags)
    if task.created_at and task.completed_at:
        Stats.timing("toapis.video_seconds", task.completed_at - task.created_at, tags=tags)
    if task.cost_usd is not None:
        # All backends add fractions, although the annotation says int.
        Stats.incr("toapis.billed_usd", float(task.cost_usd), tags=tags)  # type: ignore[arg-type]


def video_polled(conn_id: str) -> None:
    """Count a poll of a video."""
    Stats.incr("toapis.polls", tags={"conn_id": conn_id})


def webhook_received(conn_id: str, result: WebhookResult) -> None:
    """Count a verified webhook by its result."""
    Stats.incr("toapis.webhooks", tags={"conn_id": conn_id, "result": result})


def videos_waiting(conn_id: str, number: int) -> None:
    """Report the number of videos that this triggerer waits for."""
    Stats.gauge("toapis.videos_waiting", number, tags={"conn_id": conn_id, "hostname": socket.gethostname()})
