"""Parse the service's price list, and estimate what videos cost before they are submitted. No I/O."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

from airflow_provider_toapis.api.model_catalog import find_model
from airflow_provider_toapis.api.responses import Balance, amount
from airflow_provider_toapis.api.result_urls import JsonObject, mappings
from airflow_provider_toapis.api.video_request import VideoRequest
from airflow_provider_toapis.exceptions import ToAPIsQuotaError, ToAPIsRequestError

log = logging.getLogger(__name__)
#: Documented values of ``unit`` and ``price_basis`` for a price per video and for a price per second. Both fields can
#: be absent.
_PER_REQUEST = (None, "request")
_PER_SECOND = (None, "second", "output_seconds")
#: Patterns of the names of wire fields that contain images, and of fields that contain other text or the callback URL.
_IMAGE_NAME = re.compile("image|input_reference|frame_url")
_TEXT_NAME = re.compile("prompt|callback")
_REFERENCE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+$|data:")
#: Maximum number of models that a message lists.
_MAX_LISTED_MODELS = 5
#: Fields of a price, in USD, that this module can add up.
_PARTS = ("unit_price", "input_unit_price", "input_image_unit_price", "minimum_charge_usd")
#: Endings of the names of price fields. A field with such a name that is not in ``_PARTS`` makes the price unknown.
_PRICE_ENDINGS = ("_price", "_prices", "_usd")
_CURRENCY = "USD"
#: Maximum of one part of a video's price. A larger number is an error in the price list.
_MAX_USD = 1_000_000
#: Value of ``pricing_period`` for the most expensive time of the day.
_PEAK = "peak"
#: Fields of an entry of ``pricing_peak_windows`` that contain its time. Their format is not documented. A field of an
#: entry that is neither here nor in ``_PARTS`` makes the price unknown.
_TIME_NAMES = frozenset({"start", "end", "start_time", "end_time", "from", "to", "days", "weekdays", "timezone"})
_TIME_RANGE = re.compile(r"\s*\d{1,2}:\d{2}\s*-\s*\d{1,2}:\d{2}\s*")


@dataclass(frozen=True)
class OfferedPrice:
    """One price of a model for the group of this API key. The service documents these fields.

    If the price depends on the time of day, this is the highest one.

    :param model: Model id.
    :param group: Group of accounts to which the price applies.
    :param charge_type: ``per_request``, ``per_second`` or ``per_token``.
    :param unit: ``request``, ``second`` or ``1m_tokens``.
    :param unit_price: USD per unit.
    :param conditions: Values that wire fields must have for the price to apply, for example a resolution.
    :param price_basis: What is counted to compute the price, such as ``request`` or ``output_seconds``.
    :param input_unit_price: USD per second of an input video.
    :param input_image_unit_price: USD per input image.
    :param free_input_image_count: Number of free input images (default 0).
    :param minimum_charge_usd: Minimum price of a video in USD.
    :param pricing_period: Time of day at which the price applies, such as ``peak``; None for the whole day.
    :param unclear: Fields that this version cannot interpret. If there are any, the price is not known.
    """

    model: str
    group: str | None
    charge_type: str
    unit: str | None
    unit_price: Decimal | None
    conditions: JsonObject
    price_basis: str | None = None
    input_unit_price: Decimal | None = None
    input_image_unit_price: Decimal | None = None
    free_input_image_count: int = 0
    minimum_charge_usd: Decimal | None = None
    pricing_period: str | None = None
    unclear: tuple[str, ...] = ()

    @property
    def is_understood(self) -> bool:
        """Whether a price can be computed. A unit price of zero is treated as unknown."""
        return not self.unclear and self.unit_price is not None and self.unit_price > 0


class PriceList:
    """Prices for one API key, as returned by ``GET /v1/pricing``.

    :param offered: All prices. Empty if the price list could not be read.
    :param fallback: USD per video if neither the service nor the model catalog has a price.
    """

    def __init__(self, offered: Iterable[OfferedPrice], fallback: Decimal | None = None) -> None:
        self._offered = tuple(offered)
        self._fallback = fallback
        self._warned: set[str] = set()
        self._offers_by_model: dict[str, Sequence[OfferedPrice]] = {}

    def price_of(self, request: VideoRequest) -> Decimal | None:
        """Return the expected price of one video in USD; None if it is not known.

        The service's price takes precedence. The model catalog's price is used only if the service lists no price for
        the model. If the service lists a price that cannot be computed, the catalog's price could be wrong, so it is
        not used. Without a price from the service or the catalog, ``fallback`` is returned.
        """
        offers = self._offers_for(request)
        price = self._highest(offers, request) if offers else request.price_usd
        return self._fallback if price is None else price

    def _offers_for(self, request: VideoRequest) -> Sequence[OfferedPrice]:
        # Cached: thousands of rows use few models.
        if request.model not in self._offers_by_model:
            offers = [offer for offer in self._offered if request.is_model(offer.model)]
            self._offers_by_model[request.model] = offers
        return self._offers_by_model[request.model]

    def _highest(self, offers: Iterable[OfferedPrice], request: VideoRequest) -> Decimal | None:
        requested = _requested_fields(request)
        applicable = [offer for offer in offers if _may_apply(offer.conditions, requested.body)]
        for offer in applicable:
            self._warn_about_unclear(offer)
        # It is not documented which of several prices applies. Use the highest, so that a budget is not exceeded. If
        # one price is unknown, it can be higher than the known prices, so return None.
        prices = [_price(offer, requested) for offer in applicable]
        return None if None in prices else max((price for price in prices if price is not None), default=None)

    def _warn_about_unclear(self, offer: OfferedPrice) -> None:
        if offer.unclear and offer.model not in self._warned:
            self._warned.add(offer.model)
            log.warning(
                "The price of model %s is not known: it depends on %s, which this version cannot compute.",
                offer.model,
                ", ".join(offer.unclear),
            )


def require_budget(
    prices: Sequence[Decimal | None], models: Iterable[str], *, spent: Decimal, max_cost_usd: Decimal
) -> None:
    """Reject videos that would exceed the budget.

    :param prices: Price of each video to submit, in USD; None if it is not known.
    :param models: The models of the videos whose price is not known.
    :param spent: Price in USD of the videos that earlier attempts of the same run submitted.
    :param max_cost_usd: The budget of the run.
    :raises ToAPIsRequestError: The videos cost more than ``max_cost_usd``, or a price is not known.
    """
    unknown = sorted(set(models))
    if unknown:
        raise ToAPIsRequestError.for_field(
            "price_usd",
            None,
            "max_cost_usd requires a known price, and neither the service nor the model catalog has one for"
            f" {', '.join(unknown[:_MAX_LISTED_MODELS])}",
        )
    estimate = total(prices)
    if prices and spent + estimate > max_cost_usd:
        earlier = f" This run has already spent {spent} USD." if spent else ""
        raise ToAPIsRequestError(
            f"The {len(prices)} planned videos cost about {estimate:f} USD, more than max_cost_usd={max_cost_usd:f}."
            f"{earlier}\nNothing new was submitted. Raise max_cost_usd or reduce the feed.",
            field="max_cost_usd",
            value=repr(f"{max_cost_usd:f}"),
        )


def require_balance(estimate: Decimal, balance: Balance) -> None:
    """Reject videos that cost more than the balance.

    If the service does not report a balance, the videos are not rejected.

    :param estimate: Expected price of the videos in USD.
    :raises ToAPIsQuotaError: The balance is lower than ``estimate``.
    """
    if balance.unlimited or balance.remain_usd is None or balance.remain_usd >= estimate:
        return
    raise ToAPIsQuotaError(
        f"The videos to submit are expected to cost {estimate:f} USD, but the balance of the API key is"
        f" {balance.remain_usd:.2f} USD. Nothing new was submitted. Top up the account or submit fewer videos."
    )


def total(prices: Iterable[Decimal | None]) -> Decimal:
    """Return the sum of the known prices."""
    return sum((price for price in prices if price is not None), Decimal(0))


@dataclass(frozen=True)
class _RequestedFields:
    """Fields of a request that determine its price.

    :param body: The wire body, including the model's default length.
    :param seconds: Length of the video; None if it is not known.
    :param images: Maximum number of images that the video is made from.
    :param may_use_video: Whether the video can be made from another video, whose length is not known here.
    """

    body: Mapping[str, Any]
    seconds: int | None
    images: int
    may_use_video: bool


def _requested_fields(request: VideoRequest) -> _RequestedFields:
    body = request.wire_body([image.identity for image in request.images])
    references = Counter(_references("", body))
    return _RequestedFields(
        body=_with_length(body, request),
        seconds=request.seconds,
        images=references.total(),
        may_use_video=request.operation != "generate" or references["unknown"] > 0,
    )


def _with_length(body: Mapping[str, Any], request: VideoRequest) -> Mapping[str, Any]:
    """Return the body, with the model's default length if the body contains no length."""
    model = find_model(request.model)
    field = model.generate.duration if model and request.operation == "generate" else None
    return body if field is None or field.default is None else {field.field: field.default} | dict(body)


def _references(name: str, value: object) -> Iterator[Literal["image", "unknown"]]:
    """Yield ``image`` for each image in a wire body, and ``unknown`` for each other URL or data URI.

    The names of the wire fields show which values are images. Prompts and callback URLs are ignored.
    """
    is_image = _IMAGE_NAME.search(name) is not None
    if isinstance(value, list | tuple):
        for item in value:
            yield from _references(name, item)
    elif isinstance(value, Mapping) and not is_image:
        for inner, item in value.items():
            yield from _references(str(inner), item)
    elif is_image and isinstance(value, str | Mapping) and value:
        yield "image"
    elif isinstance(value, str) and _REFERENCE.match(value) and not _TEXT_NAME.search(name):
        yield "unknown"


def _may_apply(conditions: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    """Return whether a body can meet the conditions of a price. A missing field can have any value."""
    return all(
        name not in body
        # The format of a condition with several values is not documented.
        or isinstance(value, Mapping | list)
        or str(body[name]).lower() == str(value).lower()
        for name, value in conditions.items()
    )


def _price(offer: OfferedPrice, requested: _RequestedFields) -> Decimal | None:
    """Return the sum of all parts of a price; None if one of them is not known."""
    units = _units(offer, requested)
    if not offer.is_understood or offer.unit_price is None or units is None:
        return None
    if offer.input_unit_price and requested.may_use_video:
        return None
    billed_images = max(0, requested.images - offer.free_input_image_count)
    price = offer.unit_price * units + (offer.input_image_unit_price or 0) * billed_images
    return max(price, offer.minimum_charge_usd or Decimal(0))


def _units(offer: OfferedPrice, requested: _RequestedFields) -> int | None:
    if offer.charge_type == "per_request" and offer.unit in _PER_REQUEST and offer.price_basis in _PER_REQUEST:
        return 1
    if offer.charge_type == "per_second" and offer.unit in _PER_SECOND and offer.price_basis in _PER_SECOND:
        return requested.seconds
    return None


def parse_prices(body: JsonObject) -> tuple[OfferedPrice, ...]:
    """Parse one page of the price list. A model without prices is left out: its price is unknown."""
    return tuple(offer for item in mappings(body.get("data")) for offer in _offers(item, body))


def _offers(item: JsonObject, body: JsonObject) -> Iterator[OfferedPrice]:
    listed = item.get("prices")
    if not _is_set(listed):
        return
    # If `prices` is not a list, it becomes one entry with an unknown price.
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
        """Whether the most expensive time of day can have a higher price, which this entry does not contain."""
        if self._period == _PEAK:
            return False
        if self._windows:
            return not all(_is_set(window.get("unit_price")) for window in self._windows)
        return self._period is not None

    def is_peak_of(self, other: _Entry) -> bool:
        """Return whether this entry applies to the same videos as ``other``, at the most expensive time of day."""
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
    """Return the fields of an entry of ``pricing_peak_windows``; None for an unknown format.

    The result is empty for a text with a time range only, such as ``9:00-18:00``.
    """
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
    """Return whether one of the objects names a currency other than USD."""
    currencies = [source.get("currency") for source in sources]
    return any(_is_set(currency) and str(currency).strip().upper() != _CURRENCY for currency in currencies)


def _is_set(value: object) -> bool:
    """Return whether a value is not empty. An object with only empty values is empty."""
    if isinstance(value, Mapping):
        return any(map(_is_set, value.values()))
    return value is not None and value not in ("", [])


def _text(value: object) -> str | None:
    return str(value) if _is_set(value) else None
