"""The operators that move files: what a DAG author writes."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_toapis.api.models import UploadedFile, parse_video_task
from airflow_provider_toapis.exceptions import ToAPIsDownloadError
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.operators.files import ToAPIsDownloadVideoOperator, ToAPIsUploadFileOperator
from tests.airflow_task import FakeTaskInstance

BOTH = pytest.mark.parametrize(
    ("kind", "own"),
    [
        (ToAPIsUploadFileOperator, {"source": "/pictures/a.jpg"}),
        (ToAPIsDownloadVideoOperator, {"video_id": "video_1", "output_path": "/videos/"}),
    ],
)


@BOTH
def test_every_parameter_is_templated(kind: type[BaseOperator], own: dict[str, Any]) -> None:
    assert set(kind.template_fields) == {*own, "toapis_conn_id"}
    operator: Any = kind(task_id="move", **own)
    assert operator.toapis_conn_id == "toapis_default"
    assert {name: getattr(operator, name) for name in own} == own


@BOTH
def test_constructor_reads_nothing(
    kind: type[BaseOperator], own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToAPIsHook, "get_connection", lambda *_: pytest.fail("it read the connection"))
    kind(task_id="move", **own)


def test_upload_takes_any_kind_of_file_and_returns_a_small_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    sources: list[tuple[object, ...]] = []

    def upload(_: ToAPIsHook, *given: object) -> UploadedFile:
        sources.append(given)
        return UploadedFile(id="upload_1", url="https://files.example/a.jpg", mime_type="image/jpeg", size=3)

    monkeypatch.setattr(ToAPIsHook, "upload_file", upload)
    result = ToAPIsUploadFileOperator(task_id="upload", source="s3://bucket/a.jpg").execute(FakeTaskInstance().context)
    assert sources == [("s3://bucket/a.jpg",)]
    assert result == {
        "id": "upload_1",
        "url": "https://files.example/a.jpg",
        "mime_type": "image/jpeg",
        "size": 3,
    }


@pytest.mark.parametrize("status", ["queued", "in_progress", "failed"])
def test_download_of_what_is_not_finished_writes_nothing(
    status: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", '{"conn_type": "toapis", "password": "sk-unit-0123456789"}')
    task = parse_video_task({"id": "video_1", "status": status})
    monkeypatch.setattr(ToAPIsHook, "get_video", lambda *_: task)
    operator = ToAPIsDownloadVideoOperator(task_id="get", video_id="video_1", output_path=str(tmp_path / "videos"))
    with pytest.raises(ToAPIsDownloadError, match=f"video_1.*{status}"):
        operator.execute(FakeTaskInstance().context)
    assert list(tmp_path.iterdir()) == []
