"""Every part of a listed price is read, or named as not understood."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_toapis.api.pricing import OfferedPrice, parse_prices

PER_SECOND = {"charge_type": "per_second", "price_basis": "output_seconds", "unit": "second", "unit_price": "0.01"}
TOKENS = {"text_input": None, "image_output": "8"}


def listed(*prices: object, currency: object = "USD", **item: Any) -> tuple[OfferedPrice, ...]:
    body = {"object": "list", "data": [{"id": "m", "type": "video", "prices": list(prices), **item}]}
    return parse_prices(body if currency is None else {**body, "currency": currency})


def read(**parts: Any) -> OfferedPrice:
    (offer,) = listed(PER_SECOND | parts)
    return offer


def test_documented_entry_is_read() -> None:
    price = {**PER_SECOND, "group": "default", "conditions": {"resolution": "720p"}}
    assert listed(price) == (
        OfferedPrice(
            model="m",
            group="default",
            charge_type="per_second",
            unit="second",
            unit_price=Decimal("0.01"),
            conditions={"resolution": "720p"},
            price_basis="output_seconds",
        ),
    )


def test_every_part_is_read() -> None:
    offer = read(
        input_unit_price="0.002",
        input_image_unit_price=0.05,
        free_input_image_count=1,
        minimum_charge_usd="0.50",
        image_token_prices={"text_input": None},
        pricing_timezone="Asia/Shanghai",
        pricing_schedule_version=3,
    )
    assert (offer.unit_price, offer.input_unit_price) == (Decimal("0.01"), Decimal("0.002"))
    assert (offer.input_image_unit_price, offer.free_input_image_count) == (Decimal("0.05"), 1)
    assert (offer.minimum_charge_usd, offer.is_understood) == (Decimal("0.50"), True)


@pytest.mark.parametrize(
    "empty",
    [
        {"input_unit_price": None, "minimum_charge_usd": "", "free_input_image_count": None},
        {"image_token_prices": {}, "pricing_peak_windows": [], "pricing_period": ""},
        {"image_token_prices": None, "audio_unit_price": None, "currency": None},
    ],
    ids=",".join,
)
def test_part_without_a_value_is_absent(empty: dict[str, Any]) -> None:
    assert read(**empty) == read()
    assert read().is_understood


@pytest.mark.parametrize("value", ["0", 0, "-0.01", -1, "NaN", float("nan"), "Infinity", True, "free", [], {}, "1e7"])
def test_unit_price_that_is_no_positive_amount_is_unclear(value: object) -> None:
    assert "unit_price" in read(unit_price=value).unclear


@pytest.mark.parametrize("value", ["1e999999", "9e-999999", 10**40], ids=["huge", "tiny", "long"])
def test_number_that_arithmetic_cannot_carry_is_unclear(value: object) -> None:
    assert "unit_price" in read(unit_price=value).unclear


def test_missing_unit_price_is_unclear() -> None:
    (offer,) = listed({"charge_type": "per_request", "minimum_charge_usd": "0.5"})
    assert (offer.unclear, offer.is_understood) == (("unit_price",), False)


@pytest.mark.parametrize("name", ["input_unit_price", "input_image_unit_price", "minimum_charge_usd"])
@pytest.mark.parametrize("value", ["-1", "NaN", float("inf"), False, "much", ["1"], {"usd": "1"}, "1e7"])
def test_further_part_that_is_no_amount_is_unclear(name: str, value: object) -> None:
    assert read(**{name: value}).unclear == (name,)


def test_further_part_may_be_zero() -> None:
    assert read(minimum_charge_usd="0", input_image_unit_price=0).is_understood


@pytest.mark.parametrize("value", [-1, 1.5, "NaN", True, "two", [1]])
def test_count_of_free_images_that_is_no_count_is_unclear(value: object) -> None:
    assert read(free_input_image_count=value).unclear == ("free_input_image_count",)


@pytest.mark.parametrize("name", ["audio_unit_price", "setup_usd", "step_prices", "Extra_Price"])
@pytest.mark.parametrize("value", ["0.1", 0, {"a": "1"}, [1]])
def test_money_under_an_unknown_name_is_unclear(name: str, value: object) -> None:
    assert read(**{name: value}).unclear == (name,)


def test_prices_of_tokens_are_unclear() -> None:
    assert read(image_token_prices=TOKENS).unclear == ("image_token_prices",)


def test_money_beside_the_list_is_unclear() -> None:
    (offer,) = listed(PER_SECOND, minimum_charge_usd="0.5")
    assert offer.unclear == ("minimum_charge_usd",)


@pytest.mark.parametrize("currency", ["CNY", "credits", 7])
def test_other_currency_is_unclear_wherever_it_is_named(currency: object) -> None:
    for (offer,) in (
        listed(PER_SECOND, currency=currency),
        listed({**PER_SECOND, "currency": currency}),
        parse_prices({"data": [{"id": "m", "currency": currency, "prices": [PER_SECOND]}]}),
    ):
        assert offer.unclear == ("currency",)


@pytest.mark.parametrize("currency", ["USD", "usd", None])
def test_usd_is_the_currency(currency: object) -> None:
    (offer,) = listed(PER_SECOND, currency=currency)
    assert offer.is_understood


class TestTimesOfDay:
    def test_dearest_window_counts(self) -> None:
        windows = [
            {"start": "09:00", "end": "12:00", "unit_price": "0.03"},
            {"start": "14:00", "end": "18:00", "unit_price": "0.02", "minimum_charge_usd": "0.4"},
        ]
        offer = read(minimum_charge_usd="0.1", pricing_timezone="UTC", pricing_peak_windows=windows)
        assert (offer.unit_price, offer.minimum_charge_usd) == (Decimal("0.03"), Decimal("0.4"))
        assert offer.is_understood

    def test_entry_for_the_peak_is_the_dearest(self) -> None:
        windows = [{"start": "09:00", "end": "21:00", "days": [1, 2, 3]}, "22:00-23:00"]
        low = {**PER_SECOND, "pricing_period": "off_peak", "pricing_peak_windows": windows}
        peak = {**low, "pricing_period": "peak", "unit_price": "0.02"}
        assert [offer.is_understood for offer in listed(low, peak)] == [True, True]
        assert [offer.pricing_period for offer in listed(low, peak)] == ["off_peak", "peak"]

    @pytest.mark.parametrize(
        "parts",
        [{"pricing_period": "off_peak"}, {"pricing_peak_windows": [{"start": "09:00", "end": "21:00"}]}],
        ids=["off peak", "windows without a price"],
    )
    def test_price_of_the_peak_is_unclear_where_no_entry_has_it(self, parts: dict[str, Any]) -> None:
        assert read(**parts).unclear == ("pricing_period",)
        other = {**PER_SECOND, "pricing_period": "peak", "conditions": {"resolution": "1080p"}}
        assert listed(PER_SECOND | parts, other)[0].unclear == ("pricing_period",)

    @pytest.mark.parametrize(
        "windows",
        [
            {"start": "09:00"},
            "weekdays",
            [{"multiplier": 2}],
            [{"start": "09:00", "end": "21:00", "rate": {"unit_price": "1"}}],
            [["09:00", "21:00"]],
            [{}],
            [None],
            7,
            True,
        ],
        ids=str,
    )
    def test_windows_of_another_shape_are_unclear(self, windows: object) -> None:
        assert "pricing_peak_windows" in read(pricing_peak_windows=windows).unclear

    @pytest.mark.parametrize("value", ["0", "-1", "NaN", None.__class__, [1]])
    def test_price_of_a_window_is_checked_as_well(self, value: object) -> None:
        assert "unit_price" in read(pricing_peak_windows=[{"start": "09:00", "unit_price": value}]).unclear

    @pytest.mark.parametrize("period", [7, ["peak"], {"peak": "0.1"}], ids=str)
    def test_period_of_another_shape_is_unclear(self, period: object) -> None:
        assert "pricing_period" in read(pricing_period=period).unclear


@pytest.mark.parametrize(
    "body", [{}, {"data": None}, {"data": {}}, {"data": [{"id": "m"}]}, {"data": [{"id": "m", "prices": []}]}], ids=str
)
def test_nothing_listed(body: dict[str, Any]) -> None:
    assert parse_prices(body) == ()


@pytest.mark.parametrize("prices", [{"720p": {"unit_price": "0.01"}}, "0.01", 7, ["0.01"]], ids=str)
def test_list_of_another_shape_is_a_price_that_is_not_understood(prices: object) -> None:
    (offer,) = parse_prices({"data": [{"id": "m", "prices": prices}]})
    assert (offer.model, offer.is_understood) == ("m", False)
