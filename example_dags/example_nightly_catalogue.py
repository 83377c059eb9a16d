"""Refresh the videos of a whole catalogue every night: only what is new or has changed, within a budget.

The feed is a JSON Lines or CSV file with ``key``, ``prompt`` and ``image``. The first DAG makes what is missing and
keeps it beside a manifest and a page for people; the second one runs when it is done. A failure is told to an HTTP
endpoint.
Needs the connections ``toapis_default`` (the API key as its password), ``shop_api`` and ``alerts`` (type HTTP).
"""

from __future__ import annotations

from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, Asset, Param
from airflow.providers.http.notifications.http import HttpNotifier
from airflow.providers.http.operators.http import HttpOperator

from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator

# [START howto_nightly_catalogue]
CATALOGUE = Asset(name="product_videos_manifest", uri="x-toapis://shop/manifest")

with DAG(
    dag_id="example_nightly_catalogue",
    description="Make the videos of all products that are new or have changed",
    doc_md=__doc__,
    schedule="0 1 * * *",
    catchup=False,
    max_active_runs=1,
    tags=["toapis", "example"],
    params={
        "feed": Param(
            str(Path.home() / "products.jsonl"),
            type="string",
            description="The product feed: a .jsonl or .csv file, local or in object storage",
        ),
        "output_folder": Param(
            str(Path.home() / "product_videos"),
            type="string",
            description="Where the videos are kept: a folder, or an object storage URI such as s3://bucket/videos",
        ),
        "max_cost_usd": Param(25, type="number", description="What one night may cost"),
    },
):
    ToAPIsVideoBatchOperator(
        task_id="make_videos",
        requests="{{ params.feed }}",
        output_path="{{ params.output_folder }}",
        max_cost_usd="{{ params.max_cost_usd }}",
        max_failures=0.02,
        deferrable=True,
        retries=3,
        outlets=[CATALOGUE],
        on_failure_callback=HttpNotifier(
            http_conn_id="alerts",
            endpoint="alerts",
            json={"text": "The videos of {{ ds }} are not complete: {{ ti.task_id }} failed. {{ ti.log_url }}"},
        ),
    )

with DAG(
    dag_id="example_publish_catalogue",
    description="Tell the shop where the manifest of the new videos lies",
    doc_md=__doc__,
    schedule=[CATALOGUE],
    catchup=False,
    tags=["toapis", "example"],
):
    HttpOperator(
        task_id="publish",
        http_conn_id="shop_api",
        method="POST",
        endpoint="shop/videos",
        headers={"Content-Type": "application/json"},
        data="{{ (triggering_asset_events.values() | first | last).extra | tojson }}",
    )
# [END howto_nightly_catalogue]
