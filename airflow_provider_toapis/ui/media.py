"""Serve saved videos and posters. Only files below ``[toapis] media_roots`` are served.

A path comes from an XCom, which an author of a DAG can forge. It is therefore compared with the roots after symbolic
links are resolved, and the content must be that of a video or of a JPEG image.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from airflow.providers.common.compat.sdk import conf
from fastapi import HTTPException
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from airflow_provider_toapis.api.media_types import HEAD_SIZE, sniff
from airflow_provider_toapis.exceptions import ToAPIsError
from airflow_provider_toapis.get_provider_info import CONFIG_SECTION
from airflow_provider_toapis.storage import file_version, path_of, storage_errors
from airflow_provider_toapis.version_compat import is_local

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from airflow_provider_toapis.storage import AnyPath

Kind = Literal["video", "poster"]
#: Seconds for which a signed URL of an object is valid.
_SIGNED_SECONDS = 300
_CHUNK = 1024 * 1024
_RANGE = re.compile(r"bytes=(?:(?P<first>[0-9]{1,18})-(?P<last>[0-9]{0,18})|-(?P<suffix>[0-9]{1,18}))")
_FILE_URIS = ("file://", "local://")
#: Parts of a URI that libraries or browsers resolve or remove.
_UNSAFE_IN_URI = re.compile(r"(?:^|/)\.{1,2}(?:/|$)|[\x00-\x1f\x7f\\]")
#: How a directory is opened. `O_PATH`, which macOS does not have, needs no permission to list the directory.
_DIRECTORY_FLAGS = os.O_DIRECTORY | os.O_NOFOLLOW | getattr(os, "O_PATH", os.O_RDONLY)
#: Objects that are streamed through this process at a time.
_streams = BoundedSemaphore(8)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=300",
}


@dataclass(frozen=True)
class _File:
    """A file that can be served.

    :param open: Opens the file.
    :param head: The first bytes.
    :param url: Signed URL; None if the file must be streamed.
    """

    open: Callable[[], Any]
    head: bytes
    size: int
    url: str | None = None


def media_roots() -> tuple[str, ...]:
    """Return the directories and URIs in ``[toapis] media_roots``, separated by commas or line breaks."""
    return tuple(filter(None, map(str.strip, re.split(r"[,\n]", conf.get(CONFIG_SECTION, "media_roots", fallback="")))))


def is_served(path: str | None) -> bool:
    """Return whether a recorded path is below one of the roots. The file itself is not read."""
    return path is not None and any(_is_below(path, root) for root in media_roots())


def _is_below(path: str, root: str) -> bool:
    try:
        path, root = _without_scheme(path), _without_scheme(root)
        if "://" in root:
            base = f"{root.rstrip('/')}/"
            return path.startswith(base) and not _UNSAFE_IN_URI.search(path.removeprefix(base))
        if "://" in path:
            return False
        return Path(path).expanduser().resolve().is_relative_to(Path(root).expanduser().resolve())
    except (OSError, RuntimeError, ValueError, ToAPIsError):
        return False


def _without_scheme(reference: str) -> str:
    """Return the path of a ``file://`` URI, and any other path or URI unchanged."""
    return str(path_of("output_path", reference)) if reference.startswith(_FILE_URIS) else reference


def serve(path: str | None, kind: Kind, requested_range: str | None) -> Response:
    """Return the content of a recorded file, or a redirect to it.

    :raises HTTPException: 404: the file is not below a root, is missing, or is not a video or a JPEG image.
    """
    if path is None or not is_served(path):
        raise _not_found()
    try:
        with storage_errors("output_path", path, "a readable file"):
            found = path_of("output_path", path)
            file = _local(found) if is_local(found) else _object(found)
    except ToAPIsError:
        raise _not_found() from None
    media_type = _media_type(file.head, kind)
    if file.url:
        return RedirectResponse(file.url, 307, {"Cache-Control": "no-store"})
    return _streamed(file, media_type, requested_range, StreamingResponse if is_local(found) else _ObjectResponse)


def _local(path: Path) -> _File:
    real = path.resolve(strict=True)
    if not is_served(str(real)):
        raise FileNotFoundError(path)
    with _opened(real) as content:
        return _File(partial(_opened, real), content.read(HEAD_SIZE), os.fstat(content.fileno()).st_size)


def _opened(real: Path) -> BinaryIO:
    """Open a file by its real path, even if a symbolic link replaces a part of the path meanwhile.

    :raises OSError: A part of the path is a symbolic link, or the path is not that of a regular file.
    """
    with ExitStack() as directories:
        parent = None
        for name in real.parts[:-1]:
            parent = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
            directories.callback(os.close, parent)
        # Without O_NONBLOCK, this would wait for the writer of a pipe.
        file = os.open(real.name, os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise FileNotFoundError(real)
    return os.fdopen(file, "rb")


def _object(path: AnyPath) -> _File:
    fs: Any = path.fs  # type: ignore[union-attr]
    name = path.path  # type: ignore[union-attr]
    size, _ = file_version(path)
    head = fs.cat_file(name, start=0, end=HEAD_SIZE)
    # The default block size of S3 is 50 MiB.
    return _File(partial(fs.open, name, "rb", block_size=_CHUNK), head, size, _signed_url(fs, name))


def _signed_url(fs: Any, name: str) -> str | None:  # noqa: ANN401
    try:
        return str(fs.sign(name, expiration=_SIGNED_SECONDS))
    except Exception:  # noqa: BLE001 - not every storage can sign, and some need other credentials for it
        return None


def _streamed(
    file: _File, media_type: str, requested_range: str | None, response: type[StreamingResponse]
) -> StreamingResponse:
    span = _span(requested_range, file.size)
    start, end = span or (0, file.size)
    headers = {**_HEADERS, "Accept-Ranges": "bytes", "Content-Length": str(end - start)}
    if span:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    return response(_pieces(file, start, end), 206 if span else 200, headers, media_type)


class _ObjectResponse(StreamingResponse):
    """Streams an object. Only a few objects are streamed at a time; further requests get 503."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _streams.acquire(blocking=False):
            await Response("Too many videos are streamed right now.", 503, {"Retry-After": "5"})(scope, receive, send)
            return
        try:
            await super().__call__(scope, receive, send)
        finally:
            _streams.release()


def _pieces(file: _File, start: int, end: int) -> Iterator[bytes]:
    with file.open() as content:
        content.seek(start)
        while start < end and (piece := content.read(min(_CHUNK, end - start))):
            start += len(piece)
            yield piece


def _span(requested: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte and the end of the requested range; None if the header is missing, invalid or has several.

    :raises HTTPException: 416: the range begins after the end of the file.
    """
    match = _RANGE.fullmatch(requested or "")
    if not match or (match["last"] and int(match["last"]) < int(match["first"])):
        return None
    start = int(match["first"]) if match["first"] else max(0, size - int(match["suffix"]))
    end = min(size, int(match["last"]) + 1) if match["last"] else size
    if start >= end:
        raise HTTPException(416, headers={"Content-Range": f"bytes */{size}"})
    return start, end


def _media_type(head: bytes, kind: Kind) -> str:
    """Return the media type of a file by its first bytes.

    :raises HTTPException: 404: it is not a file of this kind.
    """
    found = sniff(head)
    expected = "video" if kind == "video" else "image"
    if found is None or found.kind != expected or (kind == "poster" and found.name != "image/jpeg"):
        raise _not_found()
    return found.name


def _not_found() -> HTTPException:
    return HTTPException(404, "This file is not served.")
