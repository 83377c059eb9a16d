"""Read and write files on local disk and in object storage, and translate the errors of both."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import unquote
from uuid import uuid4

from airflow_provider_toapis.api.download import Destination, PartialFile
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsError, ToAPIsFileError, ToAPIsRequestError
from airflow_provider_toapis.redaction import redacted
from airflow_provider_toapis.version_compat import is_local, open_lines

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    AnyPath = Path | ObjectStoragePath

log = logging.getLogger(__name__)

#: Extension that makes the last segment of a path a file name. Without such an extension, the path is a directory.
_FILE_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
_FILE_URI = re.compile(r"(?:file|local)://")
_CHUNK_SIZE = 1024 * 1024
#: Bytes of an object that are buffered and then sent as one part. S3 accepts at most 10,000 parts, and Google Cloud
#: Storage requires a multiple of 256 KiB. The default of fsspec for S3 is six times as much.
_BLOCK_SIZE = 8 * 1024 * 1024
_PART = ".toapis-part"
#: Object that is written to check that a bucket is writable. It always has the same name, so that at most one such
#: object remains if it cannot be deleted.
_PROBE = ".toapis-probe"
#: A partial file is removed if it was not written to for this many seconds, because its worker must have been killed.
_ABANDONED_AFTER = 3600.0
#: Errors that a retry does not fix.
_PERMANENT = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_PERMANENT_ERRNOS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS)
#: Class names of further errors that a retry does not fix: credentials are missing or incomplete. Names are compared,
#: because the libraries of these classes may not be installed.
_PERMANENT_NAMES = (
    "DefaultCredentialsError",
    "InvalidConfigError",
    "NoCredentialsError",
    "ParamValidationError",
    "PartialCredentialsError",
    "ProfileNotFound",
)


def file_size(path: AnyPath, field: str, reference: str) -> int:
    """Return the size of a file in bytes; 0 if its storage does not report it.

    ``exists`` is not used, because object storage file systems return False from it after any error.

    :raises ToAPIsFileError: The file is missing, or it is a directory, a device, a pipe or a socket.
    """
    try:
        if is_local(path):
            status = path.stat()
            is_directory, is_file, size = stat.S_ISDIR(status.st_mode), stat.S_ISREG(status.st_mode), status.st_size
        else:
            info = path.fs.info(path.path)
            is_directory, is_file, size = info["type"] == "directory", True, int(info.get("size") or 0)
    except FileNotFoundError as error:
        raise ToAPIsFileError.for_field(
            field, reference, "the file does not exist. Check the path on the worker that runs this task"
        ) from error
    if is_directory:
        raise ToAPIsFileError.for_field(field, reference, "must be a file, not a directory")
    if not is_file:
        raise ToAPIsFileError.for_field(field, reference, "must be a regular file, not a device, a pipe or a socket")
    return size


def file_version(path: AnyPath) -> tuple[int, str | None]:
    """Return a file's size in bytes, and its modification time (local disk) or its ETag (object storage).

    The second value is None if the object storage reports no ETag.

    :raises FileNotFoundError: The file is missing.
    """
    if is_local(path):
        status = path.stat()
        return status.st_size, f"modified {status.st_mtime_ns}"
    # fsspec caches listings, which can be outdated.
    path.fs.invalidate_cache()
    info = path.fs.info(path.path)
    etag = info.get("ETag") or info.get("etag")
    return int(info.get("size") or 0), str(etag) if etag else None


def open_text(field: str, reference: str) -> TextIO:
    """Open a UTF-8 file to read it line by line.

    :param field: Name of the parameter, for messages.
    :raises ToAPIsFileError: The file is missing, is a directory, or cannot be read.
    :raises ToAPIsConnectionError: The storage cannot be reached right now.
    """
    path = path_of(field, reference)
    with storage_errors(field, reference, "a readable file"):
        file_size(path, field, reference)
        # `utf-8-sig` skips a byte order mark, which spreadsheets write.
        return open_lines(path, encoding="utf-8-sig", newline="")


def directory_of(output_path: str) -> AnyPath:
    """Return ``output_path`` if it names a directory, else the directory of the file that it names.

    On local disk, the directory is created if it does not exist.

    :raises ToAPIsFileError: The directory cannot be created or written to.
    :raises ToAPIsRequestError: The URI needs a storage provider that is not installed.
    :raises ToAPIsConnectionError: The disk fails or is full.
    """
    path, is_file = _target(output_path)
    directory = path.parent if is_file else path
    if is_local(directory):
        with storage_errors("output_path", output_path, "writable"):
            directory.mkdir(parents=True, exist_ok=True)
            # If the directory is not writable, this fails now, before anything is billed.
            tempfile.TemporaryFile(dir=directory).close()
            if is_file:
                # If the file name is too long, this fails now. Some Python releases report such a file as missing
                # instead.
                with suppress(FileNotFoundError):
                    path.stat()
    return directory


def require_writable(output_path: str, *, deletable: bool = False) -> None:
    """Verify that files can be written to ``output_path``, before anything is billed.

    :func:`directory_of` checks a local disk. In a bucket, a small object is written and deleted again.

    :param deletable: Whether to also verify that files can be deleted (default False).
    :raises ToAPIsFileError: Files cannot be written or deleted.
    :raises ToAPIsConnectionError: The storage cannot be reached right now.
    """
    directory = directory_of(output_path)
    if is_local(directory):
        return
    probe = directory / _PROBE
    errors = partial(storage_errors, "output_path", output_path)
    _write(ObjectDestination(probe), [b"Removed again at once."], partial(errors, "writable"))
    try:
        with errors("a path where files can be deleted"), suppress(FileNotFoundError):
            probe.fs.rm([probe.path])
    except ToAPIsError as error:
        if deletable:
            raise
        log.info("Cannot delete the object %s: %s", probe, error.without_cost)


@contextmanager
def storage_errors(field: str, reference: str, expected: str) -> Iterator[None]:
    """Translate the errors of a disk or a bucket into errors of this provider.

    :param expected: What ``field`` must be, for messages, for example ``a readable file``.
    :raises ToAPIsFileError: A retry does not fix the error.
    :raises ToAPIsConnectionError: Any other error, such as an outage of the object storage.
    """
    try:
        yield
    except (ToAPIsError, UnicodeDecodeError):
        # These are not errors of the storage. The code that reads the file reports invalid content.
        raise
    except Exception as error:  # noqa: BLE001 - object stores raise classes of their own
        if _is_permanent(error):
            raise ToAPIsFileError.for_field(
                field, reference, f"must be {expected} ({_reason(error)})"
            ) from _safe_cause(error)
        shown = redacted(repr(reference))
        raise ToAPIsConnectionError(
            f"Cannot use {field}={shown} right now ({_reason(error)}).",
            sent=False,
            field=field,
            value=shown,
        ) from _safe_cause(error)


def _is_permanent(error: Exception) -> bool:
    if isinstance(error, OSError):
        return isinstance(error, _PERMANENT) or error.errno in _PERMANENT_ERRNOS
    return isinstance(error, ValueError) or type(error).__name__ in _PERMANENT_NAMES


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _safe_cause(error: Exception) -> Exception | None:
    """Return ``error`` if a traceback can show its text; else None. The text of a library's error can contain a key."""
    return error if isinstance(error, OSError) else None


def safe_name(name: str) -> str:
    """Return ``name`` with unsafe characters replaced or removed, so that the file cannot be outside its directory."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".") or "video"


def is_file_name(output_path: str) -> bool:
    """Return whether ``output_path`` names a file rather than a directory.

    :raises ToAPIsRequestError: The URI needs a storage provider that is not installed.
    """
    return _target(output_path)[1]


def destination(output_path: str, name: str) -> Destination:
    """Return the destination: ``output_path`` if it names a file, else ``name`` in the directory ``output_path``.

    :param name: File name. It can come from the service, so it is not trusted: see :func:`safe_name`.
    """
    path, is_file = _target(output_path)
    return destination_at(path) if is_file else destination_in(directory_of(output_path), name)


def destination_in(directory: AnyPath, name: str) -> Destination:
    """Return the destination for a file in an existing directory.

    :param name: See :func:`destination`.
    """
    return destination_at(directory / safe_name(name))


def write_text(file: Destination, pieces: Iterable[str]) -> None:
    """Write a text file. It becomes visible only when it is complete.

    :raises ToAPIsConnectionError: The file cannot be written.
    """
    _write(file, (piece.encode() for piece in pieces), partial(_write_errors, file))


def write_bytes(file: Destination, content: bytes) -> None:
    """Write a file. It becomes visible only when it is complete.

    :raises ToAPIsConnectionError: The file cannot be written.
    """
    _write(file, [content], partial(_write_errors, file))


def _write(file: Destination, pieces: Iterable[bytes], errors: Callable[[], AbstractContextManager[None]]) -> None:
    """Write a file.

    :param errors: Translates the errors of the storage. The errors of the iterable ``pieces`` are not translated.
    """
    with errors():
        part = file.create()
    try:
        for piece in pieces:
            with errors():
                part.write(piece)
        with errors():
            part.commit()
    except BaseException:
        with suppress(Exception):
            part.discard()
        raise


@contextmanager
def _write_errors(file: Destination) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - object stores raise classes of their own
        raise ToAPIsConnectionError(
            f"Cannot write the file {redacted(file.path)!r} right now ({_reason(error)}).", sent=False
        ) from _safe_cause(error)


@dataclass(frozen=True)
class LocalDestination:
    """A file on local disk. It is written under a temporary name in the same directory, synced, then renamed.

    :param removes_abandoned: Whether to remove the partial files of killed workers first. The whole directory is listed
        for that.
    """

    file: Path
    removes_abandoned: bool = True

    @property
    def path(self) -> str:
        """The final path."""
        return str(self.file)

    def create(self) -> PartialFile:
        """Start to write the file."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if self.removes_abandoned:
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
    """Remove the partial files of killed workers.

    The result is cached, so that a process does this once per directory: listing a large directory takes long.
    """
    for part in directory.glob(f".*{_PART}"):
        # Another worker can have removed the file, or it can belong to another user.
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > _ABANDONED_AFTER:
                part.unlink()


@dataclass(frozen=True)
class ObjectDestination:
    """An object in a bucket. It becomes visible only at the commit."""

    file: ObjectStoragePath

    @property
    def path(self) -> str:
        """The final path."""
        return str(self.file)

    def create(self) -> PartialFile:
        """Start to write the file."""
        # The file is not used as a context manager, because that publishes a partial object when the block raises.
        return _PartialObject(self.file.fs.open(self.file.path, "wb", block_size=_BLOCK_SIZE, autocommit=False))


class _PartialObject:
    def __init__(self, stream: Any) -> None:  # noqa: ANN401
        self._stream = stream

    def write(self, data: bytes) -> object:
        return self._stream.write(data)

    def commit(self) -> None:
        # Closing sends the last part. On Google Cloud Storage a small upload only starts here.
        self._stream.close()
        self._stream.commit()

    def discard(self) -> None:
        from fsspec.spec import AbstractBufferedFile  # type: ignore[import-untyped]

        self._stream.discard()
        if isinstance(self._stream, AbstractBufferedFile):
            # Otherwise garbage collection closes the stream, which publishes the object on Azure and starts an upload
            # on S3.
            self._stream.closed = True
        else:
            self._stream.close()


def destination_at(path: AnyPath) -> Destination:
    """Return the destination for a path in an existing directory."""
    return LocalDestination(path) if is_local(path) else ObjectDestination(path)


def path_of(field: str, reference: str) -> AnyPath:
    """Return the path of a file or directory, local or in object storage.

    :param field: Name of the parameter, for messages.
    :raises ToAPIsRequestError: ``reference`` is not a path, or needs a storage provider that is not installed.
    :raises ToAPIsFileError: The user of ``~user`` has no home directory on this worker.
    :raises ToAPIsConnectionError: The storage cannot be reached right now.
    """
    if not isinstance(reference, str):
        raise ToAPIsRequestError.for_field(field, reference, "must be a path or an object storage URI")
    if "\0" in reference or (_FILE_URI.match(reference) and "\0" in unquote(reference)):
        raise ToAPIsRequestError.for_field(field, reference, "must not contain NUL characters")
    if "://" not in reference:
        try:
            return Path(reference).expanduser()
        except RuntimeError:
            raise ToAPIsFileError.for_field(field, reference, "the user has no home directory on this worker") from None
    if _FILE_URI.match(reference):
        return _path_of_uri(field, reference)
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        path = ObjectStoragePath(reference)
        _ = path.fs
    except (ValueError, ImportError, NotImplementedError) as error:
        raise ToAPIsRequestError.for_field(
            field,
            reference,
            f"no installed provider supports {reference.partition('://')[0]}://. Install one: for s3://"
            " apache-airflow-providers-amazon[s3fs], for gs:// apache-airflow-providers-google",
        ) from error
    except Exception:
        with storage_errors(field, reference, "in a storage that can be opened"):
            raise
    return path


def _path_of_uri(field: str, uri: str) -> Path:
    # Not parsed as a URL, because "?" and "#" are part of the file name.
    scheme, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise ToAPIsRequestError.for_field(
            field, uri, f"must be a file on this host, with three slashes: {scheme}:///{rest}"
        )
    return Path(unquote(slash + path))


def _target(output_path: str) -> tuple[AnyPath, bool]:
    """Return the path of ``output_path``, and whether it names a file."""
    path = path_of("output_path", output_path)
    with storage_errors("output_path", output_path, "writable"):
        return path, _is_file_name(path, output_path)


def _is_file_name(path: AnyPath, output_path: str) -> bool:
    if output_path.endswith("/") or (is_local(path) and path.is_dir()):
        return False
    return bool(_FILE_EXTENSION.search(path.name))
