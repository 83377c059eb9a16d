"""Find the result URLs of a finished task in its response."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard
from urllib.parse import urljoin

JsonObject = Mapping[str, Any]


def result_urls(nodes: tuple[JsonObject, ...]) -> Iterator[str]:
    """Yield the result URLs: those in the documented field first, then those in fields seen in other clients."""
    for node in nodes:
        result = node.get("result")
        if isinstance(result, Mapping):
            for value in (result.get("data"), result, *map(result.get, ("video", "videos", "outputs"))):
                yield from _urls(value)
        # A "data" that is an object is itself one of the nodes.
        if isinstance(node.get("data"), list):
            yield from _urls(node["data"])
        task_result = node.get("task_result")
        if isinstance(task_result, Mapping):
            yield from _urls(task_result.get("videos"))
        yield from _urls(node.get("output"))
        yield from _urls(node.get("content"))
    for node in nodes:
        yield from _urls(node.get("video"))
        yield from _urls({"video_url": node.get("video_url"), "url": node.get("url")})
        yield from _urls(node.get("metadata"))


def _urls(item: object) -> Iterator[str]:
    """Yield the URLs in a string, in an object with a URL, or in a list of these."""
    if isinstance(item, list):
        for one in mappings(item):
            yield from _urls(one)
    elif isinstance(item, Mapping):
        candidates = (item.get("url"), item.get("video_url"))
        yield from (candidate.strip() for candidate in candidates if _is_usable(candidate))
    elif _is_usable(item):
        yield item.strip()


def _is_usable(value: object) -> TypeGuard[str]:
    """Return whether a value is a URL that is absolute or relative to the API's base URL.

    Examples of relative URLs are ``/videos/a.mp4`` and ``//host/a.mp4``.
    """
    return isinstance(value, str) and (is_url(value.strip()) or value.strip().startswith("/"))


def absolute_url(base_url: str, url: str) -> str | None:
    """Resolve a result URL against the base URL of the API; None if the result is not an http(s) URL."""
    try:
        resolved = urljoin(base_url, url)
    except ValueError:  # For example an unclosed bracket.
        return None
    return resolved if is_url(resolved) else None


def is_url(value: object) -> bool:
    """Return whether a value is an http(s) URL. Other URLs are never requested."""
    return isinstance(value, str) and value.lower().startswith(("http://", "https://"))


def mappings(items: object) -> Iterator[JsonObject]:
    """Yield the items of a list. An item that is not an object is yielded as ``{"url": item}``.

    Yield nothing if ``items`` is not a list.
    """
    if isinstance(items, list):
        yield from (item if isinstance(item, Mapping) else {"url": item} for item in items)
