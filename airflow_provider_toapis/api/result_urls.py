"""Where a finished task keeps its links: the documented place first, then those that clients in the field have met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard
from urllib.parse import urljoin

JsonObject = Mapping[str, Any]


def result_urls(nodes: tuple[JsonObject, ...]) -> Iterator[str]:
    """Yield result links, the documented place first, then those that clients in the field have met."""
    for node in nodes:
        result = node.get("result")
        if isinstance(result, Mapping):
            for value in (result.get("data"), result, *map(result.get, ("video", "videos", "outputs"))):
                yield from _urls(value)
        if isinstance(node.get("data"), list):  # An object is a node itself.
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
    """Yield the links in a URL, in an object that holds one, or in a list of these."""
    if isinstance(item, list):
        for one in mappings(item):
            yield from _urls(one)
    elif isinstance(item, Mapping):
        candidates = (item.get("url"), item.get("video_url"))
        yield from (candidate.strip() for candidate in candidates if _is_usable(candidate))
    elif _is_usable(item):
        yield item.strip()


def _is_usable(value: object) -> TypeGuard[str]:
    """Whether a value is a URL, or a path of the API's host (``/videos/a.mp4``, ``//host/a.mp4``)."""
    return isinstance(value, str) and (is_url(value.strip()) or value.strip().startswith("/"))


def absolute_url(base_url: str, url: str) -> str | None:
    """Resolve a result URL against the address of the API; None where nothing usable comes of it."""
    try:
        resolved = urljoin(base_url, url)
    except ValueError:  # For example an unclosed bracket.
        return None
    return resolved if is_url(resolved) else None


def is_url(value: object) -> bool:
    """Whether a value is an http(s) URL; nothing else is ever fetched."""
    return isinstance(value, str) and value.lower().startswith(("http://", "https://"))


def mappings(items: object) -> Iterator[JsonObject]:
    """Yield the objects of a list; a bare value in it stands for its URL. Anything but a list has none."""
    if isinstance(items, list):
        yield from (item if isinstance(item, Mapping) else {"url": item} for item in items)
