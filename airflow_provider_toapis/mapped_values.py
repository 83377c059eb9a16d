"""Treat text that an operator gets from another task as data, not as a template."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator, literal

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from jinja2 import Environment


class AuthorTemplatesOperator(BaseOperator):
    """Base class of operators that render only the templates that are written in the DAG file.

    Airflow does not render values that ``expand()`` gets from another task, but it does render values that
    ``expand_kwargs()`` gets from another task. Without this class, a product description that contains
    ``{{ conn.other.password }}`` would be rendered and sent to the service.
    """

    def _do_render_template_fields(
        self,
        parent: Any,  # noqa: ANN401
        template_fields: Iterable[str],
        context: Context,
        jinja_env: Environment,
        seen_oids: set[int],
    ) -> None:
        if parent is self:
            # Airflow skips values that it has already seen, so it does not render these.
            seen_oids.update(map(id, _values_of_other_tasks(self, template_fields, context)))
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)


def as_data(rows: object) -> object:
    """Return ``rows`` with every string, at any depth, replaced by a literal, which Airflow does not render."""
    if isinstance(rows, str):
        return literal(rows)
    if isinstance(rows, list | tuple):
        return [as_data(item) for item in rows]
    return {name: as_data(item) for name, item in rows.items()} if isinstance(rows, Mapping) else rows


def _values_of_other_tasks(
    operator: Any,  # noqa: ANN401 - Airflow's, whose annotations change
    template_fields: Iterable[str],
    context: Context,
) -> Iterator[object]:
    """Yield the values of a mapped task that come from another task through ``expand_kwargs()``."""
    if not operator.has_dag():
        return
    mapped = operator.dag.task_dict.get(operator.task_id)
    if not _is_expanded_by_another_task(mapped, context["ti"].map_index):
        return
    written = [mapped.partial_kwargs, operator.dag.default_args]
    if operator.task_group is not None:
        written.append(operator.task_group.default_args)
    written_ids = set(map(id, chain.from_iterable(map(_values, written))))
    for value in _values({name: getattr(operator, name) for name in template_fields}):
        # Skip values that Airflow must resolve: literals and task outputs.
        if id(value) not in written_ids and (isinstance(value, os.PathLike) or not hasattr(value, "resolve")):
            yield value


def _is_expanded_by_another_task(mapped: Any, map_index: Any) -> bool:  # noqa: ANN401
    # Check `op_kwargs_expand_input` first, because a mapped decorated task also has an empty `expand_input`.
    expanded = getattr(mapped, "op_kwargs_expand_input", None) or getattr(mapped, "expand_input", None)
    if expanded is None or isinstance(expanded.value, Mapping):
        return False
    values = expanded.value
    return not isinstance(values, Sequence) or not isinstance(values[map_index], Mapping)


def _values(arguments: Mapping[str, Any]) -> Iterator[object]:
    """Yield the values of an operator's arguments. For ``op_kwargs``, yield the value of each function argument."""
    for name, value in arguments.items():
        if name == "op_kwargs" and isinstance(value, Mapping):
            yield from value.values()
        else:
            yield value
