"""The rows of a feed, read one by one: from a list, a JSON Lines file or a CSV file."""

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

#: Fields of a row; the first two must be there.
FIELDS = ("key", "prompt", "image", "model", "duration", "aspect_ratio", "parameters", "revision")
_REQUIRED = ("key", "prompt")
MAX_KEY_LENGTH = 200
#: Characters of a line, its end included; no request is that large.
_MAX_LINE_LENGTH = 2**20
#: A key like this is the name of its file as it stands. Capitals are not: some file systems take them for small ones.
_PLAIN_KEY = re.compile(r"[a-z0-9_-][a-z0-9_.-]{0,99}")
#: Names that stand for something else in the folder.
_RESERVED_NAMES = frozenset({"manifest", "index"})
#: Separators that spreadsheets write in the place of commas.
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "|"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class Row:
    """What a feed asks for; None where it says nothing.

    :param number: Where a person finds it: the line of a file (where it begins, in CSV), the place in a list from 1.
    :param key: Names the row from night to night, say an SKU.
    :param revision: Another one asks for another take of the same wish.
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
    """A row that cannot be used, and why. The reason quotes neither prompts nor signed links."""

    number: int
    key: str | None
    reason: str

    def __str__(self) -> str:
        return f"row {self.number}{f' (key {self.key!r})' if self.key else ''}: {self.reason}"


class _InvalidRowError(Exception):
    pass


def read_rows(requests: str | Iterable[Mapping[str, Any]]) -> Iterator[Row | RowProblem]:
    """Read a feed row by row, holding no more of it than the keys.

    :param requests: The rows, or the path or object storage URI of a ``.jsonl``, ``.ndjson`` or ``.csv`` file.
    :raises ToAPIsRequestError: It is no feed, or its file cannot be read.
    """
    seen: dict[str, tuple[int, str]] = {}
    files: dict[str, str] = {}
    for number, given in _numbered_rows(requests):
        key = None
        try:
            fields = given()
            key = _key(fields)
            _require_unique(key, number, seen, files)
            yield _row(number, key, fields)
        except _InvalidRowError as error:
            yield RowProblem(number, key, str(error))


def file_name(key: str) -> str:
    """Return the name, less its ending, of the file that a key's video is kept in; no two keys share one."""
    if _PLAIN_KEY.fullmatch(key) and key not in _RESERVED_NAMES:
        return key
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", key).strip("-")[:60] or "video"
    return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def normal_key(key: str) -> str:
    """Return the form of a key that names its row: macOS writes ``ö`` as two characters."""
    return unicodedata.normalize("NFC", key)


def is_row_iterable(requests: object) -> TypeIs[Iterable[Mapping[str, Any]]]:
    """Whether ``requests`` are the rows themselves, and not the path of a file, or no feed at all."""
    return isinstance(requests, Iterable) and not isinstance(requests, str | Mapping)


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
            "must be a list of rows, or the path of a .jsonl, .ndjson or .csv file. For rows of another task pass"
            " task.output, not a template",
        )
    with open_text("requests", path) as file, storage_errors("requests", path, "a file that can be read"):
        try:
            yield from read(file, path)
        except UnicodeDecodeError as error:
            raise ToAPIsRequestError.for_field("requests", path, f"must be encoded in UTF-8 ({error.reason})") from None


def _lines(file: TextIO, path: str) -> Iterator[str]:
    """Yield the lines of a file; nothing that has no end is read into memory."""
    number = 0
    while line := file.readline(_MAX_LINE_LENGTH + 1):
        number += 1
        if len(line) > _MAX_LINE_LENGTH:
            raise ToAPIsRequestError.for_field(
                "requests",
                path,
                f"line {number} has more than {_MAX_LINE_LENGTH:,} characters",
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
        raise _InvalidRowError(f"it is no JSON object{where}") from None
    if not isinstance(parsed, dict):
        raise _InvalidRowError(f"it is no JSON object but a {type(parsed).__name__}")
    return parsed


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        raise _InvalidRowError("a name stands in it twice")
    return parsed


def _reject_constant(name: str) -> None:
    raise _InvalidRowError(f"{name} is no JSON")


def _csv_rows(file: TextIO, path: str) -> Iterator[NumberedRow]:
    lines = _lines(file, path)
    first = next(lines, "")
    reader = csv.reader(chain([first], lines), strict=True)
    columns = _columns(reader, first, path)
    while True:
        # A broken row may end far below the line that breaks it.
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, partial(_raise_invalid, f"it is no CSV ({error})")
            continue
        # Spreadsheets write rows that hold nothing, and cells that hold nothing beside the table.
        if any(map(str.strip, cells)):
            yield number, partial(_csv_fields, columns, cells)


def _columns(reader: Iterator[list[str]], first: str, path: str) -> Sequence[str]:
    try:
        columns = next(reader, [])
        wrong = _header_problem(columns)
    except csv.Error as error:
        wrong = _other_separator(re.sub('"[^"]*"', "", first)) or f"it is no CSV: {error}"
    if wrong:
        raise ToAPIsRequestError.for_field(
            "requests", path, f"its first line must name the columns: {_allowed_fields()}. {wrong}"
        )
    return _without_trailing_blanks(columns)


def _without_trailing_blanks(cells: Sequence[str]) -> Sequence[str]:
    filled = [position for position, cell in enumerate(cells, start=1) if cell.strip()]
    return cells[: filled[-1]] if filled else ()


def _header_problem(cells: Sequence[str]) -> str | None:
    """Say what is wrong with the first line of a table; None where nothing is."""
    line, columns = ",".join(cells), _without_trailing_blanks(cells)
    if not columns:
        return "this one is empty"
    if line.lower().startswith("sep="):
        return f"this one is {line[:20]!r}, which only Excel understands: remove the line"
    if len(columns) == 1 and (other := _other_separator(line)):
        return other
    unknown = [column for column in columns if column not in FIELDS]
    twice = [name for name in FIELDS if columns.count(name) > 1]
    missing = [name for name in _REQUIRED if name not in columns]
    return "; ".join(
        [
            *(f"column {column[:40]!r} is unknown{did_you_mean(column, FIELDS)}" for column in unknown),
            *(f"column {name!r} is there twice" for name in twice),
            *(f"column {name!r} is missing" for name in missing),
        ]
    )


def _other_separator(line: str) -> str | None:
    names = (name for separator, name in _OTHER_SEPARATORS.items() if separator in line)
    return next((f"this one has {name} between the columns: save the file with commas" for name in names), None)


def _raise_invalid(reason: str) -> Mapping[str, Any]:
    raise _InvalidRowError(reason)


def _return_item(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return item


def _csv_fields(columns: Sequence[str], cells: Sequence[str]) -> Mapping[str, Any]:
    if any(map(str.strip, cells[len(columns) :])):
        raise _InvalidRowError("it has more cells than the first line has columns")
    fields: dict[str, Any] = {name: cell for name, cell in zip(columns, cells, strict=False) if cell.strip()}
    if "parameters" in fields:
        fields["parameters"] = _json_object(fields["parameters"])
    return fields


def _key(fields: object) -> str:
    if not isinstance(fields, Mapping):
        raise _InvalidRowError(f"it is no dictionary but a {type(fields).__name__}")
    for name in fields:
        if name not in FIELDS:
            hint = did_you_mean(name, FIELDS)
            raise _InvalidRowError(f"field {str(name)[:40]!r} is unknown{hint}. Known are: {_allowed_fields()}")
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
            f"key={_shown(key)} must be a text of 1 to {MAX_KEY_LENGTH} characters without blanks around it"
        )
    _require_text("key", text)
    return text


def _require_unique(key: str, number: int, seen: dict[str, tuple[int, str]], files: dict[str, str]) -> None:
    if key in seen:
        raise _InvalidRowError(f"key {key!r} stands in row {seen[key][0]} already")
    name = file_name(key).lower()
    if name in files:
        raise _InvalidRowError(f"its video would lie in the file of key {files[name]!r}; change one of the keys")
    seen[key] = (number, name)
    files[name] = key


def _row(number: int, key: str, fields: Mapping[str, Any]) -> Row:
    parameters = fields.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise _InvalidRowError(f"parameters must be an object of wire fields, not a {type(parameters).__name__}")
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
    raise _InvalidRowError(f"{name} must be a text, not a {type(value).__name__}")


def _require_text(name: str, value: object) -> None:
    try:
        require_text(name, value)
    except ToAPIsRequestError as error:
        raise _InvalidRowError(str(error)) from None


def _revision(value: object) -> str | None:
    if value is None or isinstance(value, str):
        _require_text("revision", value)
        return value or None
    number = whole_number(value)
    if number is None:
        raise _InvalidRowError(f"revision must be a text or a whole number, not {_shown(value)}")
    return str(number)


def _duration(value: object) -> int | str | None:
    if value is None or isinstance(value, str):
        return value or None
    number = whole_number(value)
    if number is None:
        raise _InvalidRowError(f"duration={_shown(value)} must be whole seconds")
    return number


def _image(value: object) -> str | tuple[str, ...] | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise _InvalidRowError(f"image must be a text or a list of texts, not a {type(value).__name__}")


def _shown(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # An int of so many digits that Python writes it no more.
        return "a number"


def _allowed_fields() -> str:
    return f"{', '.join(FIELDS)} (needed: {' and '.join(_REQUIRED)})"
