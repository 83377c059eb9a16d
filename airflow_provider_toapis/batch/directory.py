"""The folder of a catalog, on local disk or in object storage: what lies in it, and what is put there."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from airflow_provider_toapis.api.download import Destination
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.storage import (
    destination_in,
    directory_of,
    is_file_name,
    require_writable,
    storage_errors,
    write_text,
)
from airflow_provider_toapis.version_compat import is_local, open_lines


class Directory:
    """A directory whose files are put there whole or not at all.

    :param output_path: Local directory or object storage URI; it is made where there is none.
    :raises ToAPIsRequestError: It names a file, cannot be written to, or its storage is not known here.
    """

    def __init__(self, output_path: str) -> None:
        if not isinstance(output_path, str) or not output_path.strip() or is_file_name(output_path):
            raise ToAPIsRequestError.for_field(
                "output_path", output_path, "must be a directory: it gets the videos of many rows"
            )
        self._path = directory_of(output_path)
        self._errors = partial(storage_errors, "output_path", output_path)

    def __str__(self) -> str:
        return str(self._path)

    def subdirectory(self, name: str) -> Directory:
        """Return a directory in it."""
        return Directory(f"{self._path}/{name}/")

    def require_writable(self) -> None:
        """Find out before anything is billed whether files can be written and deleted in it.

        :raises ToAPIsRequestError: They cannot be.
        """
        require_writable(f"{self._path}/", deletable=True)

    def is_directory(self, name: str) -> bool:
        """Whether a directory of this name is in it. Object storage has none."""
        return is_local(self._path) and (self._path / name).is_dir()

    def path_of(self, name: str) -> str:
        """Return the path or URI of a file in it."""
        return f"{self._path}/{name}"

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file that lies in it now, by name; asked for at once, not one by one."""
        with self._errors("a directory that can be listed"):
            return self._sizes()

    def _sizes(self) -> dict[str, int]:
        if is_local(self._path):
            sizes = {}
            for file in self._path.iterdir():
                # Another run may have removed it meanwhile.
                with suppress(FileNotFoundError):
                    if file.is_file():
                        sizes[file.name] = file.stat().st_size
            return sizes
        fs = self._path.fs
        # File systems remember what they listed before.
        fs.invalidate_cache()
        try:
            files = fs.ls(self._path.path, detail=True)
        except FileNotFoundError:
            return {}
        return {file["name"].rpartition("/")[2]: int(file["size"]) for file in files if file["type"] == "file"}

    def lines(self, name: str) -> Iterator[str]:
        """Read a text file line by line.

        :raises FileNotFoundError: It does not exist (any more).
        """
        with self._errors("a directory whose files can be read"):
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
        """Write a text file; it becomes visible when it is complete."""
        write_text(self.destination(name), pieces)

    def create(self, name: str, text: str) -> bool:
        """Write a small text file unless there is one of this name; return whether this call has made it.

        Of several processes exactly one makes it on local disk, on S3 and on Google Storage. Elsewhere two that do it
        at the same moment may both be told so.
        """
        with storage_errors("output_path", self.path_of(name), "a place to write to"):
            try:
                self._create(name, text.encode())
            except FileExistsError:
                return False
        return True

    def read(self, name: str) -> str | None:
        """Return the content of a small text file; None where there is none.

        What is not UTF-8 in it becomes a mark that no JSON begins with: the code that parses it reports it.
        """
        with storage_errors("output_path", self.path_of(name), "a file that can be read"):
            try:
                if is_local(self._path):
                    return (self._path / name).read_text(encoding="utf-8", errors="replace")
                self._path.fs.invalidate_cache()
                return bytes(self._path.fs.cat_file(self._object(name))).decode(errors="replace")
            except FileNotFoundError:
                return None

    def version_of(self, name: str) -> tuple[object, ...] | None:
        """Return what changes whenever a file is written; None where there is none."""
        with storage_errors("output_path", self.path_of(name), "a file that can be read"):
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
        """Return how many seconds ago a file was written, by the clock of its storage.

        None where there is no such file, or the storage does not tell.
        """
        written = self._written_at(name)
        if written is None:
            return None
        # No storage tells its time; but it stamps what is put there.
        probe = f".clock-{uuid4().hex}"
        self.create(probe, "")
        now = self._written_at(probe)
        self.remove([probe])
        return (time.time() if now is None else now) - written

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone already do not matter."""
        with self._errors("a directory whose files can be deleted"):
            if is_local(self._path):
                for name in names:
                    (self._path / name).unlink(missing_ok=True)
            elif paths := [self._object(name) for name in names]:
                try:
                    self._path.fs.rm(paths)
                except FileNotFoundError:
                    # Another run has removed some of them.
                    self._remove_each(paths)

    def destination(self, name: str) -> Destination:
        """Return where a file of this name is written."""
        return destination_in(self._path, name)

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
        with storage_errors("output_path", self.path_of(name), "a file that can be read"):
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
            # A file system without links: another process that reads it right now may see a part of it.
            with (directory / name).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    finally:
        part.unlink(missing_ok=True)


def _creates_exclusively(fs: Any) -> bool:  # noqa: ANN401
    """Whether a file system knows of the mode ``create``; releases before 2024.10 do not."""
    return "mode" in inspect.signature(getattr(fs, "_pipe_file", fs.pipe_file)).parameters


def _is_not_implemented(error: OSError) -> bool:
    """Whether a server that speaks the language of S3 does not know of conditional requests."""
    response = getattr(error.__cause__, "response", None)
    return isinstance(response, dict) and response.get("Error", {}).get("Code") == "NotImplemented"
