"""Source files of uploads: they are checked by content before anything is billed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from airflow_provider_toapis.api.media_types import MAX_UPLOAD_SIZE
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsFileError, ToAPIsRequestError
from airflow_provider_toapis.hooks.request_builder import reference_image, source_file
from tests.errors import claims_nothing_was_billed, rejects
from tests.unit.object_storage import Bucket, EndpointConnectionError, NoCredentialsError, attach

JPEG = b"\xff\xd8\xff\xe0" + b"an image" * 20
PNG = b"\x89PNG\r\n\x1a\n" + b"an image"
MP4 = b"\x00\x00\x00\x20ftypisom" + b"a video"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    file_system = MemoryFileSystem()
    attach(monkeypatch, file_system)
    yield file_system
    file_system.store.clear()


def write_file(directory: Path, content: bytes, name: str = "shoe.jpg") -> str:
    file = directory / name
    file.write_bytes(content)
    return str(file)


def rejection(reference: str, kind: Any = "image", error: type[ToAPIsRequestError] = ToAPIsRequestError) -> str:
    with rejects("image", error=error) as raised:
        source_file("image", reference, kind)
    assert claims_nothing_was_billed(raised.value)
    return str(raised.value)


class TestSourceFile:
    def test_media_type_is_detected_from_content_not_name(self, tmp_path: Path) -> None:
        source = source_file("image", write_file(tmp_path, PNG, "really a.jpg"), "image")
        assert source.media_type.name == "image/png"
        assert source.sha256 == hashlib.sha256(PNG).hexdigest()
        assert (source.upload.name, source.upload.media_type) == ("really_a.jpg", "image/png")

    def test_upload_can_be_opened_several_times(self, tmp_path: Path) -> None:
        upload = source_file("image", write_file(tmp_path, JPEG), "image").upload
        for _ in range(2):
            with upload.open() as stream:
                assert stream.read() == JPEG

    @pytest.mark.parametrize("content", [JPEG, MP4], ids=["image", "video"])
    def test_any_kind_is_accepted_if_none_is_required(self, tmp_path: Path, content: bytes) -> None:
        assert source_file("source", write_file(tmp_path, content)).sha256 == hashlib.sha256(content).hexdigest()

    def test_missing_file_is_rejected(self, tmp_path: Path) -> None:
        rejection(str(tmp_path / "nothing.jpg"), error=ToAPIsFileError)

    def test_directory_is_rejected(self, tmp_path: Path) -> None:
        assert "directory" in rejection(str(tmp_path), error=ToAPIsFileError)

    def test_path_through_a_file_is_rejected(self, tmp_path: Path) -> None:
        rejection(f"{write_file(tmp_path, JPEG)}/shoe.jpg")

    def test_too_long_path_is_rejected(self) -> None:
        rejection("x/" * 3000)

    def test_unreadable_file_is_rejected(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def deny(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        reference = write_file(tmp_path, JPEG)
        monkeypatch.setattr(Path, "open", deny)
        assert "Permission denied" in rejection(reference, error=ToAPIsFileError)

    @pytest.mark.parametrize("method", ["stat", "open"])
    def test_storage_error_is_retryable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        def fail(*_: object) -> None:
            raise OSError(5, "We encountered an internal error. Please try again.")

        reference = write_file(tmp_path, JPEG)
        monkeypatch.setattr(Path, method, fail)
        with rejects("image", reference, error=ToAPIsConnectionError) as raised:
            source_file("image", reference, "image")
        assert not raised.value.sent

    @pytest.mark.parametrize("content", [b"", b"<html>", b"plain text", MP4], ids=["empty", "HTML", "text", "video"])
    def test_file_that_is_not_an_image_is_rejected_despite_its_name(self, tmp_path: Path, content: bytes) -> None:
        assert "JPEG, PNG, WebP or GIF" in rejection(write_file(tmp_path, content))

    def test_unknown_media_type_is_rejected_with_all_supported_types(self, tmp_path: Path) -> None:
        message = rejection(write_file(tmp_path, b"text"), None)
        assert "JPEG, PNG, WebP or GIF; MP4, WebM or MOV; MP3, WAV or M4A" in message

    @pytest.mark.parametrize(
        ("head", "kind", "limit"),
        [(JPEG, "image", "10 MB"), (MP4, "video", "50 MB"), (b"ID3\x04", "audio", "50 MB")],
        ids=["image", "video", "audio"],
    )
    def test_file_of_maximum_size_is_accepted_and_one_more_byte_is_rejected(
        self, tmp_path: Path, head: bytes, kind: Any, limit: str
    ) -> None:
        reference = write_file(tmp_path, head)
        os.truncate(reference, MAX_UPLOAD_SIZE[kind])
        source_file("image", reference, kind)
        os.truncate(reference, MAX_UPLOAD_SIZE[kind] + 1)
        message = rejection(reference, kind)
        for expected in (kind, limit, f"{MAX_UPLOAD_SIZE[kind] + 1:,} bytes"):
            assert expected in message

    @pytest.mark.parametrize("reference", ["nosuch://bucket/shoe.jpg", "nosuch://[bucket/shoe.jpg"])
    def test_unknown_scheme_is_rejected_with_the_missing_package(self, reference: str) -> None:
        assert "apache-airflow-providers-amazon[s3fs]" in rejection(reference)

    def test_file_uri_is_read(self, tmp_path: Path) -> None:
        write_file(tmp_path, JPEG, "red shoe.jpg")
        for uri in (f"file://{tmp_path}/red%20shoe.jpg", f"file://localhost{tmp_path}/red%20shoe.jpg"):
            assert source_file("image", uri, "image").sha256 == hashlib.sha256(JPEG).hexdigest()

    @pytest.mark.parametrize("uri", ["file://data/shoe.jpg", "file://host/etc/shoe.jpg"])
    def test_file_uri_of_another_host_is_rejected(self, uri: str) -> None:
        assert "file:///" in rejection(uri)

    def test_home_directory_is_expanded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        write_file(tmp_path, JPEG)
        assert source_file("image", "~/shoe.jpg").media_type.name == "image/jpeg"

    def test_object_is_read_from_object_storage(self, memory: MemoryFileSystem) -> None:
        memory.pipe_file("/images/red shoe.jpg", JPEG)
        source = source_file("image", "memory://images/red shoe.jpg", "image")
        assert (source.sha256, source.upload.name) == (hashlib.sha256(JPEG).hexdigest(), "red_shoe.jpg")
        with source.upload.open() as stream:
            assert stream.read() == JPEG

    def test_missing_object_and_directory_are_rejected(self, memory: MemoryFileSystem) -> None:
        memory.pipe_file("/images/shoe.jpg", JPEG)
        rejection("memory://images/boot.jpg", error=ToAPIsFileError)
        assert "directory" in rejection("memory://images", error=ToAPIsFileError)


class TestEndlessFile:
    """Files without an end are rejected without reading them."""

    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/random"])
    def test_device_is_rejected(self, device: str) -> None:
        rejection(device, error=ToAPIsFileError)

    def test_pipe_is_rejected(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "shoe.jpg")
        rejection(str(tmp_path / "shoe.jpg"), error=ToAPIsFileError)

    @pytest.mark.parametrize(("kind", "limit"), [("image", "10 MB"), (None, "50 MB")])
    def test_sparse_file_of_200_gb_is_rejected_by_its_size(self, tmp_path: Path, kind: Any, limit: str) -> None:
        reference = write_file(tmp_path, JPEG)
        os.truncate(reference, 200 * 1000**3)
        message = rejection(reference, kind)
        for expected in (limit, "200,000,000,000 bytes"):
            assert expected in message

    def test_object_of_unknown_size_is_not_read_beyond_the_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Endless(MemoryFileSystem):  # type: ignore[misc]
            bytes_read = 0

            def info(self, path: str, **_: Any) -> dict[str, Any]:
                return {"name": path, "size": None, "type": "file"}

            def _open(self, *_: Any, **__: Any) -> Any:
                return self

            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def read(self, size: int) -> bytes:
                type(self).bytes_read += size
                return JPEG.ljust(size, b"x")

        attach(monkeypatch, Endless())
        assert "10 MB" in rejection("memory://images/shoe.jpg")
        assert Endless.bytes_read <= MAX_UPLOAD_SIZE["image"] + 1024**2


class TestUnusablePath:
    @pytest.mark.parametrize(
        "reference",
        ["~nosuchuser/a.jpg", "file://[x", "file://[x/a.jpg", "a\0b.jpg", "file:///a%00b.jpg", "/data/\ud800.jpg"],
    )
    def test_unusable_path_is_rejected_by_field_and_value(self, reference: str) -> None:
        assert rejection(reference).startswith(f"Invalid image={reference!r}"[:20])

    def test_file_uri_with_hash_or_question_mark_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "a#b").mkdir()
        write_file(tmp_path / "a#b", JPEG, "c?d=e.jpg")
        assert source_file("image", f"file://{tmp_path}/a#b/c?d=e.jpg").media_type.name == "image/jpeg"


class TestObjectStorageErrors:
    @pytest.fixture
    def bucket(self, monkeypatch: pytest.MonkeyPatch) -> Bucket:
        bucket = Bucket()
        bucket.objects["/images/shoe.jpg"] = JPEG
        attach(monkeypatch, bucket)
        return bucket

    @pytest.mark.parametrize("method", ["info", "open"])
    def test_missing_credentials_are_a_file_error(self, bucket: Bucket, method: str) -> None:
        bucket.errors[method] = NoCredentialsError("Unable to locate credentials")
        with rejects("image", "memory://images/shoe.jpg", error=ToAPIsFileError) as raised:
            source_file("image", "memory://images/shoe.jpg", "image")
        assert "NoCredentialsError" in str(raised.value)

    @pytest.mark.parametrize("method", ["info", "open"])
    def test_unreachable_endpoint_is_retryable_and_its_message_is_not_shown(self, bucket: Bucket, method: str) -> None:
        bucket.errors[method] = EndpointConnectionError()
        with rejects("image", "memory://images/shoe.jpg", error=ToAPIsConnectionError) as raised:
            source_file("image", "memory://images/shoe.jpg", "image")
        assert "EndpointConnectionError" in str(raised.value)
        assert not raised.value.sent
        assert raised.value.__cause__ is None
        assert "a-signature" not in str(raised.value)

    def test_error_while_opening_the_upload_is_a_provider_error(self, bucket: Bucket) -> None:
        upload = source_file("image", "memory://images/shoe.jpg", "image").upload
        bucket.errors["open"] = EndpointConnectionError()
        with rejects("image", error=ToAPIsConnectionError) as raised:
            upload.open()
        assert not raised.value.sent

    def test_file_removed_before_its_upload_is_a_file_error(self, tmp_path: Path) -> None:
        reference = write_file(tmp_path, JPEG)
        upload = source_file("image", reference, "image").upload
        Path(reference).unlink()
        with rejects("image", error=ToAPIsFileError):
            upload.open()


class TestReferenceImage:
    def test_url_is_kept_as_url(self) -> None:
        image = reference_image("https://example.com/shoe.jpg")
        assert (image.url, image.upload) == ("https://example.com/shoe.jpg", None)

    def test_file_is_identified_by_its_content(self, tmp_path: Path) -> None:
        image = reference_image(write_file(tmp_path, JPEG))
        assert image.identity == reference_image(write_file(tmp_path, JPEG, "copy.png")).identity
        assert image.identity != reference_image(write_file(tmp_path, PNG)).identity
        assert image.url is None
        assert image.upload is not None

    def test_video_is_rejected_as_an_image(self, tmp_path: Path) -> None:
        with rejects("image"):
            reference_image(write_file(tmp_path, MP4))
