"""How to reach the service: one validated value object, free of httpx."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from urllib.parse import urlsplit

from airflow_provider_toapis.api.defaults import QUERY_RATE, SUBMIT_RATE
from airflow_provider_toapis.exceptions import ToAPIsAuthError, ToAPIsRequestError

__all__ = ["ClientSettings"]

#: Documented base; toapis.cn serves the same paths for mainland China.
DEFAULT_BASE_URL = "https://toapis.com"
#: Seconds for one request without file content. Clients in the field use 30.
DEFAULT_TIMEOUT = 30.0
_PER_SECOND = "requests per second"
_TOO_LARGE = 10**40


def parse_number(field: str, value: object) -> float:
    """Return a number that may be given as text, as forms and configuration files do.

    :raises ToAPIsRequestError: It is none.
    """
    try:
        return float(str(value))
    except ValueError:
        raise ToAPIsRequestError.for_field(field, value, "must be a positive number") from None


def require_positive(field: str, value: object, unit: str) -> float:
    """Return ``value`` as a positive, finite number of ``unit``.

    :raises ToAPIsRequestError: It is not one. NaN would make every comparison with it false.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ToAPIsRequestError.for_field(field, value, f"must be a positive number of {unit}")
    return float(value)


def require_seconds(field: str, value: object) -> float:
    """Return ``value`` as a positive, finite number of seconds.

    :raises ToAPIsRequestError: It is not one.
    """
    return require_positive(field, value, "seconds")


def require_whole_number(field: str, value: object) -> int:
    """Return ``value`` as a whole number from 1 on.

    :raises ToAPIsRequestError: It is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ToAPIsRequestError.for_field(field, value, "must be an integer of at least 1")
    return value


def whole_number(value: object) -> int | None:
    """Return a number as int where it is whole: spreadsheets and databases write 10 as ``10.0``. Otherwise None.

    None as well for a number of more than 40 digits: Python neither computes nor writes every one of these.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    with suppress(ArithmeticError):  # Decimal("NaN") cannot be compared.
        if -_TOO_LARGE < value < _TOO_LARGE and value == int(value):
            return int(value)
    return None


@dataclass(frozen=True)
class ClientSettings:
    """Address, key and transport of one ToAPIs account.

    :param api_key: The account's key (``sk-...``). Never shown by ``repr``.
    :param base_url: Origin of the API (default ``https://toapis.com``, documented), with or without scheme and ``/v1``.
    :param timeout: Seconds that one request may take to connect, and then between bytes (default 30).
    :param verify: False switches certificate checks off; a path names a CA bundle.
    :param proxy: URL of a proxy for all requests. Never shown by ``repr``: it may hold a password.
    :param namespace: Keeps the identities of deployments apart that share an account.
    :param query_rate: Polls per second that one triggerer, or one worker process, may send (default 40, of the
        documented 50 per user).
    :param submit_rate: Orders per second that one process may send (default 5, as documented per user).
    :param name: What messages call it, for example ``connection 'toapis_default'``.
    :raises ToAPIsAuthError: No key.
    :raises ToAPIsRequestError: An address or a number that cannot be used.
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
            raise ToAPIsAuthError("No API key: put it into the connection's password. Nothing was sent.")
        if not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ToAPIsAuthError("The API key holds characters that no key has (a line break?). Nothing was sent.")
        for name, unit in (("timeout", "seconds"), ("query_rate", _PER_SECOND), ("submit_rate", _PER_SECOND)):
            require_positive(name, getattr(self, name), unit)
        object.__setattr__(self, "api_key", self.api_key.strip())
        object.__setattr__(self, "base_url", normalized_base_url(self.base_url))

    @property
    def via(self) -> str:
        """The connection and the host, as messages name them in brackets."""
        host = f"host {urlsplit(self.base_url).netloc}"
        return f" ({self.name}, {host})" if self.name else f" ({host})"


def normalized_base_url(address: str) -> str:
    """Return ``scheme://host[:port][/prefix]``: https where no scheme is given, without a trailing ``/`` or ``/v1``.

    A doubled ``/v1`` or a missing one are the two mistakes that clients make with this API; both are mended here.

    :raises ToAPIsRequestError: Not an http(s) address.
    """
    text = address.strip() or DEFAULT_BASE_URL
    text = text if "://" in text else f"https://{text}"
    try:
        url = urlsplit(text)
        host = url.hostname or ""
        if host.isascii():
            # As a socket does: no label may be empty or longer than 63 characters.
            host.encode("idna")
        usable = url.scheme in ("http", "https") and bool(host) and (url.port or 0) >= 0 and "@" not in url.netloc
    except ValueError:
        usable = False
    if not usable or re.search(r"\s", text):
        raise ToAPIsRequestError.for_field("host", text, "must be a host name or an http(s) URL without a user name")
    return f"{url.scheme}://{url.netloc}{url.path.rstrip('/').removesuffix('/v1').rstrip('/')}"
