"""Send metrics to Airflow's metrics backends (StatsD, Datadog, OpenTelemetry). ``docs/operations.md`` lists them."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from airflow.providers.common.compat.sdk import Stats

from airflow_provider_toapis.api.responses import TaskStatus

if TYPE_CHECKING:
    from airflow_provider_toapis.api.responses import VideoTask

#: The result of a verified webhook:
#:
#: - ``resumed``: The task that waits for its video was resumed.
#: - ``noted``: The event was recorded for a batch, which is resumed later.
#: - ``too_early``: The task does not wait yet, so the service must deliver the webhook again.
#: - ``ignored``: No task waits for its video.
WebhookResult = Literal["resumed", "noted", "too_early", "ignored"]


def video_submitted(model: str) -> None:
    """Count a submitted video, which is billed."""
    Stats.incr("toapis.videos_submitted", tags={"model": model})


def video_finished(task: VideoTask) -> None:
    """Count a completed or failed video that a task waited for.

    Also report its render time and its cost, if the service reports them.
    """
    tags = {"model": task.model or "unknown"}
    if task.status is TaskStatus.FAILED:
        Stats.incr("toapis.videos_failed", tags=tags)
        return
    Stats.incr("toapis.videos_completed", tags=tags)
    if task.created_at and task.completed_at:
        Stats.timing("toapis.video_seconds", task.completed_at - task.created_at, tags=tags)
    if task.cost_usd is not None:
        # All backends accept fractions, although the annotation says int.
        Stats.incr("toapis.billed_usd", float(task.cost_usd), tags=tags)  # type: ignore[arg-type]


def video_warnings(warnings: Iterable[str], model: str | None) -> None:
    """Count the warnings of a saved video by their codes."""
    for warning in warnings:
        code = warning.partition(":")[0]
        Stats.incr("toapis.video_warnings", tags={"model": model or "unknown", "code": code})


def video_polled(conn_id: str) -> None:
    """Count a poll of a video."""
    Stats.incr("toapis.polls", tags={"conn_id": conn_id})


def webhook_received(conn_id: str, result: WebhookResult) -> None:
    """Count a verified webhook by its result."""
    Stats.incr("toapis.webhooks", tags={"conn_id": conn_id, "result": result})


def videos_waiting(conn_id: str, number: int) -> None:
    """Report the number of videos that this triggerer waits for."""
    Stats.gauge("toapis.videos_waiting", number, tags={"conn_id": conn_id, "hostname": socket.gethostname()})
