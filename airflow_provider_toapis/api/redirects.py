"""Reject redirects of a file's host into the private network of the worker."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Any

from airflow_provider_toapis.exceptions import ToAPIsConnectionError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: Prefix through which a network without IPv4 reaches IPv4 addresses. The last 32 bits are the IPv4 address.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def resolve_host(host: str) -> tuple[str, ...]:
    """Return the IP addresses of a host; empty if it cannot be resolved here, for example behind a proxy."""
    try:
        return tuple(str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):
        return ()


def redirects_checked(own_host: str, resolve: Callable[[str], Iterable[str]] = resolve_host) -> Callable[[Any], None]:
    """Return a response hook for an httpx client that rejects redirects to private addresses.

    :param own_host: The service's host. If it is on loopback, as an emulator is, redirects to loopback are allowed.
    :param resolve: Returns the IP addresses of a host.
    :raises ToAPIsConnectionError: Raised by the hook for a redirect to a private address.
    """

    def own_is_loopback() -> bool:
        own = _addresses(own_host, resolve)
        return bool(own) and all(address.is_loopback for address in own)

    def check(response: Any) -> None:  # noqa: ANN401 - this module does not import httpx
        if not response.has_redirect_location:
            return
        host = str(response.url.join(response.headers["location"]).host)
        if host == response.url.host:
            return
        for address in _addresses(host, resolve):
            if not (address.is_global or (address.is_loopback and own_is_loopback())):
                raise ToAPIsConnectionError(
                    f"The host of a file redirects to {host}, which is a private address. The redirect is not followed."
                )

    return check


def _addresses(host: str, resolve: Callable[[str], Iterable[str]]) -> list[_Address]:
    try:
        found: Iterable[str] = (str(ipaddress.ip_address(host)),)
    except ValueError:
        found = resolve(host)
    # A link-local address has its interface after "%".
    return [_mapped(ipaddress.ip_address(address.partition("%")[0])) for address in found]


def _mapped(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 address contains, for example ``::ffff:10.0.0.1``; else the address."""
    if address in _NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return inner or address
