"""Prices of the emulator. A test can replace the price lists of ``models.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from airflow_provider_toapis.emulator.error_bodies import invalid_request
from airflow_provider_toapis.emulator.models import MODELS, Model, Price

_CURRENCY = "USD"
_FIELDS = frozenset({"model", "prices", "currency"})


class PriceBook:
    """The prices that ``GET /v1/pricing`` lists and that the emulator charges."""

    def __init__(self) -> None:
        self.currency = _CURRENCY
        self._listed: dict[str, Any] = {}

    def change(self, specification: object) -> None:
        """Change the ``prices`` of a ``model``, the ``currency``, or both. The prices are not checked.

        :raises RejectedError: A field is invalid. The response is the documented error and names the field.
        """
        if not isinstance(specification, dict) or not specification.keys() <= _FIELDS:
            raise invalid_request("body", f"must be an object with {', '.join(sorted(_FIELDS))}")
        if ("model" in specification) != ("prices" in specification):
            raise invalid_request("prices", "and model must be set together")
        if "model" in specification:
            if specification["model"] not in MODELS:
                raise invalid_request("model", "is unknown")
            self._listed[specification["model"]] = specification["prices"]
        self.currency = specification.get("currency", self.currency)

    def clear(self) -> None:
        """Restore the prices of ``models.toml``."""
        self.currency = _CURRENCY
        self._listed.clear()

    def body(self) -> dict[str, Any]:
        """Return the changed prices and the currency."""
        return {"currency": self.currency, "prices": dict(self._listed)}

    def listed(self, model: Model) -> dict[str, Any]:
        """Return a model's entry of the price list."""
        prices = self._listed.get(model.id, [_entry(price) for price in model.prices])
        return {"id": model.id, "type": "video", "prices": prices}

    @property
    def overrides(self) -> dict[str, tuple[Price, ...]]:
        """The changed price lists that the emulator charges, by model. Lists without valid prices are left out."""
        lists = {model_id: tuple(map(_price, prices)) for model_id, prices in self._listed.items() if _is_list(prices)}
        return {model_id: prices for model_id, prices in lists.items() if all(price.usd > 0 for price in prices)}


def _is_list(prices: object) -> bool:
    return isinstance(prices, list) and bool(prices) and all(isinstance(price, Mapping) for price in prices)


def _entry(price: Price) -> dict[str, Any]:
    """Return a price as an entry of the price list. Parts that the price does not have are left out."""
    entry: dict[str, Any] = {
        "group": "default",
        "conditions": dict(price.when),
        "charge_type": f"per_{price.per}",
        "price_basis": "request" if price.per == "request" else "output_seconds",
        "unit": price.per,
        "unit_price": f"{price.usd:f}",
    }
    if price.input_second_usd:
        entry["input_unit_price"] = f"{price.input_second_usd:f}"
    if price.image_usd:
        entry |= {"input_image_unit_price": f"{price.image_usd:f}", "free_input_image_count": price.free_images}
    if price.minimum_usd:
        entry["minimum_charge_usd"] = f"{price.minimum_usd:f}"
    return entry


def _price(entry: Mapping[str, Any]) -> Price:
    """Parse an entry of a price list. An amount that is not valid becomes 0."""
    per: Literal["request", "second"] = "second" if entry.get("charge_type") == "per_second" else "request"
    conditions, free_images = entry.get("conditions"), entry.get("free_input_image_count")
    return Price(
        per=per,
        usd=_usd(entry.get("unit_price")),
        when=conditions if isinstance(conditions, Mapping) else {},
        minimum_usd=_usd(entry.get("minimum_charge_usd")),
        image_usd=_usd(entry.get("input_image_unit_price")),
        free_images=free_images if isinstance(free_images, int) else 0,
    )


def _usd(value: object) -> Decimal:
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return Decimal(0)
    return amount if amount.is_finite() and 0 < amount < 1000 else Decimal(0)  # noqa: PLR2004 - a larger amount is a mistake in a test
