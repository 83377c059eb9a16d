"""Parsing of the price list: each field is parsed or reported as unclear."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_toapis.api.pricing import OfferedPrice, parse_prices

PER_SECOND = {"charge_type": "per_second", "price_basis": "output_seconds", "unit": "second", "unit_price": "0.01"}
TOKENS = {"text_input": None, "image_output": "8"}


def parse_listed(*prices: object, currency: object = "USD", **item: Any) -> tuple[OfferedPrice, ...]:
    body = {"object": "list", "data": [{"id": "m", "type": "video", "prices": list(prices), **item}]}
    return parse_prices(body if currency is None else {**body, "currency": currency})


def parse_one(**fields: Any) -> OfferedPrice:
    (offer,) = parse_listed(PER_SECOND | fields)
    return offer


def test_documented_entry_is_parsed() -> None:
    price = {**PER_SECOND, "group": "default", "conditions": {"resolution": "720p"}}
    assert parse_listed(price) == (
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


def test_every_field_is_parsed() -> None:
    offer = parse_one(
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
def test_empty_field_is_ignored(empty: dict[str, Any]) -> None:
    assert parse_one(**empty) == parse_one()
    assert parse_one().is_understood


@pytest.mark.parametrize("value", ["0", 0, "-0.01", -1, "NaN", float("nan"), "Infinity", True, "free", [], {}, "1e7"])
def test_invalid_unit_price_is_unclear(value: object) -> None:
    assert "unit_price" in parse_one(unit_price=value).unclear


@pytest.mark.parametrize("value", ["1e999999", "9e-999999", 10**40], ids=["huge", "tiny", "long"])
def test_too_large_or_small_number_is_unclear(value: object) -> None:
    assert "unit_price" in parse_one(unit_price=value).unclear


def test_missing_unit_price_is_unclear() -> None:
    (offer,) = parse_listed({"charge_type": "per_request", "minimum_charge_usd": "0.5"})
    assert (offer.unclear, offer.is_understood) == (("unit_price",), False)


@pytest.mark.parametrize("name", ["input_unit_price", "input_image_unit_price", "minimum_charge_usd"])
@pytest.mark.parametrize("value", ["-1", "NaN", float("inf"), False, "much", ["1"], {"usd": "1"}, "1e7"])
def test_invalid_further_amount_is_unclear(name: str, value: object) -> None:
    assert parse_one(**{name: value}).unclear == (name,)


def test_further_amount_can_be_zero() -> None:
    assert parse_one(minimum_charge_usd="0", input_image_unit_price=0).is_understood


@pytest.mark.parametrize("value", [-1, 1.5, "NaN", True, "two", [1]])
def test_invalid_free_image_count_is_unclear(value: object) -> None:
    assert parse_one(free_input_image_count=value).unclear == ("free_input_image_count",)


@pytest.mark.parametrize("name", ["audio_unit_price", "setup_usd", "step_prices", "Extra_Price"])
@pytest.mark.parametrize("value", ["0.1", 0, {"a": "1"}, [1]])
def test_unknown_price_field_is_unclear(name: str, value: object) -> None:
    assert parse_one(**{name: value}).unclear == (name,)


def test_token_prices_are_unclear() -> None:
    assert parse_one(image_token_prices=TOKENS).unclear == ("image_token_prices",)


def test_price_field_next_to_the_list_is_unclear() -> None:
    (offer,) = parse_listed(PER_SECOND, minimum_charge_usd="0.5")
    assert offer.unclear == ("minimum_charge_usd",)


@pytest.mark.parametrize("currency", ["CNY", "credits", 7])
def test_other_currency_is_unclear_at_every_level(currency: object) -> None:
    for (offer,) in (
        parse_listed(PER_SECOND, currency=currency),
        parse_listed({**PER_SECOND, "currency": currency}),
        parse_prices({"data": [{"id": "m", "currency": currency, "prices": [PER_SECOND]}]}),
    ):
        assert offer.unclear == ("currency",)


@pytest.mark.parametrize("currency", ["USD", "usd", None])
def test_usd_is_understood(currency: object) -> None:
    (offer,) = parse_listed(PER_SECOND, currency=currency)
    assert offer.is_understood


class TestTimesOfDay:
    def test_most_expensive_window_is_used(self) -> None:
        windows = [
            {"start": "09:00", "end": "12:00", "unit_price": "0.03"},
            {"start": "14:00", "end": "18:00", "unit_price": "0.02", "minimum_charge_usd": "0.4"},
        ]
        offer = parse_one(minimum_charge_usd="0.1", pricing_timezone="UTC", pricing_peak_windows=windows)
        assert (offer.unit_price, offer.minimum_charge_usd) == (Decimal("0.03"), Decimal("0.4"))
        assert offer.is_understood

    def test_peak_and_off_peak_entries_are_understood(self) -> None:
        windows = [{"start": "09:00", "end": "21:00", "days": [1, 2, 3]}, "22:00-23:00"]
        off_peak = {**PER_SECOND, "pricing_period": "off_peak", "pricing_peak_windows": windows}
        peak = {**off_peak, "pricing_period": "peak", "unit_price": "0.02"}
        assert [offer.is_understood for offer in parse_listed(off_peak, peak)] == [True, True]
        assert [offer.pricing_period for offer in parse_listed(off_peak, peak)] == ["off_peak", "peak"]

    @pytest.mark.parametrize(
        "fields",
        [{"pricing_period": "off_peak"}, {"pricing_peak_windows": [{"start": "09:00", "end": "21:00"}]}],
        ids=["off peak", "windows without a price"],
    )
    def test_off_peak_price_without_a_peak_entry_is_unclear(self, fields: dict[str, Any]) -> None:
        assert parse_one(**fields).unclear == ("pricing_period",)
        other = {**PER_SECOND, "pricing_period": "peak", "conditions": {"resolution": "1080p"}}
        assert parse_listed(PER_SECOND | fields, other)[0].unclear == ("pricing_period",)

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
    def test_malformed_windows_are_unclear(self, windows: object) -> None:
        assert "pricing_peak_windows" in parse_one(pricing_peak_windows=windows).unclear

    @pytest.mark.parametrize("value", ["0", "-1", "NaN", None.__class__, [1]])
    def test_invalid_window_price_is_unclear(self, value: object) -> None:
        assert "unit_price" in parse_one(pricing_peak_windows=[{"start": "09:00", "unit_price": value}]).unclear

    @pytest.mark.parametrize("period", [7, ["peak"], {"peak": "0.1"}], ids=str)
    def test_malformed_period_is_unclear(self, period: object) -> None:
        assert "pricing_period" in parse_one(pricing_period=period).unclear


@pytest.mark.parametrize(
    "body", [{}, {"data": None}, {"data": {}}, {"data": [{"id": "m"}]}, {"data": [{"id": "m", "prices": []}]}], ids=str
)
def test_list_without_prices_is_empty(body: dict[str, Any]) -> None:
    assert parse_prices(body) == ()


@pytest.mark.parametrize("prices", [{"720p": {"unit_price": "0.01"}}, "0.01", 7, ["0.01"]], ids=str)
def test_malformed_price_list_is_not_understood(prices: object) -> None:
    (offer,) = parse_prices({"data": [{"id": "m", "prices": prices}]})
    assert (offer.model, offer.is_understood) == ("m", False)
