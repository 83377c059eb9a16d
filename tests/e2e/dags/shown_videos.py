"""Videos and a batch for the pages inside Airflow, and XComs that the author of a DAG has forged."""

from __future__ import annotations

from typing import Any

from airflow.sdk import dag, get_current_context, task

from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator


@dag(schedule=None, catchup=False)
def shown_videos() -> None:
    # Only one task is deferred, because a resumed task needs another process.
    common: dict[str, Any] = {"image": "{{ params.image }}", "poll_interval": 5}
    for task_id, location in (("on_disk", "directory"), ("in_bucket", "bucket")):
        path = f"{{{{ params.{location} }}}}/{task_id}.mp4"
        ToAPIsSubmitVideoOperator(task_id=task_id, prompt="It turns", output_path=path, poster=True, **common)
    ToAPIsSubmitVideoOperator(
        task_id="in_progress", prompt="It turns slowly", toapis_conn_id="toapis_slow", deferrable=True, **common
    )
    ToAPIsSubmitVideoOperator(
        task_id="failing", prompt="{{ params.failing }}", identity="{{ params.identity }}", max_generations=1, **common
    )


@dag(schedule=None, catchup=False)
def reviewed_videos() -> None:
    ToAPIsVideoBatchOperator(
        task_id="make_videos",
        requests="{{ params.feed }}",
        output_path="{{ params.directory }}",
        poster=True,
        poll_interval=5,
    )


@task
def forged(name: str) -> Any:
    """Push the XComs in the run's configuration, as the author of any DAG can."""
    context = get_current_context()
    xcoms = context["params"][name]
    returned = xcoms.pop("return_value", None)
    for key, value in xcoms.items():
        context["ti"].xcom_push(key=key, value=value)
    return returned


@dag(schedule=None, catchup=False)
def forged_videos() -> None:
    for name in ("videos", "stolen", "outside", "large"):
        forged.override(task_id=name)(name)


shown_videos()
reviewed_videos()
forged_videos()
