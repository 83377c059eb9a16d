"""Videos that are not what was requested, made by single tasks and by batches that warn or fail.

It runs once, as soon as it is not paused, because the commands that trigger a run differ between versions.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator

FLAWS = os.environ["MATRIX_FLAWS"].split()
#: Flaws of the videos that single tasks make. With SQLite, Airflow 2.11 runs one task at a time.
SINGLE_FLAWS = os.environ["MATRIX_SINGLE_FLAWS"].split()
DIRECTORY = os.environ["MATRIX_OUTPUT"]
REQUEST: dict[str, Any] = {"model": "grok-video-1.5", "duration": 4, "aspect_ratio": "16:9"}

with DAG(dag_id="flawed_everywhere", schedule="@once", start_date=datetime(2026, 1, 1, tzinfo=UTC)):
    for check in ("warn", "fail"):
        ToAPIsSubmitVideoOperator.partial(
            task_id=f"{check}_one",
            image=os.environ["MATRIX_IMAGE"],
            check=check,
            poster=True,
            deferrable=True,
            retries=1,
            retry_delay=timedelta(0),
            **REQUEST,
        ).expand_kwargs(
            [
                {"prompt": f"Video {flaw}.", "identity": flaw, "output_path": f"{DIRECTORY}/{check}_one/{flaw}.mp4"}
                for flaw in SINGLE_FLAWS
            ]
        )
        ToAPIsVideoBatchOperator(
            task_id=f"{check}_batch",
            requests=[{"key": flaw, "prompt": f"Row {flaw}.", "image": os.environ["MATRIX_IMAGE"]} for flaw in FLAWS],
            output_path=f"{DIRECTORY}/{check}_batch/",
            check=check,
            max_failures=0,
            deferrable=True,
            **REQUEST,
        )
