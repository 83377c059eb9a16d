"""Tasks that webhooks resume (operators, a sensor and a batch), and tasks whose webhooks never arrive."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from airflow_provider_toapis.sensors.video import ToAPIsVideoSensor

PARAMS = {"image": Param("", type="string"), "directory": Param("", type="string"), "videos": Param(4, type="integer")}


@task
def prompts(**context: Any) -> list[str]:
    return [f"It turns {number}" for number in range(context["params"]["videos"])]


@task
def rows(**context: Any) -> list[dict[str, str]]:
    image = context["params"]["image"]
    return [
        {"key": f"p{number}", "prompt": f"It sways {number}", "image": image}
        for number in range(context["params"]["videos"])
    ]


@dag(schedule=None, catchup=False, params=PARAMS)
def webhook_videos() -> None:
    waiting: dict[str, Any] = {"deferrable": True, "poll_interval": 600.0, "webhook": True}
    ToAPIsSubmitVideoOperator.partial(task_id="make_video", image="{{ params.image }}", **waiting).expand(
        prompt=prompts()
    )
    submit = ToAPIsSubmitVideoOperator(
        task_id="submit", image="{{ params.image }}", prompt="It waits", wait_for_completion=False, webhook="auto"
    )
    (
        ToAPIsVideoSensor(
            task_id="wait",
            video_id="{{ ti.xcom_pull('submit')['id'] }}",
            deferrable=True,
            webhook=True,
            poke_interval=600,
        )
        << submit
    )
    feed: Any = rows()
    ToAPIsVideoBatchOperator(task_id="make_batch", requests=feed, output_path="{{ params.directory }}/batch", **waiting)


@dag(schedule=None, catchup=False, params=PARAMS)
def undelivered_videos() -> None:
    undelivered: dict[str, Any] = {"deferrable": True, "webhook": True, "toapis_conn_id": "toapis_undelivered"}
    ToAPIsSubmitVideoOperator.partial(task_id="make_video", image="{{ params.image }}", **undelivered).expand(
        prompt=prompts()
    )
    feed: Any = rows()
    ToAPIsVideoBatchOperator(
        task_id="make_batch", requests=feed, output_path="{{ params.directory }}/batch", **undelivered
    )
    ToAPIsSubmitVideoOperator(
        task_id="no_webhook",
        image="{{ params.image }}",
        prompt="It waits",
        deferrable=True,
        webhook="auto",
        toapis_conn_id="toapis_without_webhooks",
    )


webhook_videos()
undelivered_videos()
