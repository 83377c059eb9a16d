"""Row fingerprints: they depend on what the model receives, not on how the feed spells it."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from airflow_provider_toapis.batch.feed import Row, RowProblem, read_rows
from airflow_provider_toapis.batch.row_request import Defaults, RowRequest, RowRequests

ROW: dict[str, Any] = {
    "key": "a",
    "prompt": "Café\nturns",
    "image": "https://example.com/a.jpg",
    "duration": 10,
    "aspect_ratio": "16:9",
    "parameters": {"note": "Café\nturns", "nested": [{"seed": 7}]},
    "revision": "2",
}


def row_request(**changed: Any) -> RowRequest:
    (found,) = RowRequests(Defaults(model="grok-video-1.5"), None).check_all(read_rows([ROW | changed]))
    assert isinstance(found, RowRequest), found
    return found


def test_fingerprint_of_normalized_text_is_stable() -> None:
    assert row_request().fingerprint == "af4f143354ea6a3b9fd429310af31ebde29140ef5e39bcf90d9b97c61a65bbf1"


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "Café\r\nturns"},
        {"prompt": "Café\rturns"},
        {"prompt": " Café\nturns \n"},
        {"prompt": unicodedata.normalize("NFD", "Café\nturns")},
        {"parameters": {"note": unicodedata.normalize("NFD", " Café\r\nturns"), "nested": [{"seed": 7.0}]}},
        {"duration": 10.0},
        {"duration": "10.0"},
        {"revision": "2.0"},
        {"revision": " 2 "},
        {"revision": 2},
    ],
)
def test_equivalent_spelling_has_the_same_fingerprint(changed: dict[str, Any]) -> None:
    assert row_request(**changed).fingerprint == row_request().fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "Cafe\nturns"},
        {"prompt": "Café\n\nturns"},
        {"prompt": "Café  turns"},
        {"revision": "2.1"},
        {"revision": "20"},
        {"revision": "v2.0"},
        {"parameters": {"note": "Café\nturns", "nested": [{"seed": 7.5}]}},
    ],
)
def test_real_change_has_another_fingerprint(changed: dict[str, Any]) -> None:
    assert row_request(**changed).fingerprint != row_request().fingerprint


def test_trailing_zero_of_a_revision_changes_the_fingerprint() -> None:
    assert row_request(revision="1.10").fingerprint != row_request(revision="1.1").fingerprint


def test_blank_revision_equals_none() -> None:
    assert row_request(revision=" ").fingerprint == row_request(revision=None).fingerprint


def test_request_body_keeps_the_spelling_of_the_feed() -> None:
    prompt = unicodedata.normalize("NFD", " Café\r\nturns ")
    body = row_request(prompt=prompt, parameters={"note": prompt, "seed": 7.0}).request.wire_body(
        ["https://example.com/a.jpg"]
    )
    assert (body["prompt"], body["note"], repr(body["seed"])) == (prompt, prompt, "7.0")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("https://a.example/1.jpg,https://a.example/2.jpg?token=hush", "list"),
        ("https://a.example/1.jpg|https://a.example/2.jpg", "list"),
        ("https://a.example/1.jpg; HTTPS://a.example/2.jpg", "list"),
        ("https://a.example/1.jpg\nhttps://a.example/2.jpg", "list"),
        (" https://a.example/1.jpg", "end with a space"),
        ("https://a.example/1.jpg?token=hush\xa0", "end with a space"),
        ("\ufeffhttps://a.example/1.jpg", "end with a space"),
        ("https://a.example/1 2.jpg?token=hush", "contain spaces"),
        ("//cdn.example/1.jpg?token=hush", "starts with https:"),
        *((f"https://a.example/1.jpg{separator}https://a.example/2.jpg", "list") for separator in "，；、｜"),  # noqa: RUF001
        ("https://a.example/1.jpghttps://a.example/2.jpg", "list"),
        ("https://a.example/1.jpg,//cdn.example/2.jpg", "list"),
        *((f"https://a.example/1{character}.jpg", "control characters") for character in "\0\x7f\u200b\u2060\xad"),
        ("https://a.example/1.jpg\0", "control characters"),
    ],
)
def test_image_that_is_not_one_url_is_reported(image: str, reason: str) -> None:
    row = Row(number=3, key="a", prompt="x", image=image)
    (found,) = RowRequests(Defaults(model="grok-video-1.5"), None).check_all([row])
    assert isinstance(found, RowProblem)
    assert (found.number, found.key) == (3, "a")
    assert reason in found.reason
    assert "hush" not in found.reason


@pytest.mark.parametrize(
    "image",
    [
        "https://res.example/fetch/w_400,h_300/https://a.example/1.jpg",
        "https://a.example/1,2;3|4.jpg?next=https://a.example/2.jpg",
        "https://a.example/鞋，红、1//2.jpg",  # noqa: RUF001
    ],
)
def test_single_url_with_separators_and_urls_is_accepted(image: str) -> None:
    assert row_request(image=image).images


def test_too_deeply_nested_parameters_are_reported_with_the_row() -> None:
    parameters: dict[str, Any] = {}
    for _ in range(900):
        parameters = {"a": parameters}
    (problem,) = RowRequests(Defaults(model="grok-video-1.5"), None).check_all(
        read_rows([ROW | {"parameters": parameters}])
    )
    assert isinstance(problem, RowProblem)
    assert (problem.number, problem.key) == (1, "a")
    assert problem.reason.startswith("Invalid parameters=")
