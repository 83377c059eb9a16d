"""Files that go to the service and files that come from it, on local disk or in object storage alike."""

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

#: A last path segment with such an ending is a file name; without one it is a directory.
_FILE_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
_FILE_URI = re.compile(r"(?:file|local)://")
_CHUNK_SIZE = 1024 * 1024
#: Bytes of an object that are held in memory and sent at a time. S3 takes 10,000 such parts, Google Storage wants a
#: multiple of 256 KiB; fsspec's own default for S3 is six times as much.
_BLOCK_SIZE = 8 * 1024 * 1024
_PART = ".toapis-part"
#: The object that shows whether a bucket can be written to; always the same, should it have to stay.
_PROBE = ".toapis-probe"
#: Seconds after which an unfinished file that nobody wrote to belongs to a worker that was killed.
_ABANDONED_AFTER = 3600.0
#: What no retry changes.
_PERMANENT = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_PERMANENT_ERRNOS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS)
#: The same in classes of libraries that need not be installed: credentials that are missing or incomplete.
_PERMANENT_NAMES = (
    "DefaultCredentialsError",
    "InvalidConfigError",
    "NoCredentialsError",
    "ParamValidationError",
    "PartialCredentialsError",
    "ProfileNotFound",
)


def file_size(path: AnyPath, field: str, reference: str) -> int:
    """Return the bytes of a file, 0 where its storage does not know them.

    Not asked by ``exists``: file systems of object storages take any error for an answer there.

    :raises ToAPIsFileError: Missing, a directory, or something that may have no end, as a device or a pipe.
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
        raise ToAPIsFileError.for_field(field, reference, "is a directory, not a file")
    if not is_file:
        raise ToAPIsFileError.for_field(field, reference, "is a device, a pipe or a socket, not a regular file")
    return size


def file_version(path: AnyPath) -> tuple[int, str | None]:
    """Return a file's bytes, and its modification time or ETag, which another content changes; None for an unknown one.

    :raises FileNotFoundError: It is missing.
    """
    if is_local(path):
        status = path.stat()
        return status.st_size, f"modified {status.st_mtime_ns}"
    # File systems remember what they listed before.
    path.fs.invalidate_cache()
    info = path.fs.info(path.path)
    etag = info.get("ETag") or info.get("etag")
    return int(info.get("size") or 0), str(etag) if etag else None


def open_text(field: str, reference: str) -> TextIO:
    """Open a file in UTF-8 to be read line by line.

    :param field: What messages call it.
    :raises ToAPIsFileError: Missing, a directory, or not to be read.
    :raises ToAPIsConnectionError: Its storage is in trouble.
    """
    path = path_of(field, reference)
    with storage_errors(field, reference, "a file that can be read"):
        file_size(path, field, reference)
        # A mark at the beginning, as spreadsheets write it, is no part of the text.
        return open_lines(path, encoding="utf-8-sig", newline="")


def directory_of(output_path: str) -> AnyPath:
    """Return the directory that ``output_path`` names, or that its file is to stand in, and make it on local disk.

    :raises ToAPIsFileError: It cannot be made or written to.
    :raises ToAPIsRequestError: Its storage is not known here.
    :raises ToAPIsConnectionError: Its disk is in trouble, or full.
    """
    path, is_file = _target(output_path)
    directory = path.parent if is_file else path
    if is_local(directory):
        with storage_errors("output_path", output_path, "a place to write to"):
            directory.mkdir(parents=True, exist_ok=True)
            # Found out now, before anything is paid.
            tempfile.TemporaryFile(dir=directory).close()
            if is_file:
                # Some releases of Python take a name that is too long for a missing file.
                with suppress(FileNotFoundError):
                    path.stat()
    return directory


def require_writable(output_path: str, *, deletable: bool = False) -> None:
    """Find out before anything is billed whether files can be written where ``output_path`` leads.

    :func:`directory_of` tries a local disk; a bucket gets a small object, which is removed again.

    :param deletable: Files must be removable there too.
    :raises ToAPIsFileError: They cannot be.
    :raises ToAPIsConnectionError: Its storage is in trouble.
    """
    directory = directory_of(output_path)
    if is_local(directory):
        return
    probe = directory / _PROBE
    errors = partial(storage_errors, "output_path", output_path)
    _write(ObjectDestination(probe), [b"Removed again at once."], partial(errors, "a place to write to"))
    try:
        with errors("a place where files can be deleted"), suppress(FileNotFoundError):
            probe.fs.rm([probe.path])
    except ToAPIsError as error:
        if deletable:
            raise
        log.info("The object %s stays: %s", probe, error)


@contextmanager
def storage_errors(field: str, reference: str, expected: str) -> Iterator[None]:
    """Raise what a disk or a bucket answers as an error of ours.

    :param expected: What ``field`` has to be.
    :raises ToAPIsFileError: It is not so, and will not be by itself.
    :raises ToAPIsConnectionError: Anything else; also object stores answer so when they are in trouble.
    """
    try:
        yield
    except (ToAPIsError, UnicodeDecodeError):
        # What is wrong with a content is told by the code that reads it.
        raise
    except Exception as error:  # noqa: BLE001 - object stores raise classes of their own
        if _is_permanent(error):
            raise ToAPIsFileError.for_field(
                field, reference, f"must be {expected} ({_reason(error)})"
            ) from _safe_cause(error)
        shown = redacted(repr(reference))
        raise ToAPIsConnectionError(
            f"{field}={shown} cannot be used right now ({_reason(error)}). Nothing was sent to ToAPIs.",
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
    """Return an error that a traceback can show. The text of a library's own error may hold a key."""
    return error if isinstance(error, OSError) else None


def safe_name(name: str) -> str:
    """Return ``name`` as a file name that cannot lead out of its directory."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".") or "video"


def is_file_name(output_path: str) -> bool:
    """Whether ``output_path`` names one file rather than a directory.

    :raises ToAPIsRequestError: Its storage is not known here.
    """
    return _target(output_path)[1]


def destination(output_path: str, name: str) -> Destination:
    """Return where to write: ``output_path`` itself when it is a file name, else ``name`` in that directory.

    :param name: May come from the server: nothing of it can lead out of the directory.
    """
    path, is_file = _target(output_path)
    return destination_at(path) if is_file else destination_in(directory_of(output_path), name)


def destination_in(directory: AnyPath, name: str) -> Destination:
    """Return where to write a file of this name, which may come from the server, in a directory that is there."""
    return destination_at(directory / safe_name(name))


def write_text(file: Destination, pieces: Iterable[str]) -> None:
    """Write a file of text; it becomes visible when it is complete.

    :raises ToAPIsConnectionError: It cannot be written.
    """
    _write(file, (piece.encode() for piece in pieces), partial(_write_errors, file))


def _write(file: Destination, pieces: Iterable[bytes], errors: Callable[[], AbstractContextManager[None]]) -> None:
    """Write a file; ``errors`` translates those of its storage, and not those of ``pieces``."""
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
            f"The file {redacted(file.path)!r} cannot be written right now ({_reason(error)}).", sent=False
        ) from _safe_cause(error)


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


def destination_at(path: AnyPath) -> Destination:
    """Return where to write a file of this path, in a directory that is there."""
    return LocalDestination(path) if is_local(path) else ObjectDestination(path)


def path_of(field: str, reference: str) -> AnyPath:
    """Return the path of a file or directory, local or in object storage.

    :param field: What messages call it.
    :raises ToAPIsRequestError: Not a path, or its storage is not known here.
    :raises ToAPIsFileError: Its user has no home directory here.
    :raises ToAPIsConnectionError: Its storage is in trouble.
    """
    if not isinstance(reference, str):
        raise ToAPIsRequestError.for_field(field, reference, "must be a path or an object storage URI")
    if "\0" in reference or (_FILE_URI.match(reference) and "\0" in unquote(reference)):
        raise ToAPIsRequestError.for_field(field, reference, "must not contain NUL characters")
    if "://" not in reference:
        try:
            return Path(reference).expanduser()
        except RuntimeError:
            raise ToAPIsFileError.for_field(
                field, reference, "this user has no home directory on this worker"
            ) from None
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
            f"no installed provider knows {reference.partition('://')[0]}://. Install the one that does: for s3://"
            " apache-airflow-providers-amazon[s3fs], for gs:// apache-airflow-providers-google",
        ) from error
    except Exception:
        with storage_errors(field, reference, "a storage that can be opened"):
            raise
    return path


def _path_of_uri(field: str, uri: str) -> Path:
    # Not split as a URL: "?" and "#" are part of a file's name.
    scheme, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise ToAPIsRequestError.for_field(
            field, uri, f"must be a file on this host, with three slashes: {scheme}:///{rest}"
        )
    return Path(unquote(slash + path))


def _target(output_path: str) -> tuple[AnyPath, bool]:
    """Return where ``output_path`` leads, and whether it names a file."""
    path = path_of("output_path", output_path)
    with storage_errors("output_path", output_path, "a place to write to"):
        return path, _is_file_name(path, output_path)


def _is_file_name(path: AnyPath, given: str) -> bool:
    if given.endswith("/") or (is_local(path) and path.is_dir()):
        return False
    return bool(_FILE_EXTENSION.search(path.name))
