"""The ETag of an image, asked of its host."""

from __future__ import annotations

import pytest

from airflow_provider_toapis.api.error_responses import HttpResponse
from airflow_provider_toapis.api.etag import image_etag
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsServerError

URL = "https://shop.example/shoe.jpg"


@pytest.mark.parametrize("trouble", [HttpResponse(503), HttpResponse(429), ToAPIsConnectionError("reset")])
def test_host_in_trouble_is_asked_twice_more(trouble: HttpResponse | ToAPIsConnectionError) -> None:
    responses = [trouble, trouble, HttpResponse(200, headers={"etag": '"1"'})]
    slept: list[float] = []
    assert image_etag(URL, lambda _: responses.pop(0), slept.append) == '"1"'
    assert slept == [1, 2]


@pytest.mark.parametrize(
    ("trouble", "error"),
    [(HttpResponse(503), ToAPIsServerError), (ToAPIsConnectionError("reset"), ToAPIsConnectionError)],
)
def test_trouble_that_lasts_is_an_error(trouble: HttpResponse | ToAPIsConnectionError, error: type[Exception]) -> None:
    slept: list[float] = []
    with pytest.raises(error):
        image_etag(URL, lambda _: trouble, slept.append)
    assert slept == [1, 2]
