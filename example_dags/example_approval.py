"""Make a video, have a person approve it, then publish it to the shop.

The person decides in the Airflow UI under "Required Actions". No worker slot is used during the wait. Requires Airflow
3.1 or newer, and the connections ``toapis_default`` (the API key as its password) and ``shop_api`` (type HTTP, the URL
of the shop).
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param

from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator

with DAG(
    dag_id="example_approval",
    description="Make a video, have a person approve it, publish it",
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
            str(Path.home() / "approved_videos"),
            type="string",
            description="Where to save the video: a directory, or an object storage URI such as s3://bucket/videos",
        ),
    },
) as dag:
    make_video = ToAPIsSubmitVideoOperator(
        task_id="make_video",
        image="{{ params.image }}",
        prompt="{{ params.prompt }}",
        identity="{{ params.sku }}",
        output_path="{{ params.output_directory }}/{{ params.sku | file_name }}.mp4",
        deferrable=True,
        retries=2,
    )

    # [START howto_approve_video]
    approve_video = ApprovalOperator(
        task_id="approve_video",
        subject="Publish the video of {{ params.sku }}?",
        body="""
{% set video = ti.xcom_pull(task_ids='make_video') %}
{% if video['url'] %}[Watch the video]({{ video['url'] }}) (the URL expires after 24 hours).{% endif %}
It is saved as `{{ video['output_path'] }}`.
""",
        response_timeout=timedelta(hours=20),
    )
    # [END howto_approve_video]

    publish_video = HttpOperator(
        task_id="publish_video",
        http_conn_id="shop_api",
        method="POST",
        endpoint="shop/products/{{ params.sku }}/video",
        headers={"Content-Type": "application/json"},
        data="{{ ti.xcom_pull(task_ids='make_video') | tojson }}",
    )

    make_video >> approve_video >> publish_video
