"""The price list of the service (``GET /v1/pricing``), parsed once: every part of a price, or why it is unknown."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from airflow_provider_toapis.api.responses import OfferedPrice, amount
from airflow_provider_toapis.api.result_urls import JsonObject, mappings

#: Parts of a price in USD that :mod:`~airflow_provider_toapis.api.pricing` can add up.
_PARTS = ("unit_price", "input_unit_price", "input_image_unit_price", "minimum_charge_usd")
#: Endings of the names under which an entry holds money. What is under any other such name is not understood.
_PRICE_ENDINGS = ("_price", "_prices", "_usd")
_CURRENCY = "USD"
#: No part of a video's price is higher; a larger number is a mistake.
_HIGHEST_USD = 1_000_000
#: The word of ``pricing_period`` for the dearest time of the day.
_PEAK = "peak"
#: What a window says of its time. Its shape is not documented; any other name in it is not understood.
_TIME_NAMES = frozenset({"start", "end", "start_time", "end_time", "from", "to", "days", "weekdays", "timezone"})
_TIME_RANGE = re.compile(r"\s*\d{1,2}:\d{2}\s*-\s*\d{1,2}:\d{2}\s*")


def parse_prices(body: JsonObject) -> tuple[OfferedPrice, ...]:
    """Read one page of the price list. A model without prices has no entry, which does not mean that it is free."""
    return tuple(offer for item in mappings(body.get("data")) for offer in _offers(item, body))


def _offers(item: JsonObject, body: JsonObject) -> Iterator[OfferedPrice]:
    listed = item.get("prices")
    if not _is_set(listed):
        return
    # Anything but a list of entries is one entry that nothing is known of.
    entries = [_Entry(price) for price in (mappings(listed) if isinstance(listed, list) else ({"prices": listed},))]
    around = {*_other_money(item, ()), *(["currency"] if _is_foreign(body, item) else [])}
    for entry in entries:
        offer = entry.offer(str(item.get("id")), around)
        if entry.has_dearer_period and not any(other.is_peak_of(entry) for other in entries):
            offer = replace(offer, unclear=(*offer.unclear, "pricing_period"))
        yield offer


class _Entry:
    """One entry of a model's ``prices``, while it is read."""

    def __init__(self, price: JsonObject) -> None:
        self._price = price
        self._unclear: dict[str, None] = {}
        self._windows = self._read_windows()
        self._period = self._read_period()

    def offer(self, model: str, unclear: Collection[str]) -> OfferedPrice:
        """Return the entry as the price of a ``model``, with what is ``unclear`` around it."""
        price = self._price
        parts = {name: self._part(name) for name in _PARTS}
        free_images = self._count("free_input_image_count")
        for name in _other_money(price, _PARTS):
            self._unclear[name] = None
        if _is_foreign(price):
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
    def has_dearer_period(self) -> bool:
        """Whether another price holds at the dearest time of the day, which this entry does not name."""
        if self._period == _PEAK:
            return False
        if self._windows:
            return not all(_is_set(window.get("unit_price")) for window in self._windows)
        return self._period is not None

    def is_peak_of(self, other: _Entry) -> bool:
        """Whether this entry is the price of the dearest time for what ``other`` is the price of."""
        same = all(self._price.get(name) == other._price.get(name) for name in ("group", "conditions", "charge_type"))
        return self._period == _PEAK and same

    def _part(self, name: str) -> Decimal | None:
        given = [source[name] for source in (self._price, *self._windows) if _is_set(source.get(name))]
        numbers = [number for value in given if (number := amount(value)) is not None]
        least_is_fine = all(number > 0 if name == "unit_price" else number >= 0 for number in numbers)
        is_complete = name != "unit_price" or _is_set(self._price.get(name))
        if len(numbers) < len(given) or not least_is_fine or not is_complete or max(numbers, default=0) > _HIGHEST_USD:
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
        understood = [window for window in windows if window is not None]
        if len(understood) < len(windows):
            self._unclear["pricing_peak_windows"] = None
        return understood


def _window(value: object) -> JsonObject | None:
    """Return a time of the day with the parts of its price; None where it is not understood."""
    if isinstance(value, str) and _TIME_RANGE.fullmatch(value):
        return {}
    if not isinstance(value, Mapping) or not value or not value.keys() <= {*_PARTS, *_TIME_NAMES}:
        return None
    return value


def _other_money(source: JsonObject, known: Collection[str]) -> list[str]:
    """Return the names under which there is money that cannot be added up, such as prices of tokens."""
    return [
        name
        for name, value in source.items()
        if name.lower().endswith(_PRICE_ENDINGS) and name not in known and _is_set(value)
    ]


def _is_foreign(*sources: JsonObject) -> bool:
    """Whether one of them names a currency that is not USD."""
    currencies = [source.get("currency") for source in sources]
    return any(_is_set(currency) and str(currency).strip().upper() != _CURRENCY for currency in currencies)


def _is_set(value: object) -> bool:
    """Whether there is a value at all; an object of nothing but empty values has none."""
    if isinstance(value, Mapping):
        return any(map(_is_set, value.values()))
    return value is not None and value not in ("", [])


def _text(value: object) -> str | None:
    return str(value) if _is_set(value) else None
