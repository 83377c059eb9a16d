"""Texts that cannot be meant are rejected by field, and quoted as little as possible."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_toapis.api.texts import emptied, require_encodable, require_path, require_text
from tests.errors import rejects

HALF = "\ud83d"


class TestText:
    @pytest.mark.parametrize("value", ["None", " None ", ["a.jpg", "None"], ("None",)])
    def test_text_none_is_rejected(self, value: object) -> None:
        with rejects("image", "None"):
            require_text("image", value)

    @pytest.mark.parametrize("value", [None, "", "none", "None of these shoes", 5, [], ["a.jpg"], "\U0001f45f"])
    def test_other_values_pass(self, value: object) -> None:
        require_text("prompt", value)


class TestEncodable:
    @pytest.mark.parametrize(
        ("value", "where"),
        [
            (f"A secret shoe {HALF}", "prompt"),
            ([f"A secret shoe {HALF}"], "prompt"),
            ({"a": [{"b": f"A secret shoe {HALF}"}]}, "prompt.a.b"),
            ({f"b{HALF}": 1}, r"prompt.b\ud83d"),
        ],
    )
    def test_half_of_a_surrogate_pair_is_named_and_the_text_is_not_quoted(self, value: object, where: str) -> None:
        with rejects(where, HALF) as rejected:
            require_encodable("prompt", value)
        message = str(rejected.value)
        assert "secret" not in message
        message.encode()

    def test_its_place_is_told(self) -> None:
        with rejects("prompt", HALF) as rejected:
            require_encodable("prompt", f"abc{HALF}")
        assert " 4 " in str(rejected.value)

    def test_whole_pairs_pass(self) -> None:
        require_encodable("prompt", {"a": "\U0001f45f", "b": [1, None, True]})

    def test_endless_nesting_is_rejected(self) -> None:
        endless: list[Any] = []
        endless.append(endless)
        with rejects("parameters"):
            require_encodable("parameters", endless)


class TestPath:
    @pytest.mark.parametrize("path", ["./None/", "None", "s3://bucket/None/a.mp4", "/v/None.mp4", f"/v/{HALF}/"])
    def test_segment_that_cannot_be_meant_is_rejected(self, path: str) -> None:
        with rejects("output_path"):
            require_path("output_path", path)

    @pytest.mark.parametrize("path", [None, "", "/v/Nonesuch/", "/v/a-None.mp4", "s3://none/a.None"])
    def test_other_paths_pass(self, path: str | None) -> None:
        require_path("output_path", path)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("{{ x }}", "None", True),
        ("{{ x }}", None, True),
        ("{{ x }}", " ", True),
        (["{{ x }}"], [None], True),
        ({"a": {"b": "{{ x }}"}}, {"a": {"b": "None"}}, True),
        ({"a": {"b": "{{ x }}"}}, {"a": {"b": ""}}, False),
        ({"a": None}, {"a": None}, False),
        (None, None, False),
        ("", "", False),
        ("{{ x }}", "a", False),
        (["{{ x }}"], "[]", False),
    ],
)
def test_value_is_emptied_where_rendering_took_it_away(before: object, after: object, expected: bool) -> None:
    assert emptied(before, after) is expected
