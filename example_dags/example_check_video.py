"""Make a video, measure it, and publish it only if it is what was requested. Otherwise, send it to review.

Requires the extra ``media`` on the workers, and the connections ``toapis_default`` (the API key as its password) and
``shop_api`` (type HTTP, the URL of the shop).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task
from airflow.providers.http.operators.http import HttpOperator

from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator

with DAG(
    dag_id="example_check_video",
    description="Make a video, publish it if it is what was requested, else send it to review",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    tags=["toapis", "example"],
    params={
        "sku": Param("SNK-001", type="string", description="SKU of the product"),
        "image": Param(
            str(Path.home() / "sneaker.jpg"),
            type="string",
            description="Image of the product: an https URL, a local file, or an object storage URI",
        ),
        "prompt": Param("The camera slowly moves in on the shoe", type="string", description="Prompt for the video"),
        "output_directory": Param(
            str(Path.home() / "checked_videos"),
            type="string",
            description="Where to save the video: a directory, or an object storage URI such as s3://bucket/videos",
        ),
    },
) as dag:
    # [START howto_check_video]
    make_video = ToAPIsSubmitVideoOperator(
        task_id="make_video",
        image="{{ params.image }}",
        prompt="{{ params.prompt }}",
        duration=10,
        aspect_ratio="16:9",
        identity="{{ params.sku }}",
        output_path="{{ params.output_directory }}/{{ params.sku | file_name }}.mp4",
        check="warn",
        poster=True,
        deferrable=True,
        retries=2,
    )
    # [END howto_check_video]

    # [START howto_branch_on_warnings]
    @task.branch
    def choose_next_step(video: dict[str, Any]) -> str:
        """Return the task that runs next."""
        return "send_to_review" if video["warnings"] else "publish_video"

    # [END howto_branch_on_warnings]

    publish_video = HttpOperator(
        task_id="publish_video",
        http_conn_id="shop_api",
        method="POST",
        endpoint="shop/products/{{ params.sku }}/video",
        headers={"Content-Type": "application/json"},
        data="{{ ti.xcom_pull(task_ids='make_video') | tojson }}",
    )

    @task
    def send_to_review(video: dict[str, Any]) -> None:
        """Show the warnings. Replace this with a message to the people who review videos."""
        logging.getLogger(__name__).info("%s needs a review: %s", video["output_path"], "; ".join(video["warnings"]))

    video: Any = make_video.output
    choose_next_step(video) >> [publish_video, send_to_review(video)]
