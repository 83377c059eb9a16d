"""Estimate what videos cost before they are submitted. Pure: the caller passes the price list and the balance."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from airflow_provider_toapis.api.model_catalog import find_model
from airflow_provider_toapis.api.responses import Balance, OfferedPrice
from airflow_provider_toapis.api.video_request import VideoRequest
from airflow_provider_toapis.exceptions import ToAPIsQuotaError, ToAPIsRequestError

log = logging.getLogger(__name__)

#: Documented values of ``unit`` and ``price_basis`` for a price per video and per second. Both can be absent.
_PER_REQUEST = (None, "request")
_PER_SECOND = (None, "second", "output_seconds")
#: Names of wire fields that hold images, and of those that hold other text or the callback URL.
_IMAGE_NAME = re.compile("image|input_reference|frame_url")
_TEXT_NAME = re.compile("prompt|callback")
_REFERENCE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+$|data:")
#: Maximum models that a message lists.
_MAX_LISTED_MODELS = 5


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

        The service's price comes first. The model catalog's price is used only if the service lists nothing for the
        model, because it is no estimate beside a listed price that cannot be computed. Then comes ``fallback``.
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
        # It is not documented which of several prices applies. Use the highest, so that a budget is not exceeded. An
        # unknown price can be higher than all others.
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
    """Reject videos that cost more than the balance. A balance that the service does not report is sufficient.

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

    :param body: The wire body, with the model's default length.
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
    """Return the body with the model's default length if the body has none."""
    model = find_model(request.model)
    field = model.generate.duration if model and request.operation == "generate" else None
    return body if field is None or field.default is None else {field.field: field.default} | dict(body)


def _references(name: str, value: object) -> Iterator[Literal["image", "unknown"]]:
    """Yield the type of each file reference in a wire body, as far as the name of its field shows it."""
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
    """Whether the body does not contradict the conditions of a price. A missing field can have any value."""
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
