"""Parse the service's price list (``GET /v1/pricing``): every part of a price, or why the price is unknown."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from airflow_provider_toapis.api.responses import OfferedPrice, amount
from airflow_provider_toapis.api.result_urls import JsonObject, mappings

#: Parts of a price, in USD, that :mod:`~airflow_provider_toapis.api.pricing` can add up.
_PARTS = ("unit_price", "input_unit_price", "input_image_unit_price", "minimum_charge_usd")
#: Endings of field names that hold a price. A field with such a name that is not in ``_PARTS`` makes the price unknown.
_PRICE_ENDINGS = ("_price", "_prices", "_usd")
_CURRENCY = "USD"
#: Maximum of one part of a video's price. A larger number is an error in the price list.
_MAX_USD = 1_000_000
#: Value of ``pricing_period`` for the most expensive time of the day.
_PEAK = "peak"
#: Fields of a peak window that hold its time. The format is not documented. Any other field makes the price unknown.
_TIME_NAMES = frozenset({"start", "end", "start_time", "end_time", "from", "to", "days", "weekdays", "timezone"})
_TIME_RANGE = re.compile(r"\s*\d{1,2}:\d{2}\s*-\s*\d{1,2}:\d{2}\s*")


def parse_prices(body: JsonObject) -> tuple[OfferedPrice, ...]:
    """Parse one page of the price list. A model without prices has no entry, which does not mean that it is free."""
    return tuple(offer for item in mappings(body.get("data")) for offer in _offers(item, body))


def _offers(item: JsonObject, body: JsonObject) -> Iterator[OfferedPrice]:
    listed = item.get("prices")
    if not _is_set(listed):
        return
    # Anything but a list is one entry with an unknown price.
    entries = [_Entry(price) for price in (mappings(listed) if isinstance(listed, list) else ({"prices": listed},))]
    outer_unclear = {*_unknown_prices(item, ()), *(["currency"] if _has_other_currency(body, item) else [])}
    for entry in entries:
        offer = entry.offer(str(item.get("id")), outer_unclear)
        if entry.may_have_higher_price and not any(other.is_peak_of(entry) for other in entries):
            offer = replace(offer, unclear=(*offer.unclear, "pricing_period"))
        yield offer


class _Entry:
    """Parser of one entry of a model's ``prices``."""

    def __init__(self, price: JsonObject) -> None:
        self._price = price
        self._unclear: dict[str, None] = {}
        self._windows = self._read_windows()
        self._period = self._read_period()

    def offer(self, model: str, unclear: Collection[str]) -> OfferedPrice:
        """Return the entry as a price of ``model``.

        :param unclear: Fields outside the entry that make its price unknown.
        """
        price = self._price
        parts = {name: self._part(name) for name in _PARTS}
        free_images = self._count("free_input_image_count")
        for name in _unknown_prices(price, _PARTS):
            self._unclear[name] = None
        if _has_other_currency(price):
            self._unclear["currency"] = None
        return OfferedPrice(
            model=model,
            group=_text(price.get("group")),
            charge_type=str(price.get("charge_type")),
            unit=_text(price.get("unit")),
            conditions=price["conditions"] if isinstance(price.get("conditions"), Mapping) else {},
            price_basis=_text(price.get("price_basis")),
            free_input_image_count=free_images,
            pricing_period=self._period,
            unclear=(*sorted(unclear), *self._unclear),
            **parts,
        )

    @property
    def may_have_higher_price(self) -> bool:
        """Whether a higher price can apply at the most expensive time of the day, which this entry does not state."""
        if self._period == _PEAK:
            return False
        if self._windows:
            return not all(_is_set(window.get("unit_price")) for window in self._windows)
        return self._period is not None

    def is_peak_of(self, other: _Entry) -> bool:
        """Whether this entry is the price at the most expensive time for the same videos as ``other``."""
        same = all(self._price.get(name) == other._price.get(name) for name in ("group", "conditions", "charge_type"))
        return self._period == _PEAK and same

    def _part(self, name: str) -> Decimal | None:
        values = [source[name] for source in (self._price, *self._windows) if _is_set(source.get(name))]
        numbers = [number for value in values if (number := amount(value)) is not None]
        is_valid = all(number > 0 if name == "unit_price" else number >= 0 for number in numbers)
        is_complete = name != "unit_price" or _is_set(self._price.get(name))
        if len(numbers) < len(values) or not is_valid or not is_complete or max(numbers, default=0) > _MAX_USD:
            self._unclear[name] = None
            return None
        return max(numbers, default=None)

    def _count(self, name: str) -> int:
        value = self._price.get(name)
        number = amount(value) if _is_set(value) else Decimal(0)
        if number is None or number < 0 or number != number.to_integral_value():
            self._unclear[name] = None
            return 0
        return int(number)

    def _read_period(self) -> str | None:
        value = self._price.get("pricing_period")
        if not _is_set(value):
            return None
        if not isinstance(value, str):
            self._unclear["pricing_period"] = None
            return None
        return value.strip().lower()

    def _read_windows(self) -> Sequence[JsonObject]:
        value = self._price.get("pricing_peak_windows")
        if not _is_set(value):
            return ()
        windows = [_window(item) for item in value] if isinstance(value, list) else [None]
        known = [window for window in windows if window is not None]
        if len(known) < len(windows):
            self._unclear["pricing_peak_windows"] = None
        return known


def _window(value: object) -> JsonObject | None:
    """Return the price fields of a peak window; None if it has another format."""
    if isinstance(value, str) and _TIME_RANGE.fullmatch(value):
        return {}
    if not isinstance(value, Mapping) or not value or not value.keys() <= {*_PARTS, *_TIME_NAMES}:
        return None
    return value


def _unknown_prices(source: JsonObject, known: Collection[str]) -> list[str]:
    """Return the price fields that cannot be added up, such as prices of tokens."""
    return [
        name
        for name, value in source.items()
        if name.lower().endswith(_PRICE_ENDINGS) and name not in known and _is_set(value)
    ]


def _has_other_currency(*sources: JsonObject) -> bool:
    """Whether one of the objects has a currency other than USD."""
    currencies = [source.get("currency") for source in sources]
    return any(_is_set(currency) and str(currency).strip().upper() != _CURRENCY for currency in currencies)


def _is_set(value: object) -> bool:
    """Whether a value is not empty. An object with only empty values is empty."""
    if isinstance(value, Mapping):
        return any(map(_is_set, value.values()))
    return value is not None and value not in ("", [])


def _text(value: object) -> str | None:
    return str(value) if _is_set(value) else None
