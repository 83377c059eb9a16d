"""Check literal arguments when the DAG file is parsed, before any run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_toapis.api.defaults import DERIVED_MODEL, MODEL
from airflow_provider_toapis.api.model_catalog import find_model
from airflow_provider_toapis.api.video_request import parse_duration

if TYPE_CHECKING:
    from airflow_provider_toapis.api.video_request import Operation

_TEMPLATE_MARKS = ("{{", "{%", "{#")
#: Characters that every model allows. For a shorter prompt the model catalog need not be loaded during parsing.
_SHORT_PROMPT_LENGTH = 1000
#: Used in place of a prompt that is not known yet.
_PLACEHOLDER_PROMPT = "a prompt"


def check_literals(
    *,
    operation: Operation = "generate",
    model: object,
    prompt: object,
    duration: object = None,
    aspect_ratio: object = None,
) -> None:
    """Reject literals that the model does not accept. Templates, task outputs and unknown models are not checked.

    :raises ToAPIsRequestError: Names the field, the value and what is allowed.
    """
    if not isinstance(model, str) or not _is_literal(model):
        return
    text = prompt if prompt is None or (isinstance(prompt, str) and _is_literal(prompt)) else _PLACEHOLDER_PROMPT
    seconds = duration if isinstance(duration, int | float | str) and _is_literal(duration) else None
    ratio = aspect_ratio if isinstance(aspect_ratio, str) and _is_literal(aspect_ratio) else None
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


def _is_literal(value: object) -> bool:
    return not isinstance(value, str) or not any(mark in value for mark in _TEMPLATE_MARKS)
