"""Extra links of operators. The task pushes the URL of each link to XCom, and the link reads it there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_provider_toapis.api.result_urls import is_url
from airflow_provider_toapis.assets import uri_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey

__all__ = ["ToAPIsBatchReportLink", "ToAPIsConsoleLink", "ToAPIsVideoLink"]

#: Web pages that show an object in object storage to a signed-in user.
_OBJECT_PAGES = {
    "s3": "https://s3.console.aws.amazon.com/s3/object/{bucket}?prefix={key}",
    "gs": "https://storage.cloud.google.com/{bucket}/{key}",
}


class _PushedLink(BaseOperatorLink):
    # Airflow 3 shows the XCom with this key. Whenever the task leaves a worker, Airflow 3 overwrites the XCom with the
    # result of `get_link`, which is the same value. Airflow 2 has no such key and calls `get_link` to show the link.
    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Return the URL that the task pushed; an empty string before that."""
        from airflow.providers.common.compat.sdk import XCom

        return XCom.get_value(ti_key=ti_key, key=self.xcom_key) or ""


class ToAPIsVideoLink(_PushedLink):
    """Link to the video saved in object storage, or else to the result URL, which expires after 24 hours."""

    name = "Video"
    xcom_key = "toapis_video_link"


class ToAPIsBatchReportLink(_PushedLink):
    """Link to the report of a batch, a page that shows all of its videos."""

    name = "Batch report"
    xcom_key = "toapis_batch_report_link"


class ToAPIsConsoleLink(_PushedLink):
    """Link to the service's console.

    The link does not open a single task in the console, because the service documents no URL for that.
    """

    name = "ToAPIs console"
    xcom_key = "toapis_console_link"


def push_video_link(context: Context, result: Mapping[str, Any]) -> None:
    """Push the URL of a result's video for the extra link, if a browser can open that URL."""
    url = _page_url(result.get("output_path")) or _web_url(result.get("url"))
    if url is not None:
        context["ti"].xcom_push(key=ToAPIsVideoLink.xcom_key, value=url)


def push_batch_report_link(context: Context, report: str) -> None:
    """Push the URL of a batch's report for the extra link, if a browser can open that URL."""
    url = _page_url(report)
    if url is not None:
        context["ti"].xcom_push(key=ToAPIsBatchReportLink.xcom_key, value=url)


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
