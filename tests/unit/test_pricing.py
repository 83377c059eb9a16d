"""What videos will cost, before they are ordered."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_toapis.api.errors import ToAPIsQuotaError, ToAPIsRequestError
from airflow_provider_toapis.api.models import Balance, OfferedPrice
from airflow_provider_toapis.api.pricing import PriceList, require_budget, require_money
from airflow_provider_toapis.api.requests import ReferenceImage, VideoRequest

MODEL = "grok-video-1.5-preview"


def offer(
    usd: str | None, per: str = "request", model: str = MODEL, conditions: Mapping[str, Any] | None = None
) -> OfferedPrice:
    return OfferedPrice(
        model=model,
        group="default",
        charge_type=f"per_{per}",
        unit=per,
        unit_price=None if usd is None else Decimal(usd),
        conditions=conditions or {},
    )


def request(model: str = MODEL, duration: int | None = None, **parameters: Any) -> VideoRequest:
    images = (ReferenceImage.at("https://example.com/shoe.jpg"),)
    return VideoRequest(model=model, prompt="x", images=images, duration=duration, parameters=parameters)


def price(*offers: OfferedPrice, of: VideoRequest, fallback: Decimal | None = None) -> Decimal | None:
    return PriceList(offers, fallback).price_of(of)


def test_word_of_the_service_comes_first() -> None:
    assert price(offer("0.07"), of=request(), fallback=Decimal(9)) == Decimal("0.07")


def test_catalogue_knows_what_the_service_does_not_tell() -> None:
    assert price(offer("7", model="other"), of=request(), fallback=Decimal(9)) == Decimal("0.10")
    assert price(of=request(duration=15)) == Decimal("0.15")


def test_author_is_asked_last() -> None:
    assert price(of=request("brand-new"), fallback=Decimal("0.3")) == Decimal("0.3")
    assert price(of=request("brand-new")) is None


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [(request(duration=15), 15), (request(), 10), (request(seconds="15"), 15)],
    ids=["the author's", "the model's own", "that of the parameters"],
)
def test_price_by_the_second_is_for_the_length_that_will_be_made(asked: VideoRequest, seconds: int) -> None:
    assert price(offer("0.02", "second"), of=asked) == Decimal("0.02") * seconds


@pytest.mark.parametrize("duration", [0, -1])
def test_length_that_the_model_chooses_has_no_price_by_the_second(duration: int) -> None:
    asked = request("brand-new", duration=duration)
    assert price(offer("0.02", "second", "brand-new"), of=asked, fallback=Decimal(1)) == Decimal(1)


@pytest.mark.parametrize(("duration", "usd"), [(10, "0.1"), (15, "0.2"), (None, "0.1")])
def test_price_with_a_condition_holds_where_it_is_met(duration: int | None, usd: str) -> None:
    offers = (offer("0.1", conditions={"seconds": "10"}), offer("0.2", conditions={"seconds": 15}))
    assert price(*offers, of=request(duration=duration)) == Decimal(usd)


def test_highest_of_those_that_may_hold_counts() -> None:
    offers = (offer("0.1", conditions={"resolution": "720p"}), offer("0.4", conditions={"resolution": "1080p"}))
    assert price(*offers, of=request()) == Decimal("0.4")
    assert price(*offers, of=request(resolution="720P")) == Decimal("0.1")


@pytest.mark.parametrize("unclear", [offer("4", "token"), offer(None)], ids=["by the token", "no figure"])
def test_offer_without_a_figure_may_be_dearer_than_all_others(unclear: OfferedPrice) -> None:
    assert price(offer("0.01"), unclear, of=request(), fallback=None) == Decimal("0.10")


class TestBudget:
    def test_what_is_spent_counts(self) -> None:
        prices = [Decimal("0.1")] * 3
        require_budget(prices, (), spent=Decimal("0.2"), max_cost_usd=Decimal("0.5"))
        with pytest.raises(ToAPIsRequestError, match=r"max_cost_usd='0\.49'.*3 videos.*0\.3 USD.*0\.2 USD are spent"):
            require_budget(prices, (), spent=Decimal("0.2"), max_cost_usd=Decimal("0.49"))

    def test_five_models_without_a_price_are_named(self) -> None:
        with pytest.raises(ToAPIsRequestError, match=r"price_usd.* m0, m1, m2, m3, m4\."):
            require_budget([None], [f"m{n}" for n in range(7)], spent=Decimal(0), max_cost_usd=Decimal(1))


class TestMoney:
    @pytest.mark.parametrize(
        ("left", "unlimited"), [("20", False), (None, False), ("1", True)], ids=["enough", "unknown", "unlimited"]
    )
    def test_account_that_may_pay_is_used(self, left: str | None, unlimited: bool) -> None:
        require_money(Decimal("0.1"), balance(left, unlimited=unlimited))

    def test_account_that_cannot_pay_is_told(self) -> None:
        with pytest.raises(ToAPIsQuotaError, match=r"0\.11 USD.*0\.10 USD"):
            require_money(Decimal("0.11"), balance("20"))


def balance(left: str | None, *, unlimited: bool = False) -> Balance:
    return Balance(
        remain_credits=None if left is None else Decimal(left),
        used_credits=None,
        remain_balance=None,
        used_balance=None,
        credits_per_usd=Decimal(200),
        unlimited=unlimited,
    )
