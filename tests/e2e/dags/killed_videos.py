"""DAGs that run while Airflow's processes are killed. One DAG waits in the triggerer, the other in the workers."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator

for dag_id, video_count, deferrable in (("killed_while_deferred", 20, True), ("killed_while_waiting", 4, False)):
    with DAG(dag_id=dag_id, schedule=None, catchup=False, params={"images": [], "output_directory": ""}):
        ToAPIsSubmitVideoOperator.partial(
            task_id="make_video",
            image="{{ params.images[ti.map_index % (params.images | length)] }}",
            prompt="The camera slowly moves in on {{ task.identity }}",
            output_path="{{ params.output_directory }}/{{ task.identity }}.mp4",
            poll_interval=5,
            deferrable=deferrable,
            # Many retries, because every kill uses one.
            retries=30,
            retry_delay=timedelta(seconds=1),
        ).expand(identity=[f"product-{number:02}" for number in range(video_count)])
