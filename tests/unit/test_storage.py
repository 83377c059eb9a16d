"""Files that go to the service and files that come from it: local disk and object storage."""

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

JPEG = b"\xff\xd8\xff\xe0" + b"a picture" * 20
PNG = b"\x89PNG\r\n\x1a\n" + b"a picture"
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


def written(directory: Path, content: bytes, name: str = "shoe.jpg") -> str:
    file = directory / name
    file.write_bytes(content)
    return str(file)


class TestWhereAFileGoes:
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
    def test_directory_or_file_name(self, tmp_path: Path, output_path: str, file: str) -> None:
        assert destination(f"{tmp_path}/{output_path}", "video_1.mp4").path == f"{tmp_path}/{file}"

    def test_directory_that_is_named_like_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "out.dir").mkdir()
        assert destination(f"{tmp_path}/out.dir", "a.mp4").path == f"{tmp_path}/out.dir/a.mp4"

    @pytest.mark.parametrize("output_path", ["out", "out/", "out/shoe.mp4"])
    def test_directory_is_made(self, tmp_path: Path, output_path: str) -> None:
        assert directory_of(f"{tmp_path}/{output_path}") == tmp_path / "out"
        assert (tmp_path / "out").is_dir()

    def test_place_that_cannot_be_made_is_refused_before_anything_is_paid(self, tmp_path: Path) -> None:
        with rejects("output_path", error=ToAPIsFileError):
            directory_of(f"{written(tmp_path, b'', 'file')}/out")

    def test_place_that_cannot_be_written_to_is_refused_before_anything_is_paid(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(**_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("airflow_provider_toapis.storage.tempfile.TemporaryFile", refuse)
        with rejects("output_path", str(tmp_path), error=ToAPIsFileError) as raised:
            directory_of(str(tmp_path))
        assert isinstance(raised.value.__cause__, PermissionError)

    def test_file_name_that_is_too_long_is_rejected_before_anything_is_billed(self, tmp_path: Path) -> None:
        directory_of(f"{tmp_path}/{'x' * 251}.mp4")
        with rejects("output_path", error=ToAPIsFileError):
            directory_of(f"{tmp_path}/{'x' * 252}.mp4")

    def test_full_disk_is_worth_a_retry(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(**_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("airflow_provider_toapis.storage.tempfile.TemporaryFile", full)
        with rejects("output_path", str(tmp_path), error=ToAPIsConnectionError) as raised:
            directory_of(str(tmp_path))
        assert isinstance(raised.value.__cause__, OSError)

    @pytest.mark.parametrize("output_path", [5, None, ["videos/"]])
    def test_what_is_no_text_is_refused_by_name(self, output_path: Any) -> None:
        with rejects("output_path"):
            destination(output_path, "video.mp4")

    @pytest.mark.parametrize("output_path", ["nosuch://bucket/out", "file://data/out"])
    def test_storage_that_is_not_known_is_refused(self, output_path: str) -> None:
        with rejects("output_path"):
            destination(output_path, "a.mp4")

    @pytest.mark.parametrize("name", ["a#b/c.mp4", "a?b=c/d.mp4", "a%20b#?/c#1.mp4"])
    def test_file_uri_keeps_what_a_url_would_call_query_and_fragment(self, tmp_path: Path, name: str) -> None:
        expected = f"{tmp_path}/{name.replace('%20', ' ')}"
        assert destination(f"file://{tmp_path}/{name}", "video_1.mp4").path == expected

    @pytest.mark.parametrize("output_path", ["~nosuchuser/out", "file://[x", "out\0/a.mp4", "/x/\ud800/a.mp4"])
    def test_path_that_cannot_be_used_is_rejected_by_field_and_value(self, output_path: str) -> None:
        with rejects("output_path"):
            directory_of(output_path)

    def test_file_uri(self, tmp_path: Path) -> None:
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
    def test_no_name_can(self, name: str) -> None:
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
    def test_object(self, memory: MemoryFileSystem, output_path: str, file: str) -> None:
        assert destination(output_path, "a.mp4").path == str(ObjectStoragePath(file))

    def test_name_from_the_server_cannot_leave_the_prefix(self, memory: MemoryFileSystem) -> None:
        path = destination("memory://videos/out", "../../other/a.mp4").path
        assert path.rsplit("/", 1)[0] == str(ObjectStoragePath("memory://videos/out"))


class TestRequireWritable:
    """Found out before anything is billed."""

    OUTPUT_PATH = "memory://videos/night/shoe.mp4"

    def test_bucket_gets_a_small_object_that_is_removed_again(self, bucket: Bucket) -> None:
        written: list[str] = []
        before = bucket.rm

        def rm(paths: list[str], **options: Any) -> None:
            written.extend(bucket.objects)
            before(paths, **options)

        bucket.rm = rm  # type: ignore[assignment,method-assign]
        require_writable(self.OUTPUT_PATH)
        assert (written, bucket.objects) == (["/videos/night/.toapis-probe"], {})

    @pytest.mark.parametrize("error", [PermissionError("Access Denied"), FileNotFoundError("no such bucket")])
    def test_bucket_that_is_missing_or_not_to_be_written_to_is_rejected(self, bucket: Bucket, error: OSError) -> None:
        bucket.errors["open"] = error
        with rejects("output_path", self.OUTPUT_PATH, error=ToAPIsFileError):
            require_writable(self.OUTPUT_PATH)

    def test_error_that_shows_only_when_the_object_is_closed_counts(
        self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def missing(*_: object) -> None:
            raise FileNotFoundError("The specified bucket does not exist")

        monkeypatch.setattr(bucket.file_class, "_initiate_upload", missing)
        with rejects("output_path", self.OUTPUT_PATH, error=ToAPIsFileError):
            require_writable(self.OUTPUT_PATH)

    def test_bucket_in_trouble_is_worth_a_retry(self, bucket: Bucket) -> None:
        bucket.errors["open"] = EndpointConnectionError()
        with rejects("output_path", self.OUTPUT_PATH, error=ToAPIsConnectionError):
            require_writable(self.OUTPUT_PATH)

    def test_single_video_needs_no_permission_to_delete(self, bucket: Bucket) -> None:
        bucket.errors["rm"] = PermissionError("Access Denied")
        require_writable(self.OUTPUT_PATH)

    def test_batch_needs_it(self, bucket: Bucket) -> None:
        bucket.errors["rm"] = PermissionError("Access Denied")
        with rejects("output_path", self.OUTPUT_PATH, error=ToAPIsFileError):
            require_writable(self.OUTPUT_PATH, deletable=True)

    def test_probe_that_another_task_removed_first_is_no_error(self, bucket: Bucket) -> None:
        bucket.errors["rm"] = FileNotFoundError()
        require_writable(self.OUTPUT_PATH, deletable=True)


class TestWriteText:
    @pytest.mark.parametrize("step", ["__init__", "write", "close"])
    def test_storage_in_trouble_is_an_error_of_ours_that_names_the_file(
        self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        def fail(file: Any, *_: object, **__: object) -> None:
            # Else it writes itself when it is forgotten.
            file.closed = True
            raise EndpointConnectionError

        monkeypatch.setattr(bucket.file_class, step, fail)
        with pytest.raises(ToAPIsConnectionError, match=r"a\.json.*EndpointConnectionError") as raised:
            write_text(destination("memory://videos/a.json", ""), ["text"])
        assert "a-signature" not in str(raised.value)
        assert raised.value.__cause__ is None

    def test_error_of_the_text_is_left_alone(self, tmp_path: Path) -> None:
        def pieces() -> Iterator[str]:
            yield "half"
            raise KeyError("a bug")

        with pytest.raises(KeyError):
            write_text(LocalDestination(tmp_path / "a.json"), pieces())
        assert list(tmp_path.iterdir()) == []


class TestLocalFile:
    def test_is_there_only_after_the_commit(self, tmp_path: Path) -> None:
        place = LocalDestination(tmp_path / "deep" / "a.mp4")
        partial = place.create()
        partial.write(b"one ")
        partial.write(b"two")
        assert not place.file.exists()
        partial.commit()
        assert place.file.read_bytes() == b"one two"
        assert list(place.file.parent.iterdir()) == [place.file]

    def test_that_was_there_stays_until_the_commit(self, tmp_path: Path) -> None:
        file = Path(written(tmp_path, b"old", "a.mp4"))
        partial = LocalDestination(file).create()
        partial.write(b"new")
        assert file.read_bytes() == b"old"
        partial.commit()
        assert file.read_bytes() == b"new"

    def test_that_is_discarded_leaves_no_trace(self, tmp_path: Path) -> None:
        file = Path(written(tmp_path, b"old", "a.mp4"))
        partial = LocalDestination(file).create()
        partial.write(b"new")
        partial.discard()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.mp4": b"old"}

    def test_what_a_killed_worker_left_is_removed_once_nobody_can_be_writing_to_it(self, tmp_path: Path) -> None:
        abandoned, young, foreign = (tmp_path / name for name in (".1.toapis-part", ".2.toapis-part", ".3.part"))
        for file in (abandoned, young, foreign):
            file.write_bytes(b"half")
        for file in (abandoned, foreign):
            os.utime(file, (0, time.time() - 2 * 3600))
        LocalDestination(tmp_path / "a.mp4").create().discard()
        assert sorted(tmp_path.iterdir()) == [young, foreign]

    def test_begins_under_a_hidden_name_of_its_own_beside_it(self, tmp_path: Path) -> None:
        for _ in range(2):
            LocalDestination(tmp_path / "a.mp4").create()
        names = [path.name for path in tmp_path.iterdir()]
        assert len(names) == 2
        assert all(name.startswith(".") and name.endswith(".toapis-part") for name in names)

    @pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
    def test_may_be_read_by_whom_the_umask_lets(self, tmp_path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            partial = LocalDestination(tmp_path / "a.mp4").create()
            partial.commit()
        finally:
            os.umask(before)
        assert (tmp_path / "a.mp4").stat().st_mode & 0o777 == 0o666 & ~umask

    def test_is_synced_before_it_gets_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        place = LocalDestination(tmp_path / "a.mp4")
        named_when_synced: list[bool] = []
        monkeypatch.setattr(os, "fsync", lambda _: named_when_synced.append(place.file.exists()))
        partial = place.create()
        partial.write(b"x")
        partial.commit()
        assert named_when_synced == [False]

    def test_whose_commit_fails_can_be_discarded(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").mkdir()
        partial = LocalDestination(tmp_path / "a.mp4").create()
        with pytest.raises(IsADirectoryError):
            partial.commit()
        partial.discard()
        assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


#: Smaller than a part, exactly one, several, and several with a rest.
SIZES = pytest.mark.parametrize(
    "size", [1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE, 5 * BLOCK_SIZE + 3]
)


class TestObject:
    @staticmethod
    def written_in_pieces(uri: str, content: bytes) -> PartialFile:
        partial = destination(uri, "").create()
        for start in range(0, len(content), 7):
            partial.write(content[start : start + 7])
        return partial

    @SIZES
    def test_is_whole_after_the_commit(self, bucket: Bucket, size: int) -> None:
        content = os.urandom(size)
        self.written_in_pieces("memory://videos/a.mp4", content).commit()
        assert bucket.objects == {"/videos/a.mp4": content}

    @SIZES
    def test_is_whole_after_the_commit_in_memory_too(self, memory: MemoryFileSystem, size: int) -> None:
        content = os.urandom(size)
        self.written_in_pieces("memory://videos/a.mp4", content).commit()
        assert memory.cat_file("/videos/a.mp4") == content

    @SIZES
    def test_is_whole_after_the_commit_on_local_disk_through_fsspec_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        attach(monkeypatch, LocalFileSystem())
        content = os.urandom(size)
        self.written_in_pieces(f"memory:/{tmp_path}/a.mp4", content).commit()
        assert (tmp_path / "a.mp4").read_bytes() == content

    @SIZES
    def test_nothing_is_there_before_the_commit_or_after_a_discard(self, bucket: Bucket, size: int) -> None:
        partial = self.written_in_pieces("memory://videos/a.mp4", bytes(size))
        assert bucket.objects == {}
        partial.discard()
        del partial
        bucket.transaction.files.clear()
        gc.collect()
        assert bucket.objects == {}, "a file that is forgotten closes itself"

    @SIZES
    def test_that_was_there_stays_after_a_discard(self, bucket: Bucket, size: int) -> None:
        bucket.objects["/videos/a.mp4"] = b"old"
        self.written_in_pieces("memory://videos/a.mp4", bytes(size)).discard()
        assert bucket.objects == {"/videos/a.mp4": b"old"}

    def test_upload_in_parts_is_aborted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bucket = Bucket()
        attach(monkeypatch, bucket)
        self.written_in_pieces("memory://videos/a.mp4", bytes(3 * BLOCK_SIZE)).discard()
        assert bucket.discarded == ["/videos/a.mp4"]

    def test_local_disk_through_fsspec_leaves_nothing_after_a_discard(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        attach(monkeypatch, LocalFileSystem())
        self.written_in_pieces(f"memory:/{tmp_path}/a.mp4", b"x").discard()
        assert list(tmp_path.iterdir()) == []
