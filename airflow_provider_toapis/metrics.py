"""What Airflow's metrics (StatsD, Datadog, OpenTelemetry) get to know; ``docs/operations.md`` lists it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Literal

from airflow.providers.common.compat.sdk import Stats

from airflow_provider_toapis.api.responses import TaskStatus

if TYPE_CHECKING:
    from airflow_provider_toapis.api.responses import VideoTask

#: The result of a verified webhook: its task was resumed, it was noted for a batch, its task does not wait yet (the
#: service sends it again), or no task waits for its video.
WebhookResult = Literal["resumed", "noted", "too_early", "ignored"]


def video_submitted(model: str) -> None:
    """Count a video that was ordered, and with it paid."""
    Stats.incr("toapis.videos_submitted", tags={"model": model})


def video_finished(task: VideoTask) -> None:
    """Count a final video for which a task has waited, what it took and what it cost, as far as the service says."""
    tags = {"model": task.model or "unknown"}
    if task.status is TaskStatus.FAILED:
        Stats.incr("toapis.videos_failed", tags=tags)
        return
    Stats.incr("toapis.videos_completed", tags=tags)
    if task.created_at and task.completed_at:
        Stats.timing("toapis.video_seconds", task.completed_at - task.created_at, tags=tags)
    if task.cost_usd is not None:
        # Every backend adds fractions, whatever the annotation says.
        Stats.incr("toapis.billed_usd", float(task.cost_usd), tags=tags)  # type: ignore[arg-type]


def video_polled(conn_id: str) -> None:
    """Count a poll of a video."""
    Stats.incr("toapis.polls", tags={"conn_id": conn_id})


def webhook_received(conn_id: str, result: WebhookResult) -> None:
    """Count a webhook that was believed, by what came of it."""
    Stats.incr("toapis.webhooks", tags={"conn_id": conn_id, "result": result})


def videos_waiting(conn_id: str, number: int) -> None:
    """Report how many videos wait in this triggerer."""
    Stats.gauge("toapis.videos_waiting", number, tags={"conn_id": conn_id, "hostname": socket.gethostname()})
