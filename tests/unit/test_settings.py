"""Client settings: base URL, API key and numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_toapis.api.settings import ClientSettings, normalized_base_url
from airflow_provider_toapis.exceptions import ToAPIsAuthError, ToAPIsRequestError
from tests.errors import rejects

KEY = "sk-" + "a1B2" * 12


class TestBaseUrl:
    @pytest.mark.parametrize(
        ("given", "normalized"),
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
    def test_host_is_normalized(self, given: str, normalized: str) -> None:
        assert normalized_base_url(given) == normalized
        assert ClientSettings(api_key=KEY, base_url=given).base_url == normalized

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
    def test_invalid_host_is_rejected_by_name(self, given: str) -> None:
        with rejects("host"):
            normalized_base_url(given)

    @pytest.mark.parametrize("given", ["https://user:word@toapis.com", "user:word@toapis.com"])
    def test_rejection_does_not_show_a_password(self, given: str) -> None:
        with pytest.raises(ToAPIsRequestError) as rejected:
            normalized_base_url(given)
        assert "word" not in str(rejected.value)


class TestKey:
    @pytest.mark.parametrize("key", ["", "  ", "\n"])
    def test_missing_key_is_rejected_with_the_field_to_set(self, key: str) -> None:
        with pytest.raises(ToAPIsAuthError, match="password"):
            ClientSettings(api_key=key)

    def test_whitespace_around_the_key_is_removed(self) -> None:
        assert ClientSettings(api_key=f" {KEY} ").api_key == KEY

    @pytest.mark.parametrize(
        "key", [f"{KEY[:9]}\n{KEY[9:]}", f"{KEY}\r\nX-Header: 1", "sk-\u043a\u043b\u044e\u0447", "sk-\x00"]
    )
    def test_key_that_is_invalid_in_a_header_is_rejected_and_not_shown(self, key: str) -> None:
        with pytest.raises(ToAPIsAuthError) as rejected:
            ClientSettings(api_key=key)
        assert key not in str(rejected.value)
        assert KEY[3:] not in str(rejected.value)

    def test_repr_shows_neither_key_nor_proxy(self) -> None:
        shown = repr(ClientSettings(api_key=KEY, proxy="http://me:word@proxy:3128"))
        assert KEY not in shown
        assert "word" not in shown


class TestNumbers:
    def test_defaults_are_within_the_limits_of_the_service(self) -> None:
        settings = ClientSettings(api_key=KEY)
        assert (settings.timeout, settings.query_rate, settings.submit_rate) == (30, 40, 5)

    @pytest.mark.parametrize(
        ("field", "unit"),
        [("timeout", "seconds"), ("query_rate", "requests per second"), ("submit_rate", "requests per second")],
    )
    @pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
    def test_non_positive_number_is_rejected_by_name(self, field: str, unit: str, value: Any) -> None:
        with rejects(field, value) as rejected:
            replace(ClientSettings(api_key=KEY), **{field: value})
        assert unit in str(rejected.value)
