"""What a connection must hold, and how its address is read."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_toapis.api.settings import ClientSettings, normalized_base_url
from airflow_provider_toapis.exceptions import ToAPIsAuthError, ToAPIsRequestError
from tests.errors import rejects

KEY = "sk-" + "a1B2" * 12


class TestAddress:
    @pytest.mark.parametrize(
        ("given", "used"),
        [
            ("", "https://toapis.com"),
            ("  ", "https://toapis.com"),
            ("toapis.com", "https://toapis.com"),
            ("toapis.cn", "https://toapis.cn"),
            ("https://toapis.com", "https://toapis.com"),
            ("https://toapis.com/", "https://toapis.com"),
            ("https://toapis.com/v1", "https://toapis.com"),
            ("https://toapis.com/v1/", "https://toapis.com"),
            ("https://toapis.com//v1//", "https://toapis.com"),
            ("toapis.com/v1", "https://toapis.com"),
            (" https://toapis.com ", "https://toapis.com"),
            ("HTTPS://toapis.com", "https://toapis.com"),
            ("http://127.0.0.1:8790", "http://127.0.0.1:8790"),
            ("http://localhost:8790/v1", "http://localhost:8790"),
            ("localhost:8790", "https://localhost:8790"),
            ("http://[::1]:8790/v1", "http://[::1]:8790"),
            ("https://gateway.example/toapis/v1/", "https://gateway.example/toapis"),
            ("https://gateway.example/av1", "https://gateway.example/av1"),
        ],
    )
    def test_forms_that_people_write(self, given: str, used: str) -> None:
        assert normalized_base_url(given) == used
        assert ClientSettings(api_key=KEY, base_url=given).base_url == used

    @pytest.mark.parametrize(
        "given",
        [
            "ftp://toapis.com",
            "https://",
            "https:///v1",
            "https://toapis.com:port",
            "https://toapis.com:99999",
            "https://[::1",
            "https://user@toapis.com",
            "https://user:word@toapis.com",
            "https://:word@toapis.com",
            "two words",
            "https://toapis.com\n.evil.example",
            "https://toapis..com",
            "https://.",
            f"https://{'a' * 64}.com",
        ],
    )
    def test_address_that_cannot_be_used_is_refused_by_name(self, given: str) -> None:
        with rejects("host"):
            normalized_base_url(given)

    @pytest.mark.parametrize("given", ["https://user:word@toapis.com", "user:word@toapis.com"])
    def test_refusal_does_not_show_a_password(self, given: str) -> None:
        with pytest.raises(ToAPIsRequestError) as refused:
            normalized_base_url(given)
        assert "word" not in str(refused.value)


class TestKey:
    @pytest.mark.parametrize("key", ["", "  ", "\n"])
    def test_missing_key_is_refused_with_the_place_to_put_it(self, key: str) -> None:
        with pytest.raises(ToAPIsAuthError, match="password"):
            ClientSettings(api_key=key)

    def test_blanks_around_the_key_are_dropped(self) -> None:
        assert ClientSettings(api_key=f" {KEY} ").api_key == KEY

    @pytest.mark.parametrize(
        "key", [f"{KEY[:9]}\n{KEY[9:]}", f"{KEY}\r\nX-Header: 1", "sk-\u043a\u043b\u044e\u0447", "sk-\x00"]
    )
    def test_key_that_no_header_can_hold_is_refused_and_not_shown(self, key: str) -> None:
        with pytest.raises(ToAPIsAuthError) as refused:
            ClientSettings(api_key=key)
        assert key not in str(refused.value)
        assert KEY[3:] not in str(refused.value)

    def test_repr_shows_neither_key_nor_proxy(self) -> None:
        shown = repr(ClientSettings(api_key=KEY, proxy="http://me:word@proxy:3128"))
        assert KEY not in shown
        assert "word" not in shown


class TestNumbers:
    def test_defaults_are_what_the_vendor_allows_or_less(self) -> None:
        settings = ClientSettings(api_key=KEY)
        assert (settings.timeout, settings.query_rate, settings.submit_rate) == (30, 40, 5)

    @pytest.mark.parametrize(
        ("field", "unit"),
        [("timeout", "seconds"), ("query_rate", "requests per second"), ("submit_rate", "requests per second")],
    )
    @pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
    def test_number_that_is_not_positive_is_refused_by_name(self, field: str, unit: str, value: Any) -> None:
        with rejects(field, value) as rejected:
            replace(ClientSettings(api_key=KEY), **{field: value})
        assert unit in str(rejected.value)
