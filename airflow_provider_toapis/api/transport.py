"""Sends one request with httpx and reads the response, within total limits of time and size."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import SEEK_END
from typing import Any, BinaryIO

import httpx

from airflow_provider_toapis.api.download import ByteStream
from airflow_provider_toapis.api.error_responses import HttpResponse
from airflow_provider_toapis.api.flows import HttpRequest
from airflow_provider_toapis.api.limits import (
    GET_SECONDS,
    POST_SECONDS,
    SLOWEST_TRANSFER,
    LimitedNetwork,
    ResponseBody,
    fast_enough,
    too_slow,
    within,
)

#: Bytes held in memory at a time.
CHUNK_SIZE = 256 * 1024
_PROXY_AUTHENTICATION_REQUIRED = 407


def limited(http: httpx.Client) -> httpx.Client:
    """Let all connections of a client keep to :func:`~airflow_provider_toapis.api.limits.within`."""
    # httpx has no public place for it. Environment variables may name proxies, which are further transports.
    for transport in (http._transport, *http._mounts.values()):  # noqa: SLF001
        if isinstance(transport, httpx.HTTPTransport):
            pool: Any = transport._pool  # noqa: SLF001
            pool._network_backend = LimitedNetwork(pool._network_backend)  # noqa: SLF001
    return http


def send(http: httpx.Client, request: HttpRequest, via: str) -> HttpResponse:
    """Send a request with a client that is :func:`limited`.

    :param via: The connection and its host, for messages.

    :raises LimitExceededError: The response is too slow or too large. So it is with httpx's own errors.
    """
    if request.file is None:
        seconds = GET_SECONDS if request.method == "GET" else POST_SECONDS
        return _sent(http, request, via, seconds, json=request.json)
    with request.file.open() as content:
        files = {"file": (request.file.name, content, request.file.media_type)}
        return _sent(http, request, via, POST_SECONDS + _size(content) / SLOWEST_TRANSFER, files=files)


async def send_on_loop(http: httpx.AsyncClient, request: HttpRequest, via: str) -> HttpResponse:
    """Send a GET on an event loop. Raises what :func:`send` raises."""
    try:
        async with (
            asyncio.timeout(GET_SECONDS),
            http.stream(request.method, request.path, json=request.json) as response,
        ):
            body = ResponseBody(response.headers)
            async for chunk in response.aiter_raw():
                body.add(chunk)
            return _response(response, body.content(), via)
    except TimeoutError:
        raise too_slow(GET_SECONDS) from None


def head(http: httpx.Client, url: str) -> HttpResponse:
    """Ask for the headers of a URL. Raises what :func:`send` raises."""
    with ExitStack() as stack:
        return _response(_followed(http, http.build_request("HEAD", url), stack))


@contextmanager
def open_stream(http: httpx.Client, url: str, headers: Mapping[str, str]) -> Iterator[ByteStream]:
    """Begin to GET a file; its bytes have no total limit, but must come fast enough."""
    with ExitStack() as stack:
        response = _followed(http, http.build_request("GET", url, headers=headers), stack)
        chunks = fast_enough(response.iter_raw(), CHUNK_SIZE)
        yield ByteStream(response.status_code, _names_in_lower_case(response), chunks)


def _followed(http: httpx.Client, request: httpx.Request, stack: ExitStack) -> httpx.Response:
    """Send a request and follow redirects, whose bodies httpx itself would read and decode without limit."""
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
    """Return host and port; a name or password that somebody put before them stays out of messages."""
    return url.host if url.port is None else f"{url.host}:{url.port}"


def _sent(http: httpx.Client, request: HttpRequest, via: str, seconds: float, **content: Any) -> HttpResponse:  # noqa: ANN401
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
