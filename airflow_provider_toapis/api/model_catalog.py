"""Model catalog: the wire fields, accepted values, defaults and prices of each video model.

The data are in ``model_catalog.toml``. They are parsed once, on first use, into frozen dataclasses. Unknown keys and
contradictions in the data are errors. The catalog converts the author's values (``duration``, ``aspect_ratio``, images)
to the model's wire fields. It rejects values that a model does not accept, before anything is submitted.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from types import UnionType
from typing import Literal, TypeVar, get_args, get_origin, get_type_hints

from airflow_provider_toapis.api.model_inputs import (
    AspectRatioField,
    DurationField,
    ImageLayout,
    OperationInputs,
    PromptField,
)
from airflow_provider_toapis.exceptions import ToAPIsRequestError

OPERATIONS = ("generate", "remix", "extend")

_T = TypeVar("_T")

#: Minimum similarity (0 to 1) between an unknown model id and an id that a message suggests.
_MIN_SIMILARITY = 0.75


@dataclass(frozen=True, kw_only=True)
class VideoModel:
    """One video model of ToAPIs.

    :param id: Case-exact id.
    :param source: Source of the facts and its grade (see ``model_catalog.toml``).
    :param aliases: Other ids of the same model.
    :param retired: Whether the vendor's newer pages no longer list the model. The service may still offer it.
    :param successor: Id of the model to use instead.
    :param price_per_request: Price of one video in USD by its duration in seconds, as the vendor once published it.
    :param callback_field: Wire field of the callback URL; dots separate nested objects.
    """

    id: str
    source: str
    generate: OperationInputs
    remix: OperationInputs | None = None
    extend: OperationInputs | None = None
    aliases: tuple[str, ...] = ()
    retired: bool = False
    successor: str | None = None
    price_per_request: Mapping[int, Decimal] = dataclasses.field(default_factory=dict)
    callback_field: str = "callback_url"

    def __post_init__(self) -> None:
        duration = self.generate.duration
        if self.successor is not None and not self.retired:
            raise ValueError("there is a successor although the model is not retired")
        if self.price_per_request and not (duration and all(map(duration.accepts, self.price_per_request))):
            raise ValueError("price_per_request has a price for a duration that is not allowed")

    @classmethod
    def unknown(cls, model_id: str) -> VideoModel:
        """Return an entry for a model that is not in the catalog, with the usual wire fields and no limits."""
        inputs = OperationInputs(
            prompt=PromptField(required=False),
            duration=DurationField(field="duration", special=(0, -1)),
            aspect_ratio=AspectRatioField(field="aspect_ratio"),
            images=(ImageLayout(field="image_urls"),),
        )
        return cls(id=model_id, source="not in the catalog", generate=inputs, remix=inputs, extend=inputs)

    @property
    def image_fields(self) -> tuple[str, ...]:
        """Top-level wire fields that can contain the images."""
        return tuple(name for layout in self.generate.images for name in layout.names if "." not in name)

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations that this model offers."""
        return tuple(operation for operation in OPERATIONS if getattr(self, operation) is not None)

    def inputs(self, operation: str) -> OperationInputs:
        """Return the inputs of an operation.

        :raises ToAPIsRequestError: The model does not offer this operation.
        """
        inputs: OperationInputs | None = getattr(self, operation) if operation in OPERATIONS else None
        if inputs is None:
            offering = ", ".join(model.id for model in video_models() if operation in model.operations)
            reason = f"the model does not offer {operation}. Models that do: {offering or 'none'}"
            raise ToAPIsRequestError.for_field("model", self.id, reason)
        return inputs

    def check(
        self,
        *,
        operation: str = "generate",
        prompt: str | None,
        duration: int | None,
        aspect_ratio: str | None,
        image_count: int | None,
    ) -> None:
        """Reject values that the model does not accept, as far as the vendor documents it.

        A prompt, duration or aspect ratio of None means that the author did not set it.

        :param image_count: Number of images; None if the images are not known yet.
        :raises ToAPIsRequestError: A value is not accepted. The message names the field, the value and what is allowed.
        """
        inputs = self.inputs(operation)
        subject = self._subject(operation)
        if inputs.prompt.required and (prompt is None or not prompt.strip()):
            raise ToAPIsRequestError.for_field("prompt", prompt, f"{subject} requires a prompt")
        longest = inputs.prompt.max_length
        if longest is not None and prompt is not None and len(prompt) > longest:
            length = f"{len(prompt)} characters"
            raise ToAPIsRequestError.for_field("prompt", length, f"{subject} allows at most {longest} characters")
        if image_count == 0 and inputs.image_required:
            raise ToAPIsRequestError.for_field("image", None, f"{subject} {inputs.allowed_images}")
        self._check_values(operation, duration, aspect_ratio, image_count)

    def wire_fields(
        self,
        *,
        operation: str = "generate",
        duration: int | None,
        aspect_ratio: str | None,
        image_urls: Sequence[str] | None,
        author_fields: Collection[str] = (),
    ) -> dict[str, object]:
        """Return the wire fields for the author's values. Values that the author did not set are not sent.

        :param image_urls: URLs of the images; empty for a video from text alone. None if the author sets the image
            fields in ``parameters``. The result then contains no image fields, but the further wire fields that the
            model expects with these image fields.
        :param author_fields: Names of the wire fields that the author sets in ``parameters``.
        :raises ToAPIsRequestError: The model does not accept a value; see :meth:`check`.
        """
        self._check_values(operation, duration, aspect_ratio, len(image_urls or ()))
        inputs = self.inputs(operation)
        wire: dict[str, object] = {}
        if duration is not None and inputs.duration is not None:
            wire[inputs.duration.field] = inputs.duration.wire_value(duration)
        if aspect_ratio is not None and inputs.aspect_ratio is not None:
            wire[inputs.aspect_ratio.field] = aspect_ratio
        return wire | (inputs.extra_fields(author_fields) if image_urls is None else inputs.image_fields(image_urls))

    def price(self, seconds: int | None) -> Decimal | None:
        """Return the published price in USD of one video of ``seconds`` seconds; None if it is not known."""
        return None if seconds is None else self.price_per_request.get(seconds)

    def _check_values(
        self, operation: str, duration: int | None, aspect_ratio: str | None, image_count: int | None
    ) -> None:
        inputs = self.inputs(operation)
        subject = self._subject(operation)
        for name, value, field in (
            ("duration", duration, inputs.duration),
            ("aspect_ratio", aspect_ratio, inputs.aspect_ratio),
        ):
            if value is not None and (field is None or not field.accepts(value)):
                allowed = f"allows {field.allowed}" if field else f"does not accept {name}"
                raise ToAPIsRequestError.for_field(name, value, f"{subject} {allowed}")
        if image_count and inputs.image_layout(image_count) is None:
            count = "1 image" if image_count == 1 else f"{image_count} images"
            raise ToAPIsRequestError.for_field("image", count, f"{subject} {inputs.allowed_images}")

    def _subject(self, operation: str) -> str:
        return self.id if operation == "generate" else f"{operation} with {self.id}"


def find_model(model_id: str) -> VideoModel | None:
    """Return the model with this case-exact id or alias; None if it is not in the catalog."""
    return _models_by_id().get(model_id)


@cache
def video_models() -> tuple[VideoModel, ...]:
    """Return all models of the catalog."""
    text = resources.files("airflow_provider_toapis.api").joinpath("model_catalog.toml").read_text(encoding="utf-8")
    return parse_catalog(text)


def similar_model_ids(model_id: str) -> tuple[str, ...]:
    """Return up to three ids that are similar to ``model_id``, the most similar first.

    The result is empty if ``model_id`` is in the catalog.
    """
    if find_model(model_id) is not None:
        return ()
    ids = {_normalized(name): model.id for name, model in _models_by_id().items()}
    return tuple(
        ids[name] for name in difflib.get_close_matches(_normalized(model_id), ids, n=3, cutoff=_MIN_SIMILARITY)
    )


@contextmanager
def suggest_model(model_id: str) -> Iterator[None]:
    """Add similar model ids to the message of a rejection if ``model_id`` is not in the catalog."""
    try:
        yield
    except ToAPIsRequestError as error:
        if similar := similar_model_ids(model_id):
            error.amend(after=f" Model {model_id!r} is not in the catalog. Did you mean {' or '.join(similar)}?")
        raise


def parse_catalog(text: str) -> tuple[VideoModel, ...]:
    """Parse a catalog.

    :raises ValueError: There is an unknown or missing key, a value of the wrong type, or a contradiction.
    """
    models = []
    for model_id, table in tomllib.loads(text)["models"].items():
        try:
            models.append(_built(VideoModel, table | {"id": model_id}))
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ValueError(f"Catalog entry {model_id}: {error}") from error
    names = [name for model in models for name in (model.id, *model.aliases)]
    if len(names) != len(set(names)):
        raise ValueError("Catalog: an alias is the id or alias of another model")
    for model in models:
        if model.successor is not None and model.successor not in names:
            raise ValueError(f"Catalog entry {model.id}: unknown successor {model.successor}")
    return tuple(models)


@cache
def _models_by_id() -> Mapping[str, VideoModel]:
    return {name: model for model in video_models() for name in (model.id, *model.aliases)}


#: Cached, because evaluating the annotations of a class takes longer than reading all the data.
_hints: Callable[[type], dict[str, object]] = cache(get_type_hints)


def _built(cls: type[_T], table: Mapping[str, object]) -> _T:
    hints = _hints(cls)
    if unknown := table.keys() - hints.keys():
        raise ValueError(f"unknown {', '.join(sorted(unknown))}")
    return cls(**{key: _parsed(hints[key], value) for key, value in table.items()})


def _parsed(hint: object, value: object) -> object:
    """Convert a TOML value to the type of an annotation.

    :raises ValueError: The value has another type.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:  # "X | None"; TOML has no null.
        return _parsed(arguments[0], value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _built(hint, value)
    if origin is tuple and isinstance(value, list):
        return tuple(_parsed(arguments[0], item) for item in value)
    if origin is Mapping and isinstance(value, dict):
        return {arguments[0](key): _parsed(arguments[1], item) for key, item in value.items()}
    if hint is Decimal and isinstance(value, str):
        return Decimal(value)
    if (origin is Literal and value in arguments) or type(value) is hint:
        return value
    raise ValueError(f"{value!r} is not {hint}")


def _normalized(model_id: str) -> str:
    return model_id.casefold().replace("_", "-")
