"""Detection of media types by content."""

from __future__ import annotations

import pytest

from airflow_provider_toapis.api.media_types import (
    HEAD_SIZE,
    MAX_UPLOAD_SIZE,
    UPLOAD_FORMATS,
    MediaKind,
    is_video,
    non_video,
    sniff,
)


@pytest.mark.parametrize(
    ("head", "kind", "name"),
    [
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "image", "image/jpeg"),
        (b"\xff\xd8\xff\xe1\x00\x10Exif", "image", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "image", "image/png"),
        (b"GIF87a", "image", "image/gif"),
        (b"GIF89a", "image", "image/gif"),
        (b"RIFF\x0a\n\x00\x00WEBPVP8 ", "image", "image/webp"),
        (b"\x00\x00\x00\x20ftypisom", "video", "video/mp4"),
        (b"\x00\x00\x00\x20ftypmp42", "video", "video/mp4"),
        (b"\x00\x00\x00\x20ftypavc1", "video", "video/mp4"),
        (b"\x00\x00\x00\x0aftypM4V ", "video", "video/mp4"),
        (b"\x00\x00\x00\x14ftypqt  ", "video", "video/quicktime"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webm", "video", "video/webm"),
        (b"ID3\x04\x00", "audio", "audio/mpeg"),
        (b"\xff\xfb\x90\x64", "audio", "audio/mpeg"),
        (b"RIFF\x24\x08\x00\x00WAVEfmt ", "audio", "audio/wav"),
        (b"\x00\x00\x00\x20ftypM4A ", "audio", "audio/mp4"),
    ],
)
def test_supported_types_are_detected(head: bytes, kind: MediaKind, name: str) -> None:
    media_type = sniff(head)
    assert media_type is not None
    assert (media_type.kind, media_type.name) == (kind, name)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"<html>",
        b"plain text",
        b"%PDF-1.7",
        b"BM6\x00",
        b"II*\x00",
        b"<svg xmlns=",
        b"\x89PNG",
        b"xx\xff\xd8\xff",
        b"RIFF\x24\x08\x00\x00AVI LIST",
        b"\x00\x00\x00\x20ftypheic",
        b"\x00\x00\x00\x20ftypheix",
        b"\x00\x00\x00\x20ftypmif1",
        b"\x00\x00\x00\x20ftypavif",
        b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\x82\x88matroska",
        b"{}",
    ],
)
def test_unsupported_types_are_not_detected(head: bytes) -> None:
    assert sniff(head) is None


def test_upload_limits_match_the_documentation() -> None:
    mebibyte = 1024 * 1024
    assert {"image": 10 * mebibyte, "video": 50 * mebibyte, "audio": 50 * mebibyte} == MAX_UPLOAD_SIZE
    assert UPLOAD_FORMATS.keys() == MAX_UPLOAD_SIZE.keys()


def test_head_size_is_sufficient_for_every_type() -> None:
    longest = b"\x1aE\xdf\xa3" + b"\x00" * 40 + b"webm"
    assert len(longest) <= HEAD_SIZE
    assert sniff(longest) is not None


@pytest.mark.parametrize(
    "head",
    [
        b"\x00\x00\x00\x20ftypisom" + bytes(20),
        b"\x00\x00\x00\x14ftypqt  " + bytes(20),
        b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\x82\x88matroska",
        b"RIFF\x24\x08\x00\x00AVI LIST",
        b"\x00\x00\x00\x08wide\x00\x00\x10\x00mdat",
        (b"G\x40\x00\x10" + bytes(184)) * 2,
        b"FLV\x01\x05\x00\x00\x00\x09" + bytes(9),
        b"OggS\x00\x02" + bytes(20),
    ],
)
def test_known_video_formats_are_recognized(head: bytes) -> None:
    assert is_video(head)
    assert non_video(head) is None


@pytest.mark.parametrize(
    ("head", "description"),
    [
        (b"", "0 bytes"),
        (b"\x00", "1 bytes"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\n\t <html><body>wait</body></html>", "HTML"),
        (b"\xef\xbb\xbf<HTML><BODY>", "HTML"),
        (b"<html><body>d\xe9sol\xe9 (Latin-1)", "HTML"),
        (b'<?xml version="1.0"?><Error>', "XML"),
        (b'{"error": {"message": "Task not found"}}', "JSON"),
        (b' [\n{"a": 1}]', "JSON"),
        (b"#EXTM3U\n#EXT-X-VERSION:3\n", "text"),
        ("später noch einmal".encode(), "text"),
        ("sp\xe4ter noch einmal".encode("latin-1"), "text"),
        ("<html>wait</html>".encode("utf-16"), "text"),
        ("<html>wait</html>".encode("utf-16-le"), "text"),
        ("<html>wait</html>".encode("utf-16-be"), "text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "image/png"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "image/avif"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "image/heic"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "image/heic"),
        (b"BM\x36\x10\x0e\0\0\0\0\0\x36\0", "image/bmp"),
        (b"II*\0\x08\0\0\0\x10\0\0\x01", "image/tiff"),
        (b"MM\0*\0\0\0\x08\0\0\0\0", "image/tiff"),
        (b"\0\0\x01\0\x01\0\x20\x20\0\0\x01\0", "image/vnd.microsoft.icon"),
        (b"ID3\x04" + bytes(60), "audio/mpeg"),
        (b"RIFF\x24\x08\x00\x00WAVEfmt ", "audio/wav"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
        (b"PK\x03\x04" + bytes(60), "ZIP"),
        (b"\x1f\x8b\x08" + bytes(60), "gzip"),
    ],
)
def test_known_non_video_content_is_named(head: bytes, description: str) -> None:
    assert non_video(head) == description
    assert not is_video(head)


@pytest.mark.parametrize("head", [bytes(512), bytes(range(1, 64)), b"\0\0\x01\0" + bytes(60)])
def test_unknown_binary_content_is_neither_video_nor_non_video(head: bytes) -> None:
    assert non_video(head) is None
    assert not is_video(head)
