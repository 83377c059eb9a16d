"""The ETag request for an image."""

from __future__ import annotations

import pytest

from airflow_provider_toapis.api.error_responses import HttpResponse
from airflow_provider_toapis.api.etag import image_etag
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsServerError

URL = "https://shop.example/shoe.jpg"


@pytest.mark.parametrize("failure", [HttpResponse(503), HttpResponse(429), ToAPIsConnectionError("reset")])
def test_etag_request_is_retried_twice(failure: HttpResponse | ToAPIsConnectionError) -> None:
    responses = [failure, failure, HttpResponse(200, headers={"etag": '"1"'})]
    slept: list[float] = []
    assert image_etag(URL, lambda _: responses.pop(0), slept.append) == '"1"'
    assert slept == [1, 2]


@pytest.mark.parametrize(
    ("failure", "error"),
    [(HttpResponse(503), ToAPIsServerError), (ToAPIsConnectionError("reset"), ToAPIsConnectionError)],
)
def test_permanent_etag_failure_raises(failure: HttpResponse | ToAPIsConnectionError, error: type[Exception]) -> None:
    slept: list[float] = []
    with pytest.raises(error):
        image_etag(URL, lambda _: failure, slept.append)
    assert slept == [1, 2]
