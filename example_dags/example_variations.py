"""Make a video, another version of it and a longer one, from one image that is uploaded once.

A function returns the request for the first video. The other two are made from that video. Requires the connection
``toapis_default`` with the API key as its password. Three videos are submitted and billed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_toapis.operators.files import ToAPIsUploadFileOperator
from airflow_provider_toapis.operators.video import ToAPIsExtendVideoOperator, ToAPIsRemixVideoOperator

with DAG(
    dag_id="example_variations",
    description="Make a video, another version of it, and a longer one",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    tags=["toapis", "example"],
    params={
        "image": Param(
            str(Path.home() / "sneaker.jpg"),
            type="string",
            description="Source image: a local file, or an object storage URI",
        ),
        "output_directory": Param(
            str(Path.home() / "sneaker_variations"),
            type="string",
            description="Where to save the videos: a directory, or an object storage URI such as s3://bucket/videos",
        ),
    },
) as dag:
    # [START howto_operator_upload]
    upload_image = ToAPIsUploadFileOperator(task_id="upload_image", source="{{ params.image }}")
    # [END howto_operator_upload]

    # [START howto_decorator_video]
    @task.toapis_video(model="grok-video-1.0", duration=6, deferrable=True, retries=2)
    def hero_video(image: str, directory: str) -> dict[str, Any]:
        return {
            "prompt": "The camera slowly moves in on the shoe",
            "image": image,
            "output_path": f"{directory}/hero.mp4",
        }

    hero = hero_video("{{ ti.xcom_pull(task_ids='upload_image')['url'] }}", "{{ params.output_directory }}")
    # [END howto_decorator_video]

    # [START howto_operator_remix_extend]
    evening_version = ToAPIsRemixVideoOperator(
        task_id="evening_version",
        video_id="{{ ti.xcom_pull(task_ids='hero_video')['id'] }}",
        prompt="The same scene in evening light",
        output_path="{{ params.output_directory }}/evening.mp4",
        deferrable=True,
        retries=2,
    )

    long_version = ToAPIsExtendVideoOperator(
        task_id="long_version",
        video_id="{{ ti.xcom_pull(task_ids='hero_video')['id'] }}",
        prompt="The camera continues around the shoe",
        output_path="{{ params.output_directory }}/long.mp4",
        deferrable=True,
        retries=2,
    )
    # [END howto_operator_remix_extend]

    upload_image >> hero >> [evening_version, long_version]
