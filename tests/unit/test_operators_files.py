"""The operators that upload and download files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_toapis.api.download import StoredFile
from airflow_provider_toapis.api.responses import TaskStatus, UploadedFile, VideoTask, parse_video_task
from airflow_provider_toapis.exceptions import ToAPIsDownloadError
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.operators.files import ToAPIsDownloadVideoOperator, ToAPIsUploadFileOperator
from airflow_provider_toapis.storage import destination
from tests.airflow_task import FakeTaskInstance
from tests.errors import rejects

EACH_OPERATOR = pytest.mark.parametrize(
    ("operator_class", "arguments"),
    [
        (ToAPIsUploadFileOperator, {"source": "/images/a.jpg"}),
        (ToAPIsDownloadVideoOperator, {"video_id": "video_1", "output_path": "/videos/"}),
    ],
)


@EACH_OPERATOR
def test_every_parameter_is_templated(operator_class: type[BaseOperator], arguments: dict[str, Any]) -> None:
    assert set(operator_class.template_fields) == {*arguments, "toapis_conn_id"}
    operator: Any = operator_class(task_id="move", **arguments)
    assert operator.toapis_conn_id == "toapis_default"
    assert {name: getattr(operator, name) for name in arguments} == arguments


@EACH_OPERATOR
def test_constructor_reads_nothing(
    operator_class: type[BaseOperator], arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToAPIsHook, "get_connection", lambda *_: pytest.fail("the connection was read"))
    operator_class(task_id="move", **arguments)


def test_upload_passes_the_source_and_returns_a_small_dict(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_download_of_unfinished_video_writes_nothing(
    status: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", '{"conn_type": "toapis", "password": "sk-unit-0123456789"}')
    task = parse_video_task({"id": "video_1", "status": status})
    monkeypatch.setattr(ToAPIsHook, "get_video", lambda *_: task)
    operator = ToAPIsDownloadVideoOperator(task_id="get", video_id="video_1", output_path=str(tmp_path / "videos"))
    with pytest.raises(ToAPIsDownloadError, match=status) as raised:
        operator.execute(FakeTaskInstance().context)
    assert raised.value.video_id == "video_1"
    assert list((tmp_path / "videos").iterdir()) == []


class TestDownload:
    @pytest.fixture(autouse=True)
    def service(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.downloaded: list[str] = []
        self.lost: set[str] = set()

        def get(_: ToAPIsHook, video_id: str) -> VideoTask:
            return VideoTask(
                id=video_id,
                status=TaskStatus.COMPLETED,
                raw_status="completed",
                urls=(f"https://files.example/{video_id}",),
            )

        def download(_: ToAPIsHook, task: VideoTask, output_path: str, *, max_bytes: int) -> StoredFile:
            assert max_bytes == 2 * 1024**3
            if task.id in self.lost:
                raise ToAPIsDownloadError("broken", video_id=task.id)
            self.downloaded.append(task.id)
            file = Path(destination(output_path, f"{task.id}.mp4").path)
            file.write_bytes(b"a video")
            return StoredFile(str(file), 7, hashlib.sha256(b"a video").hexdigest())

        monkeypatch.setattr(ToAPIsHook, "get_video", get)
        monkeypatch.setattr(ToAPIsHook, "download_video", download)

    def run(self, video_id: str | list[str], output_path: object, **more: Any) -> Any:
        operator = ToAPIsDownloadVideoOperator(task_id="get", video_id=video_id, output_path=str(output_path), **more)
        return operator.execute(FakeTaskInstance().context)

    def test_saved_file_is_not_downloaded_again_after_url_expired(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = self.run("video_1", tmp_path)
        monkeypatch.setattr(ToAPIsHook, "get_video", lambda *_: pytest.fail("the video was looked up"))
        again = self.run("video_1", tmp_path)
        assert again == first | {"url": None, "urls": []}
        assert self.downloaded == ["video_1"]

    @pytest.mark.parametrize("lost", ["removed", "cut short"])
    def test_missing_or_truncated_file_is_downloaded_again(self, lost: str, tmp_path: Path) -> None:
        file = Path(self.run("video_1", tmp_path)["output_path"])
        file.unlink() if lost == "removed" else file.write_bytes(b"a")
        self.run("video_1", tmp_path)
        assert (self.downloaded, file.read_bytes()) == (["video_1", "video_1"], b"a video")

    def test_each_file_name_gets_its_own_copy(self, tmp_path: Path) -> None:
        assert self.run("video_1", tmp_path / "a.mp4")["output_path"] == f"{tmp_path}/a.mp4"
        assert self.run("video_1", tmp_path / "b.mp4")["output_path"] == f"{tmp_path}/b.mp4"
        assert self.run("video_1", tmp_path / "b.mp4")["output_path"] == f"{tmp_path}/b.mp4"
        assert len(self.downloaded) == 2

    def test_list_is_saved_in_order_and_each_video_is_downloaded_once(self, tmp_path: Path) -> None:
        results = self.run(["video_2", "video_1", "video_2"], tmp_path)
        assert [video["id"] for video in results] == ["video_2", "video_1", "video_2"]
        assert sorted(self.downloaded) == ["video_1", "video_2"]

    def test_failed_download_does_not_prevent_the_others(self, tmp_path: Path) -> None:
        self.lost = {"video_1"}
        with pytest.raises(ToAPIsDownloadError):
            self.run(["video_1", "video_2", "video_3"], tmp_path, max_active=1)
        assert self.downloaded == ["video_2", "video_3"]

    def test_several_videos_for_one_file_name_are_rejected(self, tmp_path: Path) -> None:
        with rejects("output_path", str(tmp_path / "a.mp4")):
            self.run(["video_1", "video_2"], tmp_path / "a.mp4")
        assert self.downloaded == []

    @pytest.mark.parametrize("field", ["max_bytes", "max_active"])
    @pytest.mark.parametrize("value", [0, -1, True, 1.5, "4"])
    def test_invalid_limits_are_rejected(self, field: str, value: object, tmp_path: Path) -> None:
        with rejects(field, value):
            self.run("video_1", tmp_path, **{field: value})

    @pytest.mark.parametrize("video_id", ["", "  "])
    def test_list_with_an_empty_id_is_rejected_before_any_download(self, video_id: str, tmp_path: Path) -> None:
        with rejects("video_id", video_id):
            self.run(["video_1", video_id], tmp_path)
        assert self.downloaded == []
