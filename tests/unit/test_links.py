"""Airflow's extra links on the page of a task instance."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

import pytest
from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

import airflow_provider_toapis
from airflow_provider_toapis.links import video as links
from airflow_provider_toapis.links.video import (
    ToAPIsBatchReportLink,
    ToAPIsConsoleLink,
    ToAPIsVideoLink,
    push_batch_report_link,
    push_console_link,
    push_video_link,
)
from tests.airflow_task import FakeTaskInstance

EACH_LINK = pytest.mark.parametrize("link_class", [ToAPIsVideoLink, ToAPIsConsoleLink])
RESULT_URL = "https://files.toapis.com/videos/1.mp4?signature=x"


@pytest.fixture
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Push the links of Airflow before 3.1, whose UI cannot show the pages."""
    monkeypatch.setattr(links, "AIRFLOW_V_3_1_PLUS", False)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Push the links of Airflow 3.1 to 3.3."""
    monkeypatch.setattr(links, "AIRFLOW_V_3_1_PLUS", True)
    monkeypatch.setattr(links, "AIRFLOW_V_3_4_PLUS", False)


def shown_link(link: BaseOperatorLink, ti: FakeTaskInstance, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the link that Airflow shows for the task instance."""
    monkeypatch.setattr(XCom, "get_value", lambda *, ti_key, key: ti_key.xcoms.get(key))
    return link.get_link(cast("Any", None), ti_key=cast("Any", ti))


def video_link(result: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    ti = FakeTaskInstance()
    push_video_link(ti.context, result)
    return shown_link(ToAPIsVideoLink(), ti, monkeypatch)


@pytest.mark.parametrize(
    ("output_path", "link"),
    [
        ("s3://shop/a b/ü&1.mp4", "https://s3.console.aws.amazon.com/s3/object/shop?prefix=a%20b/%C3%BC%261.mp4"),
        ("s3://aws_default@shop/1.mp4", "https://s3.console.aws.amazon.com/s3/object/shop?prefix=1.mp4"),
        ("gs://shop/videos/a#1.mp4", "https://storage.cloud.google.com/shop/videos/a%231.mp4"),
        ("https://files.example/1.mp4", "https://files.example/1.mp4"),
    ],
)
def test_saved_file_is_preferred_to_the_result_url(
    output_path: str, link: str, no_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert video_link({"output_path": output_path, "url": RESULT_URL}, monkeypatch) == link


@pytest.mark.parametrize(
    "output_path", [None, "/videos/my shoe.mp4", "abfs://container/1.mp4", "javascript://%0aalert(1)"]
)
def test_result_url_is_shown_if_a_browser_cannot_open_the_file(
    output_path: str | None, no_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert video_link({"output_path": output_path, "url": RESULT_URL}, monkeypatch) == RESULT_URL


def test_batch_report_link_is_shown_only_if_a_browser_can_open_it(
    no_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, disk = FakeTaskInstance(), FakeTaskInstance()
    push_batch_report_link(bucket.context, "gs://shop/index.html")
    push_batch_report_link(disk.context, "/videos/index.html")
    assert (
        shown_link(ToAPIsBatchReportLink(), bucket, monkeypatch) == "https://storage.cloud.google.com/shop/index.html"
    )
    assert disk.xcoms == {}


@pytest.mark.parametrize("url", [None, "javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", 7])
def test_only_http_urls_are_shown(url: object, no_pages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ti = FakeTaskInstance()
    push_video_link(ti.context, {"output_path": None, "url": url})
    assert ti.xcoms == {}
    assert shown_link(ToAPIsVideoLink(), ti, monkeypatch) == ""


def test_no_link_is_shown_before_the_video_is_ready_without_pages(no_pages: None) -> None:
    ti = FakeTaskInstance()
    push_video_link(ti.context)
    push_batch_report_link(ti.context)
    assert ti.xcoms == {}


@pytest.mark.parametrize("result", [None, {"output_path": "s3://shop/1.mp4", "url": RESULT_URL}])
def test_video_link_opens_the_page_of_the_task_instance(
    result: dict[str, Any] | None, pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ti = FakeTaskInstance()
    push_video_link(ti.context, result)
    page = "/toapis/videos/videos/scheduled__2026-01-01/video?map_index=-1"
    assert shown_link(ToAPIsVideoLink(), ti, monkeypatch) == page


def test_link_names_the_iteration_of_a_loop(pages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "AIRFLOW_V_3_4_PLUS", True)
    ti = FakeTaskInstance()
    push_video_link(ti.context)
    page = f"/toapis/videos/videos/scheduled__2026-01-01/video?map_index=-1&ti={ti.id}"
    assert ti.xcoms == {ToAPIsVideoLink.xcom_key: page}


@pytest.mark.parametrize("report", [None, "/videos/index.html", "gs://shop/index.html"])
def test_batch_report_link_opens_the_page_of_the_task_instance(report: str | None, pages: None) -> None:
    ti = FakeTaskInstance(map_index=3)
    push_batch_report_link(ti.context, report)
    page = "/toapis/videos/videos/scheduled__2026-01-01/video?map_index=3"
    assert ti.xcoms == {ToAPIsBatchReportLink.xcom_key: page}


@pytest.mark.parametrize(
    ("base_url", "root"),
    [("https://airflow.example/team/a/", "/team/a"), ("https://airflow.example", ""), ("/team", "/team"), ("", "")],
)
def test_page_is_below_the_path_of_the_base_url(
    base_url: str, root: str, pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    ti = FakeTaskInstance()
    push_video_link(ti.context)
    page = f"{root}/toapis/videos/videos/scheduled__2026-01-01/video?map_index=-1"
    assert ti.xcoms == {ToAPIsVideoLink.xcom_key: page}


def test_page_of_a_task_instance_is_quoted(pages: None) -> None:
    ti = FakeTaskInstance(dag_id="ü.a", run_id="manual__2026-01-01T00:00:00+00:00/#?%", task_id="group.a b")
    push_video_link(ti.context)
    (page,) = ti.xcoms.values()
    path = "/%C3%BC.a/manual__2026-01-01T00%3A00%3A00%2B00%3A00%2F%23%3F%25/group.a%20b"
    assert page == f"/toapis/videos{path}?map_index=-1"


def test_task_instance_without_map_index_is_not_mapped(pages: None) -> None:
    ti = FakeTaskInstance()
    ti.map_index = cast("Any", None)
    push_video_link(ti.context)
    assert next(iter(ti.xcoms.values())).endswith("?map_index=-1")


def test_console_link_opens_the_console_of_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    ti = FakeTaskInstance()
    push_console_link(ti.context, "https://toapis.cn")
    assert shown_link(ToAPIsConsoleLink(), ti, monkeypatch) == "https://toapis.cn/console"


@EACH_LINK
def test_link_stored_by_airflow_equals_the_pushed_link(
    link_class: type[ToAPIsVideoLink | ToAPIsConsoleLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    link, ti = link_class(), FakeTaskInstance()
    ti.xcom_push(key=link.xcom_key, value="https://toapis.com/console")
    ti.xcom_push(key=link.xcom_key, value=shown_link(link, ti, monkeypatch))
    assert shown_link(link, ti, monkeypatch) == "https://toapis.com/console"


def test_links_have_different_names_and_xcom_keys() -> None:
    assert ToAPIsVideoLink().name != ToAPIsConsoleLink().name
    assert ToAPIsVideoLink().xcom_key != ToAPIsConsoleLink().xcom_key


@EACH_LINK
def test_link_is_registered_in_the_provider_info(link_class: type[ToAPIsVideoLink | ToAPIsConsoleLink]) -> None:
    paths = airflow_provider_toapis.get_provider_info()["extra-links"]
    known = [getattr(import_module(path.rpartition(".")[0]), path.rpartition(".")[2]) for path in paths]
    assert link_class in known
    assert issubclass(link_class, BaseOperatorLink)
