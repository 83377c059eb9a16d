"""What a template may make of ``output_path``: names from data stay in the directory that the author chose."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from airflow_provider_toapis.api.texts import require_encodable
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.operators.rendered_fields import RenderedFieldsOperator

#: A text like this is its own name, unless the filter may have made it of another text.
_PLAIN_NAME = re.compile(r"(?!.*-[0-9a-f]{12}$)[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")


def file_name(value: object) -> str:
    """Return a file name, less its ending, for any text: ``{{ params.sku | file_name }}``.

    No two texts share one, unless they differ only in case and the file system ignores it.

    :raises ToAPIsRequestError: There is no text, or half of a surrogate pair in it.
    """
    text = str(value)
    if value is None or text in {"", "None"}:
        raise ToAPIsRequestError.for_field("output_path", text, "must be text")
    require_encodable("output_path", text)
    if _PLAIN_NAME.fullmatch(text):
        return text
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:60] or "video"
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def require_inside(template: object, output_path: object) -> None:
    """Reject a path that leaves a directory where its template does not.

    :param template: As the author wrote it; not a text where all of the path comes from data.
    :raises ToAPIsRequestError: It has a ``..`` that the template lacks.
    """
    if isinstance(output_path, str) and _count_parents(output_path) > _count_parents(template):
        raise ToAPIsRequestError.for_field(
            "output_path",
            output_path,
            "a template or a mapped value must not add '..' to a path. In templates the filter file_name makes a safe"
            " name of any text, for example {{ params.sku | file_name }}",
        )


def _count_parents(path: object) -> int:
    if not isinstance(path, str):
        return 0
    # A file URI is decoded when it is used.
    path = unquote(path) if path.startswith(("file:", "local:")) else path
    return re.split(r"[/\\]", path).count("..")


class OutputPathOperator(RenderedFieldsOperator):
    """An operator with a templated ``output_path``. Its templates know the filter ``file_name``."""

    output_path: Any

    def _do_render_template_fields(
        self,
        parent: Any,  # noqa: ANN401
        template_fields: Iterable[str],
        context: Any,  # noqa: ANN401
        jinja_env: Any,  # noqa: ANN401
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        # The one place that mapped and plain tasks pass.
        if parent is not self:
            super()._do_render_template_fields(parent, template_fields, context, jinja_env, *args, **kwargs)
            return
        jinja_env.filters.setdefault("file_name", file_name)
        template = self.output_path if self._is_output_path_from_author() else None
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, *args, **kwargs)
        require_inside(template, self.output_path)

    def _is_output_path_from_author(self) -> bool:
        """Whether it is in the DAG file, rather than a mapped value that comes from another task."""
        declared = self.dag.task_dict.get(self.task_id) if self.has_dag() else None  # type: ignore[no-untyped-call]
        if "output_path" in getattr(declared, "partial_kwargs", {"output_path"}):
            return True
        mapped = getattr(declared, getattr(declared, "_expand_input_attr", ""), None)
        value = getattr(mapped, "value", None)
        if isinstance(value, dict):
            value = value.get("output_path")
        return isinstance(value, list | tuple) and all(isinstance(item, str | dict) for item in value)
