"""A DAG for every Airflow version whose tasks are cleared, use another model, are rescheduled, or run in a loop.

It runs once, as soon as it is not paused, because the commands that trigger a run differ between versions.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Asset, task, task_group

from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from airflow_provider_toapis.version_compat import AIRFLOW_V_3_4_PLUS

START = datetime(2026, 1, 1, tzinfo=UTC)
VIDEOS = Asset("file:///videos")
COMMON: dict[str, Any] = {"image": os.environ["MATRIX_IMAGE"], "duration": 10, "wait_for_completion": False}

with DAG(dag_id="recovered_everywhere", schedule="@once", start_date=START):
    ToAPIsSubmitVideoOperator(
        task_id="regenerated",
        prompt="It is regenerated",
        model="grok-video-1.0",
        on_clear="regenerate",
        deferrable=True,
        poll_interval=5,
        **COMMON | {"wait_for_completion": True},
    )
    ToAPIsSubmitVideoOperator(
        task_id="with_fallback", prompt="It falls back", fallback_models=["grok-video-1.5"], **COMMON
    )
    ToAPIsSubmitVideoOperator.partial(task_id="announced", outlets=[VIDEOS], **COMMON).expand(
        prompt=["It is announced", "It is announced twice", "It is announced three times"]
    )

    if AIRFLOW_V_3_4_PLUS:
        from airflow_provider_toapis.retry_policy import toapis_retry_policy

        ToAPIsSubmitVideoOperator(
            task_id="rescheduled",
            prompt="It is rescheduled",
            model="seedance-2",
            timeout=5,
            retry_policy=toapis_retry_policy(),
            **COMMON,
        )

        @task_group
        def repeated() -> None:
            made = ToAPIsSubmitVideoOperator(task_id="make_video", prompt="It is repeated", model="sora-2", **COMMON)

            @task
            def review(video: dict[str, Any]) -> str:
                return str(video["id"])

            review(made.output)  # type: ignore[arg-type]

        def is_second(*, loop: Any) -> bool:
            return bool(loop.index == 1)

        repeated.loop(until=is_second, max_iterations=3)  # type: ignore[attr-defined]

with DAG(dag_id="announcements", schedule=[VIDEOS], start_date=START):

    @task
    def publish() -> None:
        pass

    publish()
