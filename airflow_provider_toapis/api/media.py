"""What a file is, by its content and never by its name, and how large the service takes it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

MediaKind = Literal["image", "video", "audio"]

MEBIBYTE = 1024 * 1024
#: Bytes that the upload endpoints take.
MAX_UPLOAD_SIZE: dict[MediaKind, int] = {"image": 10 * MEBIBYTE, "video": 50 * MEBIBYTE, "audio": 50 * MEBIBYTE}
#: What the upload endpoints take, in the words of messages.
UPLOAD_FORMATS: dict[MediaKind, str] = {
    "image": "JPEG, PNG, WebP or GIF",
    "video": "MP4, WebM or MOV",
    "audio": "MP3, WAV or M4A",
}
#: Bytes of a file's beginning that tell its type.
HEAD_SIZE = 64


@dataclass(frozen=True)
class MediaType:
    """A file type that the service takes.

    :param name: The media type, for example ``image/jpeg``.
    """

    kind: MediaKind
    name: str


#: The first that matches wins.
_SIGNATURES: tuple[tuple[bytes, MediaType], ...] = (
    (rb"\xff\xd8\xff", MediaType("image", "image/jpeg")),
    (rb"\x89PNG\r\n\x1a\n", MediaType("image", "image/png")),
    (rb"GIF8[79]a", MediaType("image", "image/gif")),
    (rb"RIFF.{4}WEBP", MediaType("image", "image/webp")),
    (rb"RIFF.{4}WAVE", MediaType("audio", "audio/wav")),
    (rb".{4}ftypM4[AB] ", MediaType("audio", "audio/mp4")),
    (rb".{4}ftypqt  ", MediaType("video", "video/quicktime")),
    # HEIC and AVIF pictures are ftyp files too, and not on the service's list.
    (rb".{4}ftyp(?!hei|hev|mif1|msf1|avi)", MediaType("video", "video/mp4")),
    (rb"\x1aE\xdf\xa3.{0,40}webm", MediaType("video", "video/webm")),
    (rb"ID3|\xff[\xf2\xf3\xfa\xfb]", MediaType("audio", "audio/mpeg")),
)


def sniff(head: bytes) -> MediaType | None:
    """Return what a file is by its first HEAD_SIZE bytes; None for what the service does not take."""
    return next((media_type for pattern, media_type in _SIGNATURES if re.match(pattern, head, re.DOTALL)), None)
