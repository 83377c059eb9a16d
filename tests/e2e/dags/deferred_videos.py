"""A mapped task for ``DeferredVideos``, which defers its instances directly in the database."""

from __future__ import annotations

from airflow.sdk import dag, task

from airflow_provider_toapis.sensors.video import ToAPIsVideoSensor


@task
def ids() -> list[str]:
    return ["video_1"]


@dag(schedule=None, catchup=False)
def deferred_videos() -> None:
    ToAPIsVideoSensor.partial(task_id="wait", deferrable=True).expand(video_id=ids())


deferred_videos()
