"""Operators of the examples with ``deferrable=False``, which keep their worker slot during the wait."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator


@task
def rows(image: str) -> list[dict[str, Any]]:
    """Return a feed of two rows."""
    return [{"key": key, "prompt": f"It turns, {key}", "image": image} for key in ("a", "b")]


with DAG(
    dag_id="waiting_in_the_worker",
    schedule=None,
    catchup=False,
    params={"image": "", "output_path": "", "directory": ""},
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
        requests=rows("{{ params.image }}"),  # type: ignore[arg-type]
        output_path="{{ params.directory }}",
        poll_interval=5,
        deferrable=False,
    )
