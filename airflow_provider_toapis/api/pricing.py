"""What videos will cost, told before they are ordered. Pure: the price list and the balance come from outside."""

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

#: Documented words for one video and for one second of it, as ``unit`` and ``price_basis``; both may be absent.
_PER_REQUEST = (None, "request")
_PER_SECOND = (None, "second", "output_seconds")
#: Names of wire fields that hold images, and of those that hold words.
_IMAGE_NAME = re.compile("image|input_reference|frame_url")
_TEXT_NAME = re.compile("prompt|callback")
_REFERENCE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+$|data:")
#: Models that a message names.
_NAMED_MODELS = 5


class PriceList:
    """What the service asks of this key, as ``GET /v1/pricing`` told it.

    :param offered: All prices; none where the service could not be asked.
    :param fallback: USD for one video where neither the service nor the catalog knows a price.
    """

    def __init__(self, offered: Iterable[OfferedPrice], fallback: Decimal | None = None) -> None:
        self._offered = tuple(offered)
        self._fallback = fallback
        self._warned: set[str] = set()
        self._offers_by_model: dict[str, Sequence[OfferedPrice]] = {}

    def price_of(self, request: VideoRequest) -> Decimal | None:
        """Return what one video will cost in USD; None where nobody knows.

        The service's own word comes first, then the author's. The catalog's counts where the service lists nothing
        for the model: where it lists a price that is not understood, an old one is no estimate.
        """
        offers = self._offers_for(request)
        price = self._highest(offers, request) if offers else request.price_usd
        return self._fallback if price is None else price

    def _offers_for(self, request: VideoRequest) -> Sequence[OfferedPrice]:
        # Thousands of rows ask for few models.
        if request.model not in self._offers_by_model:
            offers = [offer for offer in self._offered if request.is_model(offer.model)]
            self._offers_by_model[request.model] = offers
        return self._offers_by_model[request.model]

    def _highest(self, offers: Iterable[OfferedPrice], request: VideoRequest) -> Decimal | None:
        asked = _asked_for(request)
        applicable = [offer for offer in offers if _may_apply(offer.conditions, asked.body)]
        for offer in applicable:
            self._warn_of_unclear(offer)
        # Which of several holds is not documented: the highest, so that a budget is never exceeded by hope. An offer
        # that tells no price may be dearer than all of them.
        prices = [_price(offer, asked) for offer in applicable]
        return None if None in prices else max((price for price in prices if price is not None), default=None)

    def _warn_of_unclear(self, offer: OfferedPrice) -> None:
        if offer.unclear and offer.model not in self._warned:
            self._warned.add(offer.model)
            log.warning(
                "The price of model %s is unknown: the service lists a price with %s, which cannot be computed.",
                offer.model,
                ", ".join(offer.unclear),
            )


def require_budget(
    prices: Sequence[Decimal | None], models: Iterable[str], *, spent: Decimal, max_cost_usd: Decimal
) -> None:
    """Refuse to order videos that cost more than may be spent.

    :param prices: Of each video to order, in USD; None where no price is known.
    :param models: Of those videos whose price is not known.
    :param spent: What earlier attempts of the same run ordered, in USD.
    :raises ToAPIsRequestError: They cost more than ``max_cost_usd``, or nobody knows what they cost.
    """
    unknown = sorted(set(models))
    if unknown:
        raise ToAPIsRequestError.for_field(
            "price_usd",
            None,
            "max_cost_usd requires a known price, and neither the service nor the model catalog has one for"
            f" {', '.join(unknown[:_NAMED_MODELS])}",
        )
    estimate = total(prices)
    if prices and spent + estimate > max_cost_usd:
        earlier = f", and this run has already spent {spent} USD" if spent else ""
        raise ToAPIsRequestError.for_field(
            "max_cost_usd",
            f"{max_cost_usd:f}",
            f"the {len(prices)} videos to submit are expected to cost {estimate:f} USD{earlier}",
        )


def require_money(estimate: Decimal, balance: Balance) -> None:
    """Refuse to order what the account cannot pay, as far as it tells.

    :raises ToAPIsQuotaError: Less is left on the key than ``estimate`` (USD).
    """
    if balance.unlimited or balance.remain_usd is None or balance.remain_usd >= estimate:
        return
    raise ToAPIsQuotaError(
        f"The videos to make are expected to cost {estimate:f} USD, but only {balance.remain_usd:.2f} USD are left on"
        " the key. Top the account up, or order fewer. Nothing new was ordered, and nothing new is paid."
    )


def total(prices: Iterable[Decimal | None]) -> Decimal:
    """Add up the prices that are known."""
    return sum((price for price in prices if price is not None), Decimal(0))


@dataclass(frozen=True)
class _Asked:
    """What a video is asked to be, as on the wire, and what counts for its price.

    :param images: How many images it is made from, at most.
    :param may_use_video: It may be made from another video, whose length is not known here.
    """

    body: Mapping[str, Any]
    seconds: int | None
    images: int
    may_use_video: bool


def _asked_for(request: VideoRequest) -> _Asked:
    body = request.wire_body([image.identity for image in request.images])
    references = Counter(_references("", body))
    return _Asked(
        body=_with_length(body, request),
        seconds=request.seconds,
        images=references.total(),
        may_use_video=request.operation != "generate" or references["unknown"] > 0,
    )


def _with_length(body: Mapping[str, Any], request: VideoRequest) -> Mapping[str, Any]:
    """Return the body with the length that the model makes by itself where nothing is said."""
    model = find_model(request.model)
    field = model.generate.duration if model and request.operation == "generate" else None
    return body if field is None or field.default is None else {field.field: field.default} | dict(body)


def _references(name: str, value: object) -> Iterator[Literal["image", "unknown"]]:
    """Yield what kind of file each reference in a wire body is, as far as the ``name`` of its field says so."""
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
    """Whether nothing that is asked for contradicts the conditions; what is left to the model may be anything."""
    return all(
        name not in body
        # How a condition on several values is written is not documented.
        or isinstance(value, Mapping | list)
        or str(body[name]).lower() == str(value).lower()
        for name, value in conditions.items()
    )


def _price(offer: OfferedPrice, asked: _Asked) -> Decimal | None:
    """Add up every part of a price; None where one of them is not known."""
    units = _units(offer, asked)
    if not offer.is_understood or offer.unit_price is None or units is None:
        return None
    if offer.input_unit_price and asked.may_use_video:
        return None
    billed_images = max(0, asked.images - offer.free_input_image_count)
    price = offer.unit_price * units + (offer.input_image_unit_price or 0) * billed_images
    return max(price, offer.minimum_charge_usd or Decimal(0))


def _units(offer: OfferedPrice, asked: _Asked) -> int | None:
    if offer.charge_type == "per_request" and offer.unit in _PER_REQUEST and offer.price_basis in _PER_REQUEST:
        return 1
    if offer.charge_type == "per_second" and offer.unit in _PER_SECOND and offer.price_basis in _PER_SECOND:
        return asked.seconds
    return None
