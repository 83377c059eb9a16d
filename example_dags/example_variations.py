"""Another version of a video and a longer one, from one picture that is uploaded once.

The first video is described by a function; the other two are made from it. Needs the connection ``toapis_default``
with the API key as its password. Three videos are ordered and paid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_toapis.operators.files import ToAPIsUploadFileOperator
from airflow_provider_toapis.operators.video import ToAPIsExtendVideoOperator, ToAPIsRemixVideoOperator

with DAG(
    dag_id="example_variations",
    description="A video, another version of it, and a longer one",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    tags=["toapis", "example"],
    params={
        "picture": Param(
            str(Path.home() / "armchair.jpg"),
            type="string",
            description="The picture to start from: a local file, or an object storage URI",
        ),
        "output_folder": Param(
            str(Path.home() / "armchair_videos"),
            type="string",
            description="Where the videos are kept: a folder, or an object storage URI such as s3://bucket/videos",
        ),
    },
) as dag:
    # [START howto_operator_upload]
    upload_picture = ToAPIsUploadFileOperator(task_id="upload_picture", source="{{ params.picture }}")
    # [END howto_operator_upload]

    # [START howto_decorator_video]
    @task.toapis_video(model="grok-video-1.0", duration=6, deferrable=True, retries=2)
    def hero_video(picture: str, folder: str) -> dict[str, Any]:
        return {
            "prompt": "The camera slowly moves in on the armchair",
            "image": picture,
            "output_path": f"{folder}/hero.mp4",
        }

    made = hero_video("{{ ti.xcom_pull(task_ids='upload_picture')['url'] }}", "{{ params.output_folder }}")
    # [END howto_decorator_video]

    # [START howto_operator_remix_extend]
    evening_version = ToAPIsRemixVideoOperator(
        task_id="evening_version",
        video_id="{{ ti.xcom_pull(task_ids='hero_video')['id'] }}",
        prompt="The same in the last light of the day",
        output_path="{{ params.output_folder }}/evening.mp4",
        deferrable=True,
        retries=2,
    )

    long_version = ToAPIsExtendVideoOperator(
        task_id="long_version",
        video_id="{{ ti.xcom_pull(task_ids='hero_video')['id'] }}",
        prompt="The camera goes on around the armchair",
        output_path="{{ params.output_folder }}/long.mp4",
        deferrable=True,
        retries=2,
    )
    # [END howto_operator_remix_extend]

    upload_picture >> made >> [evening_version, long_version]
