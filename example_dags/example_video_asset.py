"""Tell the rest of the company as soon as a video is there: the first DAG makes it, the second one runs because of it.

Each kept video becomes an asset of its own, behind one alias. The event carries the video's manifest (id, model, path,
sha256, size, price ...), so that whoever comes after needs neither the first DAG's XComs nor the service. Needs Airflow
3, and the connections ``toapis_default`` (the API key as its password) and ``shop_api`` (type HTTP, the address of the
shop).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import DAG, AssetAlias, Param, task
from airflow.providers.http.hooks.http import HttpHook
from airflow.providers.standard.operators.python import PythonOperator

from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator

PRODUCT_VIDEOS = AssetAlias("product_videos")

with DAG(
    dag_id="example_video_asset",
    description="Make the video of one product and announce it",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    tags=["toapis", "example"],
    params={
        "sku": Param("SNK-001", type="string", description="The shop's number of the product"),
        "image": Param(
            "https://example.com/sneaker.jpg",
            type="string",
            description="The product's picture: an https URL, a local file, or an object storage URI",
        ),
        "prompt": Param("The shoe turns slowly", type="string", description="What shall happen in the video"),
        "output_folder": Param(
            str(Path.home() / "product_videos"),
            type="string",
            description="Where the video is kept: a folder, or an object storage URI such as s3://bucket/videos",
        ),
    },
):
    ToAPIsSubmitVideoOperator(
        task_id="make_video",
        image="{{ params.image }}",
        prompt="{{ params.prompt }}",
        identity="{{ params.sku }}",
        output_path="{{ params.output_folder }}/{{ params.sku | file_name }}.mp4",
        outlets=[PRODUCT_VIDEOS],
        deferrable=True,
        retries=2,
    )


def as_shop_updates(triggering_asset_events: Mapping[AssetAlias, Sequence[Any]]) -> list[dict[str, Any]]:
    """Say what the shop is told about each video that this run was started for."""
    # By the alias: the mapping has each event under its asset and once more under the alias.
    manifests = [event.extra for event in triggering_asset_events[PRODUCT_VIDEOS]]
    return [
        {
            "product": PurePosixPath(manifest["path"]).stem,
            "video": {"id": manifest["video_id"], "output_path": manifest["path"]},
        }
        for manifest in manifests
    ]


@task
def publish_video(update: dict[str, Any]) -> None:
    """Tell the shop about one video. What a function gets from other tasks is not rendered as a template."""
    shop = HttpHook(method="POST", http_conn_id="shop_api")
    shop.run(f"shop/products/{quote(update['product'], safe='')}/video", json=update["video"])


with DAG(
    dag_id="example_publish_new_videos",
    description="Tell the shop about every new video, whoever made it",
    doc_md=__doc__,
    schedule=PRODUCT_VIDEOS,
    catchup=False,
    tags=["toapis", "example"],
):
    read_events = PythonOperator(task_id="read_events", python_callable=as_shop_updates)
    publish_video.expand(update=read_events.output)
