"""Make the videos of all new and changed products of a catalog every night, within a budget.

The feed is a JSON Lines or CSV file with ``key``, ``prompt`` and ``image``. The first DAG makes the missing videos and
saves them next to a manifest and a report page. The second DAG runs when the first has finished. If the first DAG
fails, it sends an alert to an HTTP endpoint. Requires Airflow 3, and the connections ``toapis_default`` (the API key as
its password) and ``alerts`` (type HTTP).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Asset, ObjectStoragePath, Param
from airflow.providers.http.notifications.http import HttpNotifier
from airflow.providers.standard.operators.python import PythonOperator

from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator

CATALOG = Asset(name="product_videos_manifest", uri="x-toapis://shop/manifest")

with DAG(
    dag_id="example_nightly_catalog",
    description="Make the videos of all new and changed products",
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
        "output_directory": Param(
            str(Path.home() / "nightly_videos"),
            type="string",
            description="Where to save the videos: a directory, or an object storage URI such as s3://bucket/videos",
        ),
        "max_cost_usd": Param(25, type="number", description="Maximum cost of one night in US dollars"),
    },
):
    # [START howto_operator_batch]
    ToAPIsVideoBatchOperator(
        task_id="make_videos",
        requests="{{ params.feed }}",
        output_path="{{ params.output_directory }}",
        max_cost_usd="{{ params.max_cost_usd }}",
        max_failures=0.02,
        deferrable=True,
        retries=3,
        max_active_tis_per_dag=1,
        outlets=[CATALOG],
        on_failure_callback=HttpNotifier(
            http_conn_id="alerts",
            endpoint="alerts",
            json={"text": "Run {{ run_id }} did not make all videos: {{ ti.task_id }} failed. {{ ti.log_url }}"},
        ),
    )
    # [END howto_operator_batch]


def read_manifest(triggering_asset_events: Mapping[Asset, Sequence[Any]]) -> list[dict[str, Any]]:
    """List the videos of the newest run. The asset event contains the path of the manifest."""
    summary = triggering_asset_events[CATALOG][-1].extra
    entries = [json.loads(line) for line in ObjectStoragePath(summary["manifest"]).read_text().splitlines()]
    newest = max((entry["saved_at"], entry["run_id"]) for entry in entries if entry["file"])[1]
    return [{name: entry[name] for name in ("key", "file", "sha256")} for entry in entries if entry["run_id"] == newest]


with DAG(
    dag_id="example_publish_catalog",
    description="List the new videos for the shop",
    doc_md=__doc__,
    schedule=[CATALOG],
    catchup=False,
    tags=["toapis", "example"],
):
    PythonOperator(task_id="list_new_videos", python_callable=read_manifest)
