"""The folder of a catalogue, on local disk or in object storage: what lies in it, and what is put there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from airflow_provider_toapis.api.download import Destination
from airflow_provider_toapis.api.errors import ToAPIsRequestError
from airflow_provider_toapis.storage import destination_in, directory_of, is_file_name, write_text
from airflow_provider_toapis.version_compat import is_local, open_lines


class Folder:
    """A directory whose files are put there whole or not at all.

    :param output_path: Local directory or object storage URI; it is made where there is none.
    :raises ToAPIsRequestError: It names a file, cannot be written to, or its storage is not known here.
    """

    def __init__(self, output_path: str) -> None:
        if not isinstance(output_path, str) or not output_path.strip() or is_file_name(output_path):
            raise ToAPIsRequestError.for_field("output_path", output_path, "a directory, for the videos of many rows")
        self._path = directory_of(output_path)

    def __str__(self) -> str:
        return str(self._path)

    def part(self, name: str) -> Folder:
        """Return a directory in it."""
        return Folder(f"{self._path}/{name}/")

    def path_of(self, name: str) -> str:
        """Return the path or URI of a file in it."""
        return f"{self._path}/{name}"

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file that lies in it now, by name; asked for at once, not one by one."""
        if is_local(self._path):
            return {file.name: file.stat().st_size for file in self._path.iterdir() if file.is_file()}
        fs = self._path.fs
        # File systems remember what they listed before.
        fs.invalidate_cache()
        try:
            files = fs.ls(self._path.path, detail=True)
        except FileNotFoundError:
            return {}
        return {file["name"].rpartition("/")[2]: int(file["size"]) for file in files if file["type"] == "file"}

    def lines(self, name: str) -> Iterator[str]:
        """Read a text file line by line."""
        with open_lines(self._path / name, encoding="utf-8") as file:
            yield from file

    def put(self, name: str, pieces: Iterable[str]) -> None:
        """Write a text file; it becomes visible when it is complete."""
        write_text(self.destination(name), pieces)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone already do not matter."""
        if is_local(self._path):
            for name in names:
                (self._path / name).unlink(missing_ok=True)
        elif paths := [f"{self._path.path.rstrip('/')}/{name}" for name in names]:
            self._path.fs.rm(paths)

    def destination(self, name: str) -> Destination:
        """Return where a file of this name is written."""
        return destination_in(self._path, name)
