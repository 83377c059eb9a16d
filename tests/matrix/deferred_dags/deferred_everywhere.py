"""A DAG for every Airflow version: an operator that defers and saves its video, and a sensor that defers.

It runs once, as soon as it is not paused, because the commands that trigger a run differ between versions.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from airflow_provider_toapis.sensors.video import ToAPIsVideoSensor

with DAG(dag_id="deferred_everywhere", schedule="@once", start_date=datetime(2026, 1, 1, tzinfo=UTC)):
    ToAPIsSubmitVideoOperator(
        task_id="make_video",
        prompt="It turns once",
        image=os.environ["MATRIX_IMAGE"],
        output_path=os.environ["MATRIX_OUTPUT"],
        poll_interval=5,
        deferrable=True,
    )
    submit_video = ToAPIsSubmitVideoOperator(
        task_id="submit_video",
        prompt="It turns twice",
        image=os.environ["MATRIX_IMAGE"],
        wait_for_completion=False,
    )
    wait_for_video = ToAPIsVideoSensor(
        task_id="wait_for_video",
        video_id="{{ ti.xcom_pull(task_ids='submit_video')['id'] }}",
        poke_interval=5,
        deferrable=True,
    )
    submit_video >> wait_for_video
