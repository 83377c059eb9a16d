"""Detect file types by content, never by name, and define the upload limits of the service."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

MediaKind = Literal["image", "video", "audio"]

MEBIBYTE = 1024 * 1024
#: Maximum bytes of an upload.
MAX_UPLOAD_SIZE: dict[MediaKind, int] = {"image": 10 * MEBIBYTE, "video": 50 * MEBIBYTE, "audio": 50 * MEBIBYTE}
#: Formats that the upload endpoints accept, for messages.
UPLOAD_FORMATS: dict[MediaKind, str] = {
    "image": "JPEG, PNG, WebP or GIF",
    "video": "MP4, WebM or MOV",
    "audio": "MP3, WAV or M4A",
}
#: Bytes at the start of a file that identify its type.
HEAD_SIZE = 64
#: Bytes at the start of a result that show whether it can be a video. That is enough for two packets of an MPEG
#: transport stream, and to distinguish text from binary content.
RESULT_HEAD_SIZE = 512
#: Minimum bytes of a video.
_SMALLEST_VIDEO = 12


@dataclass(frozen=True)
class MediaType:
    """A file type that the service accepts.

    :param name: The media type, for example ``image/jpeg``.
    """

    kind: MediaKind
    name: str


#: Patterns of the start of a file and their file types. The first match wins.
_SIGNATURES: tuple[tuple[bytes, MediaType], ...] = (
    (rb"\xff\xd8\xff", MediaType("image", "image/jpeg")),
    (rb"\x89PNG\r\n\x1a\n", MediaType("image", "image/png")),
    (rb"GIF8[79]a", MediaType("image", "image/gif")),
    (rb"RIFF.{4}WEBP", MediaType("image", "image/webp")),
    (rb"RIFF.{4}WAVE", MediaType("audio", "audio/wav")),
    (rb".{4}ftypM4[AB] ", MediaType("audio", "audio/mp4")),
    (rb".{4}ftypqt  ", MediaType("video", "video/quicktime")),
    # HEIC and AVIF images are ftyp files too. The service does not list them.
    (rb".{4}ftyp(?!hei|hev|mif1|msf1|avi)", MediaType("video", "video/mp4")),
    (rb"\x1aE\xdf\xa3.{0,40}webm", MediaType("video", "video/webm")),
    (rb"ID3|\xff[\xf2\xf3\xfa\xfb]", MediaType("audio", "audio/mpeg")),
)


#: Further video formats that a result can have. The upload endpoints do not accept them.
_OTHER_VIDEOS = re.compile(
    rb"\x1aE\xdf\xa3|RIFF.{4}AVI |OggS|FLV\x01|\x00\x00\x01[\xba\xb3]|0&\xb2u"
    rb"|.{4}(?:moov|mdat|wide|free|skip)|G.{187}G",
    re.DOTALL,
)
#: Content that is not a video, in addition to the images and audio that the service accepts.
_NON_VIDEOS: tuple[tuple[bytes, str], ...] = (
    (rb".{4}ftypavi[fs]", "image/avif"),
    (rb".{4}ftyp(?:hei|hev|mif1|msf1)", "image/heic"),
    (rb"BM.{4}\x00{4}", "image/bmp"),
    (rb"II[*+]\x00|MM\x00[*+]", "image/tiff"),
    (rb"\x00\x00[\x01\x02]\x00[^\x00]\x00", "image/vnd.microsoft.icon"),
    (rb"%PDF-", "PDF"),
    (rb"PK(?:\x03\x04|\x05\x06)", "ZIP"),
    (rb"\x1f\x8b\x08", "gzip"),
    # UTF-16 with a byte order mark, and ASCII as UTF-16 without one.
    (rb"\xff\xfe|\xfe\xff|(?:[\t\n\r -~]\x00){8}|(?:\x00[\t\n\r -~]){8}", "text"),
)
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:(?P<html>!doctype html|html|head|body)|[!?/a-z])", re.I)
_JSON = re.compile(rb"(?:\xef\xbb\xbf)?\s*[{\[]")
#: Bytes that occur in every video and in no text.
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def is_video(head: bytes) -> bool:
    """Return whether the first RESULT_HEAD_SIZE bytes of a file show that it is a video of a known format."""
    media_type = sniff(head)
    return media_type.kind == "video" if media_type else _OTHER_VIDEOS.match(head) is not None


def non_video(head: bytes) -> str | None:
    """Return the format of content that is known not to be a video, for a message.

    :param head: The first RESULT_HEAD_SIZE bytes of the content.
    :returns: The format; None for a video, and for binary content of an unknown format, which can be a video.
    """
    if len(head) < _SMALLEST_VIDEO:
        return f"{len(head)} bytes"
    media_type = sniff(head)
    if media_type is not None:
        return None if media_type.kind == "video" else media_type.name
    if known := next((name for pattern, name in _NON_VIDEOS if re.match(pattern, head, re.DOTALL)), None):
        return known
    if markup := _MARKUP.match(head):
        return "HTML" if markup["html"] else "XML"
    if _CONTROL.search(head):
        return None
    return "JSON" if _JSON.match(head) else "text"


def sniff(head: bytes) -> MediaType | None:
    """Detect a file's type from its first HEAD_SIZE bytes; return None for a type that the service does not accept."""
    return next((media_type for pattern, media_type in _SIGNATURES if re.match(pattern, head, re.DOTALL)), None)
