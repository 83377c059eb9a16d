"""Expected prices of videos before they are submitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_toapis.api.pricing import OfferedPrice, PriceList, parse_prices, require_balance, require_budget
from airflow_provider_toapis.api.responses import Balance
from airflow_provider_toapis.api.video_request import ReferenceImage, VideoRequest
from airflow_provider_toapis.exceptions import ToAPIsQuotaError
from tests.errors import rejects

MODEL = "grok-video-1.5-preview"


def offer(
    amount: str | None, per: str = "request", model: str = MODEL, conditions: Mapping[str, Any] | None = None
) -> OfferedPrice:
    return OfferedPrice(
        model=model,
        group="default",
        charge_type=f"per_{per}",
        unit=per,
        unit_price=None if amount is None else Decimal(amount),
        conditions=conditions or {},
    )


def request(model: str = MODEL, duration: int | None = None, **parameters: Any) -> VideoRequest:
    images = (ReferenceImage.from_url("https://example.com/shoe.jpg"),)
    return VideoRequest(model=model, prompt="x", images=images, duration=duration, parameters=parameters)


def price(*offers: OfferedPrice, of: VideoRequest, fallback: Decimal | None = None) -> Decimal | None:
    return PriceList(offers, fallback).price_of(of)


def test_price_list_overrides_catalog_and_fallback() -> None:
    assert price(offer("0.07"), of=request(), fallback=Decimal(9)) == Decimal("0.07")


def test_model_catalog_is_used_if_the_price_list_lacks_the_model() -> None:
    assert price(offer("7", model="other"), of=request(), fallback=Decimal(9)) == Decimal("0.10")
    assert price(of=request(duration=15)) == Decimal("0.15")


def test_price_usd_is_the_last_fallback() -> None:
    assert price(of=request("brand-new"), fallback=Decimal("0.3")) == Decimal("0.3")
    assert price(of=request("brand-new")) is None


@pytest.mark.parametrize(
    ("video_request", "seconds"),
    [(request(duration=15), 15), (request(), 10), (request(seconds="15"), 15)],
    ids=["argument", "default of the model", "parameters"],
)
def test_price_per_second_uses_the_requested_duration(video_request: VideoRequest, seconds: int) -> None:
    assert price(offer("0.02", "second"), of=video_request) == Decimal("0.02") * seconds


@pytest.mark.parametrize("duration", [0, -1])
def test_duration_chosen_by_the_model_has_no_price_per_second(duration: int) -> None:
    video_request = request("brand-new", duration=duration)
    assert price(offer("0.02", "second", "brand-new"), of=video_request, fallback=Decimal(1)) == Decimal(1)


@pytest.mark.parametrize(("duration", "amount"), [(10, "0.1"), (15, "0.2"), (None, "0.1")])
def test_conditional_price_applies_if_its_condition_is_met(duration: int | None, amount: str) -> None:
    offers = (offer("0.1", conditions={"seconds": "10"}), offer("0.2", conditions={"seconds": 15}))
    assert price(*offers, of=request(duration=duration)) == Decimal(amount)


def test_highest_applicable_price_is_used() -> None:
    offers = (offer("0.1", conditions={"resolution": "720p"}), offer("0.4", conditions={"resolution": "1080p"}))
    assert price(*offers, of=request()) == Decimal("0.4")
    assert price(*offers, of=request(resolution="720P")) == Decimal("0.1")


@pytest.mark.parametrize(
    "unclear",
    [
        offer("4", "token"),
        offer(None),
        offer("0"),
        offer("-1"),
        replace(offer("1"), unclear=("setup_usd",)),
        replace(offer("1", "second"), unit="minute"),
        replace(offer("1", "second"), price_basis="total_seconds"),
        replace(offer("1"), unit="10_requests"),
    ],
    ids=["per token", "no amount", "zero", "negative", "not understood", "other unit", "other basis", "many"],
)
def test_offer_without_usable_price_makes_the_price_unknown(unclear: OfferedPrice) -> None:
    assert price(offer("0.01"), unclear, of=request()) is None
    assert price(unclear, offer("0.01"), of=request(), fallback=Decimal("0.3")) == Decimal("0.3")


def test_unclear_price_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    prices = PriceList([replace(offer("1"), unclear=("setup_usd",))])
    assert [prices.price_of(request()), prices.price_of(request(duration=15))] == [None, None]
    assert [record.args for record in caplog.records] == [(MODEL, "setup_usd")]


def test_malformed_condition_is_treated_as_possibly_met() -> None:
    offers = (offer("0.1"), offer("0.4", conditions={"resolution": ["720p", "1080p"]}))
    assert price(*offers, of=request(resolution="720p")) == Decimal("0.4")


def parse_listed(**fields: Any) -> tuple[OfferedPrice, ...]:
    entry = {"charge_type": "per_second", "unit": "second", "unit_price": "0.01"} | fields
    return parse_prices({"currency": "USD", "data": [{"id": "brand-new", "prices": [entry]}]})


def images(count: int, **parameters: Any) -> VideoRequest:
    reference_images = tuple(ReferenceImage.from_url(f"https://example.com/{n}.jpg") for n in range(count))
    return VideoRequest(
        model="brand-new", prompt="see https://example.com", images=reference_images, duration=4, parameters=parameters
    )


class TestPriceFields:
    def test_minimum_charge_and_image_prices_are_added(self) -> None:
        fields = {"minimum_charge_usd": "0.50", "input_image_unit_price": "0.05", "free_input_image_count": 1}
        assert price(*parse_listed(**fields), of=images(1)) == Decimal("0.50")
        assert price(*parse_listed(**fields), of=images(11)) == Decimal("0.54")
        assert price(*parse_listed(**fields, unit_price="0.2"), of=images(1)) == Decimal("0.80")

    @pytest.mark.parametrize(
        ("video_request", "count"),
        [
            (images(0), 0),
            (images(3), 3),
            (images(0, reference_images=["https://a.b/1", {"url": "https://a.b/2"}]), 2),
            (images(0, image="https://a.b/1", reference_images=["https://a.b/2"]), 2),
            (images(0, image_with_roles=[{"url": "https://a.b/1", "role": "first_frame"}]), 1),
            (
                images(
                    0, metadata={"image_list": [{"image_url": "https://a.b/1"}], "last_frame_image": "https://a.b/2"}
                ),
                2,
            ),
            (images(0, input_reference="data:image/png;base64,AAAA"), 1),
            (images(1, image_count=3, image_urls=[]), 0),
            (images(0, metadata={"media": [{"url": "https://a.b/1"}]}), 1),
        ],
        ids=["none", "given", "list", "two fields", "roles", "nested", "alias", "no images", "anything"],
    )
    def test_images_are_counted_in_every_field(self, video_request: VideoRequest, count: int) -> None:
        assert price(*parse_listed(input_image_unit_price="1"), of=video_request) == Decimal("0.04") + count

    def test_input_video_seconds_make_the_price_unknown(self) -> None:
        offers = parse_listed(input_unit_price="0.002")
        assert price(*offers, of=images(2)) == Decimal("0.04")
        for parameters in ({"video_url": "https://a.b/1.mp4"}, {"metadata": {"media": [{"url": "asset://1"}]}}):
            assert price(*offers, of=images(0, **parameters)) is None
        assert price(*offers, of=replace(images(0), operation="remix", video_id="video_1")) is None
        assert price(*parse_listed(), of=images(0, video_url="https://a.b/1.mp4")) == Decimal("0.04")

    def test_price_per_request_adds_image_prices(self) -> None:
        offers = parse_listed(
            charge_type="per_request", unit="request", unit_price="0.3", input_image_unit_price="0.05"
        )
        assert price(*offers, of=images(2)) == Decimal("0.40")

    def test_most_expensive_window_is_used(self) -> None:
        windows = [{"start": "09:00", "end": "12:00", "unit_price": "0.03"}]
        assert price(*parse_listed(pricing_peak_windows=windows), of=images(1)) == Decimal("0.12")

    @pytest.mark.parametrize(
        "fields",
        [
            {"unit_price": "0"},
            {"audio_unit_price": "0.1"},
            {"currency": "CNY"},
            {"image_token_prices": {"image_output": "8"}},
            {"pricing_peak_windows": {"09:00": "0.1"}},
            {"minimum_charge_usd": "NaN"},
        ],
        ids=str,
    )
    def test_unclear_price_is_unknown(self, fields: dict[str, Any]) -> None:
        assert price(*parse_listed(**fields), of=images(1)) is None


def test_model_without_listed_prices_has_unknown_price() -> None:
    offers = parse_prices({"currency": "USD", "data": [{"id": "brand-new", "prices": []}]})
    assert price(*offers, of=images(1)) is None
    assert price(*offers, of=images(1), fallback=Decimal("0.3")) == Decimal("0.3")


def test_extended_video_has_unknown_duration_and_price() -> None:
    extended = VideoRequest(model="grok-video-1.0", prompt="x", operation="extend", video_id="video_1")
    assert price(offer("0.01", "second", "grok-video-1.0"), of=extended) is None
    remixed = VideoRequest(model="sora-2", prompt="x", operation="remix", video_id="video_1", duration=10)
    assert price(offer("0.01", "second", "sora-2"), of=remixed) == Decimal("0.10")


class TestBudget:
    def test_spent_amount_counts_toward_the_budget(self) -> None:
        prices = [Decimal("0.1")] * 3
        require_budget(prices, (), spent=Decimal("0.2"), max_cost_usd=Decimal("0.5"))
        with rejects("max_cost_usd", "0.49") as rejected:
            require_budget(prices, (), spent=Decimal("0.2"), max_cost_usd=Decimal("0.49"))
        for expected in ("3 planned videos", "0.3 USD", "0.2 USD"):
            assert expected in str(rejected.value)

    def test_error_names_five_models_without_a_price(self) -> None:
        with rejects("price_usd", None) as rejected:
            require_budget([None], [f"m{n}" for n in range(7)], spent=Decimal(0), max_cost_usd=Decimal(1))
        assert " m0, m1, m2, m3, m4." in str(rejected.value)


class TestBalance:
    @pytest.mark.parametrize(
        ("left", "unlimited"), [("20", False), (None, False), ("1", True)], ids=["enough", "unknown", "unlimited"]
    )
    def test_sufficient_or_unknown_balance_is_accepted(self, left: str | None, unlimited: bool) -> None:
        require_balance(Decimal("0.1"), balance(left, unlimited=unlimited))

    def test_insufficient_balance_is_rejected(self) -> None:
        with pytest.raises(ToAPIsQuotaError, match=r"0\.11 USD.*0\.10 USD"):
            require_balance(Decimal("0.11"), balance("20"))


def balance(left: str | None, *, unlimited: bool = False) -> Balance:
    return Balance(
        remain_credits=None if left is None else Decimal(left),
        used_credits=None,
        remain_balance=None,
        used_balance=None,
        credits_per_usd=Decimal(200),
        unlimited=unlimited,
    )
