"""A DAG with one batch task, for tests that kill Airflow's processes."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator

with DAG(dag_id="nightly_batch", schedule=None, catchup=False, params={"feed": "", "output_directory": ""}):
    ToAPIsVideoBatchOperator(
        task_id="make_videos",
        requests="{{ params.feed }}",
        output_path="{{ params.output_directory }}",
        deferrable=True,
        poll_interval=5,
        retries=3,
        retry_delay=timedelta(seconds=1),
    )
