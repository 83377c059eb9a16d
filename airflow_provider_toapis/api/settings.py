"""Validated client settings, and functions that validate numbers. This module does not import httpx."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_toapis.api.defaults import QUERY_RATE, SUBMIT_RATE
from airflow_provider_toapis.api.responses import parse_decimal
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsRequestError,
)

if TYPE_CHECKING:
    pass

#: Documented base URL. toapis.cn serves the same paths for mainland China.
DEFAULT_BASE_URL = "https://toapis.com"
#: Maximum seconds to connect, and maximum seconds without data. Other clients use 30 too.
DEFAULT_TIMEOUT = 30.0
_PER_SECOND = "requests per second"
_TOO_LARGE = 10**40


def parse_number(field: str, value: object) -> float:
    """Return a value as a float. Strings are accepted, because forms and configuration files contain strings.

    :raises ToAPIsRequestError: The value is not a number.
    """
    try:
        return float(str(value))
    except ValueError:
        raise ToAPIsRequestError.for_field(field, value, "must be a positive number") from None


def require_positive(field: str, value: object, unit: str) -> float:
    """Return ``value`` as a positive, finite number of ``unit``.

    :raises ToAPIsRequestError: The value is not such a number, for example NaN or infinity.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ToAPIsRequestError.for_field(field, value, f"must be a positive number of {unit}")
    return float(value)


def require_seconds(field: str, value: object) -> float:
    """Return ``value`` as a positive, finite number of seconds.

    :raises ToAPIsRequestError: The value is not such a number.
    """
    return require_positive(field, value, "seconds")


def require_whole_number(field: str, value: object) -> int:
    """Return ``value`` as an integer of at least 1.

    :raises ToAPIsRequestError: The value is not such a number.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ToAPIsRequestError.for_field(field, value, "must be an integer of at least 1")
    return value


def require_bool(field: str, value: object) -> bool:
    """Return ``value`` if it is True or False.

    :raises ToAPIsRequestError: The value is something else.
    """
    if not isinstance(value, bool):
        raise ToAPIsRequestError.for_field(field, value, "must be True or False")
    return value


def whole_number(value: object) -> int | None:
    """Return a whole number as an int; None for any other value.

    Floats and Decimals are accepted, because spreadsheets and databases write 10 as ``10.0``. A number of more than 40
    digits is not accepted, because Python cannot convert every such number to a string.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    with suppress(ArithmeticError):  # Decimal("NaN") cannot be compared.
        if -_TOO_LARGE < value < _TOO_LARGE and value == int(value):
            return int(value)
    return None


@dataclass(frozen=True)
class ClientSettings:
    """Base URL, API key and transport settings of one ToAPIs account.

    :param api_key: The API key (``sk-...``). Not part of ``repr``.
    :param base_url: Base URL of the API (default ``https://toapis.com``, documented), with or without scheme and
        ``/v1``.
    :param timeout: Maximum seconds to connect, and maximum seconds without data from the service (default 30).
    :param verify: Whether to verify certificates (default True), or the path of a CA bundle to verify them with.
    :param proxy: URL of a proxy for all requests. Not part of ``repr``, because it can contain a password.
    :param namespace: Separates the idempotency keys of deployments that share an account.
    :param query_rate: Maximum polls per second of one triggerer, or of one worker process (default 40; the
        documented limit is 50 per user).
    :param submit_rate: Maximum submissions per second of one process (default 5, the documented limit per user).
    :param name: Name of the connection in messages, for example ``connection 'toapis_default'``.
    :raises ToAPIsAuthError: The API key is missing or malformed.
    :raises ToAPIsRequestError: The base URL or a number is invalid.
    """

    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    timeout: float = DEFAULT_TIMEOUT
    verify: bool | str = True
    proxy: str | None = field(default=None, repr=False)
    namespace: str = ""
    query_rate: float = QUERY_RATE
    submit_rate: float = SUBMIT_RATE
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.api_key.strip():
            raise ToAPIsAuthError(
                "The API key is missing: set it as the connection's password.", cost="Nothing was submitted."
            )
        if not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ToAPIsAuthError(
                "Invalid API key: must consist of printable ASCII characters, without line breaks. Check the"
                " connection's password.",
                cost="Nothing was submitted.",
            )
        for name, unit in (("timeout", "seconds"), ("query_rate", _PER_SECOND), ("submit_rate", _PER_SECOND)):
            require_positive(name, getattr(self, name), unit)
        object.__setattr__(self, "api_key", self.api_key.strip())
        object.__setattr__(self, "base_url", normalized_base_url(self.base_url))

    @property
    def via(self) -> str:
        """The connection and the host in parentheses, for messages."""
        host = f"host {urlsplit(self.base_url).netloc}"
        return f" ({self.name}, {host})" if self.name else f" ({host})"


def normalized_base_url(address: str) -> str:
    """Return ``scheme://host[:port][/prefix]``, without a trailing ``/`` or ``/v1``. The default scheme is https.

    The paths of the requests contain ``/v1``, so users can enter the address with or without it.

    :raises ToAPIsRequestError: The address is neither a host name nor an http(s) URL.
    """
    text = address.strip() or DEFAULT_BASE_URL
    text = text if "://" in text else f"https://{text}"
    try:
        url = urlsplit(text)
        host = url.hostname or ""
        if host.isascii():
            # Sockets encode the host in the same way, which fails for labels that are empty or longer than 63
            # characters.
            host.encode("idna")
        usable = url.scheme in ("http", "https") and bool(host) and (url.port or 0) >= 0 and "@" not in url.netloc
    except ValueError:
        usable = False
    if not usable or re.search(r"\s", text):
        raise ToAPIsRequestError.for_field("host", text, "must be a host name or an http(s) URL without a user name")
    return f"{url.scheme}://{url.netloc}{url.path.rstrip('/').removesuffix('/v1').rstrip('/')}"


def require_share(field: str, value: object) -> float:
    """Return ``value`` if it is a number of rows (int) or a fraction of all rows (float from 0 to 1).

    :raises ToAPIsRequestError: The value is neither.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (value >= 0 if isinstance(value, int) else 0 <= value <= 1):  # type: ignore[operator]
        raise ToAPIsRequestError.for_field(
            field, value, "must be a number of rows (int) or a fraction of them (float from 0 to 1)"
        )
    return value  # type: ignore[return-value]


def parse_usd(field: str, value: object, *, required: bool) -> Decimal | None:
    """Return an amount in USD. Strings are accepted, because a template can render the amount as a string.

    :param required: Whether the author set the argument. If so, None is an error, because it means that a template was
        rendered to None.
    :raises ToAPIsRequestError: The value is not an amount.
    """
    if value is None and not required:
        return None
    is_number = isinstance(value, str | int | float | Decimal) and not isinstance(value, bool)
    amount = parse_decimal(value.strip() if isinstance(value, str) else value) if is_number else None
    if amount is None or amount < 0:
        raise ToAPIsRequestError.for_field(field, value, "must be an amount in USD, for example 25 or '0.15'")
    return amount
