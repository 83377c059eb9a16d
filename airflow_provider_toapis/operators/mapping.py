"""Reject mapped tasks that would make the same video, if their arguments are written in the DAG file.

Such tasks start at the same time. Each can look the video up before another task has submitted it, so several videos
can be billed.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.operators.rendered_fields import is_literal


def checked_partial(partial: Any) -> Any:  # noqa: ANN401 - Airflow's OperatorPartial
    """Return a copy of an ``OperatorPartial`` that checks the literal values over which it is expanded."""
    # Only the copy is expanded. Airflow warns about a partial that is never expanded, so mark the original as expanded.
    partial._expand_called = True  # noqa: SLF001
    kind: Any = type(partial)
    return _checked_kind(kind)(operator_class=partial.operator_class, kwargs=partial.kwargs, params=partial.params)


@functools.cache
def _checked_kind(kind: Any) -> Any:  # noqa: ANN401
    class CheckedPartial(kind):  # type: ignore[misc]
        def expand(self, **mapped: Any) -> Any:  # noqa: ANN401
            self._expand_called = True
            if "client_business_id" not in mapped:
                _require_no_fixed_id(self.kwargs)
            for name in ("client_business_id", "identity"):
                _require_different(name, _literals(mapped.get(name)))
            return super().expand(**mapped)

        def expand_kwargs(self, kwargs: Any, **options: Any) -> Any:  # noqa: ANN401
            self._expand_called = True
            items = [item for item in kwargs if isinstance(item, Mapping)] if isinstance(kwargs, list | tuple) else []
            _require_no_fixed_id(self.kwargs)
            _require_different("client_business_id", _literals([item.get("client_business_id") for item in items]))
            _require_different_items([item for item in items if _literals([item.get("identity")])])
            return super().expand_kwargs(kwargs, **options)

    return CheckedPartial


def _require_no_fixed_id(fixed: Mapping[str, Any]) -> None:
    for client_business_id in _literals([fixed.get("client_business_id")]):
        raise ToAPIsRequestError.for_field(
            "client_business_id",
            client_business_id,
            "must be different for each mapped task. Map over it as well, or set identity instead",
        )


def _require_different(name: str, values: list[str]) -> None:
    for value, times in Counter(values).items():
        if times > 1:
            raise _duplicate(name, value)


def _require_different_items(items: list[Mapping[str, Any]]) -> None:
    """Reject two equal items. Items with the same identity are allowed if they differ, for example in the prompt."""
    seen: set[str] = set()
    for item in items:
        text = json.dumps(item, sort_keys=True, default=repr)
        if text in seen and is_literal(text):
            raise _duplicate("identity", item["identity"])
        seen.add(text)


def _duplicate(name: str, value: str) -> ToAPIsRequestError:
    return ToAPIsRequestError.for_field(name, value, "must be different for each mapped task, but is used twice")


def _literals(values: object) -> list[str]:
    """Return the strings that contain no template; an empty list if ``values`` is known only during a run."""
    items = values if isinstance(values, list | tuple) else ()
    return [item for item in items if isinstance(item, str) and item and is_literal(item)]
