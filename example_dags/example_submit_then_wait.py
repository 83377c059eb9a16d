"""Order a video now, wait for it later, keep it at the end: three tasks instead of one.

Worth it when something else is to be done while the video is being made, or when the waiting belongs to another team's
part of the DAG. For everything else, ``ToAPIsSubmitVideoOperator`` alone does all three.

Needs the connection ``toapis_default`` with the API key as its password.
"""

from __future__ import annotations

from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, Param

from airflow_provider_toapis.operators.files import ToAPIsDownloadVideoOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from airflow_provider_toapis.sensors.video import ToAPIsVideoSensor

with DAG(
    dag_id="example_submit_then_wait",
    description="Order a video, wait for it in a sensor, download it",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    tags=["toapis", "example"],
    params={
        "image": Param(
            "https://example.com/armchair.jpg",
            type="string",
            description="The picture to start from: an https URL, a local file, or an object storage URI",
        ),
        "prompt": Param(
            "The camera slowly moves in on the armchair", type="string", description="What shall happen in the video"
        ),
        "output_path": Param(
            str(Path.home() / "armchair.mp4"),
            type="string",
            description="Where the video is kept: a file, or an object storage URI such as s3://bucket/armchair.mp4",
        ),
    },
) as dag:
    # [START howto_operator_submit_only]
    order_video = ToAPIsSubmitVideoOperator(
        task_id="order_video",
        image="{{ params.image }}",
        prompt="{{ params.prompt }}",
        duration=10,
        aspect_ratio="16:9",
        wait_for_completion=False,
        retries=2,
    )
    # [END howto_operator_submit_only]

    # [START howto_sensor_video]
    wait_for_video = ToAPIsVideoSensor(
        task_id="wait_for_video",
        video_id="{{ ti.xcom_pull(task_ids='order_video')['id'] }}",
        deferrable=True,
        timeout=30 * 60,
    )
    # [END howto_sensor_video]

    # [START howto_operator_download]
    keep_video = ToAPIsDownloadVideoOperator(
        task_id="keep_video",
        video_id="{{ ti.xcom_pull(task_ids='order_video')['id'] }}",
        output_path="{{ params.output_path }}",
        retries=2,
    )
    # [END howto_operator_download]

    order_video >> wait_for_video >> keep_video
