"""Tasks that are marked failed while they still have videos to submit."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator


@task
def rows(image: str) -> list[dict[str, Any]]:
    """Return a feed of sixty rows."""
    return [{"key": f"row-{number}", "prompt": f"Row {number}", "image": image} for number in range(60)]


with DAG(dag_id="marked_failed", schedule=None, catchup=False, params={"image": "", "directory": ""}):
    ToAPIsSubmitVideoOperator(
        task_id="held_up_video",
        image="{{ params.image }}",
        prompt="This submission is held up by a rate limit",
        toapis_conn_id="toapis_slow",
        deferrable=False,
        retries=0,
    )
    ToAPIsVideoBatchOperator(
        task_id="slow_batch",
        requests=rows("{{ params.image }}"),  # type: ignore[arg-type]
        output_path="{{ params.directory }}",
        toapis_conn_id="toapis_slow",
        deferrable=False,
        retries=0,
    )
