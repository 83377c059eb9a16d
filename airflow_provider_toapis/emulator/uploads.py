"""Uploaded files. Their type is detected from their content, and each is served at a public URL."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_provider_toapis.emulator.clock import Clock
from airflow_provider_toapis.emulator.error_bodies import upload_rejected
from airflow_provider_toapis.emulator.settings import Settings
from airflow_provider_toapis.emulator.store import Store

#: Number of leading bytes that identify the type of a file.
SIGNATURE_BYTES = 64
_MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class UploadKind:
    """One of the three upload endpoints.

    :param directory: Part of the URL between the user's directory and the file name.
    :param max_bytes: Maximum size of a file.
    """

    directory: str
    formats: dict[str, str]
    max_bytes: int
    unsupported: str
    too_large: str


KINDS = {
    "images": UploadKind(
        "",
        {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/gif": "gif"},
        10 * _MEGABYTE,
        "Unsupported image type. Allowed: JPEG, PNG, WebP, GIF",
        "Image too large. Maximum size is 10MB",
    ),
    "videos": UploadKind(
        "videos/",
        {"video/mp4": "mp4", "video/webm": "webm", "video/quicktime": "mov"},
        50 * _MEGABYTE,
        "Unsupported or invalid video file. Allowed: MP4, WebM, MOV",
        "Video too large. Maximum size is 50MB",
    ),
    "audios": UploadKind(
        "audios/",
        {"audio/mpeg": "mp3", "audio/wav": "wav", "audio/mp4": "m4a"},
        50 * _MEGABYTE,
        "Unsupported or invalid audio file. Allowed: MP3, WAV, M4A",
        "Audio too large. Maximum size is 50MB",
    ),
}


def sniffed_type(head: bytes) -> str | None:
    """Detect the media type of a file from its first :data:`SIGNATURE_BYTES` bytes; None for an unknown type."""
    for start, media_type in _MAGIC:
        if head.startswith(start):
            return media_type
    if head[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(head[8:12])
    if head[4:8] == b"ftyp":
        return {b"qt  ": "video/quicktime", b"M4A ": "audio/mp4"}.get(head[8:12], "video/mp4")
    return None


_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"\x1aE\xdf\xa3", "video/webm"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"\xff\xf3", "audio/mpeg"),
    (b"\xff\xf2", "audio/mpeg"),
)


class Uploads:
    """The uploaded files of one emulator."""

    def __init__(self, settings: Settings, clock: Clock, store: Store) -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._directory = settings.data_dir / "uploads"
        self._directory.mkdir(parents=True, exist_ok=True)

    def save(self, kind: UploadKind, content: bytes) -> dict[str, Any]:
        """Save a file and return the ``data`` of the response.

        :raises RejectedError: The file is too large, or the endpoint does not accept its type.
        """
        if len(content) > kind.max_bytes:
            raise upload_rejected(kind.too_large)
        media_type = sniffed_type(content[:SIGNATURE_BYTES])
        if media_type not in kind.formats:
            raise upload_rejected(kind.unsupported)
        token = uuid.uuid4().hex[:16]
        name = f"{int(time.time())}_{token}.{kind.formats[media_type]}"
        (self._directory / name).write_bytes(content)
        expires_at = self._clock.now() + self._settings.expiry
        self._store.execute("INSERT INTO upload VALUES (?, ?, ?)", (name, media_type, expires_at))
        return {
            "id": f"upload_{token}",
            "url": f"{self._settings.origin}/files/uploads/1/{kind.directory}{name}",
            "mime_type": media_type,
            "size": len(content),
        }

    def find(self, name: str) -> tuple[Path, str, bool] | None:
        """Return the path and media type of an upload, and whether the upload has expired; None for an unknown name."""
        rows = self._store.execute("SELECT * FROM upload WHERE name = ?", (name,))
        if not rows:
            return None
        return self._directory / name, rows[0]["mime_type"], self._clock.now() >= rows[0]["expires_at"]

    def clear(self) -> None:
        """Delete every file."""
        for file in self._directory.iterdir():
            file.unlink()
