"""Trigger another DAG as soon as a video is saved. The first DAG makes the video, and the second publishes it.

Each saved video is a separate asset, and all assets have the same alias. The asset event contains the video's metadata
(id, model, path, sha256, size, price ...), so a downstream DAG needs neither the first DAG's XComs nor the service.
Before Airflow 3.4, the events of several videos can start one run of the second DAG; since 3.4, each event starts a
run. The second DAG publishes all videos of its events, so it works either way. Requires Airflow 3, and the connections
``toapis_default`` (the API key as its password) and ``shop_api`` (type HTTP, the URL of the shop).
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
    description="Make the video of one product and emit an asset event",
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
        "prompt": Param("The shoe turns slowly", type="string", description="Prompt for the video"),
        "output_directory": Param(
            str(Path.home() / "announced_videos"),
            type="string",
            description="Where to save the video: a directory, or an object storage URI such as s3://bucket/videos",
        ),
    },
):
    ToAPIsSubmitVideoOperator(
        task_id="make_video",
        image="{{ params.image }}",
        prompt="{{ params.prompt }}",
        identity="{{ params.sku }}",
        output_path="{{ params.output_directory }}/{{ params.sku | file_name }}.mp4",
        outlets=[PRODUCT_VIDEOS],
        deferrable=True,
        retries=2,
    )


def as_shop_updates(triggering_asset_events: Mapping[AssetAlias, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the update for the shop for each video that triggered this run."""
    # Read only the events of the alias, because the mapping contains each event twice: under its asset and under the
    # alias.
    videos = [event.extra for event in triggering_asset_events[PRODUCT_VIDEOS]]
    return [
        {
            "product": PurePosixPath(video["path"]).stem,
            "video": {"id": video["video_id"], "output_path": video["path"]},
        }
        for video in videos
    ]


@task
def publish_video(update: dict[str, Any]) -> None:
    """Publish one video to the shop. Airflow does not render arguments from other tasks as templates."""
    shop = HttpHook(method="POST", http_conn_id="shop_api")
    shop.run(f"shop/products/{quote(update['product'], safe='')}/video", json=update["video"])


with DAG(
    dag_id="example_publish_new_videos",
    description="Publish every new video to the shop, whichever DAG made it",
    doc_md=__doc__,
    schedule=PRODUCT_VIDEOS,
    catchup=False,
    tags=["toapis", "example"],
):
    read_events = PythonOperator(task_id="read_events", python_callable=as_shop_updates)
    publish_video.expand(update=read_events.output)
