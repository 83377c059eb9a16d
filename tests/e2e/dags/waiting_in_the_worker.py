"""The same operators as in the examples, which keep their worker while they wait."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator

with DAG(
    dag_id="waiting_in_the_worker", schedule=None, catchup=False, params={"image": "", "output_path": "", "folder": ""}
):
    ToAPIsSubmitVideoOperator(
        task_id="make_video",
        image="{{ params.image }}",
        prompt="The camera slowly moves in",
        output_path="{{ params.output_path }}",
        poll_interval=5,
        deferrable=False,
    )
    ToAPIsVideoBatchOperator(
        task_id="make_videos",
        requests=[{"key": key, "prompt": f"It turns, {key}", "image": "{{ params.image }}"} for key in ("a", "b")],
        output_path="{{ params.folder }}",
        poll_interval=5,
        deferrable=False,
    )
