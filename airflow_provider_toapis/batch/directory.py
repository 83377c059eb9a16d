"""List, read, write and remove the files of a batch's directory, on local disk or in object storage."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from airflow_provider_toapis.api.download import Destination
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.storage import (
    LocalDestination,
    destination_in,
    directory_of,
    is_file_name,
    path_of,
    require_writable,
    storage_errors,
    write_text,
)
from airflow_provider_toapis.version_compat import is_local, open_lines


class Directory:
    """A directory whose files are written completely or not at all.

    :param output_path: Local directory or object storage URI.
    :param create: Whether a missing local directory is created, and whether it must be writable.
    :param removes_abandoned: Whether the first write removes the partial files of killed workers. The directory is
        listed for that.
    :raises ToAPIsRequestError: The path names a file, is not writable, or needs a storage provider that is not
        installed.
    """

    def __init__(self, output_path: str, *, create: bool = True, removes_abandoned: bool = True) -> None:
        if not isinstance(output_path, str) or not output_path.strip() or is_file_name(output_path):
            raise ToAPIsRequestError.for_field(
                "output_path", output_path, "must be a directory, because the videos of many rows are saved there"
            )
        self._creates = create
        self._removes_abandoned = removes_abandoned
        self._path = directory_of(output_path) if create else path_of("output_path", output_path.rstrip("/"))
        self._errors = partial(storage_errors, "output_path", output_path)

    def __str__(self) -> str:
        return str(self._path)

    def subdirectory(self, name: str, *, create: bool | None = None) -> Directory:
        """Return the subdirectory of this name.

        :param create: As for the directory itself. Default: the value of this directory.
        """
        return Directory(f"{self._path}/{name}/", create=self._creates if create is None else create)

    def require_writable(self) -> None:
        """Verify that files can be written and deleted here, before anything is billed.

        :raises ToAPIsRequestError: Files cannot be written or deleted.
        """
        require_writable(f"{self._path}/", deletable=True)

    def is_directory(self, name: str) -> bool:
        """Return whether a subdirectory of this name exists; always False in object storage."""
        return is_local(self._path) and (self._path / name).is_dir()

    def path_of(self, name: str) -> str:
        """Return the path or URI of a file in this directory."""
        return f"{self._path}/{name}"

    def sizes(self) -> dict[str, int]:
        """List the directory once; return the size in bytes of each file, by name."""
        with self._errors("a directory that can be listed"):
            try:
                return self._sizes()
            except FileNotFoundError:
                if self._creates and is_local(self._path):
                    raise
                return {}

    def _sizes(self) -> dict[str, int]:
        if is_local(self._path):
            sizes = {}
            for file in self._path.iterdir():
                # Another run may have removed the file since it was listed.
                with suppress(FileNotFoundError):
                    if file.is_file():
                        sizes[file.name] = file.stat().st_size
            return sizes
        fs = self._path.fs
        # Without this call, fsspec returns a cached listing.
        fs.invalidate_cache()
        files = fs.ls(self._path.path, detail=True)
        return {file["name"].rpartition("/")[2]: int(file["size"]) for file in files if file["type"] == "file"}

    def lines(self, name: str) -> Iterator[str]:
        """Read a text file line by line.

        :raises FileNotFoundError: The file does not exist.
        """
        with self._errors("a directory with readable files"):
            try:
                file = open_lines(self._path / name, encoding="utf-8")
            except FileNotFoundError:
                file = None
            if file is not None:
                with file:
                    yield from file
        if file is None:
            raise FileNotFoundError(self.path_of(name))

    def write(self, name: str, pieces: Iterable[str]) -> None:
        """Write a text file. It becomes visible only when it is complete."""
        write_text(self.destination(name), pieces)

    def create(self, name: str, text: str) -> bool:
        """Create a small text file unless it exists; return whether this call created it.

        If several processes create the file at the same time, only one of them gets True on local disk, S3 and Google
        Cloud Storage. On other storage, more than one of them can get True.
        """
        with storage_errors("output_path", self.path_of(name), "writable"):
            try:
                self._create(name, text.encode())
            except FileExistsError:
                return False
        return True

    def read(self, name: str) -> str | None:
        """Return the content of a small text file; None if it does not exist.

        Bytes that are not UTF-8 become replacement characters.
        """
        with storage_errors("output_path", self.path_of(name), "a readable file"):
            try:
                if is_local(self._path):
                    return (self._path / name).read_text(encoding="utf-8", errors="replace")
                self._path.fs.invalidate_cache()
                return bytes(self._path.fs.cat_file(self._object(name))).decode(errors="replace")
            except FileNotFoundError:
                return None

    def read_block(self, name: str, start: int, end: int) -> bytes | None:
        """Return a part of a file, by the positions of its bytes; None if the file does not exist."""
        with storage_errors("output_path", self.path_of(name), "a readable file"):
            try:
                if not is_local(self._path):
                    return bytes(self._path.fs.cat_file(self._object(name), start=start, end=end))
                with (self._path / name).open("rb") as file:
                    file.seek(start)
                    return file.read(end - start)
            except FileNotFoundError:
                return None

    def version_of(self, name: str) -> tuple[int | str, ...] | None:
        """Return a value that changes whenever the file is written; None if the file does not exist."""
        with storage_errors("output_path", self.path_of(name), "a readable file"):
            try:
                if is_local(self._path):
                    stat = (self._path / name).stat()
                    return stat.st_mtime_ns, stat.st_size, stat.st_ino
                self._path.fs.invalidate_cache()
                info = self._path.fs.info(self._object(name))
            except FileNotFoundError:
                return None
        return tuple(str(info.get(field)) for field in ("ETag", "etag", "generation", "created", "mtime", "size"))

    def age(self, name: str) -> float | None:
        """Return the seconds since a file was written, according to the clock of its storage.

        None if the file does not exist or the storage has no modification times.
        """
        written = self._written_at(name)
        if written is None:
            return None
        # The storage's clock cannot be read directly, so its time is taken from a new file.
        probe = f".clock-{uuid4().hex}"
        self.create(probe, "")
        now = self._written_at(probe)
        self.remove([probe])
        return (time.time() if now is None else now) - written

    def remove(self, names: Iterable[str]) -> None:
        """Remove files. Files that do not exist are ignored."""
        with self._errors("a directory whose files can be deleted"):
            if is_local(self._path):
                for name in names:
                    (self._path / name).unlink(missing_ok=True)
            elif paths := [self._object(name) for name in names]:
                try:
                    self._path.fs.rm(paths)
                except FileNotFoundError:
                    # Another run has removed some of the files.
                    self._remove_each(paths)

    def destination(self, name: str) -> Destination:
        """Return the destination to which a file of this name is written."""
        file = destination_in(self._path, name)
        if isinstance(file, LocalDestination):
            return replace(file, removes_abandoned=self._removes_abandoned)
        return file

    def _object(self, name: str) -> str:
        return f"{str(self._path.path).rstrip('/')}/{name}"  # type: ignore[union-attr]

    def _create(self, name: str, content: bytes) -> None:
        if is_local(self._path):
            _create_whole(self._path, name, content)
            return
        fs = self._path.fs
        if _creates_exclusively(fs):
            try:
                fs.pipe_file(self._object(name), content, mode="create")
            except OSError as error:
                if not _is_not_implemented(error):
                    raise
            else:
                return
        fs.invalidate_cache()
        if fs.exists(self._object(name)):
            raise FileExistsError(name)
        fs.pipe_file(self._object(name), content)

    def _written_at(self, name: str) -> float | None:
        with storage_errors("output_path", self.path_of(name), "a readable file"):
            try:
                if is_local(self._path):
                    return (self._path / name).stat().st_mtime
                self._path.fs.invalidate_cache()
                return float(self._path.fs.modified(self._object(name)).timestamp())
            except (FileNotFoundError, NotImplementedError):
                return None

    def _remove_each(self, paths: Iterable[str]) -> None:
        for path in paths:
            with suppress(FileNotFoundError):
                self._path.fs.rm([path])  # type: ignore[union-attr]


def _create_whole(directory: Path, name: str, content: bytes) -> None:
    part = directory / f".{name}-{uuid4().hex}.part"
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, directory / name)
        except FileExistsError:
            raise
        except OSError:
            # The file system has no hard links. Another process can then read the file before it is complete.
            with (directory / name).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    finally:
        part.unlink(missing_ok=True)


def _creates_exclusively(fs: Any) -> bool:  # noqa: ANN401
    """Return whether a file system supports the mode ``create``, which fsspec 2024.10 introduced."""
    return "mode" in inspect.signature(getattr(fs, "_pipe_file", fs.pipe_file)).parameters


def _is_not_implemented(error: OSError) -> bool:
    """Return whether the error means that an S3-compatible server does not support conditional requests."""
    response = getattr(error.__cause__, "response", None)
    return isinstance(response, dict) and response.get("Error", {}).get("Code") == "NotImplemented"
