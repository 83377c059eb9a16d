"""What videos will cost, told before they are ordered. Pure: the price list and the balance come from outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from airflow_provider_toapis.api.catalog import find_model
from airflow_provider_toapis.api.errors import ToAPIsQuotaError, ToAPIsRequestError
from airflow_provider_toapis.api.models import Balance, OfferedPrice
from airflow_provider_toapis.api.requests import VideoRequest, rendered_seconds

#: Models that a message names.
_NAMED_MODELS = 5


class PriceList:
    """What the service asks of this key, as ``GET /v1/pricing`` told it.

    :param offered: All prices; none where the service could not be asked.
    :param fallback: USD for one video where neither the service nor the catalogue knows a price.
    """

    def __init__(self, offered: Iterable[OfferedPrice], fallback: Decimal | None = None) -> None:
        self._offered = tuple(offered)
        self._fallback = fallback

    def price_of(self, request: VideoRequest) -> Decimal | None:
        """Return what one video will cost in USD; None where nobody knows.

        The service's own word comes first, then the catalogue's, then the author's.
        """
        offered = self._offered_price(request)
        if offered is not None:
            return offered
        published = request.price_usd
        return self._fallback if published is None else published

    def _offered_price(self, request: VideoRequest) -> Decimal | None:
        asked = _asked_for(request)
        prices = [
            _price(offer, asked)
            for offer in self._offered
            if request.is_model(offer.model) and _may_apply(offer.conditions, asked.body)
        ]
        # Which of several holds is not documented: the highest, so that a budget is never exceeded by hope. An offer
        # that tells no price may be dearer than all of them.
        return None if None in prices else max((price for price in prices if price is not None), default=None)


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
            "with max_cost_usd every price must be known, and neither the service nor the catalogue knows that of"
            f" {', '.join(unknown[:_NAMED_MODELS])}",
        )
    estimate = total(prices)
    if spent + estimate > max_cost_usd:
        earlier = f", and {spent} USD are spent in this run already" if spent else ""
        raise ToAPIsRequestError.for_field(
            "max_cost_usd",
            f"{max_cost_usd:f}",
            f"the {len(prices)} videos to make are expected to cost {estimate:f} USD{earlier}",
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
    """What a video is asked to be, as on the wire; as long as the model makes it by itself where nothing is said."""

    body: Mapping[str, Any]
    seconds: int | None


def _asked_for(request: VideoRequest) -> _Asked:
    body = request.wire_body([image.identity for image in request.images])
    model = find_model(request.model)
    field = model.generate.duration if model else None
    if field is None:
        return _Asked(body, _seconds(body.get("duration"), ()))
    if field.default is not None:
        body = {field.field: field.wire_value(field.default)} | body
    return _Asked(body, _seconds(body.get(field.field), field.special))


def _seconds(asked: object, special: Sequence[int]) -> int | None:
    try:
        seconds = rendered_seconds(asked)
    except ToAPIsRequestError:
        # It stands in `parameters`, which nobody checks.
        return None
    return None if seconds is None or seconds <= 0 or seconds in special else seconds


def _may_apply(conditions: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    """Whether nothing that is asked for contradicts the conditions; what is left to the model may be anything."""
    return all(name not in body or str(body[name]).lower() == str(value).lower() for name, value in conditions.items())


def _price(offer: OfferedPrice, asked: _Asked) -> Decimal | None:
    if offer.unit_price is None:
        return None
    if offer.charge_type == "per_request":
        return offer.unit_price
    if offer.charge_type == "per_second" and asked.seconds is not None:
        return offer.unit_price * asked.seconds
    return None
