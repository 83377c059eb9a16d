"""Receipts: a saved video is neither requested nor billed again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from airflow_provider_toapis import receipts
from airflow_provider_toapis.exceptions import ToAPIsConnectionError
from airflow_provider_toapis.receipts import saved_result, write_receipt
from tests.unit.object_storage import attach

RESULT: dict[str, Any] = {
    "id": "video_1",
    "status": "completed",
    "model": "grok-video-1.5",
    "url": "https://files.toapis.com/videos/1.mp4?signature=secret",
    "urls": ["https://files.toapis.com/videos/1.mp4?signature=secret"],
    "format": "mp4",
    "billing": {"status": "settled", "cost_usd": "0.10"},
    "client_business_id": "af-1",
    "size": 7,
    "sha256": hashlib.sha256(b"a video").hexdigest(),
    "media": None,
    "warnings": [],
    "poster_path": None,
}


def task_instance(task_id: str = "make", map_index: int = 0, run_id: str = "night 1") -> Any:
    return SimpleNamespace(dag_id="shop", run_id=run_id, task_id=task_id, map_index=map_index)


TI = task_instance()


def save_with_receipt(output_path: Path, file: str, *, on_disk: bytes | None = b"a video") -> dict[str, Any]:
    """Save a 7-byte video and its receipt; ``on_disk`` is the file's content afterwards."""
    result = RESULT | {"output_path": file}
    write_receipt(str(output_path), "af-1", result, TI)
    if on_disk is not None:
        Path(file).write_bytes(on_disk)
    return result | {"url": None, "urls": []}


class TestSavedVideo:
    def test_saved_result_has_no_result_urls(self, tmp_path: Path) -> None:
        expected = save_with_receipt(tmp_path, f"{tmp_path}/video_1.mp4")
        assert saved_result(str(tmp_path), "af-1") == expected

    def test_receipt_is_found_next_to_a_chosen_file_name(self, tmp_path: Path) -> None:
        file = tmp_path / "shoe.mp4"
        expected = save_with_receipt(file, str(file))
        assert saved_result(str(file), "af-1") == expected
        assert (tmp_path / "af-1.json").exists()

    def test_saved_video_is_found_after_its_directory_moved(self, tmp_path: Path) -> None:
        (tmp_path / "old").mkdir()
        save_with_receipt(tmp_path / "old", f"{tmp_path}/old/video_1.mp4")
        (tmp_path / "old").rename(tmp_path / "new")
        found = saved_result(f"{tmp_path}/new", "af-1")
        assert found is not None
        assert (found["id"], found["output_path"]) == ("video_1", f"{tmp_path}/new/video_1.mp4")

    def test_receipt_contains_no_url(self, tmp_path: Path) -> None:
        save_with_receipt(tmp_path, f"{tmp_path}/video_1.mp4")
        text = (tmp_path / "af-1.json").read_text()
        assert "secret" not in text
        assert json.loads(text)["sha256"] == RESULT["sha256"]

    def test_receipt_is_replaced(self, tmp_path: Path) -> None:
        save_with_receipt(tmp_path, f"{tmp_path}/video_1.mp4")
        write_receipt(str(tmp_path), "af-1", RESULT | {"output_path": f"{tmp_path}/video_1.mp4", "id": "video_2"}, TI)
        found = saved_result(str(tmp_path), "af-1")
        assert found is not None
        assert found["id"] == "video_2"


class TestInObjectStorage:
    @pytest.fixture(autouse=True)
    def _memory(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
        self.memory = MemoryFileSystem()
        attach(monkeypatch, self.memory)
        yield self.memory
        self.memory.store.clear()

    @pytest.mark.parametrize("output_path", ["memory://videos/night", "memory://videos/night/video_1.mp4"])
    def test_saved_video_is_found(self, output_path: str) -> None:
        self.memory.pipe_file("/videos/night/video_1.mp4", b"a video")
        write_receipt(output_path, "af-1", RESULT | {"output_path": "memory://videos/night/video_1.mp4"}, TI)
        found = saved_result(output_path, "af-1")
        assert found is not None
        assert (found["id"], found["url"]) == ("video_1", None)

    @pytest.mark.parametrize("content", [None, b"a vide"], ids=["missing", "short"])
    def test_missing_or_truncated_object_is_not_saved(self, content: bytes | None) -> None:
        if content is not None:
            self.memory.pipe_file("/videos/video_1.mp4", content)
        write_receipt("memory://videos", "af-1", RESULT | {"output_path": "memory://videos/video_1.mp4"}, TI)
        assert saved_result("memory://videos", "af-1") is None

    def test_object_without_receipt_is_not_saved(self) -> None:
        assert saved_result("memory://videos", "af-1") is None


class TestNotSaved:
    def test_missing_receipt_means_not_saved(self, tmp_path: Path) -> None:
        assert saved_result(str(tmp_path), "af-1") is None

    def test_receipt_of_another_submission_is_ignored(self, tmp_path: Path) -> None:
        save_with_receipt(tmp_path, f"{tmp_path}/video_1.mp4")
        assert saved_result(str(tmp_path), "af-2") is None

    @pytest.mark.parametrize("on_disk", [None, b"", b"a vide", b"a video!"], ids=["missing", "empty", "short", "long"])
    def test_missing_or_truncated_file_means_not_saved(self, tmp_path: Path, on_disk: bytes | None) -> None:
        save_with_receipt(tmp_path, f"{tmp_path}/video_1.mp4", on_disk=on_disk)
        assert saved_result(str(tmp_path), "af-1") is None

    @pytest.mark.parametrize(
        "receipt",
        [b"", b"{", b"[]", b"7", b"null", b'"text"', b"{}", b"\xff\xfe", b'{"output_path": null, "size": 7}'],
    )
    def test_unreadable_receipt_is_ignored(self, tmp_path: Path, receipt: bytes) -> None:
        (tmp_path / "af-1.json").write_bytes(receipt)
        assert saved_result(str(tmp_path), "af-1") is None

    @pytest.mark.parametrize("field", ["id", "size", "sha256", "output_path"])
    def test_receipt_with_a_missing_field_is_ignored(self, tmp_path: Path, field: str) -> None:
        save_with_receipt(tmp_path, f"{tmp_path}/video_1.mp4")
        receipt = json.loads((tmp_path / "af-1.json").read_text())
        del receipt[field]
        (tmp_path / "af-1.json").write_text(json.dumps(receipt))
        assert saved_result(str(tmp_path), "af-1") is None

    def test_receipt_without_size_is_ignored(self, tmp_path: Path) -> None:
        save_with_receipt(tmp_path, f"{tmp_path}/video_1.mp4")
        (tmp_path / "af-1.json").write_text(json.dumps({"output_path": f"{tmp_path}/video_1.mp4"}))
        assert saved_result(str(tmp_path), "af-1") is None


class TestFailedWrite:
    def test_failed_write_leaves_no_partial_receipt(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail_disk_full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail_disk_full)
        with pytest.raises(ToAPIsConnectionError, match="No space"):
            write_receipt(str(tmp_path), "af-1", RESULT | {"output_path": f"{tmp_path}/video_1.mp4"}, TI)
        assert list(tmp_path.iterdir()) == []


def save(file: Path, video: str, key: str, ti: Any) -> None:
    """Save a video as the operators do; all videos have the same size."""
    content = f"the content of {video}".encode()
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    result = {"id": video, "output_path": str(file), "size": len(content), "sha256": digest}
    write_receipt(str(file), key, RESULT | result, ti)


class TestReplacedFile:
    def test_receipt_of_a_replaced_file_is_rejected(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        file = tmp_path / "shoe.mp4"
        save(file, "video_a", "af-a", task_instance(map_index=0))
        save(file, "video_b", "af-b", task_instance(map_index=1))
        caplog.clear()
        assert saved_result(str(file), "af-a") is None
        (warning,) = caplog.records
        assert warning.levelname == "WARNING"
        assert "video_a" in caplog.text
        assert "video_b" in caplog.text
        found = saved_result(str(file), "af-b")
        assert found is not None
        assert found["id"] == "video_b"

    @pytest.mark.parametrize("looked_up_before", [False, True])
    def test_receipt_is_rejected_if_content_differs_with_same_size(
        self, tmp_path: Path, looked_up_before: bool
    ) -> None:
        file = tmp_path / "shoe.mp4"
        save(file, "video_a", "af-a", TI)
        if looked_up_before:
            assert saved_result(str(file), "af-a") is not None
        file.write_bytes(b"the content of video_b")
        os.utime(file, (1, 1))
        assert saved_result(str(file), "af-a") is None

    def test_replaced_file_of_the_same_run_logs_a_warning_with_both_videos(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = tmp_path / "shoe.mp4"
        with caplog.at_level(logging.INFO):
            for index in range(3):
                save(file, f"video_{index}", f"af-{index}", task_instance(map_index=index))
        warnings = [record.args for record in caplog.records if record.levelname == "WARNING"]
        assert warnings == [(f"video_{number + 1}", f"video_{number}", str(file)) for number in range(2)]

    @pytest.mark.parametrize(
        ("earlier", "later"),
        [
            (task_instance(run_id="night 1"), task_instance(run_id="night 2")),
            # A generation that replaces an earlier one.
            (task_instance(), task_instance()),
        ],
        ids=["an older run", "the same task instance"],
    )
    def test_replaced_file_of_an_older_run_is_logged_as_info(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, earlier: Any, later: Any
    ) -> None:
        with caplog.at_level(logging.INFO):
            save(tmp_path / "shoe.mp4", "video_1", "af-1", earlier)
            save(tmp_path / "shoe.mp4", "video_2", "af-2", later)
        assert [(record.levelname, record.args) for record in caplog.records] == [("INFO", ("video_2", "video_1"))]

    def test_same_video_saved_again_is_not_logged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            save(tmp_path / "shoe.mp4", "video_1", "af-1", TI)
            save(tmp_path / "shoe.mp4", "video_1", "af-1", task_instance(map_index=1))
        assert caplog.records == []

    def test_file_names_with_different_non_ascii_letters_are_different_files(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for index, name in enumerate(["鞋.mp4", "帽.mp4", "_.mp4"]):
            save(tmp_path / name, f"video_{index}", f"af-{index}", task_instance(map_index=index))
        assert caplog.records == []

    @pytest.mark.parametrize("name", [f"{'x' * 251}.mp4", f"{'x' * 239}.mp4", f"{'鞋' * 83}.mp4"], ids=len)
    def test_file_name_of_maximum_length_is_accepted(self, tmp_path: Path, name: str) -> None:
        file = tmp_path / name
        save(file, "video_a", "af-a", TI)
        save(file, "video_b", "af-b", TI)
        assert saved_result(str(file), "af-a") is None
        assert saved_result(str(file), "af-b") is not None

    def test_second_receipt_is_named_after_the_video_file(self, tmp_path: Path) -> None:
        save(tmp_path / f"{'x' * 238}.mp4", "video_a", "af-a", TI)
        assert (tmp_path / f".{'x' * 238}.mp4.toapis.json").exists()

    def test_output_directory_gets_no_second_receipt(self, tmp_path: Path) -> None:
        save_with_receipt(tmp_path, f"{tmp_path}/video_1.mp4")
        assert sorted(file.name for file in tmp_path.iterdir()) == ["af-1.json", "video_1.mp4"]


class TestVersion:
    """Modification time or ETag."""

    def test_touched_file_is_still_accepted(self, tmp_path: Path) -> None:
        save_with_receipt(tmp_path, f"{tmp_path}/video_1.mp4")
        for seconds in (1, 2):
            os.utime(tmp_path / "video_1.mp4", (seconds, seconds))
            assert saved_result(str(tmp_path), "af-1") is not None

    def test_file_is_hashed_once_and_then_recognized_by_its_version(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_with_receipt(tmp_path, f"{tmp_path}/video_1.mp4")
        first = saved_result(str(tmp_path), "af-1")
        monkeypatch.setattr(receipts, "_sha256", lambda _: pytest.fail("the file was hashed again"))
        assert saved_result(str(tmp_path), "af-1") == first

    def test_file_overwritten_while_it_is_hashed_is_not_recorded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "video_1.mp4"
        save_with_receipt(tmp_path, str(file))

        def overwrite(_: object) -> str:
            file.write_bytes(b"another")
            os.utime(file, (1, 1))
            return str(RESULT["sha256"])

        with monkeypatch.context() as patch:
            patch.setattr(receipts, "_sha256", overwrite)
            saved_result(str(tmp_path), "af-1")
        assert saved_result(str(tmp_path), "af-1") is None

    def test_object_is_recognized_by_its_etag(self, monkeypatch: pytest.MonkeyPatch) -> None:
        etags = {"/videos/video_1.mp4": '"one"'}

        class Store(MemoryFileSystem):  # type: ignore[misc]
            def info(self, path: str, **options: Any) -> dict[str, Any]:
                found = super().info(path, **options)
                return {**found, "ETag": etags.get(found["name"])}

        store = Store()
        attach(monkeypatch, store)
        store.pipe_file("/videos/video_1.mp4", b"a video")
        write_receipt("memory://videos", "af-1", RESULT | {"output_path": "memory://videos/video_1.mp4"}, TI)
        assert saved_result("memory://videos", "af-1") is not None
        store.pipe_file("/videos/video_1.mp4", b"another")
        assert saved_result("memory://videos", "af-1") is not None, "the ETag is trusted"
        etags["/videos/video_1.mp4"] = '"two"'
        assert saved_result("memory://videos", "af-1") is None
        store.store.clear()
