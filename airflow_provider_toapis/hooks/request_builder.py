"""Build a checked request from an operator's arguments and image files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_toapis.api.model_catalog import find_model
from airflow_provider_toapis.api.texts import require_encodable, require_text
from airflow_provider_toapis.api.video_request import VideoRequest, image_references, parse_duration
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.source_files import reference_image

if TYPE_CHECKING:
    from airflow_provider_toapis.api.video_request import Operation, VideoRequest


def video_request(
    *,
    model: str,
    prompt: str | None = None,
    image: str | Iterable[str] | None = None,
    duration: int | str | None = None,
    aspect_ratio: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    operation: Operation = "generate",
    video_id: str | None = None,
) -> VideoRequest:
    """Return the request for a video, with the values checked and the image files read.

    :raises ToAPIsRequestError: A value is not accepted. The message names the field, the value and what is allowed.
    """
    request = request_without_images(
        operation=operation,
        video_id=video_id,
        model=model,
        prompt=prompt,
        duration=duration,
        aspect_ratio=aspect_ratio,
        parameters=parameters,
    )
    images = image_references(image)
    require_text("image", images)
    request = replace(request, images=tuple(map(reference_image, images)))
    request.check()
    return request


def request_without_images(
    *,
    model: str,
    prompt: str | None = None,
    duration: int | str | None = None,
    aspect_ratio: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    operation: Operation = "generate",
    video_id: str | None = None,
) -> VideoRequest:
    """Return the request without its images, so that no file is read. The model's limits are not checked yet.

    :raises ToAPIsRequestError: ``parameters`` or ``duration`` has another type, or a text is ``None`` or has a lone
        surrogate.
    """
    if parameters and not isinstance(parameters, Mapping):
        raise ToAPIsRequestError.for_field(
            "parameters",
            type(parameters).__name__,
            "must be a dict. If it is a template, set render_template_as_native_obj=True on the DAG",
        )
    texts = {"model": model, "prompt": prompt, "aspect_ratio": aspect_ratio, "video_id": video_id}
    for field, value in texts.items():
        require_text(field, value)
    require_encodable("parameters", parameters)
    return VideoRequest(
        operation=operation,
        video_id=video_id,
        model=model,
        prompt=prompt,
        duration=parse_duration(duration),
        aspect_ratio=aspect_ratio or None,
        parameters=parameters or {},
    )


def may_be_blank(model: str, operation: Operation) -> tuple[str, ...]:
    """Return the fields whose templates can render to nothing: the prompt, if the model is known not to require one."""
    known = find_model(model) if isinstance(model, str) else None
    inputs = None if known is None else getattr(known, operation)
    return () if inputs is None or inputs.prompt.required else ("prompt",)
