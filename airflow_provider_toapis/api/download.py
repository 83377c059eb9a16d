"""A finished video into a file: bytes in, file out, and nothing half-written under the final name.

The one routine for the hook, for ``output_path`` and for the download operator. It never orders a video: what cannot
be downloaded stays paid and can be downloaded again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from airflow_provider_toapis.api.errors import ToAPIsConnectionError, ToAPIsDownloadError
from airflow_provider_toapis.api.models import TaskStatus, VideoTask

log = logging.getLogger(__name__)

#: Attempts at one file, fresh links included.
MAX_ATTEMPTS = 5
#: Seconds before the next attempt; the last one repeats.
BACKOFF = (1.0, 3.0, 10.0)
#: What a host answers for a link that has died: the service is asked for a fresh one.
_DEAD_LINK = (401, 403, 404, 410)


@dataclass(frozen=True)
class ByteStream:
    """An answer whose body has not been read yet.

    :param headers: Names in lower case.
    :param chunks: The body; raises ToAPIsConnectionError where the connection breaks.
    """

    status_code: int
    headers: Mapping[str, str]
    chunks: Iterable[bytes]


@dataclass(frozen=True)
class StoredFile:
    """A file that is completely there.

    :param path: Path or URI.
    :param size: Bytes.
    :param sha256: Hex digest of the content.
    """

    path: str
    size: int
    sha256: str


def video_result(task: VideoTask, client_business_id: str | None, stored: StoredFile | None = None) -> dict[str, Any]:
    """Return the small JSON dict that operators push to XCom.

    :param stored: The kept file; without one ``output_path``, ``size`` and ``sha256`` are None.
    """
    return task.as_dict() | {
        "client_business_id": client_business_id,
        "output_path": stored.path if stored else None,
        "size": stored.size if stored else None,
        "sha256": stored.sha256 if stored else None,
    }


class PartialFile(Protocol):
    """A file that is being written and that nobody sees before ``commit``."""

    def write(self, data: bytes) -> object:
        """Append."""

    def commit(self) -> None:
        """Publish under the final name."""

    def discard(self) -> None:
        """Leave no trace."""


class Destination(Protocol):
    """Where a file goes: local disk or object storage."""

    @property
    def path(self) -> str:
        """The final name."""

    def create(self) -> PartialFile:
        """Begin to write."""


class _BrokenDownload(Exception):  # noqa: N818
    """This attempt brought no whole file; the next may."""


class _DeadLink(Exception):  # noqa: N818
    """This link brings no file any more; a fresh one may."""


def download(
    task: VideoTask,
    destination: Destination,
    *,
    open_stream: Callable[[str], AbstractContextManager[ByteStream]],
    ask_again: Callable[[], VideoTask],
    sleep: Callable[[float], None],
) -> StoredFile:
    """Stream the task's video to ``destination``, restarting what breaks and asking for a fresh link where one died.

    :param open_stream: Begins to GET a link.
    :param ask_again: Asks the service for the task, whose links may be new.
    :raises ToAPIsDownloadError: No whole file in MAX_ATTEMPTS attempts. The video stays paid and is not ordered again.
    """
    reason = "it has no link"
    for attempt in range(MAX_ATTEMPTS):
        if attempt:
            sleep(BACKOFF[min(attempt - 1, len(BACKOFF) - 1)])
        if not task.urls:
            task = ask_again()
            continue
        try:
            return _attempt(task, destination, open_stream)
        except _DeadLink as dead:
            reason = str(dead)
            log.info("The link of video %s is dead (%s): asking for a fresh one.", task.id, reason)
            task = ask_again()
        except (_BrokenDownload, ToAPIsConnectionError) as broken:
            reason = str(broken)
            log.info("Downloading video %s broke off (%s): starting again.", task.id, reason)
        except OSError as error:
            # A full disk, a folder that may not be written to: the next attempt would meet the same.
            reason = error.strerror or type(error).__name__
            break
    expired = f" Its link dies at {task.expires_at}." if task.expires_at else ""
    raise ToAPIsDownloadError(
        f"Video {task.id} could not be downloaded to {destination.path}: {reason}.{expired} It is made and paid; a"
        " retry downloads it and does not order a new one. The service keeps results for 24 hours.",
        video_id=task.id,
    )


def require_finished(task: VideoTask) -> VideoTask:
    """Return ``task`` when there is something to download.

    :raises ToAPIsDownloadError: It is not completed.
    """
    if task.status is not TaskStatus.COMPLETED:
        raise ToAPIsDownloadError(
            f"Video {task.id} cannot be downloaded: it is {task.status}, not completed. Put a ToAPIsVideoSensor before"
            " the download. Nothing new was paid.",
            video_id=task.id,
        )
    return task


def _attempt(
    task: VideoTask, destination: Destination, open_stream: Callable[[str], AbstractContextManager[ByteStream]]
) -> StoredFile:
    with open_stream(task.urls[0]) as stream:
        expected = _expected_length(stream)
        partial = destination.create()
        try:
            stored = _copied(stream.chunks, partial, destination.path, expected)
            partial.commit()
        except BaseException:
            partial.discard()
            raise
    return stored


def _expected_length(stream: ByteStream) -> int | None:
    """Check the answer's head; return the length it announces."""
    if stream.status_code in _DEAD_LINK:
        raise _DeadLink(f"HTTP {stream.status_code}")
    if stream.status_code != 200:  # noqa: PLR2004
        raise _BrokenDownload(f"HTTP {stream.status_code}")
    media_type = stream.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type.startswith("text/") or media_type in ("application/json", "application/xml"):
        raise _BrokenDownload(f"the host sent {media_type}, not a video")
    if stream.headers.get("content-encoding", "identity").lower() != "identity":
        raise _BrokenDownload("the host sent an encoded body")
    length = stream.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def _copied(chunks: Iterable[bytes], partial: PartialFile, path: str, expected: int | None) -> StoredFile:
    digest = hashlib.sha256()
    size = 0
    for chunk in chunks:
        partial.write(chunk)
        digest.update(chunk)
        size += len(chunk)
    if size == 0 or (expected is not None and size != expected):
        raise _BrokenDownload(f"{size} of {expected if expected is not None else 'unknown many'} bytes arrived")
    return StoredFile(path=path, size=size, sha256=digest.hexdigest())
