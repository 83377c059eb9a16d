"""The request for one video: check the author's values, build the wire body, and derive the idempotency keys."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from typing import Any, BinaryIO, Literal
from urllib.parse import quote, urlsplit

from airflow_provider_toapis.api.model_catalog import VideoModel, find_model, similar_model_ids
from airflow_provider_toapis.api.result_urls import is_url
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.redaction import secrets_of, without_signature

log = logging.getLogger(__name__)
Operation = Literal["generate", "remix", "extend"]
_IMAGE_ADVICE = "an http(s) URL, the path of a file, or an object storage URI such as s3://bucket/image.jpg"
_CHOSEN_ID = re.compile(r"(?!(?:video|task|tsk|vid)_)[A-Za-z0-9_-]{1,60}")
#: A pasted base64 image. No file name is that long and has only these characters.
_BASE64 = re.compile(r"[A-Za-z0-9+/=_\s-]{256,}")
#: Whitespace and invisible characters.
_BLANKS = " \t\r\n\v\f\xa0\u200b\u2060\ufeff"
#: Start of a second URL in one text: after a separator, which can be Chinese, or directly after the first URL. A URL
#: that is a part of the first URL is not matched, because it follows a slash or an equals sign.
_NEXT_URL = re.compile(r"[,;|\s\uff0c\uff1b\u3001\uff5c]\s*(?:https?:)?//|\whttps?://", re.IGNORECASE)


@dataclass(frozen=True)
class FileUpload:
    """A file to upload.

    :param name: File name, which the service receives.
    :param media_type: Media type, for example ``image/jpeg``.
    :param open: Opens the content for reading. Called for each attempt of the upload.
    """

    name: str
    media_type: str
    open: Callable[[], BinaryIO] = field(repr=False)


@dataclass(frozen=True)
class ReferenceImage:
    """An image from which a video is made.

    :param identity: Identity of the image for the fingerprint: its URL without a signature, or the hash of its content.
    :param url: Public URL; None for a file that must be uploaded.
    :param upload: The file to upload; None for a public URL.
    """

    identity: str
    url: str | None = field(default=None, repr=False)
    upload: FileUpload | None = None

    @classmethod
    def from_url(cls, url: str) -> ReferenceImage:
        """Return the image at the public URL ``url``."""
        return cls(identity=f"url:{without_signature(url)}", url=url)


@dataclass(frozen=True)
class VideoRequest:
    """The request for one video, with the values that the author set. Call ``check`` before it is sent.

    :param model: Case-exact model id.
    :param prompt: Description of the video. Not part of ``repr``.
    :param images: Images from which the video is made.
    :param duration: Seconds; None for the model's default.
    :param aspect_ratio: For example ``16:9``; None for the model's default.
    :param operation: ``generate`` (default), ``remix`` or ``extend``.
    :param parameters: Wire fields, sent unchecked. They override all other fields.
    :param video_id: Source video of a remix or an extension.
    """

    model: str
    prompt: str | None = field(default=None, repr=False)
    images: tuple[ReferenceImage, ...] = ()
    duration: int | None = None
    aspect_ratio: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    operation: Operation = "generate"
    video_id: str | None = None

    def check(self) -> None:
        """Reject values that the model does not accept. A model that is not in the catalog only causes a warning.

        :raises ToAPIsRequestError: A value is not accepted. The message names the field, the value and what is allowed.
        """
        if not isinstance(self.model, str) or not self.model.strip():
            raise ToAPIsRequestError.for_field("model", self.model, "must be the id of a video model")
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise ToAPIsRequestError.for_field("prompt", type(self.prompt).__name__, "must be text")
        if "client_business_id" in self.parameters:
            raise ToAPIsRequestError.for_field(
                "parameters", "client_business_id", "pass it as the operator's argument client_business_id instead"
            )
        if self.operation != "generate" and not str(self.video_id or "").strip():
            raise ToAPIsRequestError.for_field(
                "video_id", self.video_id, f"must be the id of the video to {self.operation}"
            )
        known = find_model(self.model)
        if known is None:
            _warn_about_unknown_model(self.model)
        self._model.check(
            operation=self.operation,
            prompt=self.prompt,
            duration=self.duration,
            aspect_ratio=self.aspect_ratio,
            # Images in `parameters` are not checked or counted.
            image_count=1 if self._images_are_parameters else len(self.images),
        )

    def wire_body(self, image_urls: Sequence[str]) -> dict[str, Any]:
        """Return the JSON body of the submission (documented).

        :param image_urls: URL of each image.
        """
        body: dict[str, Any] = {"model": self.model}
        if self.prompt is not None:
            body["prompt"] = self.prompt
        fields = self._model.wire_fields(
            operation=self.operation,
            duration=self.duration,
            aspect_ratio=self.aspect_ratio,
            image_urls=None if self._images_are_parameters else image_urls,
            author_fields=self.parameters,
        )
        return _merged(_merged(body, fields), self.parameters)

    def with_callback(self, body: Mapping[str, Any], url: str) -> dict[str, Any]:
        """Return a copy of the wire ``body`` with ``url`` as the callback URL for webhooks."""
        field: Any = url
        for name in reversed(self._model.callback_field.split(".")):
            field = {name: field}
        return _merged(body, field)

    @property
    def names_callback(self) -> bool:
        """Whether the author sets a callback URL in ``parameters``."""
        nested = self.parameters.get("metadata")
        return "callback_url" in self.parameters or (isinstance(nested, Mapping) and "callback_url" in nested)

    @property
    def path(self) -> str:
        """URL path of the submission."""
        if self.operation == "generate":
            return "/v1/videos/generations"
        return f"/v1/videos/{quote(str(self.video_id), safe='')}/{self.operation}"

    @property
    def seconds(self) -> int | None:
        """Length of the video in seconds; None if the model or the source video determines it."""
        body = self.wire_body([image.identity for image in self.images])
        field = self._model.inputs(self.operation).duration
        values = [body[name] for name in ("duration", "seconds") if name in body]
        if field and field.default is not None and field.field not in body and self.operation == "generate":
            values.append(field.default)
        try:
            lengths = [parse_duration(value) for value in values]
        except ToAPIsRequestError:
            # The value is in `parameters`, which are not checked.
            return None
        # It is not documented which of two fields a model reads. Use the longer length, because it costs more.
        known = [length for length in lengths if length and length > 0 and not (field and length in field.special)]
        return max(known) if known and len(known) == len(lengths) else None

    @property
    def requested_seconds(self) -> int | None:
        """The length in seconds that the author requested; None if it is not set or not clear.

        It is None for a remix or an extension, because the source video also determines the length.
        """
        is_set = self.duration is not None or "duration" in self.parameters or "seconds" in self.parameters
        if not is_set or self.operation != "generate":
            return None
        body = self.wire_body([image.identity for image in self.images])
        # It is not documented which of two fields a model reads.
        return None if "duration" in body and "seconds" in body else self.seconds

    @property
    def requested_aspect_ratio(self) -> str | None:
        """The aspect ratio that the author requested, for example ``16:9``; None if it is not set or not clear."""
        field = self._model.inputs(self.operation).aspect_ratio
        name = field.field if field else "aspect_ratio"
        value = self.parameters.get(name, self.aspect_ratio)
        # It is not documented which of several fields a model reads.
        is_ambiguous = any(other in self.parameters for other in ("aspect_ratio", "ratio", "size") if other != name)
        return value if isinstance(value, str) and not is_ambiguous else None

    @property
    def price_usd(self) -> Decimal | None:
        """Price in USD from the model catalog; None if the catalog has none. The account's prices can differ."""
        return self._model.price(self.seconds) if self.operation == "generate" else None

    @property
    def private(self) -> tuple[str, ...]:
        """Sensitive texts that messages must not quote.

        These are the strings in the prompt and the parameters, and the signatures of the images' URLs. Each signature
        is included twice: as it is, and URL-encoded.
        """
        signatures = [secret for image in self.images for secret in secrets_of(image.url or "")]
        return (
            *private_texts(self.prompt, self.parameters),
            *signatures,
            *(quote(text, safe="") for text in signatures),
        )

    def is_model(self, model_id: str) -> bool:
        """Return whether ``model_id`` is this request's model or an alias of it."""
        known = find_model(model_id)
        return model_id.lower() == self.model.lower() or (known is not None and known == find_model(self.model))

    def fingerprint(self) -> str:
        """Return a hash of the values that the author set, without URLs of uploads and without URL signatures.

        The wire fields are not hashed, because they can change when a later model catalog knows more about the model.

        :raises ToAPIsRequestError: ``parameters`` cannot be serialized as JSON.
        """
        values = {
            "operation": self.operation,
            "video_id": self.video_id,
            "model": self.model,
            "prompt": self.prompt,
            "images": [image.identity for image in self.images],
            "duration": self.duration,
            "aspect_ratio": self.aspect_ratio,
            # A template can sign a URL again for each attempt.
            "parameters": _without_signatures(self.parameters),
        }
        try:
            text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        except (TypeError, ValueError):
            # The message shows only the names: the values can be prompts.
            raise ToAPIsRequestError.for_field(
                "parameters", list(self.parameters), "must be serializable as JSON"
            ) from None
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def _model(self) -> VideoModel:
        return find_model(self.model) or VideoModel.unknown(self.model)

    @property
    def _images_are_parameters(self) -> bool:
        return not self.images and any(name in self.parameters for name in self._model.image_fields)


def private_texts(*values: object) -> tuple[str, ...]:
    """Return all strings in the given values, including nested ones. They can be prompts, which are sensitive."""
    return tuple(chain.from_iterable(map(_texts, values)))


def parse_duration(duration: object) -> int | None:
    """Return a duration in whole seconds; None for None or an empty string.

    Strings are accepted, because a template can render the duration as a string.

    :raises ToAPIsRequestError: The duration is not a whole number.
    """
    if duration is None or duration == "":
        return None
    text = str(duration).strip()
    if isinstance(duration, bool) or not re.fullmatch(r"-?[0-9]{1,6}(\.0+)?", text):
        raise ToAPIsRequestError.for_field("duration", duration, "must be whole seconds, for example 10")
    return int(float(text))


def image_references(image: str | os.PathLike[str] | Iterable[str] | None) -> tuple[str, ...]:
    """Return the operator's ``image`` as checked references: URLs, paths or URIs.

    :raises ToAPIsRequestError: An image is a data URI, base64 text, a malformed URL, or neither text nor a path.
    """
    if image is None:
        return ()
    images = (image,) if isinstance(image, str | bytes | os.PathLike) or not isinstance(image, Iterable) else image
    return tuple(map(_checked_reference, images))


def _checked_reference(image: object) -> str:
    reference = os.fspath(image) if isinstance(image, os.PathLike) else image
    if not isinstance(reference, str) or not reference.strip():
        raise ToAPIsRequestError.for_field("image", reference, f"must be {_IMAGE_ADVICE}")
    if reference.lstrip()[:5].lower() == "data:" or _BASE64.fullmatch(reference):
        shown = f"{reference[:24]}..."
        raise ToAPIsRequestError.for_field(
            "image",
            shown,
            f"must not be a data URI or base64. Save the image as a file and pass {_IMAGE_ADVICE}",
        )
    if problem := _url_problem(reference):
        # Leave out the query: it can contain a URL signature, which cannot be recognized in a malformed URL.
        raise ToAPIsRequestError.for_field("image", re.split("[?#]", reference)[0], problem)
    return reference


def _url_problem(reference: str) -> str | None:
    """Return the rule that a malformed URL violates; None if ``reference`` is a valid URL or not a URL."""
    if re.match(r"//[^/]+\.[^/]+/", reference):
        return "must be a complete URL that starts with https:"
    url = reference.strip(_BLANKS)
    if not is_url(url):
        return None
    has_invisible = any(unicodedata.category(character) in ("Cc", "Cf") for character in reference)
    rules = (
        (_NEXT_URL.search(url), "must be one URL. Pass several as a list; in a feed, as a JSON list in a .jsonl file"),
        (url != reference, "must not start or end with a space"),
        (re.search(r"\s", reference), "must not contain spaces; write %20 instead"),
        (has_invisible, "must not contain control characters or zero-width characters"),
        (not _has_host(reference), "must be a complete http(s) URL"),
    )
    return next((expected for is_violated, expected in rules if is_violated), None)


def _has_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:
        return False


@functools.cache
def _warn_about_unknown_model(model_id: str) -> None:
    similar = similar_model_ids(model_id)
    hint = f" Did you mean {' or '.join(similar)}?" if similar else ""
    log.warning(
        "Model %r is not in the model catalog of this version. Its fields are sent unchecked, under the usual names.%s",
        model_id,
        hint,
    )


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Mapping):
        return private_texts(*value.values())
    return private_texts(*value) if isinstance(value, list | tuple) else ()


def _without_signatures(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, str):
        return without_signature(value) if is_url(value) else value
    if isinstance(value, Mapping):
        return {name: _without_signatures(item) for name, item in value.items()}
    return [_without_signatures(item) for item in value] if isinstance(value, list | tuple) else value


def _merged(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two objects, including nested ones. Values of ``override`` replace those of ``base``."""
    merged = dict(base)
    for name, value in override.items():
        nested = merged.get(name)
        both = isinstance(nested, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(nested, value) if both else value  # type: ignore[arg-type]
    return merged
