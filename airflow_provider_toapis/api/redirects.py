"""Where the host of a file may redirect to: not into the network of the worker that follows."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Any

from airflow_provider_toapis.exceptions import ToAPIsConnectionError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: A network without IPv4 reaches IPv4 addresses through it: they are the last 32 bits.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def resolved(host: str) -> tuple[str, ...]:
    """Return the addresses of a host; none where it cannot be resolved here, as behind a proxy."""
    try:
        return tuple(str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):
        return ()


def redirects_checked(own_host: str, resolve: Callable[[str], Iterable[str]] = resolved) -> Callable[[Any], None]:
    """Return a hook for the responses of an HTTP client, which rejects redirects to private addresses.

    :param own_host: The service's. Where it is on loopback itself, as an emulator is, redirects may lead there too.
    :param resolve: Returns the addresses of a host.
    :raises ToAPIsConnectionError: By the hook: a redirect leads to a private address.
    """

    def own_is_loopback() -> bool:
        own = _addresses(own_host, resolve)
        return bool(own) and all(address.is_loopback for address in own)

    def check(response: Any) -> None:  # noqa: ANN401 - httpx is known to one module
        if not response.has_redirect_location:
            return
        host = str(response.url.join(response.headers["location"]).host)
        if host == response.url.host:
            return
        for address in _addresses(host, resolve):
            if not (address.is_global or (address.is_loopback and own_is_loopback())):
                raise ToAPIsConnectionError(f"The host of a file redirects to {host}, which is a private address.")

    return check


def _addresses(host: str, resolve: Callable[[str], Iterable[str]]) -> list[_Address]:
    try:
        found: Iterable[str] = (str(ipaddress.ip_address(host)),)
    except ValueError:
        found = resolve(host)
    # A link-local address names its interface behind "%".
    return [_mapped(ipaddress.ip_address(address.partition("%")[0])) for address in found]


def _mapped(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 address stands for, such as ``::ffff:10.0.0.1``."""
    if address in _NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return inner or address
