"""DAGs that run while parts of the cluster are killed: a mapped task and a batch."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator

#: Many retries, because every kill uses one.
DEFAULT_ARGS: dict[str, Any] = {"retries": 50, "retry_delay": timedelta(seconds=2), "deferrable": True}


@task
def identities(**context: Any) -> list[str]:
    return [f"product-{number:03}" for number in range(context["params"]["videos"])]


MAPPED = {"image": "", "directory": "", "videos": 200}
with DAG("cluster_videos", schedule=None, catchup=False, params=MAPPED, default_args=DEFAULT_ARGS):
    ToAPIsSubmitVideoOperator.partial(
        task_id="make_video",
        image="{{ params.image }}",
        prompt="The camera slowly moves in on {{ task.identity }}",
        output_path="{{ params.directory }}/{{ task.identity }}.mp4",
    ).expand(identity=identities())

with DAG(
    "cluster_batch", schedule=None, catchup=False, params={"feed": "", "directory": ""}, default_args=DEFAULT_ARGS
):
    ToAPIsVideoBatchOperator(
        task_id="make_videos", requests="{{ params.feed }}", output_path="{{ params.directory }}", max_active=1000
    )
