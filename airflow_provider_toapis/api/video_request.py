"""What to make: the author's words, checked, then turned into the wire body and into the ids that name it."""

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
from typing import Any, BinaryIO, Literal, Self
from urllib.parse import quote, urlsplit

from airflow_provider_toapis.api.defaults import RETRY_TIMEOUT
from airflow_provider_toapis.api.model_catalog import VideoModel, find_model, similar_model_ids
from airflow_provider_toapis.api.responses import VideoTask
from airflow_provider_toapis.api.result_urls import is_url
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.redaction import secrets_of, without_signature

__all__ = [
    "Callback",
    "FileUpload",
    "IdempotencyKeys",
    "PriorSubmission",
    "ReferenceImage",
    "Submission",
    "SubmitSpec",
    "VideoRequest",
]

log = logging.getLogger(__name__)

Operation = Literal["generate", "remix", "extend"]

_IMAGE_ADVICE = "an http(s) URL, the path of a file, or an object storage URI such as s3://bucket/image.jpg"
_CHOSEN_ID = re.compile(r"(?!(?:video|task|tsk|vid)_)[A-Za-z0-9_-]{1,60}")
#: No file name is that long and free of other characters; pasted pictures are.
_BASE64 = re.compile(r"[A-Za-z0-9+/=_\s-]{256,}")
#: Blanks, and marks that no editor shows.
_BLANKS = " \t\r\n\v\f\xa0\u200b\u2060\ufeff"
#: The second of several URLs in one text: after a separator, also a Chinese one, or glued to the first. A URL that is
#: part of another one follows a slash or an equals sign.
_NEXT_URL = re.compile(r"[,;|\s\uff0c\uff1b\u3001\uff5c]\s*(?:https?:)?//|\whttps?://", re.IGNORECASE)


@dataclass(frozen=True)
class FileUpload:
    """A file on its way to the service.

    :param name: File name that the service gets to see.
    :param media_type: For example ``image/jpeg``.
    :param open: Opens the content for reading; called anew for every attempt.
    """

    name: str
    media_type: str
    open: Callable[[], BinaryIO] = field(repr=False)


@dataclass(frozen=True)
class ReferenceImage:
    """A picture that a video starts from.

    :param identity: What the picture is, whatever its address of the day: the URL without a signature, or the
        content's hash.
    :param url: Its public address; None while it is a file of ours.
    :param upload: The file to upload where there is no public address.
    """

    identity: str
    url: str | None = field(default=None, repr=False)
    upload: FileUpload | None = None

    @classmethod
    def at(cls, url: str) -> ReferenceImage:
        """Return the picture behind a public link, ``url``."""
        return cls(identity=f"url:{without_signature(url)}", url=url)


@dataclass(frozen=True)
class VideoRequest:
    """One wanted video in the author's words. ``check`` it before it is sent.

    :param model: Case-exact model id.
    :param prompt: What is to happen. Never shown by ``repr``.
    :param images: The pictures that it starts from.
    :param duration: Seconds; None for the model's own.
    :param aspect_ratio: For example ``16:9``; None for the model's own.
    :param operation: ``generate`` (default), ``remix`` or ``extend``.
    :param parameters: Wire fields that are sent as they are, unchecked, and win over all others.
    :param video_id: The source video of a remix or an extension.
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
        """Refuse what the model is known not to accept; an unknown model only gets a warning.

        :raises ToAPIsRequestError: Names the field, the value given and what is allowed.
        """
        if not isinstance(self.model, str) or not self.model.strip():
            raise ToAPIsRequestError.for_field("model", self.model, "must be the id of a video model")
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise ToAPIsRequestError.for_field("prompt", self.prompt, "must be text")
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
            _warn_of_unknown_model(self.model)
        self._model.check(
            operation=self.operation,
            prompt=self.prompt,
            duration=self.duration,
            aspect_ratio=self.aspect_ratio,
            # What stands in the parameters is not checked, and its number is anybody's guess.
            image_count=1 if self._images_are_parameters else len(self.images),
        )

    def wire_body(self, image_urls: Sequence[str]) -> dict[str, Any]:
        """Return the JSON body, with ``image_urls`` in the place of the images; its fields are documented."""
        body: dict[str, Any] = {"model": self.model}
        if self.prompt is not None:
            body["prompt"] = self.prompt
        fields = self._model.wire_fields(
            operation=self.operation,
            duration=self.duration,
            aspect_ratio=self.aspect_ratio,
            image_urls=None if self._images_are_parameters else image_urls,
            written=self.parameters,
        )
        return _merged(_merged(body, fields), self.parameters)

    def with_callback(self, body: Mapping[str, Any], url: str) -> dict[str, Any]:
        """Return a wire ``body`` that names ``url`` as the address for webhooks besides."""
        field: Any = url
        for name in reversed(self._model.callback_field.split(".")):
            field = {name: field}
        return _merged(body, field)

    @property
    def names_callback(self) -> bool:
        """Whether the author names an address of his own for webhooks among the ``parameters``."""
        nested = self.parameters.get("metadata")
        return "callback_url" in self.parameters or (isinstance(nested, Mapping) and "callback_url" in nested)

    @property
    def path(self) -> str:
        """Where it is posted."""
        if self.operation == "generate":
            return "/v1/videos/generations"
        return f"/v1/videos/{quote(str(self.video_id), safe='')}/{self.operation}"

    @property
    def seconds(self) -> int | None:
        """Length of the video that this request makes; None where the model decides it, or an earlier video."""
        body = self.wire_body([image.identity for image in self.images])
        field = self._model.inputs(self.operation).duration
        asked = [body[name] for name in ("duration", "seconds") if name in body]
        if field and field.default is not None and field.field not in body and self.operation == "generate":
            asked.append(field.default)
        try:
            lengths = [parse_duration(value) for value in asked]
        except ToAPIsRequestError:
            # It is in `parameters`, which are not checked.
            return None
        # Which of two different fields a model reads is not documented: the longer one is the dearer one.
        known = [length for length in lengths if length and length > 0 and not (field and length in field.special)]
        return max(known) if known and len(known) == len(lengths) else None

    @property
    def price_usd(self) -> Decimal | None:
        """The catalog's price, None where it has none. The account's own prices may differ."""
        return self._model.price(self.seconds) if self.operation == "generate" else None

    @property
    def private(self) -> tuple[str, ...]:
        """Texts that no message may quote: words, and signatures, which an address may hold encoded."""
        signatures = [secret for image in self.images for secret in secrets_of(image.url or "")]
        return (
            *private_texts(self.prompt, self.parameters),
            *signatures,
            *(quote(text, safe="") for text in signatures),
        )

    def is_model(self, model_id: str) -> bool:
        """Whether ``model_id`` names this request's model, aliases included."""
        known = find_model(model_id)
        return model_id.lower() == self.model.lower() or (known is not None and known == find_model(self.model))

    def fingerprint(self) -> str:
        """Return a hash of the author's words; an upload's address and a link's signature are not part of it.

        What they become on the wire is not either: a later version may know more of a model.

        :raises ToAPIsRequestError: ``parameters`` holds what JSON cannot say.
        """
        asked = {
            "operation": self.operation,
            "video_id": self.video_id,
            "model": self.model,
            "prompt": self.prompt,
            "images": [image.identity for image in self.images],
            "duration": self.duration,
            "aspect_ratio": self.aspect_ratio,
            # A template may sign a link anew for every attempt, wherever the link stands.
            "parameters": _without_signatures(self.parameters),
        }
        try:
            text = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        except (TypeError, ValueError):
            # Without the values: they are the author's texts as well.
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


@dataclass(frozen=True)
class Callback:
    """Where the service is to tell that a video is final.

    :param url: Public https address of the receiver (documented: no other is taken).
    :param required: Nothing is to be ordered without it; otherwise an account without webhooks gets the order all the
        same.
    """

    url: str
    required: bool


@dataclass(frozen=True)
class Submission:
    """What became of an order.

    :param task: The video, as the service reported it last.
    :param client_business_id: The identity that it was ordered under.
    :param generation: How often this video had to be ordered anew before (0: never).
    :param reattached: The video was there already and nothing was paid now.
    :param webhook: The order names an address at which the service is to tell that the video is final.
    """

    task: VideoTask
    client_business_id: str
    generation: int
    reattached: bool
    webhook: bool = False


@dataclass(frozen=True)
class PriorSubmission:
    """What is known of earlier submissions of the same request.

    :param client_business_id: The id of the newest one; None when only this is known, that there may be one.
    :param video_id: The video it brought; None when the answer never came.
    :param posted_at: Epoch seconds of its POST by the service's clock; None where that is not known.
    :param failed: How many generations before it are known to have failed (default 0); the others expired.
    :param unknown_posts: How many POSTs of the request, since a person last cleared the task, may or may not have
        created a video (default 0).
    :param found_by_key: The service is known to find videos of the model by their client_business_id.
    :param is_newest: No later one can exist (default): all submissions are known.
    """

    client_business_id: str | None = None
    video_id: str | None = None
    posted_at: float | None = None
    failed: int = 0
    unknown_posts: int = 0
    found_by_key: bool = False
    is_newest: bool = True


def no_callback() -> None:
    """Report to nobody: the video is polled."""


@dataclass(frozen=True)
class IdempotencyKeys:
    """The idempotency key (``client_business_id``) of each generation of one request. No attempt changes them.

    :param parts: What a derived key is a hash of, except the generation. Empty where the author chose the key.
    :param chosen: The author's client_business_id. Generation ``n`` gets ``<chosen>-<n>``, and generation 0 gets it as
        it is: no other video may use these keys.
    :param first_generation: The generation that callers count as 0 (default 0).
    """

    parts: tuple[str, ...] = ()
    chosen: str = ""
    first_generation: int = 0

    @classmethod
    def derived(cls, fingerprint: str, identity: Iterable[str]) -> Self:
        """Return the keys of one task's video.

        :param fingerprint: See :meth:`VideoRequest.fingerprint`.
        :param identity: What distinguishes the task instance (namespace, DAG, task, run, map index), never its try.
        """
        return cls(parts=(*identity, fingerprint))

    @classmethod
    def from_author(cls, client_business_id: str) -> Self:
        """Return the keys for a client_business_id that the author chose.

        :param client_business_id: 1 to 60 of ``A-Za-z0-9_-``; what the service accepts is not documented.
        :raises ToAPIsRequestError: Another value, or one like the service's own ids.
        """
        if not isinstance(client_business_id, str) or not _CHOSEN_ID.fullmatch(client_business_id):
            raise ToAPIsRequestError.for_field(
                "client_business_id",
                client_business_id,
                "must be 1 to 60 characters of A-Z, a-z, 0-9, _ and -, and must not start with video_, task_, tsk_ or"
                " vid_, as the service's own ids do",
            )
        return cls(chosen=client_business_id)

    def for_generation(self, generation: int) -> str:
        """Return the key of a ``generation``, counted from ``first_generation``."""
        number = self.first_generation + generation
        if self.chosen:
            return f"{self.chosen}-{number}" if number else self.chosen
        # JSON keeps the parts apart: ("a", "bc") differs from ("ab", "c").
        digest = hashlib.sha256(json.dumps([*self.parts, number]).encode()).hexdigest()
        return f"af-{digest[:40]}"


@dataclass(frozen=True)
class SubmitSpec:
    """One video to submit once, and what is known of it.

    :param request: What to make.
    :param keys: The client_business_id of each generation.
    :param max_generations: How many videos may be billed when earlier ones failed or expired, and how many POSTs of
        unknown outcome there may be (default 1).
    :param retry_timeout: Seconds for which rate limits may hold up the submission; they created nothing (default 60).
    :param earlier: What is known of an earlier submission of the same request, for a look-up that lags behind, or a
        model that cannot be looked up by key.
    :param callback: Gives where the service is to report that the video is final; called only before a POST. One in
        the request's parameters wins. Default: nowhere.
    :param key_includes_model: The model is part of the keys: a video that is found under them is the right one,
        whatever the service calls its model today. Otherwise a first attempt rejects a video of another model.
    :param verify_lookup: Check whether the new video can be found by its key, and warn where it cannot (default).
    :param free_replacements: How many expired results may be replaced beyond ``max_generations`` (default 0).
    """

    request: VideoRequest
    keys: IdempotencyKeys
    max_generations: int = 1
    retry_timeout: float = RETRY_TIMEOUT
    earlier: PriorSubmission | None = None
    callback: Callable[[], Callback | None] = no_callback
    key_includes_model: bool = False
    verify_lookup: bool = True
    free_replacements: int = 0


def private_texts(*given: object) -> tuple[str, ...]:
    """Return all texts in what an author gives, however deep: they may be prompts, which no message may quote."""
    return tuple(chain.from_iterable(map(_texts, given)))


def parse_duration(duration: object) -> int | None:
    """Return a duration that a template may have turned into text as whole seconds; empty text is None.

    :raises ToAPIsRequestError: Not a whole number.
    """
    if duration is None or duration == "":
        return None
    text = str(duration).strip()
    if isinstance(duration, bool) or not re.fullmatch(r"-?[0-9]{1,6}(\.0+)?", text):
        raise ToAPIsRequestError.for_field("duration", duration, "must be whole seconds, for example 10")
    return int(float(text))


def image_references(image: str | os.PathLike[str] | Iterable[str] | None) -> tuple[str, ...]:
    """Return the operator's ``image`` as checked references: links, paths or URIs, nothing pasted.

    :raises ToAPIsRequestError: A data URI, base64 text, or not a reference at all.
    """
    if image is None:
        return ()
    given = (image,) if isinstance(image, str | bytes | os.PathLike) or not isinstance(image, Iterable) else image
    return tuple(map(_checked_reference, given))


def _checked_reference(given: object) -> str:
    reference = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(reference, str) or not reference.strip():
        raise ToAPIsRequestError.for_field("image", reference, f"must be {_IMAGE_ADVICE}")
    if reference.lstrip()[:5].lower() == "data:" or _BASE64.fullmatch(reference):
        shown = f"{reference[:24]}..."
        raise ToAPIsRequestError.for_field(
            "image",
            shown,
            f"must not be a data URI or base64. Save the image as a file and pass {_IMAGE_ADVICE}",
        )
    if wrong := _wrong_url(reference):
        # A query may let somebody in, and is not found by its looks in what is no URL.
        raise ToAPIsRequestError.for_field("image", re.split("[?#]", reference)[0], wrong)
    return reference


def _wrong_url(reference: str) -> str | None:
    """Say what is wrong with a URL, or with what was meant to be one; None where nothing is."""
    if re.match(r"//[^/]+\.[^/]+/", reference):
        return "must be a complete URL that starts with https:"
    url = reference.strip(_BLANKS)
    if not is_url(url):
        return None
    has_invisible = any(unicodedata.category(character) in ("Cc", "Cf") for character in reference)
    rules = (
        (_NEXT_URL.search(url), "must be one URL. Pass several as a list, in a feed as a JSON list in a .jsonl file"),
        (url != reference, "must not start or end with a space"),
        (re.search(r"\s", reference), "must not contain spaces; write %20 instead"),
        (has_invisible, "must not contain control characters or zero-width characters"),
        (not _has_host(reference), "must be a complete http(s) URL"),
    )
    return next((expected for is_broken, expected in rules if is_broken), None)


def _has_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:
        return False


@functools.cache
def _warn_of_unknown_model(model_id: str) -> None:
    similar = similar_model_ids(model_id)
    hint = f" Did you mean {' or '.join(similar)}?" if similar else ""
    log.warning(
        "Model %r is not in the catalog of this version: its fields are sent unchecked, under the usual names.%s",
        model_id,
        hint,
    )


def _texts(given: object) -> Iterable[str]:
    if isinstance(given, str):
        return (given,)
    if isinstance(given, Mapping):
        return private_texts(*given.values())
    return private_texts(*given) if isinstance(given, list | tuple) else ()


def _without_signatures(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, str):
        return without_signature(value) if is_url(value) else value
    if isinstance(value, Mapping):
        return {name: _without_signatures(item) for name, item in value.items()}
    return [_without_signatures(item) for item in value] if isinstance(value, list | tuple) else value


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return both; ``above`` wins, nested objects are merged likewise."""
    merged = dict(below)
    for name, value in above.items():
        nested = merged.get(name)
        both = isinstance(nested, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(nested, value) if both else value  # type: ignore[arg-type]
    return merged
