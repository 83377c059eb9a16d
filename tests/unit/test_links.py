"""The buttons on a task's page."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

import pytest
from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

import airflow_provider_toapis
from airflow_provider_toapis.links.video import (
    ToAPIsBatchReportLink,
    ToAPIsConsoleLink,
    ToAPIsVideoLink,
    push_batch_report_link,
    push_console_link,
    push_video_link,
)
from tests.airflow_task import FakeTaskInstance

BOTH = pytest.mark.parametrize("kind", [ToAPIsVideoLink, ToAPIsConsoleLink])
RESULT_URL = "https://files.toapis.com/videos/1.mp4?signature=x"


def shown(link: BaseOperatorLink, ti: FakeTaskInstance, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what Airflow shows for the task instance."""
    monkeypatch.setattr(XCom, "get_value", lambda *, ti_key, key: ti_key.xcoms.get(key))
    return link.get_link(cast("Any", None), ti_key=cast("Any", ti))


def video_link(result: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    ti = FakeTaskInstance()
    push_video_link(ti.context, result)
    return shown(ToAPIsVideoLink(), ti, monkeypatch)


@pytest.mark.parametrize(
    ("output_path", "link"),
    [
        ("s3://shop/a b/ü&1.mp4", "https://s3.console.aws.amazon.com/s3/object/shop?prefix=a%20b/%C3%BC%261.mp4"),
        ("s3://aws_default@shop/1.mp4", "https://s3.console.aws.amazon.com/s3/object/shop?prefix=1.mp4"),
        ("gs://shop/videos/a#1.mp4", "https://storage.cloud.google.com/shop/videos/a%231.mp4"),
        ("https://files.example/1.mp4", "https://files.example/1.mp4"),
    ],
)
def test_stored_copy_comes_before_the_link_that_dies(
    output_path: str, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert video_link({"output_path": output_path, "url": RESULT_URL}, monkeypatch) == link


@pytest.mark.parametrize(
    "output_path", [None, "/videos/my shoe.mp4", "abfs://container/1.mp4", "javascript://%0aalert(1)"]
)
def test_services_link_stands_in_where_a_browser_cannot_open_the_copy(
    output_path: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert video_link({"output_path": output_path, "url": RESULT_URL}, monkeypatch) == RESULT_URL


def test_page_of_a_catalog_is_shown_only_where_a_browser_opens_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, disk = FakeTaskInstance(), FakeTaskInstance()
    push_batch_report_link(bucket.context, "gs://shop/index.html")
    push_batch_report_link(disk.context, "/videos/index.html")
    assert shown(ToAPIsBatchReportLink(), bucket, monkeypatch) == "https://storage.cloud.google.com/shop/index.html"
    assert disk.xcoms == {}


@pytest.mark.parametrize("url", [None, "javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", 7])
def test_nothing_is_shown_that_is_not_a_web_address(url: object, monkeypatch: pytest.MonkeyPatch) -> None:
    ti = FakeTaskInstance()
    push_video_link(ti.context, {"output_path": None, "url": url})
    assert ti.xcoms == {}
    assert shown(ToAPIsVideoLink(), ti, monkeypatch) == ""


def test_task_link_opens_the_console_of_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    ti = FakeTaskInstance()
    push_console_link(ti.context, "https://toapis.cn")
    assert shown(ToAPIsConsoleLink(), ti, monkeypatch) == "https://toapis.cn/console"


@BOTH
def test_what_airflow_stores_at_the_end_is_what_the_task_pushed(
    kind: type[ToAPIsVideoLink | ToAPIsConsoleLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    link, ti = kind(), FakeTaskInstance()
    ti.xcom_push(key=link.xcom_key, value="https://toapis.com/console")
    ti.xcom_push(key=link.xcom_key, value=shown(link, ti, monkeypatch))
    assert shown(link, ti, monkeypatch) == "https://toapis.com/console"


def test_links_do_not_share_a_name_or_an_xcom() -> None:
    assert ToAPIsVideoLink().name != ToAPIsConsoleLink().name
    assert ToAPIsVideoLink().xcom_key != ToAPIsConsoleLink().xcom_key


@BOTH
def test_airflow_knows_the_link(kind: type[ToAPIsVideoLink | ToAPIsConsoleLink]) -> None:
    paths = airflow_provider_toapis.get_provider_info()["extra-links"]
    known = [getattr(import_module(path.rpartition(".")[0]), path.rpartition(".")[2]) for path in paths]
    assert kind in known
    assert issubclass(kind, BaseOperatorLink)
