"""Files that go to the service and files that come from it: local disk and object storage."""

from __future__ import annotations

import gc
import hashlib
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
from airflow_provider_toapis.api.errors import ToAPIsConnectionError, ToAPIsRequestError
from airflow_provider_toapis.api.media import MAX_UPLOAD_SIZE
from airflow_provider_toapis.storage import LocalDestination, destination, directory_of, reference_image, source_file
from tests.unit.object_storage import BLOCK_SIZE, Blobs, Bucket, attach

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


def refusal(reference: str, kind: Any = "image") -> str:
    with pytest.raises(ToAPIsRequestError, match=r"^image=.*nothing was paid\.$") as raised:
        source_file("image", reference, kind)
    return str(raised.value)


class TestSourceFile:
    def test_is_known_by_its_content_and_not_by_its_name(self, tmp_path: Path) -> None:
        source = source_file("image", written(tmp_path, PNG, "really a.jpg"), "image")
        assert source.media_type.name == "image/png"
        assert source.sha256 == hashlib.sha256(PNG).hexdigest()
        assert (source.upload.name, source.upload.media_type) == ("really_a.jpg", "image/png")

    def test_can_be_read_for_every_attempt_anew(self, tmp_path: Path) -> None:
        upload = source_file("image", written(tmp_path, JPEG), "image").upload
        for _ in range(2):
            with upload.open() as stream:
                assert stream.read() == JPEG

    @pytest.mark.parametrize("content", [JPEG, MP4], ids=["image", "video"])
    def test_any_kind_will_do_where_none_is_asked_for(self, tmp_path: Path, content: bytes) -> None:
        assert source_file("source", written(tmp_path, content)).sha256 == hashlib.sha256(content).hexdigest()

    def test_missing_file_is_refused(self, tmp_path: Path) -> None:
        assert "a file that exists; there is none" in refusal(str(tmp_path / "nothing.jpg"))

    def test_directory_is_refused(self, tmp_path: Path) -> None:
        assert "this is a directory" in refusal(str(tmp_path))

    def test_path_through_a_file_is_refused(self, tmp_path: Path) -> None:
        refusal(f"{written(tmp_path, JPEG)}/shoe.jpg")

    def test_name_that_no_disk_takes_is_refused(self) -> None:
        refusal("x/" * 3000)

    def test_unreadable_file_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def forbidden(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        reference = written(tmp_path, JPEG)
        monkeypatch.setattr(Path, "open", forbidden)
        assert "a file that can be read (Permission denied)" in refusal(reference)

    @pytest.mark.parametrize("method", ["exists", "open"])
    def test_storage_in_trouble_is_worth_a_retry(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        def in_trouble(*_: object) -> None:
            raise OSError(5, "We encountered an internal error. Please try again.")

        reference = written(tmp_path, JPEG)
        monkeypatch.setattr(Path, method, in_trouble)
        with pytest.raises(ToAPIsConnectionError, match=r"^image=.*shoe.*internal error.*Nothing was sent") as raised:
            source_file("image", reference, "image")
        assert not raised.value.sent

    @pytest.mark.parametrize("content", [b"", b"<html>", b"plain text", MP4], ids=["empty", "HTML", "text", "video"])
    def test_file_that_is_no_picture_is_refused_whatever_its_name(self, tmp_path: Path, content: bytes) -> None:
        assert "a file that is JPEG, PNG, WebP or GIF, by its content" in refusal(written(tmp_path, content))

    def test_file_of_no_kind_is_refused_with_all_kinds(self, tmp_path: Path) -> None:
        message = refusal(written(tmp_path, b"text"), None)
        assert "JPEG, PNG, WebP or GIF; MP4, WebM or MOV; MP3, WAV or M4A" in message

    @pytest.mark.parametrize(
        ("head", "kind", "limit"),
        [(JPEG, "image", "10 MB"), (MP4, "video", "50 MB"), (b"ID3\x04", "audio", "50 MB")],
        ids=["image", "video", "audio"],
    )
    def test_file_of_the_largest_size_passes_and_a_byte_more_is_refused(
        self, tmp_path: Path, head: bytes, kind: Any, limit: str
    ) -> None:
        reference = written(tmp_path, head)
        os.truncate(reference, MAX_UPLOAD_SIZE[kind])
        source_file("image", reference, kind)
        os.truncate(reference, MAX_UPLOAD_SIZE[kind] + 1)
        assert f"{kind} files of at most {limit}; it has {MAX_UPLOAD_SIZE[kind] + 1:,} bytes" in refusal(
            reference, kind
        )

    @pytest.mark.parametrize("reference", ["nosuch://bucket/shoe.jpg", "nosuch://[bucket/shoe.jpg"])
    def test_unknown_scheme_is_refused_with_those_that_are_known(self, reference: str) -> None:
        assert "for s3:// apache-airflow-providers-amazon[s3fs]" in refusal(reference)

    def test_file_uri(self, tmp_path: Path) -> None:
        written(tmp_path, JPEG, "red shoe.jpg")
        for uri in (f"file://{tmp_path}/red%20shoe.jpg", f"file://localhost{tmp_path}/red%20shoe.jpg"):
            assert source_file("image", uri, "image").sha256 == hashlib.sha256(JPEG).hexdigest()

    @pytest.mark.parametrize("uri", ["file://data/shoe.jpg", "file://host/etc/shoe.jpg"])
    def test_file_uri_of_another_host_is_refused_and_not_read_from_this_one(self, uri: str) -> None:
        assert "three slashes" in refusal(uri)

    def test_home_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        written(tmp_path, JPEG)
        assert source_file("image", "~/shoe.jpg").media_type.name == "image/jpeg"

    def test_object(self, memory: MemoryFileSystem) -> None:
        memory.pipe_file("/pictures/red shoe.jpg", JPEG)
        source = source_file("image", "memory://pictures/red shoe.jpg", "image")
        assert (source.sha256, source.upload.name) == (hashlib.sha256(JPEG).hexdigest(), "red_shoe.jpg")
        with source.upload.open() as stream:
            assert stream.read() == JPEG

    def test_missing_object_and_directory_are_refused(self, memory: MemoryFileSystem) -> None:
        memory.pipe_file("/pictures/shoe.jpg", JPEG)
        assert "there is none" in refusal("memory://pictures/boot.jpg")
        assert "a directory" in refusal("memory://pictures")


class TestReferenceImage:
    def test_link_stays_a_link(self) -> None:
        image = reference_image("https://example.com/shoe.jpg")
        assert (image.url, image.upload) == ("https://example.com/shoe.jpg", None)

    def test_file_is_identified_by_its_content(self, tmp_path: Path) -> None:
        image = reference_image(written(tmp_path, JPEG))
        assert image.identity == reference_image(written(tmp_path, JPEG, "copy.png")).identity
        assert image.identity != reference_image(written(tmp_path, PNG)).identity
        assert image.url is None
        assert image.upload is not None

    def test_video_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ToAPIsRequestError, match="JPEG"):
            reference_image(written(tmp_path, MP4))


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
        with pytest.raises(ToAPIsRequestError, match=r"^output_path=.*a place to write to"):
            directory_of(f"{written(tmp_path, b'', 'file')}/out")

    def test_place_that_cannot_be_written_to_is_refused_before_anything_is_paid(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(**_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("airflow_provider_toapis.storage.tempfile.TemporaryFile", refuse)
        with pytest.raises(ToAPIsRequestError, match=r"^output_path=.*Permission denied"):
            directory_of(str(tmp_path))

    def test_full_disk_is_worth_a_retry(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(**_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("airflow_provider_toapis.storage.tempfile.TemporaryFile", full)
        with pytest.raises(ToAPIsConnectionError, match=r"^output_path=.*No space left"):
            directory_of(str(tmp_path))

    @pytest.mark.parametrize("output_path", [5, None, ["videos/"]])
    def test_what_is_no_text_is_refused_by_name(self, output_path: Any) -> None:
        with pytest.raises(ToAPIsRequestError, match=r"^output_path="):
            destination(output_path, "video.mp4")

    @pytest.mark.parametrize("output_path", ["nosuch://bucket/out", "file://data/out"])
    def test_storage_that_is_not_known_is_refused(self, output_path: str) -> None:
        with pytest.raises(ToAPIsRequestError, match=r"^output_path="):
            destination(output_path, "a.mp4")

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
        with pytest.raises(OSError, match=r"directory"):
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
