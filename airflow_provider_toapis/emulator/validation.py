"""Parse a request body into a :class:`GenerationRequest`, or reject it with the documented error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_toapis.emulator.error_bodies import RejectedError, error_body, invalid_request, no_channel
from airflow_provider_toapis.emulator.models import MODELS, Field, Model, Price

PriceOverrides = Mapping[str, tuple[Price, ...]]
_OWN_PRICES: PriceOverrides = {}
#: Fields of a request that can contain reference images.
IMAGE_FIELDS = ("image", "input_reference", "images", "image_urls", "reference_images", "image_with_roles")
#: Maximum seconds of a video. Longer than any model supports, but short enough that a mistyped number does not fill the
#: disk.
MAX_PERMISSIVE_DURATION = 60


@dataclass(frozen=True)
class GenerationRequest:
    """A valid request for one video.

    :param references: URLs of the reference images. The first one is rendered.
    :param duration: Seconds.
    :param cost: US dollars.
    """

    model: str
    prompt: str
    references: tuple[str, ...]
    duration: int
    aspect_ratio: str
    cost: Decimal
    client_business_id: str | None
    callback_url: str | None


def parse_generation(request: object, overrides: PriceOverrides = _OWN_PRICES) -> GenerationRequest:
    """Parse the body of ``POST /v1/videos/generations``.

    :param overrides: Price lists, by model, that are charged instead of the models' own.
    :raises RejectedError: A field is invalid. The response is the documented error and names the field.
    """
    body = _object(request)
    model = _model(body)
    values: Mapping[str, Any] = _checked_values(model, body) if model.fields else dict(body)
    references = tuple(_checked_url(name, url, model) for name, url in _images(values))
    duration = _duration(model, values)
    return GenerationRequest(
        model=model.id,
        prompt=_text(body, "prompt") or "",
        references=references,
        duration=duration,
        aspect_ratio=str(values.get("aspect_ratio") or values.get("ratio") or values.get("size") or "16:9"),
        cost=model.cost(values, duration, len(references), overrides.get(model.id)),
        client_business_id=_extra(body, "client_business_id"),
        callback_url=_extra(body, "callback_url"),
    )


def parse_derivation(
    request: object, operation: str, duration: int, aspect_ratio: str, overrides: PriceOverrides = _OWN_PRICES
) -> GenerationRequest:
    """Parse the body of a remix or an extension of an earlier video.

    :param operation: ``remix`` or ``extend``.
    :param duration: Length of the new video in seconds.
    :param aspect_ratio: Aspect ratio of the earlier video. Only a remix can request another one.
    :param overrides: Price lists, by model, that are charged instead of the models' own.
    :raises RejectedError: A field is invalid. The response is the documented error and names the field.
    """
    body = _object(request)
    model = _model(body)
    if operation not in model.operations:
        raise invalid_request("model", f"{model.id} cannot {operation} a video")
    prompt = _text(body, "prompt")
    if not prompt:
        raise invalid_request("prompt", "is required")
    ratio = _text(body, "aspect_ratio") if operation == "remix" else None
    if ratio not in {None, "16:9", "9:16"}:
        raise invalid_request("aspect_ratio", 'must be "16:9" or "9:16"')
    return GenerationRequest(
        model=model.id,
        prompt=prompt,
        references=(),
        duration=duration,
        aspect_ratio=ratio or aspect_ratio,
        cost=model.cost(body, duration, 0, overrides.get(model.id)),
        client_business_id=_extra(body, "client_business_id"),
        callback_url=_extra(body, "callback_url"),
    )


def _object(request: object) -> Mapping[str, Any]:
    if not isinstance(request, dict):
        raise invalid_request("body", "must be a JSON object")
    return request


def _model(body: Mapping[str, Any]) -> Model:
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise RejectedError(400, error_body("", "model name is required", "new_api_error", "model"))
    if name not in MODELS:
        raise no_channel(name)
    return MODELS[name]


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid_request(name, "must be a string")
    return value or None


def _extra(body: Mapping[str, Any], name: str) -> str | None:
    """Return a field that is documented at the top level of the body, but is also accepted in ``metadata``."""
    metadata = body.get("metadata")
    return _text(body, name) or (_text(metadata, name) if isinstance(metadata, dict) else None)


def _checked_values(model: Model, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the validated fields of the model by their canonical names, with defaults. Other fields are ignored."""
    values = {}
    for name, rule in model.fields.items():
        value = _value_of(body, name, rule)
        if value is None:
            if rule.required:
                raise invalid_request(name, "is required")
            value = rule.default
        else:
            _CHECKS[rule.type](name, value, rule)
        if value is not None:
            values[name] = value
    _check_mode(model, values)
    _check_combined_limit(model, values)
    return values


def _value_of(body: Mapping[str, Any], name: str, rule: Field) -> object:
    values = [body[alias] for alias in (name, *rule.aliases) if body.get(alias) not in (None, "")]
    if any(value != values[0] for value in values):
        raise invalid_request(name, f"and {', '.join(rule.aliases)} must not differ")
    return values[0] if values else None


def _check_string(name: str, value: object, rule: Field) -> None:
    if not isinstance(value, str) or (rule.values and value not in rule.values):
        allowed = ", ".join(f'"{value}"' for value in rule.values)
        raise invalid_request(name, f"must be a string{f', one of {allowed}' if allowed else ''}")


def _check_integer(name: str, value: object, rule: Field) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid_request(name, "must be an integer")
    if rule.values and value not in rule.values:
        raise invalid_request(name, f"must be one of {', '.join(map(str, rule.values))}")
    if not _between(value, rule):
        raise invalid_request(name, f"must be from {rule.min} to {rule.max}")


def _check_url(name: str, value: object, _rule: Field) -> None:
    if not isinstance(value, str):
        raise invalid_request(name, "must be a string with one URL")


def _check_urls(name: str, value: object, rule: Field) -> None:
    if not isinstance(value, list):
        raise invalid_request(name, "must be a list of URLs")
    if not _between(len(value), rule):
        expected = f"exactly {rule.min}" if rule.min == rule.max else f"{rule.min} to {rule.max}"
        raise invalid_request(name, f"must contain {expected} image URLs, not {len(value)}")


_CHECKS = {"string": _check_string, "integer": _check_integer, "url": _check_url, "urls": _check_urls}


def _between(number: int, rule: Field) -> bool:
    return (rule.min is None or rule.min <= number) and (rule.max is None or number <= rule.max)


def _check_mode(model: Model, values: Mapping[str, Any]) -> None:
    name = values.get("video_generation_mode", "")
    mode = model.modes.get(name)
    if mode is None:
        return
    condition = f"with video_generation_mode {name}" if name else "without a video_generation_mode"
    if mode.requires and mode.requires not in values:
        raise invalid_request(mode.requires, f"is required {condition}")
    for forbidden in mode.forbids:
        if forbidden in values:
            raise invalid_request(forbidden, f"is not allowed {condition}")


def _check_combined_limit(model: Model, values: Mapping[str, Any]) -> None:
    limit = model.combined_limit
    if limit is None:
        return
    total = sum(1 for name, _ in _images(values) if name in limit.fields)
    if total > limit.max:
        fields = " and ".join(limit.fields)
        raise invalid_request(limit.fields[-1], f"is too long: {fields} accept at most {limit.max} images in total")


def _images(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every reference image with the name of its field. Items are strings, or objects with a ``url``."""
    for name in IMAGE_FIELDS:
        value = values.get(name)
        for item in value if isinstance(value, list) else [value] if value else []:
            yield name, item.get("url") if isinstance(item, dict) else item


def _checked_url(name: str, url: object, model: Model) -> str:
    if not isinstance(url, str) or not url:
        raise invalid_request(name, "must contain image URLs")
    if url.startswith("data:"):
        if model.data_uris:
            return url
        raise invalid_request(name, ": base64 image is not allowed")
    if _url_scheme(url) in {"http", "https"}:
        return url
    if re.fullmatch(r"[A-Za-z0-9+/=\s]{64,}", url):
        raise invalid_request(name, ": base64 image is not allowed")
    raise invalid_request(name, ": invalid image_url, it must be a public http(s) URL")


def _url_scheme(url: str) -> str | None:
    """Return the scheme of an absolute URL with a host; None for any other text."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return parts.scheme if parts.hostname else None


def _duration(model: Model, values: Mapping[str, Any]) -> int:
    """Return the length of the video in seconds.

    Models without documented fields also accept a string such as ``"8"``, and 0 or -1 for the default length.
    """
    value = values.get("duration") or values.get("seconds")
    try:
        seconds = int(value) if value is not None else 0
    except (TypeError, ValueError):
        raise invalid_request("duration", "must be a number of seconds") from None
    if seconds > MAX_PERMISSIVE_DURATION:
        raise invalid_request("duration", f"must be at most {MAX_PERMISSIVE_DURATION}")
    return seconds if seconds > 0 else model.duration
