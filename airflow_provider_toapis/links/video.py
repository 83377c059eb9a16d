"""Operator links. Each reads the XCom that the task pushed for it, as soon as there is something to open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_provider_toapis.api.result_urls import is_url
from airflow_provider_toapis.video_metadata import uri_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey

__all__ = ["ToAPIsBatchReportLink", "ToAPIsConsoleLink", "ToAPIsVideoLink"]

#: Where a browser that is signed in opens an object.
_OBJECT_PAGES = {
    "s3": "https://s3.console.aws.amazon.com/s3/object/{bucket}?prefix={key}",
    "gs": "https://storage.cloud.google.com/{bucket}/{key}",
}


class _PushedLink(BaseOperatorLink):
    # Airflow 3 shows the XCom of this key, and whenever the task leaves a worker overwrites it with what `get_link`
    # returns: that is what stands there already. Airflow 2 knows no such key and calls `get_link` to show it.
    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Return what the task pushed; empty before that."""
        from airflow.providers.common.compat.sdk import XCom

        return XCom.get_value(ti_key=ti_key, key=self.xcom_key) or ""


class ToAPIsVideoLink(_PushedLink):
    """The video: its copy in object storage, else the service's link to it, which dies after 24 hours."""

    name = "Video"
    xcom_key = "toapis_video_link"


class ToAPIsBatchReportLink(_PushedLink):
    """The report of a batch: a page that shows all of its videos."""

    name = "Batch report"
    xcom_key = "toapis_batch_report_link"


class ToAPIsConsoleLink(_PushedLink):
    """The console of the account that made the video.

    The vendor documents the address of the console, but none for a single task in it.
    """

    name = "ToAPIs console"
    xcom_key = "toapis_console_link"


def push_video_link(context: Context, result: Mapping[str, Any]) -> None:
    """Show where the video of an operator's result can be watched, if a browser can open it anywhere."""
    url = _page_url(result.get("output_path")) or _web_url(result.get("url"))
    if url is not None:
        context["ti"].xcom_push(key=ToAPIsVideoLink.xcom_key, value=url)


def push_batch_report_link(context: Context, report: str) -> None:
    """Show the report of a batch, if a browser can open it where it is."""
    url = _page_url(report)
    if url is not None:
        context["ti"].xcom_push(key=ToAPIsBatchReportLink.xcom_key, value=url)


def push_console_link(context: Context, base_url: str) -> None:
    """Show the console of the account; before any waiting, so that it is there while the task is deferred.

    :param base_url: Address of the service as the connection names it.
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
    # Nobody's page may run another scheme, say javascript:, and no browser opens a file from a web page: Airflow leaves
    # the button out then.
    return url if is_url(url) else None
