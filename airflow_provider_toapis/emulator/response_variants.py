"""Variants of response bodies, as other versions of the service and other models send them."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

_DATA = tomllib.loads(resources.files(__package__).joinpath("faults.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Variant:
    """A change to the fields of a response body.

    :param when: State of the generation task to which the variant applies (``unfinished``, ``completed``, ``failed``);
        None for any response.
    :param remove: Fields to remove, as dotted paths.
    :param merge: Values to merge; ``$name`` stands for a value of the real response.
    :param nest: Key under which the whole body is nested.
    """

    when: str | None = None
    remove: tuple[str, ...] = ()
    merge: Mapping[str, Any] = field(default_factory=dict)
    nest: str | None = None

    def matches(self, body: Mapping[str, Any]) -> bool:
        """Return whether the variant applies to the state of the generation task in ``body``."""
        return self.when is None or self.when == state_of(body)

    def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a changed copy of ``body``."""
        changed = copy.deepcopy(dict(body))
        for path in self.remove:
            _remove(changed, path.split("."))
        changed = _merged(changed, _filled_object(self.merge, _values(body)))
        return {self.nest: changed} if self.nest else changed


def state_of(body: Mapping[str, Any]) -> str:
    """Return the state of the generation task in a status response: ``unfinished``, ``completed`` or ``failed``."""
    status = body.get("status")
    return str(status) if status in {"completed", "failed"} else "unfinished"


def _values(body: Mapping[str, Any]) -> dict[str, object]:
    """Return the values that replace placeholders such as ``$url`` in a variant, by the placeholder's name."""
    result = body.get("result")
    items = result.get("data") if isinstance(result, dict) else None
    error = body.get("error")
    error = error if isinstance(error, dict) else {}
    return {
        "id": body.get("id"),
        "status": body.get("status"),
        "progress": body.get("progress"),
        "url": items[0].get("url") if isinstance(items, list) and items else None,
        "code": error.get("code"),
        "message": error.get("message"),
    }


def _filled(template: object, values: Mapping[str, object]) -> object:
    if isinstance(template, Mapping):
        return _filled_object(template, values)
    if isinstance(template, list):
        return [_filled(value, values) for value in template]
    if not isinstance(template, str):
        return template
    if template[:1] == "$" and template[1:] in values:
        return values[template[1:]]
    for name, value in values.items():
        # A template with more text than ``$name`` can be JSON text, so the value is escaped as in JSON.
        template = template.replace(f"${name}", json.dumps(str(value))[1:-1])
    return template


def _filled_object(template: Mapping[str, object], values: Mapping[str, object]) -> dict[str, object]:
    return {name: _filled(value, values) for name, value in template.items()}


def _remove(body: dict[str, Any], path: list[str]) -> None:
    *parents, name = path
    for parent in parents:
        inner = body.get(parent)
        if not isinstance(inner, dict):
            return
        body = inner
    body.pop(name, None)


def _merged(body: Mapping[str, object], patch: Mapping[str, object]) -> dict[str, object]:
    """Apply a JSON merge patch (RFC 7396): merge objects, remove fields that are null, replace all other values."""
    merged = dict(body)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            inner = merged.get(name)
            merged[name] = _merged(inner if isinstance(inner, Mapping) else {}, value)
        else:
            merged[name] = value
    return merged


def _variant(entry: Mapping[str, Any]) -> Variant:
    return Variant(entry.get("when"), tuple(entry.get("remove", ())), entry.get("merge", {}), entry.get("nest"))


#: Every variant by its name.
VARIANTS: Mapping[str, Variant] = {name: _variant(entry) for name, entry in _DATA["variants"].items()}
#: Every response by its name. A response has a ``status``, either ``body`` or ``html``, and sometimes ``headers``.
RESPONSES: Mapping[str, Mapping[str, Any]] = _DATA["responses"]
