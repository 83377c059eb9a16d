"""Tasks that are marked failed while they still have videos to submit."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator

with DAG(dag_id="marked_failed", schedule=None, catchup=False, params={"image": "", "folder": ""}):
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
        requests=[
            {"key": f"row-{number}", "prompt": f"Row {number} of a slow batch", "image": "{{ params.image }}"}
            for number in range(60)
        ],
        output_path="{{ params.folder }}",
        toapis_conn_id="toapis_slow",
        deferrable=False,
        retries=0,
    )
