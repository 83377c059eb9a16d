"""Download a finished video into a file. A partial file never has the final name.

The hook, the operators with an ``output_path`` and the download operator use this module. It never submits anything, so
a failed download can be repeated.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pendulum

from airflow_provider_toapis.api.clock import backoff
from airflow_provider_toapis.api.media_types import RESULT_HEAD_SIZE, is_video, non_video
from airflow_provider_toapis.api.responses import TaskStatus, VideoTask
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsDownloadError

log = logging.getLogger(__name__)

#: Maximum attempts to download one file, with the same or a fresh URL. The waits between them add up to 30 seconds.
MAX_ATTEMPTS = 6
#: Statuses of an expired URL. The task is then looked up again for a fresh URL.
_EXPIRED = (401, 403, 404, 410)
#: Statuses of an expired URL that mean that the file is gone. The other statuses can be temporary (seen in other
#: clients).
_GONE = (404, 410)
#: A video whose expiry time has passed is treated as lost after this many responses with a status in ``_EXPIRED``.
_FORBIDDEN_TRIES = 3
#: Default maximum size of a file in bytes, so that no host can fill the storage.
MAX_BYTES = 2 * 1024**3

#: Code of the warning about binary content of an unknown format. The content is saved nevertheless, because it is
#: billed.
UNKNOWN_FORMAT = "unknown_format"

_OK = 200
_PARTIAL_CONTENT = 206
_RANGE_NOT_SATISFIABLE = 416
#: Media types of errors, log-in pages and images. Any other type can be a video, because hosts send many different
#: types for videos.
_NOT_A_VIDEO = ("text/", "image/", "application/json", "application/problem+json", "application/xml")
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d{1,19})-\d{1,19}/(?P<total>\d{1,19}|\*)", re.ASCII)


@dataclass(frozen=True)
class ByteStream:
    """A response whose body has not been read yet.

    :param headers: Names in lower case.
    :param chunks: The body. Iterating it raises ToAPIsConnectionError if the connection breaks.
    """

    status_code: int
    headers: Mapping[str, str]
    chunks: Iterable[bytes]


@dataclass(frozen=True)
class StoredFile:
    """A file that was saved completely.

    :param path: Path or URI.
    :param size: Bytes.
    :param sha256: Hex digest of the content.
    :param warnings: Codes such as ``unknown_format``.
    """

    path: str
    size: int
    sha256: str
    warnings: tuple[str, ...] = ()


def video_result(task: VideoTask, client_business_id: str | None, stored: StoredFile | None = None) -> dict[str, Any]:
    """Return the small JSON dict that operators push to XCom.

    :param stored: The saved file. If None, ``output_path``, ``size`` and ``sha256`` are None. ``media`` and
        ``poster_path`` are None until the file is checked.
    """
    return task.as_dict() | {
        "client_business_id": client_business_id,
        "output_path": stored.path if stored else None,
        "size": stored.size if stored else None,
        "sha256": stored.sha256 if stored else None,
        "media": None,
        "warnings": list(stored.warnings) if stored else [],
        "poster_path": None,
    }


class PartialFile(Protocol):
    """A file that is being written. It is not visible before ``commit``."""

    def write(self, data: bytes) -> object:
        """Append data."""

    def commit(self) -> None:
        """Give the file its final name."""

    def discard(self) -> None:
        """Remove the file."""


class Destination(Protocol):
    """The location of a file on local disk or in object storage."""

    @property
    def path(self) -> str:
        """The final path or URI."""

    def create(self) -> PartialFile:
        """Start a new file."""


class _IncompleteDownload(Exception):  # noqa: N818
    """This attempt did not receive the complete file. Another attempt may succeed."""


class _ExpiredUrl(Exception):  # noqa: N818
    """The URL no longer works. A fresh URL may work."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"HTTP {status_code}")
        self.status_code = status_code


class _StorageError(Exception):
    """The file cannot be saved. Another attempt would fail too."""


def download(
    task: VideoTask,
    destination: Destination,
    *,
    open_stream: Callable[[str, Mapping[str, str]], AbstractContextManager[ByteStream]],
    refresh: Callable[[], VideoTask],
    sleep: Callable[[float], None],
    now: Callable[[], pendulum.DateTime],
    max_bytes: int = MAX_BYTES,
) -> StoredFile:
    """Stream the task's video to ``destination``. Resume a broken download, and look up a fresh URL for an expired one.

    :param open_stream: Starts a GET of a URL with the given headers.
    :param refresh: Looks the task up again and returns it with fresh URLs.
    :param max_bytes: A larger file is not saved.
    :raises ToAPIsDownloadError: The file did not arrive completely in MAX_ATTEMPTS attempts, is too large, or cannot be
        written to ``destination``. Nothing is submitted again.
    """
    transfer = _Transfer(destination, max_bytes)
    try:
        stored = _transferred(transfer, task, open_stream, refresh, sleep, now)
    except BaseException:
        transfer.discard()
        raise
    if UNKNOWN_FORMAT in stored.warnings:
        log.warning("The content of video %s is in no known video format. Saved as %s.", task.id, stored.path)
    return stored


def _transferred(  # noqa: PLR0917
    transfer: _Transfer,
    task: VideoTask,
    open_stream: Callable[[str, Mapping[str, str]], AbstractContextManager[ByteStream]],
    refresh: Callable[[], VideoTask],
    sleep: Callable[[float], None],
    now: Callable[[], pendulum.DateTime],
) -> StoredFile:
    if task.is_expired(now()):
        task = refresh()
    reason, is_lost = "it has no URL", False
    expired_count = 0
    for attempt in range(MAX_ATTEMPTS):
        if attempt:
            sleep(backoff(attempt - 1))
        if not task.urls:
            task = refresh()
            continue
        try:
            with open_stream(task.urls[0], transfer.request_headers()) as stream:
                return transfer.receive(stream)
        except _ExpiredUrl as expired:
            reason = str(expired)
            expired_count += 1
            if task.is_expired(now()) and (expired.status_code in _GONE or expired_count >= _FORBIDDEN_TRIES):
                is_lost = True
                break
            log.info("The URL of video %s has expired (%s). Looking up a fresh one.", task.id, reason)
            task = refresh()
        except (_IncompleteDownload, ToAPIsConnectionError) as broken:
            reason = str(broken).rstrip(".")
            log.info("The download of video %s broke off (%s) after %s bytes.", task.id, reason, f"{transfer.size:,}")
        except _StorageError as error:
            reason = str(error)
            break
    raise ToAPIsDownloadError(
        f"Cannot download video {task.id} to {transfer.path}: {reason}. {_next_steps(task, now())}",
        video_id=task.id,
        is_lost=is_lost,
    )


def _next_steps(task: VideoTask, now: pendulum.DateTime) -> str:
    if task.is_expired(now):
        return (
            f"Its result expired at {task.expires_at}. The video was billed and is lost. The next attempt of the task"
            " that submitted it submits a new video, if max_generations allows this."
        )
    expiry = f" Its URL expires at {task.expires_at}." if task.expires_at else ""
    return (
        "The video is finished and billed. A retry downloads it again and submits nothing. The service stores"
        f" results for 24 hours.{expiry}"
    )


def require_finished(task: VideoTask) -> VideoTask:
    """Return ``task`` if it is completed.

    :raises ToAPIsDownloadError: The task is not completed.
    """
    if task.status is not TaskStatus.COMPLETED:
        raise ToAPIsDownloadError(
            f"Cannot download video {task.id}: it is {task.status}, not completed. Put a ToAPIsVideoSensor before the"
            " download. Nothing was submitted.",
            video_id=task.id,
        )
    return task


class _Transfer:
    """The transfer of one file over one or several connections."""

    _expected: int | None
    _etag: str | None

    def __init__(self, destination: Destination, max_bytes: int) -> None:
        self._destination = destination
        self._max_bytes = max_bytes
        self._start_over()

    @property
    def path(self) -> str:
        return self._destination.path

    @property
    def size(self) -> int:
        """Bytes received so far."""
        return self._size

    def request_headers(self) -> dict[str, str]:
        """Return headers that request only the missing bytes; no headers if the whole file must be requested.

        The whole file is requested if no bytes were received, or if the host cannot verify that its file is unchanged.
        """
        if not self._size or not self._etag:
            return {}
        return {"range": f"bytes={self._size}-", "if-range": self._etag}

    def receive(self, stream: ByteStream) -> StoredFile:
        """Write the body of a response. When the file is complete, give it its final name."""
        self._check(stream)
        if stream.status_code == _PARTIAL_CONTENT:
            self._check_continues(stream.headers)
        else:
            self.discard()
            self._expected = _number(stream.headers.get("content-length", ""))
            self._etag = _strong_etag(stream.headers)
        self._check_size(self._expected or 0)
        for chunk in stream.chunks:
            self._check_size(self._size + len(chunk))
            self._append(chunk)
        return self._published()

    def discard(self) -> None:
        """Remove the partial file and start over."""
        partial = self._partial
        self._start_over()
        if partial is None:
            return
        try:
            partial.discard()
        except Exception as error:  # noqa: BLE001 - any storage; must not hide the original error
            log.warning("Cannot remove the partial file of %s (%s).", self.path, type(error).__name__)

    def _start_over(self) -> None:
        self._partial: PartialFile | None = None
        self._digest = hashlib.sha256()
        self._head = b""
        self._size = 0
        self._expected = None
        self._etag = None

    def _check(self, stream: ByteStream) -> None:
        if stream.status_code in _EXPIRED:
            raise _ExpiredUrl(stream.status_code)
        if stream.status_code == _OK or (stream.status_code == _PARTIAL_CONTENT and self._size):
            _check_media_type(stream.headers)
            return
        if stream.status_code == _RANGE_NOT_SATISFIABLE:
            # The host now has another file, so start over.
            self.discard()
        raise _IncompleteDownload(f"HTTP {stream.status_code}")

    def _check_continues(self, headers: Mapping[str, str]) -> None:
        """Check that a partial response starts at the first missing byte and belongs to the same file."""
        sent = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
        total = _number(sent["total"]) if sent else None
        if (
            sent is None
            or int(sent["first"]) != self._size
            or (total is not None and self._expected not in (None, total))
            or headers.get("etag", self._etag) != self._etag
        ):
            self.discard()
            raise _IncompleteDownload("the host sent another part of the file than requested")
        self._expected = total if total is not None else self._expected

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise _StorageError(f"it has {size:,} bytes or more, and max_bytes is {self._max_bytes:,}")

    def _append(self, chunk: bytes) -> None:
        with _storage_errors():
            if self._partial is None:
                self._partial = self._destination.create()
            self._partial.write(chunk)
        self._digest.update(chunk)
        self._size += len(chunk)
        self._head += chunk[: RESULT_HEAD_SIZE - len(self._head)]

    def _published(self) -> StoredFile:
        if self._partial is None or (self._expected is not None and self._size < self._expected):
            raise _IncompleteDownload(f"{self._size} of {self._expected or 'an unknown number of'} bytes arrived")
        if self._expected is not None and self._size > self._expected:
            arrived = self._size
            self.discard()
            raise _IncompleteDownload(f"{arrived} instead of {self._expected} bytes arrived")
        if what := non_video(self._head):
            self.discard()
            raise _IncompleteDownload(f"the host sent {what}, not a video")
        with _storage_errors():
            self._partial.commit()
        return StoredFile(
            path=self.path,
            size=self._size,
            sha256=self._digest.hexdigest(),
            warnings=() if is_video(self._head) else (UNKNOWN_FORMAT,),
        )


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - object stores raise classes of their own
        # For example a full disk, or a bucket without write permission. Only texts of the operating system are shown,
        # because other texts can contain keys.
        reason = error.strerror if isinstance(error, OSError) and error.errno else None
        raise _StorageError(reason or type(error).__name__) from None


def _check_media_type(headers: Mapping[str, str]) -> None:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type.startswith(_NOT_A_VIDEO):
        raise _IncompleteDownload(f"the host sent {media_type}, not a video")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise _IncompleteDownload("the host sent an encoded body")


def _strong_etag(headers: Mapping[str, str]) -> str | None:
    etag = headers.get("etag", "")
    return etag if etag.startswith('"') else None


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and text.isascii() else None
