"""Submit a video, wait for it and save it in three tasks instead of one.

This is useful if other tasks run while the video is rendered, or if another team owns the waiting part of the DAG.
Otherwise, use ``ToAPIsSubmitVideoOperator`` alone, which does all of this in one task.

Requires the connection ``toapis_default`` with the API key as its password.
"""

from __future__ import annotations

from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, Param

from airflow_provider_toapis.operators.files import ToAPIsDownloadVideoOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from airflow_provider_toapis.sensors.video import ToAPIsVideoSensor

with DAG(
    dag_id="example_submit_then_wait",
    description="Submit a video, wait for it in a sensor, download it",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    tags=["toapis", "example"],
    params={
        "image": Param(
            str(Path.home() / "sneaker.jpg"),
            type="string",
            description="Source image: an https URL, a local file, or an object storage URI",
        ),
        "prompt": Param("The camera slowly moves in on the shoe", type="string", description="Prompt for the video"),
        "output_path": Param(
            str(Path.home() / "sneaker.mp4"),
            type="string",
            description="Where to save the video: a file, or an object storage URI such as s3://bucket/sneaker.mp4",
        ),
    },
) as dag:
    # [START howto_operator_submit_only]
    submit_video = ToAPIsSubmitVideoOperator(
        task_id="submit_video",
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
        video_id="{{ ti.xcom_pull(task_ids='submit_video')['id'] }}",
        deferrable=True,
        timeout=30 * 60,
    )
    # [END howto_sensor_video]

    # [START howto_operator_download]
    download_video = ToAPIsDownloadVideoOperator(
        task_id="download_video",
        video_id="{{ ti.xcom_pull(task_ids='submit_video')['id'] }}",
        output_path="{{ params.output_path }}",
        retries=2,
    )
    # [END howto_operator_download]

    submit_video >> wait_for_video >> download_video
