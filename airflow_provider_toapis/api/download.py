"""A finished video into a file: bytes in, file out, and nothing half-written under the final name.

The one routine for the hook, for ``output_path`` and for the download operator. It never orders a video: what cannot
be downloaded stays paid and can be downloaded again.
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

#: Attempts at one file, fresh links included; 30 seconds of waits between them.
MAX_ATTEMPTS = 6
#: What a host answers for a link that has died: the service is asked for a fresh one.
_DEAD_LINK = (401, 403, 404, 410)
#: Of these, what says that the file is gone. The others may do so for a moment (seen in other clients).
_GONE = (404, 410)
_FORBIDDEN_TRIES = 3
#: Bytes; the default cap of a file, so that no host can fill the storage.
MAX_BYTES = 2 * 1024**3

#: Binary content of an unknown kind: it is billed, so it is saved.
UNKNOWN_FORMAT = "unknown_format"

_OK = 200
_PARTIAL_CONTENT = 206
_RANGE_NOT_SATISFIABLE = 416
#: What errors, log-in pages and pictures are sent as. Any other type may be a video: hosts send many.
_NOT_A_VIDEO = ("text/", "image/", "application/json", "application/problem+json", "application/xml")
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d{1,19})-\d{1,19}/(?P<total>\d{1,19}|\*)", re.ASCII)


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
    :param warnings: What is unusual about it: ``unknown_format``.
    """

    path: str
    size: int
    sha256: str
    warnings: tuple[str, ...] = ()


def video_result(task: VideoTask, client_business_id: str | None, stored: StoredFile | None = None) -> dict[str, Any]:
    """Return the small JSON dict that operators push to XCom.

    :param stored: The kept file; without one ``output_path``, ``size`` and ``sha256`` are None. ``warnings`` are there
        only where it has some.
    """
    result = task.as_dict() | {
        "client_business_id": client_business_id,
        "output_path": stored.path if stored else None,
        "size": stored.size if stored else None,
        "sha256": stored.sha256 if stored else None,
    }
    return result | ({"warnings": list(stored.warnings)} if stored and stored.warnings else {})


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


class _IncompleteDownload(Exception):  # noqa: N818
    """This attempt brought no whole file; the next may."""


class _ExpiredUrl(Exception):  # noqa: N818
    """This link brings no file any more; a fresh one may."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"HTTP {status_code}")
        self.status_code = status_code


class _StorageError(Exception):
    """The next attempt would meet the same."""


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
    """Stream the task's video to ``destination``; go on where a connection broke, ask for a fresh link where one died.

    :param open_stream: Begins to GET a link with these headers.
    :param refresh: Asks the service for the task, whose links may be new.
    :param max_bytes: A larger file is not kept.
    :raises ToAPIsDownloadError: No whole file in MAX_ATTEMPTS attempts, one that is too large, or a place that cannot
        be written to. The video stays paid and is not ordered again here.
    """
    transfer = _Transfer(destination, max_bytes)
    try:
        stored = _transferred(transfer, task, open_stream, refresh, sleep, now)
    except BaseException:
        transfer.discard()
        raise
    if UNKNOWN_FORMAT in stored.warnings:
        log.warning("The content of video %s is not of a known video format. Saved as %s.", task.id, stored.path)
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
    reason, is_lost = "it has no link", False
    dead_for = 0
    for attempt in range(MAX_ATTEMPTS):
        if attempt:
            sleep(backoff(attempt - 1))
        if not task.urls:
            task = refresh()
            continue
        try:
            with open_stream(task.urls[0], transfer.request_headers()) as stream:
                return transfer.receive(stream)
        except _ExpiredUrl as dead:
            reason = str(dead)
            dead_for += 1
            if task.is_expired(now()) and (dead.status_code in _GONE or dead_for >= _FORBIDDEN_TRIES):
                is_lost = True
                break
            log.info("The link of video %s is dead (%s): asking for a fresh one.", task.id, reason)
            task = refresh()
        except (_IncompleteDownload, ToAPIsConnectionError) as broken:
            reason = str(broken)
            log.info("Downloading video %s broke off (%s) after %s bytes.", task.id, reason, f"{transfer.size:,}")
        except _StorageError as error:
            reason = str(error)
            break
    raise ToAPIsDownloadError(
        f"Video {task.id} could not be downloaded to {transfer.path}: {reason}. {_next_steps(task, now())}",
        video_id=task.id,
        is_lost=is_lost,
    )


def _next_steps(task: VideoTask, now: pendulum.DateTime) -> str:
    if task.is_expired(now):
        return (
            f"Its result expired at {task.expires_at}: it was paid and is lost. Downloading again cannot help; the"
            " operator that ordered it orders a new one on its next attempt, within max_generations."
        )
    dies = f" Its link dies at {task.expires_at}." if task.expires_at else ""
    return (
        "It is made and paid; a retry downloads it and does not order a new one. The service keeps results for 24"
        f" hours.{dies}"
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


class _Transfer:
    """One file on its way, in as many pieces as its connections break into."""

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
        """Bytes that have arrived."""
        return self._size

    def request_headers(self) -> dict[str, str]:
        """Ask for the rest only where the host can tell that it is the rest of the same file."""
        if not self._size or not self._etag:
            return {}
        return {"range": f"bytes={self._size}-", "if-range": self._etag}

    def receive(self, stream: ByteStream) -> StoredFile:
        """Write what comes; publish the file when it is whole."""
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
        """Leave no trace, and start over."""
        partial = self._partial
        self._start_over()
        if partial is None:
            return
        try:
            partial.discard()
        except Exception as error:  # noqa: BLE001 - any storage; what went wrong before it is what matters
            log.warning("What was written of %s could not be removed (%s).", self.path, type(error).__name__)

    def _start_over(self) -> None:
        self._partial: PartialFile | None = None
        self._digest = hashlib.sha256()
        self._head = b""
        self._size = 0
        self._expected = None
        self._etag = None

    def _check(self, stream: ByteStream) -> None:
        if stream.status_code in _DEAD_LINK:
            raise _ExpiredUrl(stream.status_code)
        if stream.status_code == _OK or (stream.status_code == _PARTIAL_CONTENT and self._size):
            _check_media_type(stream.headers)
            return
        if stream.status_code == _RANGE_NOT_SATISFIABLE:
            # The host has another file than the one whose beginning is here.
            self.discard()
        raise _IncompleteDownload(f"HTTP {stream.status_code}")

    def _check_continues(self, headers: Mapping[str, str]) -> None:
        """Check that a partial answer begins where the last one broke off, and belongs to the same file."""
        sent = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
        total = _number(sent["total"]) if sent else None
        if (
            sent is None
            or int(sent["first"]) != self._size
            or (total is not None and self._expected not in (None, total))
            or headers.get("etag", self._etag) != self._etag
        ):
            self.discard()
            raise _IncompleteDownload("the host sent another part of the file than was asked for")
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
            raise _IncompleteDownload(f"{self._size} of {self._expected or 'unknown many'} bytes arrived")
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
        # A full disk, a bucket that may not be written to. Texts other than the system's own may hold keys.
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
