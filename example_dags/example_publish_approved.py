"""Publish the videos of a catalog that a person has approved.

Reviewers open the batch of ``example_nightly_catalog`` on the page "Videos" of Airflow's UI (Airflow 3.1 and newer).
They approve a video, or request another one with a comment. The next night makes the requested videos. This DAG
publishes the approved ones every morning.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_toapis.batch.reviews import approved_videos

log = logging.getLogger(__name__)

with DAG(
    dag_id="example_publish_approved",
    description="Publish the videos that a person has approved",
    doc_md=__doc__,
    schedule="0 9 * * *",
    catchup=False,
    tags=["toapis", "example"],
    params={
        "batch_directory": Param(
            str(Path.home() / "nightly_videos"),
            type="string",
            description="The directory of the batch, or an object storage URI such as s3://bucket/videos",
        ),
    },
):
    # [START howto_approved_videos]
    @task
    def list_approved(directory: str) -> list[dict[str, Any]]:
        """List the approved videos of the batch."""
        return approved_videos(directory)

    # [END howto_approved_videos]

    @task
    def publish_video(video: dict[str, Any]) -> None:
        """Publish a video. Replace this function with one that calls your shop."""
        log.info("Publishing %s, approved by %s", video["path"], video["approved_by"])

    publish_video.expand(video=list_approved("{{ params.batch_directory }}"))
