"""What is kept is neither asked for nor paid again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from airflow_provider_toapis.api.errors import ToAPIsConnectionError
from airflow_provider_toapis.receipts import kept_result, write_receipt
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
    "sha256": "aa",
}


def kept(output_path: Path, file: str, *, on_disk: bytes | None = b"a video") -> dict[str, Any]:
    """Keep a video of 7 bytes and its receipt; ``on_disk`` is what is there of it afterwards."""
    result = RESULT | {"output_path": file}
    write_receipt(str(output_path), "af-1", result)
    if on_disk is not None:
        Path(file).write_bytes(on_disk)
    return result | {"url": None, "urls": []}


class TestKeptVideo:
    def test_is_told_without_the_links_which_die(self, tmp_path: Path) -> None:
        expected = kept(tmp_path, f"{tmp_path}/video_1.mp4")
        assert kept_result(str(tmp_path), "af-1") == expected

    def test_is_found_beside_a_chosen_file_name_too(self, tmp_path: Path) -> None:
        file = tmp_path / "shoe.mp4"
        expected = kept(file, str(file))
        assert kept_result(str(file), "af-1") == expected
        assert (tmp_path / "af-1.json").exists()

    def test_is_found_where_the_directory_has_moved(self, tmp_path: Path) -> None:
        (tmp_path / "old").mkdir()
        kept(tmp_path / "old", f"{tmp_path}/old/video_1.mp4")
        (tmp_path / "old").rename(tmp_path / "new")
        found = kept_result(f"{tmp_path}/new", "af-1")
        assert found is not None
        assert found["id"] == "video_1"

    def test_receipt_holds_no_link(self, tmp_path: Path) -> None:
        kept(tmp_path, f"{tmp_path}/video_1.mp4")
        text = (tmp_path / "af-1.json").read_text()
        assert "secret" not in text
        assert json.loads(text)["sha256"] == "aa"

    def test_receipt_is_replaced(self, tmp_path: Path) -> None:
        kept(tmp_path, f"{tmp_path}/video_1.mp4")
        write_receipt(str(tmp_path), "af-1", RESULT | {"output_path": f"{tmp_path}/video_1.mp4", "id": "video_2"})
        found = kept_result(str(tmp_path), "af-1")
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
    def test_kept_video_is_told(self, output_path: str) -> None:
        self.memory.pipe_file("/videos/night/video_1.mp4", b"a video")
        write_receipt(output_path, "af-1", RESULT | {"output_path": "memory://videos/night/video_1.mp4"})
        found = kept_result(output_path, "af-1")
        assert found is not None
        assert (found["id"], found["url"]) == ("video_1", None)

    @pytest.mark.parametrize("there", [None, b"a vide"], ids=["missing", "short"])
    def test_without_the_whole_file_nothing_is_kept(self, there: bytes | None) -> None:
        if there is not None:
            self.memory.pipe_file("/videos/video_1.mp4", there)
        write_receipt("memory://videos", "af-1", RESULT | {"output_path": "memory://videos/video_1.mp4"})
        assert kept_result("memory://videos", "af-1") is None

    def test_without_a_receipt_nothing_is_kept(self) -> None:
        assert kept_result("memory://videos", "af-1") is None


class TestNotKept:
    def test_without_a_receipt(self, tmp_path: Path) -> None:
        assert kept_result(str(tmp_path), "af-1") is None

    def test_for_another_order(self, tmp_path: Path) -> None:
        kept(tmp_path, f"{tmp_path}/video_1.mp4")
        assert kept_result(str(tmp_path), "af-2") is None

    @pytest.mark.parametrize("on_disk", [None, b"", b"a vide", b"a video!"], ids=["missing", "empty", "short", "long"])
    def test_without_the_whole_file(self, tmp_path: Path, on_disk: bytes | None) -> None:
        kept(tmp_path, f"{tmp_path}/video_1.mp4", on_disk=on_disk)
        assert kept_result(str(tmp_path), "af-1") is None

    @pytest.mark.parametrize(
        "receipt",
        [b"", b"{", b"[]", b"7", b"null", b'"text"', b"{}", b"\xff\xfe", b'{"output_path": null, "size": 7}'],
    )
    def test_with_a_receipt_that_cannot_be_read(self, tmp_path: Path, receipt: bytes) -> None:
        (tmp_path / "af-1.json").write_bytes(receipt)
        assert kept_result(str(tmp_path), "af-1") is None

    def test_with_a_receipt_that_knows_no_size(self, tmp_path: Path) -> None:
        kept(tmp_path, f"{tmp_path}/video_1.mp4")
        (tmp_path / "af-1.json").write_text(json.dumps({"output_path": f"{tmp_path}/video_1.mp4"}))
        assert kept_result(str(tmp_path), "af-1") is None


class TestHalfWrittenReceipt:
    def test_is_never_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ToAPIsConnectionError, match="No space"):
            write_receipt(str(tmp_path), "af-1", RESULT | {"output_path": f"{tmp_path}/video_1.mp4"})
        assert list(tmp_path.iterdir()) == []
