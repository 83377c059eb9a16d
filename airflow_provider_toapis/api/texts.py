"""Reject strings that are mistakes: the text ``None`` from a template, and lone surrogates."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from airflow_provider_toapis.exceptions import ToAPIsRequestError

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
#: Maximum nesting of lists and objects in a value. No wire field has that many.
_MAX_DEPTH = 50
_NONE_ADVICE = "must not be the text 'None', which usually means that an xcom_pull or a lookup found nothing"


def is_none_text(value: object) -> bool:
    """Return whether a value is the text ``None``, which a template renders for a missing value."""
    return isinstance(value, str) and value.strip() == "None"


def is_nothing(value: object) -> bool:
    """Return whether a value is None, blank, or the text ``None``."""
    return value is None or (isinstance(value, str) and value.strip() in ("", "None"))


def require_text(field: str, value: object) -> None:
    """Reject the text ``None``, alone or as an item of a list, and text that UTF-8 cannot encode.

    :raises ToAPIsRequestError: The value is rejected. The message shows at most one character of it.
    """
    if any(map(is_none_text, value if isinstance(value, list | tuple) else (value,))):
        raise ToAPIsRequestError.for_field(field, "None", _NONE_ADVICE)
    require_encodable(field, value)


def name_text(field: str, value: object) -> str | None:
    """Return a name as a string; None for None.

    Integers, Decimals and UUIDs are converted, because databases return names of these types too.

    :raises ToAPIsRequestError: The name is of another type.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | Decimal | UUID):
        return str(value)
    raise ToAPIsRequestError.for_field(field, type(value).__name__, "must be text, an integer, a Decimal or a UUID")


def require_encodable(field: str, value: object) -> None:
    """Reject lone surrogates in a string or in nested lists and objects, because UTF-8 cannot encode them.

    Also reject deep nesting, because a later step would exceed Python's recursion limit.

    :raises ToAPIsRequestError: The value is rejected. The message shows only the surrogate.
    """
    if _is_deeper(value, _MAX_DEPTH):
        raise ToAPIsRequestError.for_field(
            field, type(value).__name__, f"must not be nested more than {_MAX_DEPTH} levels deep"
        )
    found = next(_lone_surrogates(field, value), None)
    if found is not None:
        where, match = found
        raise ToAPIsRequestError.for_field(
            where,
            match[0],
            f"character {match.start() + 1} is a lone surrogate. The text may have been cut in the middle of an emoji",
        )


def require_path(field: str, path: object) -> None:
    """Reject a path with a segment ``None``, with or without an extension.

    :raises ToAPIsRequestError: The path is rejected.
    """
    if not isinstance(path, str):
        return
    require_encodable(field, path)
    if any(segment.partition(".")[0].strip() == "None" for segment in path.split("/")):
        raise ToAPIsRequestError.for_field(
            field,
            path,
            "must not contain the segment 'None', which usually means that an xcom_pull or a lookup found nothing",
        )


def emptied(before: Any, after: Any) -> bool:  # noqa: ANN401 - any JSON value
    """Return whether a value was not empty before rendering and is empty after it.

    A value is empty if it is None, blank or the text ``None``. A nested value is empty if it is None or the text
    ``None``. A blank nested value is accepted, because only the author knows whether the wire field can be blank.

    :param before: The value before rendering.
    :param after: The rendered value.
    """
    return (is_nothing(after) and not is_nothing(before)) or _nested_none(before, after)


def _nested_none(before: Any, after: Any) -> bool:  # noqa: ANN401
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        pairs = [(value, after.get(name)) for name, value in before.items()]
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple):
        pairs = list(zip(before, after, strict=False))
    else:
        return False
    return any(
        ((new is None or is_none_text(new)) and not is_nothing(old)) or _nested_none(old, new) for old, new in pairs
    )


def _is_deeper(value: object, levels: int) -> bool:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return bool(items) and (levels == 0 or any(_is_deeper(item, levels - 1) for item in items))


def _lone_surrogates(where: str, value: object) -> Iterator[tuple[str, re.Match[str]]]:
    if isinstance(value, str):
        match = _LONE_SURROGATE.search(value)
        if match:
            yield where, match
    elif isinstance(value, Mapping):
        for name, item in value.items():
            shown = str(name).encode("ascii", "backslashreplace").decode()
            yield from _lone_surrogates(f"{where}.{shown}", str(name))
            yield from _lone_surrogates(f"{where}.{shown}", item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _lone_surrogates(where, item)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return `` (did you mean 'aspect_ratio'?)`` if a known name is similar, else an empty string."""
    words = _words(str(name))
    names = {"".join(_words(other)): other for other in known}
    similar = [other for other in names.values() if set(words) & set(_words(other))]
    similar += [names[name] for name in difflib.get_close_matches("".join(words), names, n=1)]
    return f" (did you mean {similar[0]!r}?)" if similar else ""


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]*[a-z0-9]+|[A-Z]+", name)]
