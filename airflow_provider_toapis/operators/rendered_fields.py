"""Check template fields (literals during parsing, rendered values before execution) and mask URL signatures in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import mask_secret

from airflow_provider_toapis.api.defaults import DERIVED_MODEL, MODEL
from airflow_provider_toapis.api.model_catalog import find_model
from airflow_provider_toapis.api.texts import emptied, is_nothing, require_path, require_text
from airflow_provider_toapis.api.video_request import parse_duration
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.mapped_values import AuthorTemplatesOperator
from airflow_provider_toapis.redaction import secrets_in, without_signatures

if TYPE_CHECKING:
    from airflow_provider_toapis.api.video_request import Operation

#: Maximum number of secrets to mask. For each new secret, Airflow compiles the patterns of all secrets again. Masking
#: 60 long tokens took five seconds.
MAX_PATTERNS = 20
_TEMPLATE_MARKS = ("{{", "{%", "{#")
#: Every model allows prompts of up to this many characters. If a prompt is not longer, the model catalog need not be
#: loaded during parsing.
_SHORT_PROMPT_LENGTH = 1000
#: Used instead of a prompt that is a template, so that the other fields can be checked during parsing.
_PLACEHOLDER_PROMPT = "a prompt"


def mask_query(url: object) -> None:
    """Let Airflow mask the whole query string of a result URL, because any part of it can be a signature."""
    query = str(url or "").partition("?")[2].partition("#")[0]
    if query:
        mask_secret(query)


def mask_signatures(*values: object) -> bool:
    """Let Airflow mask the signatures of all presigned URLs in ``values``.

    :return: Whether the signatures are masked. If there are more than ``MAX_PATTERNS``, none is masked.
    """
    secrets = list(dict.fromkeys(secrets_in(values)))
    if len(secrets) > MAX_PATTERNS:
        return False
    for secret in secrets:
        # Airflow 2 cannot mask a lone surrogate, so it is removed here. The value is rejected later.
        mask_secret(secret.encode(errors="ignore").decode())
    return True


#: Arguments of the decorated function. They are not checked, because only the function's author knows which values are
#: valid.
_FUNCTION_FIELDS = frozenset({"op_args", "op_kwargs"})


#: Fields that the checks of a request do not cover.
_NAME_FIELDS = frozenset({"client_business_id", "identity"})


_NOTHING: Mapping[str, Any] = MappingProxyType({})


class RenderedFieldsOperator(AuthorTemplatesOperator):
    """Base of operators with template fields. Hides URL signatures, and detects templates that rendered to nothing.

    Airflow stores and shows the rendered template fields. Up to ``MAX_PATTERNS`` URL signatures in the fields are
    masked by Airflow. Masking more would take too long, so this class then removes the signatures from the fields, and
    :meth:`_unmasked` returns the original values.
    """

    # By field: the shown value and the original value.
    _signed: Mapping[str, tuple[Any, Any]] = _NOTHING
    # By field: the value of a template that rendered to nothing.
    _emptied: Mapping[str, Any] = _NOTHING

    def _do_render_template_fields(
        self,
        parent: Any,  # noqa: ANN401
        template_fields: Iterable[str],
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        # Airflow calls this method for both mapped and unmapped tasks, before it stores and shows the rendered fields.
        fields = tuple(template_fields)
        if parent is not self:
            super()._do_render_template_fields(parent, fields, *args, **kwargs)
            return
        before = {name: getattr(self, name) for name in fields if name not in _FUNCTION_FIELDS}
        super()._do_render_template_fields(parent, fields, *args, **kwargs)
        after = {name: getattr(self, name) for name in before}
        self._emptied = {name: value for name, value in after.items() if emptied(before[name], value)}
        self._hide_signatures()

    def _hide_signatures(self) -> None:
        """Mask the URL signatures in the template fields, or remove them if there are too many to mask."""
        values = {name: getattr(self, name) for name in self.template_fields}
        if mask_signatures(*values.values()):
            return
        for name, value in values.items():
            if any(secrets_in(value)):
                shown = without_signatures(value)
                self._signed = {**self._signed, name: (shown, value)}
                setattr(self, name, shown)

    def _unmasked(self, name: str) -> Any:  # noqa: ANN401
        """Return the value of a template field with its original URL signatures."""
        value = getattr(self, name)
        shown, original = self._signed.get(name, (None, None))
        return original if original is not None and value is shown else value

    def _require_rendered(self, *optional: str) -> None:
        """Reject templates that rendered to nothing. This usually means that an ``xcom_pull`` found nothing.

        :param optional: Fields that are allowed to be blank.
        :raises ToAPIsRequestError: A template rendered to nothing. The message names the field.
        """
        for name in _NAME_FIELDS.intersection(self.template_fields):
            require_text(name, getattr(self, name))
        require_path("output_path", getattr(self, "output_path", None))
        for name, rendered in self._emptied.items():
            if self._unmasked(name) is not rendered or (name in optional and is_nothing(rendered)):
                continue
            raise ToAPIsRequestError.for_field(
                name,
                rendered if is_nothing(rendered) else type(rendered).__name__,
                "its template rendered to nothing, which usually means that an xcom_pull found nothing",
            )


def check_literals(
    *,
    operation: Operation = "generate",
    model: object,
    prompt: object,
    duration: object = None,
    aspect_ratio: object = None,
) -> None:
    """Reject literals that the model does not accept. Templates, task outputs and unknown models are not checked.

    :raises ToAPIsRequestError: A literal is not accepted. The message names the field, the value and what is allowed.
    """
    if not isinstance(model, str) or not is_literal(model):
        return
    text = prompt if prompt is None or (isinstance(prompt, str) and is_literal(prompt)) else _PLACEHOLDER_PROMPT
    seconds = duration if isinstance(duration, int | float | str) and is_literal(duration) else None
    ratio = aspect_ratio if isinstance(aspect_ratio, str) and is_literal(aspect_ratio) else None
    has_usual_prompt = bool(text and text.strip() and len(text) <= _SHORT_PROMPT_LENGTH)
    if has_usual_prompt and seconds is None and not ratio and model in (MODEL, DERIVED_MODEL):
        return
    known = find_model(model)
    if known is None:
        return
    known.check(
        operation=operation,
        prompt=text,
        duration=parse_duration(seconds),
        aspect_ratio=ratio or None,
        image_count=None,
    )


def is_literal(value: object) -> bool:
    """Return whether a value is known in the DAG file: not a template and not a task's output."""
    if isinstance(value, list | tuple):
        return all(map(is_literal, value))
    if isinstance(value, str):
        return not any(mark in value for mark in _TEMPLATE_MARKS)
    return value is None or isinstance(value, int | float)
