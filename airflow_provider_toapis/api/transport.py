"""Send one request with httpx and read the response, within total limits of time and size."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from io import SEEK_END
from typing import Any, BinaryIO, cast

import httpx

from airflow_provider_toapis.api.download import ByteStream
from airflow_provider_toapis.api.error_responses import HttpResponse
from airflow_provider_toapis.api.flows import HttpRequest
from airflow_provider_toapis.api.limits import (
    GET_SECONDS,
    MIN_TRANSFER_RATE,
    POST_SECONDS,
    LimitedNetwork,
    ResponseBody,
    fast_enough,
    too_slow,
    within,
)
from airflow_provider_toapis.exceptions import ToAPIsConnectionError

#: Bytes of one chunk of a file transfer.
CHUNK_SIZE = 256 * 1024
#: Maximum number of parsed URLs, one for each waiting video.
CACHED_URLS = 10_000
_PROXY_AUTHENTICATION_REQUIRED = 407
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: Prefix through which a network without IPv4 reaches IPv4 addresses. The last 32 bits are the IPv4 address.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def limited(http: httpx.Client) -> httpx.Client:
    """Make all connections of a client enforce the limit of :func:`~airflow_provider_toapis.api.limits.within`."""
    # httpx has no public API for this. Each proxy from an environment variable has its own transport.
    for transport in (http._transport, *http._mounts.values()):  # noqa: SLF001
        if isinstance(transport, httpx.HTTPTransport):
            pool: Any = transport._pool  # noqa: SLF001
            pool._network_backend = LimitedNetwork(pool._network_backend)  # noqa: SLF001
    return http


def send(http: httpx.Client, request: HttpRequest, via: str) -> HttpResponse:
    """Send a request. The client must be :func:`limited`.

    :param via: The connection and its host in parentheses, for messages.
    :raises LimitExceededError: The response is too slow, too large or unreadable.
    :raises httpx.HTTPError: The request failed.
    """
    if request.file is None:
        seconds = GET_SECONDS if request.method == "GET" else POST_SECONDS
        return _send(http, request, via, seconds, json=request.json)
    with request.file.open() as content:
        files = {"file": (request.file.name, content, request.file.media_type)}
        return _send(http, request, via, POST_SECONDS + _size(content) / MIN_TRANSFER_RATE, files=files)


class LoopTransport:
    """Sends GETs on an event loop, through the transport of an httpx client.

    The client would prepare each request again: URL, headers, authentication, cookies and redirects. That takes a
    quarter of the CPU time of a poll. Here, a request differs from the next one only in its URL.

    :param http: The client. Its owner closes it.
    :param via: The connection and its host in parentheses, for messages.
    """

    def __init__(self, http: httpx.AsyncClient, via: str) -> None:
        self._via = via
        self._template = http.build_request("GET", "")
        if http.auth is not None:
            next(http.auth.auth_flow(self._template))
        self._base_url = str(self._template.url).rstrip("/")
        # httpx has no public API for this. A proxy from an environment variable has its own transport.
        self._transport = http._transport_for_url(self._template.url)  # noqa: SLF001

    async def send(self, request: HttpRequest) -> HttpResponse:
        """Send a GET. The errors are those of :func:`send`."""
        try:
            async with asyncio.timeout(GET_SECONDS):
                return await self._send(self._prepared(request))
        except TimeoutError:
            raise too_slow(GET_SECONDS) from None

    def _prepared(self, request: HttpRequest) -> httpx.Request:
        template = self._template
        return httpx.Request(
            request.method,
            _parsed(f"{self._base_url}{request.path}"),
            headers=template.headers,
            stream=template.stream,
            extensions=template.extensions,
        )

    async def _send(self, request: httpx.Request) -> HttpResponse:
        response = await self._transport.handle_async_request(request)
        response.request = request
        try:
            body = ResponseBody(response.headers)
            async for chunk in cast("httpx.AsyncByteStream", response.stream):
                body.add(chunk)
        finally:
            await response.aclose()
        return _response(response, body.content(), self._via)


@lru_cache(maxsize=CACHED_URLS)
def _parsed(url: str) -> httpx.URL:
    """Parse a URL. Cached, because each video is polled several times, and parsing takes a tenth of a poll."""
    return httpx.URL(url)


def head(http: httpx.Client, url: str) -> HttpResponse:
    """Send a HEAD request and follow redirects. The errors are those of :func:`send`."""
    with ExitStack() as stack:
        return _response(_send_following_redirects(http, http.build_request("HEAD", url), stack))


@contextmanager
def open_stream(http: httpx.Client, url: str, headers: Mapping[str, str]) -> Iterator[ByteStream]:
    """Start a GET of a file. The total size and time are not limited, but the bytes must arrive fast enough."""
    with ExitStack() as stack:
        response = _send_following_redirects(http, http.build_request("GET", url, headers=headers), stack)
        chunks = fast_enough(response.iter_raw(), CHUNK_SIZE)
        yield ByteStream(response.status_code, _names_in_lower_case(response), chunks)


def _send_following_redirects(http: httpx.Client, request: httpx.Request, stack: ExitStack) -> httpx.Response:
    """Send a request and follow redirects. httpx itself would read and decode the bodies of redirects without limit."""
    with within(GET_SECONDS):
        for _ in range(http.max_redirects + 1):
            response = http.send(request, stream=True, follow_redirects=False)
            if response.next_request is None:
                stack.callback(response.close)
                return response
            response.close()
            request = response.next_request
    raise httpx.TooManyRedirects("Exceeded maximum allowed redirects.", request=request)


def host_of(url: httpx.URL) -> str:
    """Return host and port without a user name or password, for messages."""
    return url.host if url.port is None else f"{url.host}:{url.port}"


def _send(http: httpx.Client, request: HttpRequest, via: str, seconds: float, **content: Any) -> HttpResponse:  # noqa: ANN401
    with within(seconds), http.stream(request.method, request.path, **content) as response:
        body = ResponseBody(response.headers)
        for chunk in response.iter_raw():
            body.add(chunk)
        return _response(response, body.content(), via)


def _response(response: httpx.Response, body: bytes = b"", via: str = "") -> HttpResponse:
    if response.status_code == _PROXY_AUTHENTICATION_REQUIRED:
        raise httpx.ProxyError("407")
    url = response.request.url
    return HttpResponse(
        status_code=response.status_code,
        headers=_names_in_lower_case(response),
        body=body,
        base_url=f"{url.scheme}://{host_of(url)}",
        via=via,
    )


def _names_in_lower_case(response: httpx.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _size(content: BinaryIO) -> int:
    size = content.seek(0, SEEK_END)
    content.seek(0)
    return size


def resolve_host(host: str) -> tuple[str, ...]:
    """Return the IP addresses of a host; empty if this machine cannot resolve it, for example behind a proxy."""
    try:
        return tuple(str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):
        return ()


def redirects_checked(own_host: str, resolve: Callable[[str], Iterable[str]] = resolve_host) -> Callable[[Any], None]:
    """Return a response hook for an httpx client that rejects redirects to private addresses.

    :param own_host: The service's host. If it is on loopback, as an emulator is, redirects to loopback are allowed.
    :param resolve: Returns the IP addresses of a host.
    :raises ToAPIsConnectionError: The hook raises this error for a redirect to a private address.
    """

    def own_is_loopback() -> bool:
        own = _addresses(own_host, resolve)
        return bool(own) and all(address.is_loopback for address in own)

    def check(response: Any) -> None:  # noqa: ANN401
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
    # A link-local address can end with "%" and the name of its interface.
    return [_mapped(ipaddress.ip_address(address.partition("%")[0])) for address in found]


def _mapped(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 address contains, for example 10.0.0.1 for ``::ffff:10.0.0.1``.

    Return any other address unchanged.
    """
    if address in _NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return inner or address
