"""Read the rows of a feed one by one: from a list, a JSON Lines file or a CSV file."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import reprlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TextIO

from airflow_provider_toapis.api.settings import whole_number
from airflow_provider_toapis.api.texts import did_you_mean, require_text
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.storage import open_text, storage_errors

if TYPE_CHECKING:
    from typing_extensions import TypeIs

#: Fields of a row; the first two are required.
FIELDS = ("key", "prompt", "image", "model", "duration", "aspect_ratio", "parameters", "revision")
_REQUIRED = ("key", "prompt")
MAX_KEY_LENGTH = 200
#: Maximum characters of a line, including the line break. No valid request is that large.
_MAX_LINE_LENGTH = 2**20
#: A key that matches is used as the file name unchanged. Uppercase letters do not match, because some file systems
#: ignore case.
_PLAIN_KEY = re.compile(r"[a-z0-9_-][a-z0-9_.-]{0,99}")
#: Names of files that the batch writes next to the videos, without extension. No video gets these names.
_RESERVED_NAMES = frozenset({"manifest", "index"})
#: Separators that spreadsheets write instead of commas.
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "|"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class Row:
    """One row of a feed. A field that is not set is None.

    :param number: Position in a list, or line number in a file, from 1. A CSV row that extends over several lines has
        the number of its first line.
    :param key: Identifies the row in every run, for example an SKU.
    :param revision: Change it to request a new video for an otherwise unchanged row.
    """

    number: int
    key: str
    prompt: str | None = field(default=None, repr=False)
    image: str | tuple[str, ...] | None = field(default=None, repr=False)
    model: str | None = None
    duration: int | str | None = None
    aspect_ratio: str | None = None
    parameters: Mapping[str, Any] | None = field(default=None, repr=False)
    revision: str | None = None


@dataclass(frozen=True)
class RowProblem:
    """An invalid row and the reason. The reason quotes neither a prompt nor a signed URL."""

    number: int
    key: str | None
    reason: str

    def __str__(self) -> str:
        return f"Row {self.number}{f' (key {self.key!r})' if self.key else ''}: {self.reason}"


class _InvalidRowError(Exception):
    pass


def read_rows(requests: str | Iterable[Mapping[str, Any]]) -> Iterator[Row | RowProblem]:
    """Read a feed row by row. Only the keys stay in memory.

    :param requests: The rows, or the path or object storage URI of a ``.jsonl``, ``.ndjson`` or ``.csv`` file.
    :raises ToAPIsRequestError: ``requests`` is not a feed, or its file cannot be read.
    """
    seen: dict[str, tuple[int, str]] = {}
    files: dict[str, str] = {}
    for number, read_fields in _numbered_rows(requests):
        key = None
        try:
            fields = read_fields()
            key = _key(fields)
            _require_unique(key, number, seen, files)
            yield _row(number, key, fields)
        except _InvalidRowError as error:
            yield RowProblem(number, key, f"{error}.")


def file_name(key: str) -> str:
    """Return the file name for a key's video, without extension. A feed is invalid if two keys have the same name."""
    if _PLAIN_KEY.fullmatch(key) and key not in _RESERVED_NAMES:
        return key
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", key).strip("-")[:60] or "video"
    return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def normal_key(key: str) -> str:
    """Return a key in Unicode normalization form C. macOS writes ``ö`` as two characters; they become one."""
    return unicodedata.normalize("NFC", key)


def is_row_iterable(requests: object) -> TypeIs[Iterable[Mapping[str, Any]]]:
    """Return whether ``requests`` is an iterable of rows, not the path of a file."""
    return isinstance(requests, Iterable) and not isinstance(requests, str | Mapping)


#: A row's number, and a function that returns its fields or raises ``_InvalidRowError``.
NumberedRow = tuple[int, Callable[[], Mapping[str, Any]]]


def _numbered_rows(requests: object) -> Iterator[NumberedRow]:
    if isinstance(requests, str):
        return _rows_of_file(requests)
    if not is_row_iterable(requests):
        raise ToAPIsRequestError.for_field(
            "requests", type(requests).__name__, "must be a list of rows, or the path of a .jsonl or .csv file"
        )
    return ((number, partial(_return_item, item)) for number, item in enumerate(requests, start=1))


def _rows_of_file(path: str) -> Iterator[NumberedRow]:
    name = path.lower()
    if name.endswith((".jsonl", ".ndjson")):
        read: Callable[[TextIO, str], Iterator[NumberedRow]] = _json_lines
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
            yield from read(file, path)
        except UnicodeDecodeError as error:
            raise ToAPIsRequestError.for_field("requests", path, f"must be encoded in UTF-8 ({error.reason})") from None


def _lines(file: TextIO, path: str) -> Iterator[str]:
    """Yield the lines of a file; reject a line of more than ``_MAX_LINE_LENGTH`` characters."""
    number = 0
    while line := file.readline(_MAX_LINE_LENGTH + 1):
        number += 1
        if len(line) > _MAX_LINE_LENGTH:
            raise ToAPIsRequestError.for_field(
                "requests",
                path,
                f"line {number} must have at most {_MAX_LINE_LENGTH:,} characters",
            )
        yield line


def _json_lines(file: TextIO, path: str) -> Iterator[NumberedRow]:
    for number, line in enumerate(_lines(file, path), start=1):
        if line.strip():
            yield number, partial(_json_object, line)


def _json_object(text: str) -> Mapping[str, Any]:
    try:
        parsed = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise _InvalidRowError(f"not a valid JSON object{where}") from None
    if not isinstance(parsed, dict):
        raise _InvalidRowError(f"expected a JSON object, got {type(parsed).__name__}")
    return parsed


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        raise _InvalidRowError("duplicate field name")
    return parsed


def _reject_constant(name: str) -> None:
    raise _InvalidRowError(f"{name} is not valid JSON")


def _csv_rows(file: TextIO, path: str) -> Iterator[NumberedRow]:
    lines = _lines(file, path)
    first = next(lines, "")
    reader = csv.reader(chain([first], lines), strict=True)
    columns = _columns(reader, first, path)
    while True:
        # An invalid row can extend over many lines. Its number is the number of its first line.
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, partial(_raise_invalid, f"not valid CSV ({error})")
            continue
        # Empty rows are skipped, because spreadsheets write them below the table.
        if any(map(str.strip, cells)):
            yield number, partial(_csv_fields, columns, cells)


def _columns(reader: Iterator[list[str]], first: str, path: str) -> Sequence[str]:
    try:
        columns = next(reader, [])
        problem = _header_problem(columns)
    except csv.Error as error:
        problem = _other_separator(re.sub('"[^"]*"', "", first)) or f"not valid CSV: {error}"
    if problem:
        raise ToAPIsRequestError.for_field(
            "requests", path, f"the first line must name the columns: {_allowed_fields()}. Problem: {problem}"
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
    raise _InvalidRowError(reason)


def _return_item(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return item


def _csv_fields(columns: Sequence[str], cells: Sequence[str]) -> Mapping[str, Any]:
    if any(map(str.strip, cells[len(columns) :])):
        raise _InvalidRowError("the row has more cells than the first line has columns")
    fields: dict[str, Any] = {name: cell for name, cell in zip(columns, cells, strict=False) if cell.strip()}
    if "parameters" in fields:
        fields["parameters"] = _json_object(fields["parameters"])
    return fields


def _key(fields: object) -> str:
    if not isinstance(fields, Mapping):
        raise _InvalidRowError(f"expected a dict, got {type(fields).__name__}")
    for name in fields:
        if name not in FIELDS:
            hint = did_you_mean(name, FIELDS)
            raise _InvalidRowError(f"unknown field {str(name)[:40]!r}{hint}. Fields are: {_allowed_fields()}")
    key = fields.get("key")
    text = str(key) if isinstance(key, int) and whole_number(key) is not None else key
    if isinstance(text, str):
        text = normal_key(text)
    if (
        not isinstance(text, str)
        or not 1 <= len(text) <= MAX_KEY_LENGTH
        or text != text.strip()
        or _CONTROL.search(text)
    ):
        raise _InvalidRowError(
            f"Invalid key={_shown(key)}: must be a string of 1 to {MAX_KEY_LENGTH} characters, without control"
            " characters and without whitespace at its ends"
        )
    _require_text("key", text)
    return text


def _require_unique(key: str, number: int, seen: dict[str, tuple[int, str]], files: dict[str, str]) -> None:
    if key in seen:
        raise _InvalidRowError(f"duplicate key {key!r} (first used in row {seen[key][0]})")
    name = file_name(key).lower()
    if name in files:
        raise _InvalidRowError(
            f"its video would have the same file name as the video of key {files[name]!r}. Change one of the keys"
        )
    seen[key] = (number, name)
    files[name] = key


def _row(number: int, key: str, fields: Mapping[str, Any]) -> Row:
    parameters = fields.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise _InvalidRowError(f"Invalid parameters: expected an object of wire fields, got {_type_name(parameters)}")
    return Row(
        number=number,
        key=key,
        prompt=_text(fields, "prompt"),
        image=_image(fields.get("image")),
        model=_text(fields, "model"),
        duration=_duration(fields.get("duration")),
        aspect_ratio=_text(fields, "aspect_ratio"),
        parameters=parameters or None,
        revision=_revision(fields.get("revision")),
    )


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value or None
    raise _InvalidRowError(f"Invalid {name}: expected a string, got {_type_name(value)}")


def _require_text(name: str, value: object) -> None:
    try:
        require_text(name, value)
    except ToAPIsRequestError as error:
        raise _InvalidRowError(error.without_cost.removesuffix(".")) from None


def _revision(value: object) -> str | None:
    if value is None or isinstance(value, str):
        _require_text("revision", value)
        return value or None
    number = whole_number(value)
    if number is None:
        raise _InvalidRowError(f"Invalid revision={_shown(value)}: must be a string or an integer")
    return str(number)


def _duration(value: object) -> int | str | None:
    if value is None or isinstance(value, str):
        return value or None
    number = whole_number(value)
    if number is None:
        raise _InvalidRowError(f"Invalid duration={_shown(value)}: must be an integer number of seconds")
    return number


def _image(value: object) -> str | tuple[str, ...] | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise _InvalidRowError(f"Invalid image: expected a string or a list of strings, got {_type_name(value)}")


def _type_name(value: object) -> str:
    return type(value).__name__


def _shown(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not convert an int with thousands of digits to a string.
        return "a number"


def _allowed_fields() -> str:
    return f"{', '.join(FIELDS)} (required: {' and '.join(_REQUIRED)})"
