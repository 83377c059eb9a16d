"""A video from a service whose status requests fail repeatedly. The task has no retries."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator

with DAG(dag_id="unreliable_service", schedule=None, catchup=False, params={"image": "", "output_path": ""}):
    ToAPIsSubmitVideoOperator(
        task_id="make_video",
        toapis_conn_id="toapis_unreliable",
        image="{{ params.image }}",
        prompt="The camera slowly moves in",
        output_path="{{ params.output_path }}",
        poll_interval=5,
        deferrable=True,
        retries=0,
    )
