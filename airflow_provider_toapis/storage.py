"""Files that go to the service and files that come from it, on local disk or in object storage alike."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, cast
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from airflow_provider_toapis.api.download import Destination, PartialFile
from airflow_provider_toapis.api.errors import ToAPIsConnectionError, ToAPIsFileError, ToAPIsRequestError
from airflow_provider_toapis.api.media import HEAD_SIZE, MAX_UPLOAD_SIZE, UPLOAD_FORMATS, MediaKind, MediaType, sniff
from airflow_provider_toapis.api.redaction import redacted
from airflow_provider_toapis.api.requests import FileUpload, ReferenceImage
from airflow_provider_toapis.api.result_urls import is_link
from airflow_provider_toapis.version_compat import is_local, open_lines

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    AnyPath = Path | ObjectStoragePath

#: A last path segment with such an ending is a file name; without one it is a directory.
_FILE_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
_CHUNK_SIZE = 1024 * 1024
#: Bytes of an object that are held in memory and sent at a time. S3 takes 10,000 such parts, Google Storage wants a
#: multiple of 256 KiB; fsspec's own default for S3 is six times as much.
_BLOCK_SIZE = 8 * 1024 * 1024
_PART = ".toapis-part"
#: Seconds after which an unfinished file that nobody wrote to belongs to a worker that was killed.
_ABANDONED_AFTER = 3600.0
#: What no retry changes.
_DEFINITE = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_DEFINITE_NUMBERS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS)


@dataclass(frozen=True)
class SourceFile:
    """A readable file of a type and size that the service takes.

    :param sha256: Hex digest of the content.
    """

    media_type: MediaType
    sha256: str
    upload: FileUpload


def source_file(field: str, reference: str, kind: MediaKind | None = None) -> SourceFile:
    """Check a file by its content before anything is paid.

    :param field: What messages call it.
    :param reference: Local path or object storage URI.
    :param kind: What it must be; None takes any that the service takes.
    :raises ToAPIsFileError: Missing, a directory, or not to be read.
    :raises ToAPIsRequestError: Of another type, empty or too large.
    :raises ToAPIsConnectionError: Its storage is in trouble.
    """
    path = _path(field, reference)
    with storage_errors(field, reference, "a file that can be read"):
        if not path.exists():
            raise ToAPIsFileError.for_field(field, reference, "a file that exists; there is none")
        if path.is_dir():
            raise ToAPIsFileError.for_field(field, reference, "a file; this is a directory")
        head, digest, size = _read(path)
    media_type = sniff(head)
    if media_type is None or (kind and media_type.kind != kind):
        formats = UPLOAD_FORMATS[kind] if kind else "; ".join(UPLOAD_FORMATS.values())
        raise ToAPIsRequestError.for_field(field, reference, f"a file that is {formats}, by its content")
    limit = MAX_UPLOAD_SIZE[media_type.kind]
    if size > limit:
        raise ToAPIsRequestError.for_field(
            field, reference, f"{media_type.kind} files of at most {limit // 1024**2} MB; it has {size:,} bytes"
        )
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", path.name)
    upload = FileUpload(name=name, media_type=media_type.name, open=lambda: cast("BinaryIO", path.open("rb")))
    return SourceFile(media_type=media_type, sha256=digest, upload=upload)


def reference_image(reference: str) -> ReferenceImage:
    """Return a picture to start a video from: a link as it is, anything else as a checked file.

    :raises ToAPIsRequestError: A file that the service would not take.
    """
    if is_link(reference):
        return ReferenceImage.at(reference)
    source = source_file("image", reference, "image")
    return ReferenceImage(identity=f"sha256:{source.sha256}", upload=source.upload)


def open_text(field: str, reference: str) -> TextIO:
    """Open a file in UTF-8 to be read line by line.

    :param field: What messages call it.
    :raises ToAPIsFileError: Missing, a directory, or not to be read.
    :raises ToAPIsConnectionError: Its storage is in trouble.
    """
    path = _path(field, reference)
    with storage_errors(field, reference, "a file that can be read"):
        # A mark at the beginning, as spreadsheets write it, is no part of the text.
        return open_lines(path, encoding="utf-8-sig", newline="")


def directory_of(output_path: str) -> AnyPath:
    """Return the directory that ``output_path`` names, or that its file is to stand in, and make it on local disk.

    :raises ToAPIsFileError: It cannot be made or written to.
    :raises ToAPIsRequestError: Its storage is not known here.
    :raises ToAPIsConnectionError: Its disk is in trouble, or full.
    """
    path = _path("output_path", output_path)
    directory = path.parent if _is_file_name(path, output_path) else path
    if is_local(directory):
        with storage_errors("output_path", output_path, "a place to write to"):
            directory.mkdir(parents=True, exist_ok=True)
            # Found out now, before anything is paid.
            tempfile.TemporaryFile(dir=directory).close()
    return directory


@contextmanager
def storage_errors(field: str, reference: str, wanted: str) -> Iterator[None]:
    """Raise what a disk or a bucket answers as an error of ours.

    :param wanted: What ``field`` has to be.
    :raises ToAPIsFileError: It is not so, and will not be by itself.
    :raises ToAPIsConnectionError: Anything else; also object stores answer so when they are in trouble.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or type(error).__name__
        if isinstance(error, _DEFINITE) or error.errno in _DEFINITE_NUMBERS:
            raise ToAPIsFileError.for_field(field, reference, f"{wanted} ({why})") from error
        raise ToAPIsConnectionError(
            f"{field}={redacted(repr(reference))} cannot be used right now ({why}). Nothing was sent to ToAPIs.",
            sent=False,
        ) from error


def safe_name(name: str) -> str:
    """Return ``name`` as a file name that cannot lead out of its directory."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".") or "video"


def is_file_name(output_path: str) -> bool:
    """Whether ``output_path`` names one file rather than a directory.

    :raises ToAPIsRequestError: Its storage is not known here.
    """
    return _is_file_name(_path("output_path", output_path), output_path)


def destination(output_path: str, name: str) -> Destination:
    """Return where to write: ``output_path`` itself when it is a file name, else ``name`` in that directory.

    :param name: May come from the server: nothing of it can lead out of the directory.
    """
    path = _path("output_path", output_path)
    return _written_at(path) if _is_file_name(path, output_path) else destination_in(directory_of(output_path), name)


def destination_in(directory: AnyPath, name: str) -> Destination:
    """Return where to write a file of this name, which may come from the server, in a directory that is there."""
    return _written_at(directory / safe_name(name))


def write_text(file: Destination, pieces: Iterable[str]) -> None:
    """Write a file of text; it becomes visible when it is complete."""
    part = file.create()
    try:
        for piece in pieces:
            part.write(piece.encode())
        part.commit()
    except BaseException:
        part.discard()
        raise


@dataclass(frozen=True)
class LocalDestination:
    """A file on local disk: written under a temporary name beside it, synced, then renamed."""

    file: Path

    @property
    def path(self) -> str:
        """The final name."""
        return str(self.file)

    def create(self) -> PartialFile:
        """Begin to write."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(self.file.parent)
        return _LocalPartialFile(self.file)


class _LocalPartialFile:
    def __init__(self, file: Path) -> None:
        self._final = file
        self._part = file.with_name(f".{uuid4().hex}{_PART}")
        self._stream = self._part.open("xb")

    def write(self, data: bytes) -> object:
        return self._stream.write(data)

    def commit(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._part.replace(self._final)

    def discard(self) -> None:
        self._stream.close()
        self._part.unlink(missing_ok=True)


@cache
def _remove_abandoned(directory: Path) -> None:
    """Remove what killed workers left: a kill gives no time for it. Once in a process: it takes long among many."""
    for part in directory.glob(f".*{_PART}"):
        # Another worker may have removed it, or it may be another user's.
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > _ABANDONED_AFTER:
                part.unlink()


@dataclass(frozen=True)
class ObjectDestination:
    """An object in a bucket: nothing of it is visible before the commit, which an abort never reaches."""

    file: ObjectStoragePath

    @property
    def path(self) -> str:
        """The final name."""
        return str(self.file)

    def create(self) -> PartialFile:
        """Begin to write."""
        # Not the file as a context manager: that publishes what was written so far when the block raises.
        return _PartialObject(self.file.fs.open(self.file.path, "wb", block_size=_BLOCK_SIZE, autocommit=False))


class _PartialObject:
    def __init__(self, stream: Any) -> None:  # noqa: ANN401
        self._stream = stream

    def write(self, data: bytes) -> object:
        return self._stream.write(data)

    def commit(self) -> None:
        # Only closing sends the last part, and Google Storage begins a small upload no sooner.
        self._stream.close()
        self._stream.commit()

    def discard(self) -> None:
        from fsspec.spec import AbstractBufferedFile  # type: ignore[import-untyped]

        self._stream.discard()
        if isinstance(self._stream, AbstractBufferedFile):
            # Else it closes itself when it is forgotten, which publishes it on Azure and begins a new upload on S3.
            self._stream.closed = True
        else:
            self._stream.close()


def _written_at(path: AnyPath) -> Destination:
    return LocalDestination(path) if is_local(path) else ObjectDestination(path)


def _path(field: str, reference: str) -> AnyPath:
    if not isinstance(reference, str):
        raise ToAPIsRequestError.for_field(field, reference, "a path or an object storage URI, as text")
    if "://" not in reference:
        return Path(reference).expanduser()
    if re.match(r"(?:file|local)://", reference):
        return _path_of_uri(field, reference)
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        path = ObjectStoragePath(reference)
        _ = path.fs
    except (ValueError, ImportError, NotImplementedError) as error:
        raise ToAPIsRequestError.for_field(
            field,
            reference,
            "a local path or an object storage URI of a scheme that an installed provider knows"
            " (for s3:// apache-airflow-providers-amazon[s3fs], for gs:// apache-airflow-providers-google);"
            f" {reference.partition('://')[0]}:// is not known here",
        ) from error
    return path


def _path_of_uri(field: str, uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise ToAPIsRequestError.for_field(
            field, uri, f"a file of this host, with three slashes: {parts.scheme}:///{parts.netloc}{parts.path}"
        )
    return Path(unquote(parts.path))


def _is_file_name(path: AnyPath, given: str) -> bool:
    if given.endswith("/") or (is_local(path) and path.is_dir()):
        return False
    return bool(_FILE_ENDING.search(path.name))


def _read(path: AnyPath) -> tuple[bytes, str, int]:
    """Return a file's head, the hash of its content, and its size, holding only a piece of it."""
    digest = hashlib.sha256()
    head = b""
    size = 0
    stream: Any
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_SIZE):
            head = head or chunk[:HEAD_SIZE]
            digest.update(chunk)
            size += len(chunk)
    return head, digest.hexdigest(), size
