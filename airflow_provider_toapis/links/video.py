"""Extra links of operators. The task pushes the URL of each link to XCom, and the link reads it there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow.providers.common.compat.sdk import BaseOperatorLink, conf

from airflow_provider_toapis.api.result_urls import is_url
from airflow_provider_toapis.assets import uri_of
from airflow_provider_toapis.version_compat import AIRFLOW_V_3_1_PLUS, AIRFLOW_V_3_4_PLUS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey

__all__ = ["ToAPIsBatchReportLink", "ToAPIsConsoleLink", "ToAPIsVideoLink"]

#: Web pages that show an object in object storage to a signed-in user.
_OBJECT_PAGES = {
    "s3": "https://s3.console.aws.amazon.com/s3/object/{bucket}?prefix={key}",
    "gs": "https://storage.cloud.google.com/{bucket}/{key}",
}
#: Path of the pages about videos in Airflow's API server.
VIDEOS_PATH = "/toapis/videos"
#: Placeholder for the map index in the address of a tab in Airflow's UI.
MAP_INDEX = "{MAP_INDEX}"


def videos_base() -> str:
    """Return the path of the pages about videos, below the path of ``[api] base_url``."""
    base_url = conf.get("api", "base_url", fallback="")
    return f"{urlsplit(base_url).path.rstrip('/')}{VIDEOS_PATH}"


def task_page(ti: Any) -> str:  # noqa: ANN401 - Airflow's task instance
    """Return the path of a task instance's page."""
    names = "/".join(quote(str(name), safe="") for name in (ti.dag_id, ti.run_id, ti.task_id))
    index = -1 if ti.map_index is None else int(ti.map_index)
    # In a loop, all iterations have the same map index.
    loop = f"&ti={ti.id}" if AIRFLOW_V_3_4_PLUS else ""
    return f"{videos_base()}/{names}?map_index={index}{loop}"


class _PushedLink(BaseOperatorLink):
    # Airflow 3 shows the XCom with this key. Whenever the task leaves a worker, Airflow 3 overwrites the XCom with the
    # result of `get_link`, which is the same value. Airflow 2 has no such key and calls `get_link` to show the link.
    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Return the URL that the task pushed; an empty string before that."""
        from airflow.providers.common.compat.sdk import XCom

        return XCom.get_value(ti_key=ti_key, key=self.xcom_key) or ""


class ToAPIsVideoLink(_PushedLink):
    """Link to the page of the task instance's video inside Airflow.

    Before Airflow 3.1, which has no such page, the link opens the video in object storage, or else the result URL,
    which expires after 24 hours.
    """

    name = "Video"
    xcom_key = "toapis_video_link"


class ToAPIsBatchReportLink(_PushedLink):
    """Link to the page that shows all videos of a batch.

    On Airflow 3.1 and newer, the page is inside Airflow. Before, it is the report in object storage.
    """

    name = "Batch report"
    xcom_key = "toapis_batch_report_link"


class ToAPIsConsoleLink(_PushedLink):
    """Link to the service's console.

    The link does not open a single task in the console, because the service documents no URL for that.
    """

    name = "ToAPIs console"
    xcom_key = "toapis_console_link"


def push_video_link(context: Context, result: Mapping[str, Any] | None = None) -> None:
    """Push the URL for the extra link "Video".

    :param result: The result of the task; None before the video is ready.
    """
    known = result or {}
    saved_at = _page_url(known.get("output_path")) or _web_url(known.get("url"))
    _push_link(context, ToAPIsVideoLink.xcom_key, saved_at)


def push_batch_report_link(context: Context, report: str | None = None) -> None:
    """Push the URL for the extra link "Batch report".

    :param report: Path or URI of the report; None before it is written.
    """
    _push_link(context, ToAPIsBatchReportLink.xcom_key, _page_url(report))


def _push_link(context: Context, key: str, saved_at: str | None) -> None:
    """Push the page of the task instance or, before Airflow 3.1, the URL of the saved file if a browser can open it."""
    url = task_page(context["ti"]) if AIRFLOW_V_3_1_PLUS else saved_at
    if url:
        context["ti"].xcom_push(key=key, value=url)


def push_console_link(context: Context, base_url: str) -> None:
    """Push the URL of the console for the extra link. Called before the wait, so that a deferred task has the link.

    :param base_url: Base URL of the service from the connection.
    """
    context["ti"].xcom_push(key=ToAPIsConsoleLink.xcom_key, value=f"{base_url}/console")


def _page_url(path: str | None) -> str | None:
    if path is None:
        return None
    uri = uri_of(path)
    scheme, _, rest = uri.partition("://")
    page = _OBJECT_PAGES.get(scheme)
    if page is not None:
        bucket, _, key = rest.partition("/")
        return page.format(bucket=bucket, key=quote(key))
    return _web_url(uri)


def _web_url(url: str | None) -> str | None:
    # Other schemes are unsafe (javascript:) or blocked by browsers (file:). If no URL is pushed, Airflow shows no link.
    return url if is_url(url) else None
