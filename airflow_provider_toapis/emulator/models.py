"""The video models on offer, read from ``models.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import resources
from typing import Any, Literal


@dataclass(frozen=True)
class Field:
    """What one field of an order may hold."""

    type: Literal["string", "integer", "url", "urls"]
    required: bool = False
    values: tuple[str | int, ...] = ()
    min: int | None = None
    max: int | None = None
    default: str | int | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mode:
    """Which image field a ``video_generation_mode`` requires, and which it forbids."""

    requires: str | None = None
    forbids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Together:
    """Image fields that may hold at most ``max`` images in total."""

    fields: tuple[str, ...]
    max: int


@dataclass(frozen=True)
class Price:
    """One line of a price list, in US dollars.

    :param when: Values of the order's fields that this price is for.
    :param stated: Whether the vendor publishes it.
    :param minimum_usd: A video costs at least this.
    :param image_usd: Price of each reference image but the first ``free_images``.
    :param input_second_usd: Price of a second of a given video. Listed, but not charged: given videos are not fetched.
    """

    per: Literal["request", "second"]
    usd: Decimal
    when: Mapping[str, str] = field(default_factory=dict)
    stated: bool = True
    minimum_usd: Decimal = Decimal(0)
    image_usd: Decimal = Decimal(0)
    free_images: int = 0
    input_second_usd: Decimal = Decimal(0)

    def suits(self, values: Mapping[str, Any]) -> bool:
        """Whether this line is the price of an order with these field ``values``."""
        return all(str(values.get(name)) == str(value) for name, value in self.when.items())

    def total(self, seconds: int, images: int) -> Decimal:
        """Return the price in US dollars of a video of so many ``seconds``, made from so many ``images``."""
        video = self.usd if self.per == "request" else self.usd * seconds
        return max(self.minimum_usd, video + max(0, images - self.free_images) * self.image_usd)


@dataclass(frozen=True)
class Model:
    """A video model.

    :param duration: Seconds of a video whose order names none.
    :param fields: Checked as documented; empty for a model that accepts anything.
    :param data_uris: Whether reference images may be data URIs.
    :param operations: What it can do with an earlier video: remix, extend.
    """

    id: str
    duration: int
    fields: Mapping[str, Field]
    modes: Mapping[str, Mode]
    together: Together | None
    operations: frozenset[str]
    data_uris: bool
    prices: tuple[Price, ...]

    def cost(
        self, values: Mapping[str, Any], seconds: int, images: int, prices: tuple[Price, ...] | None = None
    ) -> Decimal:
        """Return the price in US dollars of a video ordered with these field ``values``.

        :param seconds: Its length.
        :param images: Reference images that it is made from.
        :param prices: What is charged instead of the model's own prices.
        """
        charged = prices or self.prices
        price = next((price for price in charged if price.suits(values)), charged[-1])
        return price.total(seconds, images)


def _model(model_id: str, entry: Mapping[str, Any]) -> Model:
    together = entry.get("together")
    return Model(
        id=model_id,
        duration=entry["duration"],
        fields={name: Field(**_frozen(rule)) for name, rule in entry.get("fields", {}).items()},
        modes={name: Mode(**_frozen(rule)) for name, rule in entry.get("modes", {}).items()},
        together=Together(**_frozen(together)) if together else None,
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


#: Every model on offer by its case-exact id.
MODELS: Mapping[str, Model] = _load()
