"""Make a video for every product of a shop, in parallel, and publish the videos to the shop.

Requires two connections: ``toapis_default`` with the API key as its password, and ``shop_api`` (type HTTP) with the URL
of the shop. The shop returns a list of products, each with ``sku``, ``image``, ``prompt``, ``duration`` and
``aspect_ratio``.

No worker waits for a video: each task defers when its video is submitted, and the triggerer polls all videos.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import DAG, Param, task
from airflow.providers.http.hooks.http import HttpHook
from airflow.providers.http.operators.http import HttpOperator

from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator

if TYPE_CHECKING:
    from requests import Response


def read_products(response: Response) -> list[dict[str, Any]]:
    """Return the products in the shop's response."""
    products: list[dict[str, Any]] = response.json()["products"]
    return products


# [START howto_map_products]
def as_video_request(product: dict[str, Any]) -> dict[str, Any]:
    """Return the operator arguments for the video of one product."""
    return {
        "prompt": product["prompt"],
        "image": product["image"],
        "duration": product["duration"],
        "aspect_ratio": product["aspect_ratio"],
        # Binds the video to its product, so that a retry finds it even if the shop returns the products in another
        # order.
        "identity": product["sku"],
    }


# [END howto_map_products]


@task
def publish_video(product_and_video: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Publish one video to the shop. Airflow does not render arguments from other tasks as templates."""
    product, video = product_and_video
    published = {name: video[name] for name in ("id", "model", "output_path", "size", "sha256", "billing")}
    shop = HttpHook(method="POST", http_conn_id="shop_api")
    shop.run(f"shop/products/{quote(product['sku'], safe='')}/video", json=published)


with DAG(
    dag_id="example_product_catalog",
    description="Make a video for every product of a shop",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    tags=["toapis", "example"],
    params={
        "feed": Param("shop/products", type="string", description="Path of the product feed on the shop's host"),
        "model": Param("grok-video-1.5-preview", type="string", description="Video model"),
        "output_directory": Param(
            str(Path.home() / "product_videos"),
            type="string",
            description="Where to save the videos: a directory, or an object storage URI such as s3://bucket/videos",
        ),
    },
) as dag:
    read_feed = HttpOperator(
        task_id="read_feed",
        http_conn_id="shop_api",
        method="GET",
        endpoint="{{ params.feed }}",
        response_filter=read_products,
    )

    # [START howto_operator_submit_mapped]
    make_video = ToAPIsSubmitVideoOperator.partial(
        task_id="make_video",
        map_index_template="{{ task.identity }}",
        model="{{ params.model }}",
        output_path="{{ params.output_directory }}/{{ task.identity | file_name }}.mp4",
        deferrable=True,
        retries=2,
    ).expand_kwargs(read_feed.output.map(as_video_request))
    # [END howto_operator_submit_mapped]

    publish_video.expand(product_and_video=read_feed.output.zip(make_video.output))
