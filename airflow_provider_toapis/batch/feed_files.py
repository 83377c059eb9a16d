"""Read the rows of a feed's file: JSON Lines or CSV, from the first row or from a position."""

from __future__ import annotations

import csv
import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TextIO

from airflow_provider_toapis.api.texts import did_you_mean
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.storage import open_text, storage_errors

#: Fields of a row; the first two are required.
FIELDS = ("key", "prompt", "image", "model", "duration", "aspect_ratio", "parameters", "revision")
_REQUIRED = ("key", "prompt")
#: Maximum characters of a line, including the line break. No valid request is that large.
_MAX_LINE_LENGTH = 2**20
#: Separators that spreadsheets write instead of commas.
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "|"}


@dataclass(frozen=True)
class FeedPosition:
    """Where a later pass continues to read a feed: at the row with this number.

    :param version: The version of the feed. In another version, the row can be anywhere.
    :param offset: See ``Row``.
    """

    version: str
    offset: int
    number: int


class InvalidRowError(Exception):
    """A row cannot be used. The text says why."""


#: A row's number and offset, and a function that returns its fields or raises ``InvalidRowError``.
NumberedRow = tuple[int, int, Callable[[], Mapping[str, Any]]]


def rows_of_file(path: str, start: FeedPosition | None) -> Iterator[NumberedRow]:
    """Read the rows of a file.

    :param path: Path or object storage URI.
    :param start: Where to begin in a file that has not changed; None to begin with the first row.
    :raises ToAPIsRequestError: The file cannot be read.
    """
    name = path.lower()
    if name.endswith((".jsonl", ".ndjson")):
        read: Callable[[_Lines, FeedPosition | None], Iterator[NumberedRow]] = _json_lines
    elif name.endswith(".csv"):
        read = _csv_rows
    else:
        raise ToAPIsRequestError.for_field(
            "requests",
            path[:40],
            "must be a list of rows, or the path of a .jsonl, .ndjson or .csv file. To use the rows of another task,"
            " pass task.output, not a template",
        )
    with open_text("requests", path) as file, storage_errors("requests", path, "a readable file"):
        try:
            yield from read(_Lines(file, path), start)
        except UnicodeDecodeError as error:
            raise ToAPIsRequestError.for_field("requests", path, f"must be encoded in UTF-8 ({error.reason})") from None


class _Lines:
    """The lines of a file. A line of more than ``_MAX_LINE_LENGTH`` characters is rejected.

    :ivar number: Number of lines that were read.
    :ivar offset: Number of bytes that were read, without the byte order mark.
    """

    def __init__(self, file: TextIO, path: str) -> None:
        self._file = file
        self.path = path
        self.number = self.offset = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(_MAX_LINE_LENGTH + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.offset += len(line.encode())
        if len(line) > _MAX_LINE_LENGTH:
            raise ToAPIsRequestError.for_field(
                "requests",
                self.path,
                f"line {self.number} must have at most {_MAX_LINE_LENGTH:,} characters",
            )
        return line

    def skip_to(self, position: FeedPosition) -> None:
        """Continue at this position."""
        self._file.buffer.seek(0)
        has_mark = self._file.buffer.read(len(BOM_UTF8)) == BOM_UTF8
        self._file.seek(position.offset + has_mark * len(BOM_UTF8))
        self.number, self.offset = position.number - 1, position.offset


def _json_lines(lines: _Lines, start: FeedPosition | None) -> Iterator[NumberedRow]:
    if start is not None:
        lines.skip_to(start)
    offset = lines.offset
    for line in lines:
        if line.strip():
            yield lines.number, offset, partial(_json_object, line)
        offset = lines.offset


def _json_object(text: str) -> Mapping[str, Any]:
    try:
        parsed = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidRowError(f"not a valid JSON object{where}") from None
    if not isinstance(parsed, dict):
        raise InvalidRowError(f"expected a JSON object, got {type(parsed).__name__}")
    return parsed


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        raise InvalidRowError("duplicate field name")
    return parsed


def _reject_constant(name: str) -> None:
    raise InvalidRowError(f"{name} is not valid JSON")


def _csv_rows(lines: _Lines, start: FeedPosition | None) -> Iterator[NumberedRow]:
    first = next(lines, "")
    reader = csv.reader(chain([first], lines), strict=True)
    columns = _columns(reader, first, lines.path)
    if start is not None:
        lines.skip_to(start)
        reader = csv.reader(lines, strict=True)
    while True:
        # An invalid row can extend over many lines. Its number is the number of its first line.
        number, offset = lines.number + 1, lines.offset
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, offset, partial(_raise_invalid, f"not valid CSV ({error})")
            continue
        # Empty rows are skipped, because spreadsheets write them below the table.
        if any(map(str.strip, cells)):
            yield number, offset, partial(_csv_fields, columns, cells)


def _columns(reader: Iterator[list[str]], first: str, path: str) -> Sequence[str]:
    try:
        columns = next(reader, [])
        problem = _header_problem(columns)
    except csv.Error as error:
        problem = _other_separator(re.sub('"[^"]*"', "", first)) or f"not valid CSV: {error}"
    if problem:
        raise ToAPIsRequestError.for_field(
            "requests", path, f"the first line must name the columns: {allowed_fields()}. Problem: {problem}"
        )
    return _without_trailing_blanks(columns)


def _without_trailing_blanks(cells: Sequence[str]) -> Sequence[str]:
    filled = [position for position, cell in enumerate(cells, start=1) if cell.strip()]
    return cells[: filled[-1]] if filled else ()


def _header_problem(cells: Sequence[str]) -> str | None:
    """Return what is wrong with the first line of a CSV file; None if it is valid."""
    line, columns = ",".join(cells), _without_trailing_blanks(cells)
    if not columns:
        return "it is empty"
    if line.lower().startswith("sep="):
        return f"it is {line[:20]!r}, which only Excel understands: remove the line"
    if len(columns) == 1 and (other := _other_separator(line)):
        return other
    unknown = [column for column in columns if column not in FIELDS]
    twice = [name for name in FIELDS if columns.count(name) > 1]
    missing = [name for name in _REQUIRED if name not in columns]
    return "; ".join(
        [
            *(f"unknown column {column[:40]!r}{did_you_mean(column, FIELDS)}" for column in unknown),
            *(f"duplicate column {name!r}" for name in twice),
            *(f"missing column {name!r}" for name in missing),
        ]
    )


def _other_separator(line: str) -> str | None:
    names = (name for separator, name in _OTHER_SEPARATORS.items() if separator in line)
    return next((f"it has {name} between the columns: save the file with commas" for name in names), None)


def _raise_invalid(reason: str) -> Mapping[str, Any]:
    raise InvalidRowError(reason)


def _csv_fields(columns: Sequence[str], cells: Sequence[str]) -> Mapping[str, Any]:
    if any(map(str.strip, cells[len(columns) :])):
        raise InvalidRowError("the row has more cells than the first line has columns")
    fields: dict[str, Any] = {name: cell for name, cell in zip(columns, cells, strict=False) if cell.strip()}
    if "parameters" in fields:
        fields["parameters"] = _json_object(fields["parameters"])
    return fields


def allowed_fields() -> str:
    """Return the fields of a row, for messages."""
    return f"{', '.join(FIELDS)} (required: {' and '.join(_REQUIRED)})"
