"""Read the rows of a feed one by one, and check their fields: from a list, a JSON Lines file or a CSV file."""

from __future__ import annotations

import hashlib
import re
import reprlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_toapis.api.settings import whole_number
from airflow_provider_toapis.api.texts import did_you_mean, require_text
from airflow_provider_toapis.batch.feed_files import (
    FIELDS,
    FeedPosition,
    InvalidRowError,
    NumberedRow,
    allowed_fields,
    rows_of_file,
)
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.storage import file_version, path_of, storage_errors

if TYPE_CHECKING:
    from typing_extensions import TypeIs

MAX_KEY_LENGTH = 200
#: A key that matches is used as the file name unchanged. Uppercase letters do not match, because some file systems
#: ignore case.
_PLAIN_KEY = re.compile(r"[a-z0-9_-][a-z0-9_.-]{0,99}")
#: Names of files that the batch writes next to the videos, without extension. No video gets these names.
_RESERVED_NAMES = frozenset({"manifest", "index"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class Row:
    """One row of a feed. A field that is not set is None.

    :param number: Position in a list, or line number in a file, from 1. A CSV row that extends over several lines has
        the number of its first line.
    :param key: Identifies the row in every run, for example an SKU.
    :param revision: Change it to request a new video for an otherwise unchanged row.
    :param offset: Where the row begins: the bytes before it in a file, or the rows before it in a list.
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
    offset: int = field(default=0, repr=False, compare=False)


@dataclass(frozen=True)
class RowProblem:
    """An invalid row and the reason. The reason quotes neither a prompt nor a signed URL."""

    number: int
    key: str | None
    reason: str

    def __str__(self) -> str:
        return f"Row {self.number}{f' (key {self.key!r})' if self.key else ''}: {self.reason}"


def read_rows(
    requests: str | Sequence[Mapping[str, Any]], start: FeedPosition | None = None
) -> Iterator[Row | RowProblem]:
    """Read a feed row by row. Only the keys stay in memory.

    :param requests: The rows, or the path or object storage URI of a ``.jsonl``, ``.ndjson`` or ``.csv`` file.
    :param start: Where to begin in a feed that has not changed (default: with its first row).
    :raises ToAPIsRequestError: ``requests`` is not a feed, or its file cannot be read.
    """
    seen: dict[str, tuple[int, str]] = {}
    files: dict[str, str] = {}
    for number, offset, read_fields in _numbered_rows(requests, start):
        key = None
        try:
            fields = read_fields()
            key = _key(fields)
            _require_unique(key, number, seen, files)
            yield _row(number, offset, key, fields)
        except InvalidRowError as error:
            yield RowProblem(number, key, f"{error}.")


class Feed:
    """The feed of a batch. A pass can continue where an earlier pass stopped.

    :param requests: See :func:`read_rows`.
    :param position: Where an earlier pass stopped; None to begin with the first row.
    """

    def __init__(self, requests: str | Sequence[Mapping[str, Any]], position: FeedPosition | None = None) -> None:
        self._requests = requests
        self.position = position
        self._version: str | None = None

    def all_rows(self) -> Iterator[Row | RowProblem]:
        """Read the feed from its first row."""
        return read_rows(self._requests)

    def rows_left(self) -> Iterator[Row | RowProblem]:
        """Read the feed from :attr:`position` on; from its first row if it has changed since."""
        self._version = self._current_version()
        start, self.position = self.position, None
        return read_rows(self._requests, start if start and start.version == self._version else None)

    def stop_at(self, row: Row) -> None:
        """Let the next pass continue with a row."""
        if self._version is not None:
            self.position = FeedPosition(self._version, row.offset, row.number)

    def start_over(self) -> None:
        """Let the next pass begin with the first row."""
        self.position = None

    def _current_version(self) -> str | None:
        """Return a text that changes when the feed changes; None if its storage reports no version."""
        if not isinstance(self._requests, str):
            return f"{len(self._requests)} rows" if is_row_iterable(self._requests) else None
        with storage_errors("requests", self._requests, "a readable file"):
            try:
                size, version = file_version(path_of("requests", self._requests))
            except FileNotFoundError:
                return None
        return None if version is None else f"{size} bytes, {version}"


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


def _numbered_rows(requests: object, start: FeedPosition | None) -> Iterator[NumberedRow]:
    if isinstance(requests, str):
        return rows_of_file(requests, start)
    if not is_row_iterable(requests):
        raise ToAPIsRequestError.for_field(
            "requests", type(requests).__name__, "must be a list of rows, or the path of a .jsonl or .csv file"
        )
    first = start.offset if start else 0
    items = islice(requests, first, None)
    return ((offset + 1, offset, partial(_return_item, item)) for offset, item in enumerate(items, first))


def _return_item(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return item


def _key(fields: object) -> str:
    if not isinstance(fields, Mapping):
        raise InvalidRowError(f"expected a dict, got {type(fields).__name__}")
    for name in fields:
        if name not in FIELDS:
            hint = did_you_mean(name, FIELDS)
            raise InvalidRowError(f"unknown field {str(name)[:40]!r}{hint}. Fields are: {allowed_fields()}")
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
        raise InvalidRowError(
            f"Invalid key={_shown(key)}: must be a string of 1 to {MAX_KEY_LENGTH} characters, without control"
            " characters and without whitespace at its ends"
        )
    _require_text("key", text)
    return text


def _require_unique(key: str, number: int, seen: dict[str, tuple[int, str]], files: dict[str, str]) -> None:
    if key in seen:
        raise InvalidRowError(f"duplicate key {key!r} (first used in row {seen[key][0]})")
    name = file_name(key).lower()
    if name in files:
        raise InvalidRowError(
            f"its video would have the same file name as the video of key {files[name]!r}. Change one of the keys"
        )
    seen[key] = (number, name)
    files[name] = key


def _row(number: int, offset: int, key: str, fields: Mapping[str, Any]) -> Row:
    parameters = fields.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InvalidRowError(f"Invalid parameters: expected an object of wire fields, got {_type_name(parameters)}")
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
        offset=offset,
    )


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value or None
    raise InvalidRowError(f"Invalid {name}: expected a string, got {_type_name(value)}")


def _require_text(name: str, value: object) -> None:
    try:
        require_text(name, value)
    except ToAPIsRequestError as error:
        raise InvalidRowError(error.without_cost.removesuffix(".")) from None


def _revision(value: object) -> str | None:
    if value is None or isinstance(value, str):
        _require_text("revision", value)
        return value or None
    number = whole_number(value)
    if number is None:
        raise InvalidRowError(f"Invalid revision={_shown(value)}: must be a string or an integer")
    return str(number)


def _duration(value: object) -> int | str | None:
    if value is None or isinstance(value, str):
        return value or None
    number = whole_number(value)
    if number is None:
        raise InvalidRowError(f"Invalid duration={_shown(value)}: must be an integer number of seconds")
    return number


def _image(value: object) -> str | tuple[str, ...] | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise InvalidRowError(f"Invalid image: expected a string or a list of strings, got {_type_name(value)}")


def _type_name(value: object) -> str:
    return type(value).__name__


def _shown(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not convert an int with thousands of digits to a string.
        return "a number"
