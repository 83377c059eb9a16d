"""The same operator as in the examples, which keeps its worker while it waits."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator

with DAG(dag_id="waiting_in_the_worker", schedule=None, catchup=False, params={"image": "", "output_path": ""}):
    ToAPIsSubmitVideoOperator(
        task_id="make_video",
        image="{{ params.image }}",
        prompt="The camera slowly moves in",
        output_path="{{ params.output_path }}",
        poll_interval=5,
        deferrable=False,
    )
