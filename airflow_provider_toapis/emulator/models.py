"""The emulated video models, read from ``models.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import resources
from typing import Any, Literal


@dataclass(frozen=True)
class Field:
    """Allowed values of one field of a request."""

    type: Literal["string", "integer", "url", "urls"]
    required: bool = False
    values: tuple[str | int, ...] = ()
    min: int | None = None
    max: int | None = None
    default: str | int | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mode:
    """The image field that a ``video_generation_mode`` requires, and the image fields that it forbids."""

    requires: str | None = None
    forbids: tuple[str, ...] = ()


@dataclass(frozen=True)
class CombinedLimit:
    """Image fields that accept at most ``max`` images in total."""

    fields: tuple[str, ...]
    max: int


@dataclass(frozen=True)
class Price:
    """One entry of a price list, in US dollars.

    :param when: Field values that a request must have for the price to apply.
    :param published: Whether the vendor publishes the price.
    :param minimum_usd: Minimum price of a video.
    :param image_usd: Price of each reference image after the first ``free_images``.
    :param input_second_usd: Price per second of an input video. Listed but not charged, because the emulator does not
        fetch input videos.
    """

    per: Literal["request", "second"]
    usd: Decimal
    when: Mapping[str, str] = field(default_factory=dict)
    published: bool = True
    minimum_usd: Decimal = Decimal(0)
    image_usd: Decimal = Decimal(0)
    free_images: int = 0
    input_second_usd: Decimal = Decimal(0)

    def matches(self, values: Mapping[str, Any]) -> bool:
        """Return whether the price applies to a request with these field ``values``."""
        return all(str(values.get(name)) == str(value) for name, value in self.when.items())

    def total(self, seconds: int, images: int) -> Decimal:
        """Return the price in US dollars of a video of this many ``seconds`` with this many reference ``images``."""
        video = self.usd if self.per == "request" else self.usd * seconds
        return max(self.minimum_usd, video + max(0, images - self.free_images) * self.image_usd)


@dataclass(frozen=True)
class Model:
    """A video model.

    :param duration: Default length in seconds.
    :param fields: Fields that are validated as documented. Empty for a model that accepts any field.
    :param operations: Supported operations on an earlier video: remix, extend.
    :param data_uris: Whether reference images can be data URIs.
    """

    id: str
    duration: int
    fields: Mapping[str, Field]
    modes: Mapping[str, Mode]
    combined_limit: CombinedLimit | None
    operations: frozenset[str]
    data_uris: bool
    prices: tuple[Price, ...]

    def cost(
        self, values: Mapping[str, Any], seconds: int, images: int, prices: tuple[Price, ...] | None = None
    ) -> Decimal:
        """Return the price in US dollars of a request with these field ``values``.

        :param seconds: Length of the video.
        :param images: Number of reference images.
        :param prices: Price list to use instead of the model's own.
        """
        charged = prices or self.prices
        price = next((price for price in charged if price.matches(values)), charged[-1])
        return price.total(seconds, images)


def _model(model_id: str, entry: Mapping[str, Any]) -> Model:
    combined_limit = entry.get("combined_limit")
    return Model(
        id=model_id,
        duration=entry["duration"],
        fields={name: Field(**_frozen(rule)) for name, rule in entry.get("fields", {}).items()},
        modes={name: Mode(**_frozen(rule)) for name, rule in entry.get("modes", {}).items()},
        combined_limit=CombinedLimit(**_frozen(combined_limit)) if combined_limit else None,
        operations=frozenset(entry.get("operations", ())),
        data_uris=entry.get("data_uris", False),
        prices=tuple(Price(**_amounts(price)) for price in entry["prices"]),
    )


def _frozen(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}


def _amounts(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: Decimal(value) if name.endswith("usd") else value for name, value in table.items()}


def _load() -> dict[str, Model]:
    data = tomllib.loads(resources.files(__package__).joinpath("models.toml").read_text(encoding="utf-8"))
    return {model_id: _model(model_id, entry) for entry in data["model"] for model_id in entry["ids"]}


#: Every emulated model by its case-sensitive id.
MODELS: Mapping[str, Model] = _load()
