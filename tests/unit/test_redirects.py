"""A file host must not redirect into the worker's private network."""

from __future__ import annotations

import httpx
import pytest

from airflow_provider_toapis.api.transport import redirects_checked
from airflow_provider_toapis.exceptions import ToAPIsConnectionError

ADDRESSES = {
    "toapis.com": ("93.184.216.34",),
    "cdn.example": ("93.184.216.34", "2606:2800:220:1::1"),
    "inside.example": ("93.184.216.34", "10.0.0.7"),
    "localhost": ("127.0.0.1", "::1"),
}


def follow(location: str, *, own_host: str = "toapis.com", url: str = "https://files.example/v.mp4") -> None:
    redirect = httpx.Response(302, headers={"location": location}, request=httpx.Request("GET", url))
    redirects_checked(own_host, lambda host: ADDRESSES.get(host, ()))(redirect)


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/v.mp4",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://127.0.0.1:8080/",
        "http://localhost/",
        "http://0.0.0.0/",
        "http://[::1]/",
        "http://[fd00::1]/",
        "http://[fe80::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::10.0.0.1]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://inside.example/",
        "//10.0.0.1/v.mp4",
    ],
)
def test_redirect_to_private_address_is_rejected(location: str) -> None:
    with pytest.raises(ToAPIsConnectionError, match="private address"):
        follow(location)


@pytest.mark.parametrize(
    "location",
    [
        "https://cdn.example/v.mp4?signature=x",
        "https://1.1.1.1/",
        "https://[64:ff9b::1.1.1.1]/",
        "/elsewhere.mp4",
        "https://unknown.example/",
    ],
)
def test_redirect_to_public_or_same_host_is_followed(location: str) -> None:
    follow(location)


@pytest.mark.parametrize("own_host", ["127.0.0.1", "localhost", "::1"])
def test_redirect_to_loopback_is_followed_if_the_service_is_on_loopback(own_host: str) -> None:
    follow("http://127.0.0.1:8080/v.mp4", own_host=own_host)
    with pytest.raises(ToAPIsConnectionError):
        follow("http://10.0.0.1/", own_host=own_host)


def test_response_without_redirect_is_accepted() -> None:
    redirects_checked("toapis.com")(httpx.Response(200, request=httpx.Request("GET", "https://files.example/")))
