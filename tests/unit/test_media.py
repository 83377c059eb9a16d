"""What a file is, by its content."""

from __future__ import annotations

import pytest

from airflow_provider_toapis.api.media import HEAD_SIZE, MAX_UPLOAD_SIZE, UPLOAD_FORMATS, MediaKind, sniff


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
def test_types_that_the_service_takes(head: bytes, kind: MediaKind, name: str) -> None:
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
def test_types_that_it_does_not_take(head: bytes) -> None:
    assert sniff(head) is None


def test_limits_are_those_that_the_service_documents() -> None:
    mebibyte = 1024 * 1024
    assert {"image": 10 * mebibyte, "video": 50 * mebibyte, "audio": 50 * mebibyte} == MAX_UPLOAD_SIZE
    assert UPLOAD_FORMATS.keys() == MAX_UPLOAD_SIZE.keys()


def test_beginning_that_is_read_is_long_enough_for_every_type() -> None:
    longest = b"\x1aE\xdf\xa3" + b"\x00" * 40 + b"webm"
    assert len(longest) <= HEAD_SIZE
    assert sniff(longest) is not None
