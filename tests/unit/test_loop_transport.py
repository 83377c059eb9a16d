"""Polls on an event loop: what is sent, and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from airflow_provider_toapis.api.client import poll_limits
from airflow_provider_toapis.api.connecting import api_options, http_options
from airflow_provider_toapis.api.error_responses import HttpResponse
from airflow_provider_toapis.api.flows import status_request
from airflow_provider_toapis.api.limits import MAX_RESPONSE_BYTES, LimitExceededError
from airflow_provider_toapis.api.poll_schedule import MAX_INTERVAL
from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.api.transport import LoopTransport

KEY = "sk-unit-0123456789"
REQUEST = status_request("video 1/ä")

Respond = Callable[[httpx.Request], httpx.Response]


def polled(respond: Respond, base_url: str = "https://api.example/prefix", count: int = 1) -> list[HttpResponse]:
    """Send a number of polls and return the responses."""
    settings = ClientSettings(api_key=KEY, base_url=base_url)

    async def send() -> list[HttpResponse]:
        options = http_options(settings) | dict(api_options(settings))
        async with httpx.AsyncClient(transport=httpx.MockTransport(respond), **options) as http:
            transport = LoopTransport(http, " (connection 'toapis_default')")
            return [await transport.send(REQUEST) for _ in range(count)]

    return asyncio.run(send())


def test_poll_equals_the_request_of_an_httpx_client() -> None:
    sent: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={})

    polled(respond)
    settings = ClientSettings(api_key=KEY, base_url="https://api.example/prefix")
    options = http_options(settings) | dict(api_options(settings))
    with httpx.Client(transport=httpx.MockTransport(respond), **options) as http:
        http.get(REQUEST.path)
    poll, reference = sent
    assert poll.method == reference.method == "GET"
    assert poll.url == reference.url
    assert sorted(poll.headers.raw) == sorted(reference.headers.raw)
    assert poll.headers["Authorization"] == f"Bearer {KEY}"
    assert poll.extensions["timeout"] == reference.extensions["timeout"]


def test_cookies_are_not_sent_back_and_redirects_are_not_followed() -> None:
    sent: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(302, headers={"Set-Cookie": "a=b", "Location": "https://other.example"})

    assert [response.status_code for response in polled(respond, count=2)] == [302, 302]
    assert [request.headers.get("Cookie") for request in sent] == [None, None]


def test_response_has_headers_in_lower_case_and_the_connection() -> None:
    (response,) = polled(lambda _: httpx.Response(200, headers={"X-RateLimit-Remaining": "7"}, content=b"{}"))
    assert response.headers["x-ratelimit-remaining"] == "7"
    assert (response.body, response.via) == (b"{}", " (connection 'toapis_default')")


@pytest.mark.parametrize(("query_rate", "kept_open"), [(40, 20), (0.5, 1), (1000, 100)])
def test_idle_connections_are_few_and_outlast_the_longest_poll_interval(query_rate: float, kept_open: int) -> None:
    limits = poll_limits(query_rate)
    assert limits.max_connections == 100
    assert limits.max_keepalive_connections == kept_open
    assert limits.keepalive_expiry is not None
    assert MAX_INTERVAL < limits.keepalive_expiry < 240


def test_status_407_is_a_proxy_error() -> None:
    with pytest.raises(httpx.ProxyError, match="407"):
        polled(lambda _: httpx.Response(407))


def test_large_response_is_closed_and_rejected() -> None:
    responses: list[httpx.Response] = []

    def respond(_: httpx.Request) -> httpx.Response:
        responses.append(httpx.Response(200, content=bytes(MAX_RESPONSE_BYTES + 1)))
        return responses[-1]

    with pytest.raises(LimitExceededError, match="8 MiB"):
        polled(respond)
    assert responses[0].is_closed
