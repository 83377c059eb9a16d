"""Output files on local disk and object storage."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_toapis.api.download import PartialFile
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsFileError
from airflow_provider_toapis.storage import LocalDestination, destination, directory_of, require_writable, write_text
from tests.errors import rejects
from tests.unit.object_storage import BLOCK_SIZE, Blobs, Bucket, EndpointConnectionError, attach

JPEG = b"\xff\xd8\xff\xe0" + b"an image" * 20
PNG = b"\x89PNG\r\n\x1a\n" + b"an image"
MP4 = b"\x00\x00\x00\x20ftypisom" + b"a video"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    file_system = MemoryFileSystem()
    attach(monkeypatch, file_system)
    yield file_system
    file_system.store.clear()


@pytest.fixture(params=[Bucket, Blobs])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    file_system: Bucket = request.param()
    attach(monkeypatch, file_system)
    return file_system


def write_file(directory: Path, content: bytes, name: str = "shoe.jpg") -> str:
    file = directory / name
    file.write_bytes(content)
    return str(file)


class TestDestination:
    @pytest.mark.parametrize(
        ("output_path", "file"),
        [
            ("out", "out/video_1.mp4"),
            ("out/", "out/video_1.mp4"),
            ("out/deep/er", "out/deep/er/video_1.mp4"),
            ("out/shoe.mp4", "out/shoe.mp4"),
            ("out/shoe.mp4/", "out/shoe.mp4/video_1.mp4"),
            ("out/2026.10", "out/2026.10/video_1.mp4"),
            ("out/v1.5", "out/v1.5/video_1.mp4"),
        ],
    )
    def test_output_path_is_a_directory_or_a_file_name(self, tmp_path: Path, output_path: str, file: str) -> None:
        assert destination(f"{tmp_path}/{output_path}", "video_1.mp4").path == f"{tmp_path}/{file}"

    def test_existing_directory_named_like_a_file_is_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "out.dir").mkdir()
        assert destination(f"{tmp_path}/out.dir", "a.mp4").path == f"{tmp_path}/out.dir/a.mp4"

    @pytest.mark.parametrize("output_path", ["out", "out/", "out/shoe.mp4"])
    def test_directory_is_created(self, tmp_path: Path, output_path: str) -> None:
        assert directory_of(f"{tmp_path}/{output_path}") == tmp_path / "out"
        assert (tmp_path / "out").is_dir()

    def test_directory_that_cannot_be_created_is_rejected(self, tmp_path: Path) -> None:
        with rejects("output_path", error=ToAPIsFileError):
            directory_of(f"{write_file(tmp_path, b'', 'file')}/out")

    def test_directory_that_is_not_writable_is_rejected(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def deny(**_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("airflow_provider_toapis.storage.tempfile.TemporaryFile", deny)
        with rejects("output_path", str(tmp_path), error=ToAPIsFileError) as raised:
            directory_of(str(tmp_path))
        assert isinstance(raised.value.__cause__, PermissionError)

    def test_too_long_file_name_is_rejected(self, tmp_path: Path) -> None:
        directory_of(f"{tmp_path}/{'x' * 251}.mp4")
        with rejects("output_path", error=ToAPIsFileError):
            directory_of(f"{tmp_path}/{'x' * 252}.mp4")

    def test_full_disk_is_retryable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail_disk_full(**_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("airflow_provider_toapis.storage.tempfile.TemporaryFile", fail_disk_full)
        with rejects("output_path", str(tmp_path), error=ToAPIsConnectionError) as raised:
            directory_of(str(tmp_path))
        assert isinstance(raised.value.__cause__, OSError)

    @pytest.mark.parametrize("output_path", [5, None, ["videos/"]])
    def test_output_path_of_another_type_is_rejected_by_name(self, output_path: Any) -> None:
        with rejects("output_path"):
            destination(output_path, "video.mp4")

    @pytest.mark.parametrize("output_path", ["nosuch://bucket/out", "file://data/out"])
    def test_unknown_storage_is_rejected(self, output_path: str) -> None:
        with rejects("output_path"):
            destination(output_path, "a.mp4")

    @pytest.mark.parametrize("name", ["a#b/c.mp4", "a?b=c/d.mp4", "a%20b#?/c#1.mp4"])
    def test_file_uri_keeps_question_mark_and_hash(self, tmp_path: Path, name: str) -> None:
        expected = f"{tmp_path}/{name.replace('%20', ' ')}"
        assert destination(f"file://{tmp_path}/{name}", "video_1.mp4").path == expected

    @pytest.mark.parametrize("output_path", ["~nosuchuser/out", "file://[x", "out\0/a.mp4", "/x/\ud800/a.mp4"])
    def test_unusable_path_is_rejected_by_field_and_value(self, output_path: str) -> None:
        with rejects("output_path"):
            directory_of(output_path)

    def test_file_uri_is_a_local_path(self, tmp_path: Path) -> None:
        assert destination(f"file://{tmp_path}/my%20out", "a.mp4").path == f"{tmp_path}/my out/a.mp4"

    @pytest.mark.parametrize(
        "name",
        [
            "../../etc/passwd",
            "/etc/passwd",
            "..",
            ".",
            "",
            ".hidden",
            "a/b.mp4",
            "a\\b.mp4",
            "a\0b",
            "~root",
            "C:\\x",
            "a\nb",
        ],
    )
    def test_name_from_the_server_cannot_leave_the_directory(self, tmp_path: Path, name: str) -> None:
        file = Path(destination(f"{tmp_path}/", name).path)
        assert file.parent == tmp_path
        assert file.name
        assert not file.name.startswith(".")

    @given(st.text(max_size=60))
    def test_no_file_name_can_leave_the_directory(self, name: str) -> None:
        file = Path(destination("/tmp/", name).path)
        assert file.parent == Path("/tmp")
        assert file.resolve().parent == Path("/tmp").resolve()

    @pytest.mark.parametrize(
        ("output_path", "file"),
        [
            ("memory://videos/out", "memory://videos/out/a.mp4"),
            ("memory://videos/out/", "memory://videos/out/a.mp4"),
            ("memory://videos/shoe.mp4", "memory://videos/shoe.mp4"),
        ],
    )
    def test_object_path_is_a_directory_or_an_object_name(
        self, memory: MemoryFileSystem, output_path: str, file: str
    ) -> None:
        assert destination(output_path, "a.mp4").path == str(ObjectStoragePath(file))

    def test_name_from_the_server_cannot_leave_the_prefix(self, memory: MemoryFileSystem) -> None:
        path = destination("memory://videos/out", "../../other/a.mp4").path
        assert path.rsplit("/", 1)[0] == str(ObjectStoragePath("memory://videos/out"))


class TestRequireWritable:
    """The output path is probed before anything is billed."""

    OUTPUT_PATH = "memory://videos/night/shoe.mp4"

    def test_probe_object_is_written_and_removed(self, bucket: Bucket) -> None:
        write_file: list[str] = []
        before = bucket.rm

        def rm(paths: list[str], **options: Any) -> None:
            write_file.extend(bucket.objects)
            before(paths, **options)

        bucket.rm = rm  # type: ignore[assignment,method-assign]
        require_writable(self.OUTPUT_PATH)
        assert (write_file, bucket.objects) == (["/videos/night/.toapis-probe"], {})

    @pytest.mark.parametrize("error", [PermissionError("Access Denied"), FileNotFoundError("no such bucket")])
    def test_missing_or_unwritable_bucket_is_rejected(self, bucket: Bucket, error: OSError) -> None:
        bucket.errors["open"] = error
        with rejects("output_path", self.OUTPUT_PATH, error=ToAPIsFileError):
            require_writable(self.OUTPUT_PATH)

    def test_error_at_close_is_rejected(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(*_: object) -> None:
            raise FileNotFoundError("The specified bucket does not exist")

        monkeypatch.setattr(bucket.file_class, "_initiate_upload", missing)
        with rejects("output_path", self.OUTPUT_PATH, error=ToAPIsFileError):
            require_writable(self.OUTPUT_PATH)

    def test_bucket_error_is_retryable(self, bucket: Bucket) -> None:
        bucket.errors["open"] = EndpointConnectionError()
        with rejects("output_path", self.OUTPUT_PATH, error=ToAPIsConnectionError):
            require_writable(self.OUTPUT_PATH)

    def test_single_video_needs_no_permission_to_delete(self, bucket: Bucket) -> None:
        bucket.errors["rm"] = PermissionError("Access Denied")
        require_writable(self.OUTPUT_PATH)

    def test_batch_needs_permission_to_delete(self, bucket: Bucket) -> None:
        bucket.errors["rm"] = PermissionError("Access Denied")
        with rejects("output_path", self.OUTPUT_PATH, error=ToAPIsFileError):
            require_writable(self.OUTPUT_PATH, deletable=True)

    def test_probe_removed_by_another_task_is_accepted(self, bucket: Bucket) -> None:
        bucket.errors["rm"] = FileNotFoundError()
        require_writable(self.OUTPUT_PATH, deletable=True)


class TestWriteText:
    @pytest.mark.parametrize("step", ["__init__", "write", "close"])
    def test_storage_error_is_a_connection_error_with_the_file_name(
        self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        def fail(file: Any, *_: object, **__: object) -> None:
            # Mark the file as closed. An open file would write its content when it is garbage-collected.
            file.closed = True
            raise EndpointConnectionError

        monkeypatch.setattr(bucket.file_class, step, fail)
        with pytest.raises(ToAPIsConnectionError, match=r"a\.json.*EndpointConnectionError") as raised:
            write_text(destination("memory://videos/a.json", ""), ["text"])
        assert "a-signature" not in str(raised.value)
        assert raised.value.__cause__ is None

    def test_error_of_the_text_iterator_is_raised_unchanged(self, tmp_path: Path) -> None:
        def chunks() -> Iterator[str]:
            yield "half"
            raise KeyError("a bug")

        with pytest.raises(KeyError):
            write_text(LocalDestination(tmp_path / "a.json"), chunks())
        assert list(tmp_path.iterdir()) == []


class TestLocalFile:
    def test_file_exists_only_after_the_commit(self, tmp_path: Path) -> None:
        local_destination = LocalDestination(tmp_path / "deep" / "a.mp4")
        partial = local_destination.create()
        partial.write(b"one ")
        partial.write(b"two")
        assert not local_destination.file.exists()
        partial.commit()
        assert local_destination.file.read_bytes() == b"one two"
        assert list(local_destination.file.parent.iterdir()) == [local_destination.file]

    def test_existing_file_is_kept_until_the_commit(self, tmp_path: Path) -> None:
        file = Path(write_file(tmp_path, b"old", "a.mp4"))
        partial = LocalDestination(file).create()
        partial.write(b"new")
        assert file.read_bytes() == b"old"
        partial.commit()
        assert file.read_bytes() == b"new"

    def test_discarded_file_leaves_no_trace(self, tmp_path: Path) -> None:
        file = Path(write_file(tmp_path, b"old", "a.mp4"))
        partial = LocalDestination(file).create()
        partial.write(b"new")
        partial.discard()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.mp4": b"old"}

    def test_old_partial_file_of_a_killed_worker_is_removed(self, tmp_path: Path) -> None:
        abandoned, recent, foreign = (tmp_path / name for name in (".1.toapis-part", ".2.toapis-part", ".3.part"))
        for file in (abandoned, recent, foreign):
            file.write_bytes(b"half")
        for file in (abandoned, foreign):
            os.utime(file, (0, time.time() - 2 * 3600))
        LocalDestination(tmp_path / "a.mp4").create().discard()
        assert sorted(tmp_path.iterdir()) == [recent, foreign]

    def test_partial_file_has_a_unique_hidden_name(self, tmp_path: Path) -> None:
        for _ in range(2):
            LocalDestination(tmp_path / "a.mp4").create()
        names = [path.name for path in tmp_path.iterdir()]
        assert len(names) == 2
        assert all(name.startswith(".") and name.endswith(".toapis-part") for name in names)

    @pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
    def test_file_mode_follows_the_umask(self, tmp_path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            partial = LocalDestination(tmp_path / "a.mp4").create()
            partial.commit()
        finally:
            os.umask(before)
        assert (tmp_path / "a.mp4").stat().st_mode & 0o777 == 0o666 & ~umask

    def test_file_is_synced_before_it_gets_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        local_destination = LocalDestination(tmp_path / "a.mp4")
        existed_when_synced: list[bool] = []
        monkeypatch.setattr(os, "fsync", lambda _: existed_when_synced.append(local_destination.file.exists()))
        partial = local_destination.create()
        partial.write(b"x")
        partial.commit()
        assert existed_when_synced == [False]

    def test_file_whose_commit_fails_can_be_discarded(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").mkdir()
        partial = LocalDestination(tmp_path / "a.mp4").create()
        with pytest.raises(IsADirectoryError):
            partial.commit()
        partial.discard()
        assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


#: Sizes below one part, of one part, of several parts, and of several parts with a remainder.
SIZES = pytest.mark.parametrize(
    "size", [1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE, 5 * BLOCK_SIZE + 3]
)


class TestObject:
    @staticmethod
    def write_chunks(uri: str, content: bytes) -> PartialFile:
        partial = destination(uri, "").create()
        for start in range(0, len(content), 7):
            partial.write(content[start : start + 7])
        return partial

    @SIZES
    def test_object_is_complete_after_the_commit(self, bucket: Bucket, size: int) -> None:
        content = os.urandom(size)
        self.write_chunks("memory://videos/a.mp4", content).commit()
        assert bucket.objects == {"/videos/a.mp4": content}

    @SIZES
    def test_object_in_memory_is_complete_after_the_commit(self, memory: MemoryFileSystem, size: int) -> None:
        content = os.urandom(size)
        self.write_chunks("memory://videos/a.mp4", content).commit()
        assert memory.cat_file("/videos/a.mp4") == content

    @SIZES
    def test_local_file_through_fsspec_is_complete_after_the_commit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        attach(monkeypatch, LocalFileSystem())
        content = os.urandom(size)
        self.write_chunks(f"memory:/{tmp_path}/a.mp4", content).commit()
        assert (tmp_path / "a.mp4").read_bytes() == content

    @SIZES
    def test_object_does_not_exist_before_the_commit_or_after_a_discard(self, bucket: Bucket, size: int) -> None:
        partial = self.write_chunks("memory://videos/a.mp4", bytes(size))
        assert bucket.objects == {}
        partial.discard()
        del partial
        bucket.transaction.files.clear()
        gc.collect()
        assert bucket.objects == {}, "a garbage-collected file closes itself"

    @SIZES
    def test_existing_object_is_kept_after_a_discard(self, bucket: Bucket, size: int) -> None:
        bucket.objects["/videos/a.mp4"] = b"old"
        self.write_chunks("memory://videos/a.mp4", bytes(size)).discard()
        assert bucket.objects == {"/videos/a.mp4": b"old"}

    def test_discard_aborts_a_multipart_upload(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bucket = Bucket()
        attach(monkeypatch, bucket)
        self.write_chunks("memory://videos/a.mp4", bytes(3 * BLOCK_SIZE)).discard()
        assert bucket.discarded == ["/videos/a.mp4"]

    def test_local_file_through_fsspec_leaves_nothing_after_a_discard(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        attach(monkeypatch, LocalFileSystem())
        self.write_chunks(f"memory:/{tmp_path}/a.mp4", b"x").discard()
        assert list(tmp_path.iterdir()) == []
