"""Checks of texts and paths: each error names the invalid field."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_toapis.api.texts import emptied, require_encodable, require_path, require_text
from tests.errors import rejects

LONE_SURROGATE = "\ud83d"


class TestText:
    @pytest.mark.parametrize("value", ["None", " None ", ["a.jpg", "None"], ("None",)])
    def test_text_none_is_rejected(self, value: object) -> None:
        with rejects("image", "None"):
            require_text("image", value)

    @pytest.mark.parametrize("value", [None, "", "none", "None of these shoes", 5, [], ["a.jpg"], "\U0001f45f"])
    def test_other_values_are_accepted(self, value: object) -> None:
        require_text("prompt", value)


class TestEncodable:
    @pytest.mark.parametrize(
        ("value", "field"),
        [
            (f"A secret shoe {LONE_SURROGATE}", "prompt"),
            ([f"A secret shoe {LONE_SURROGATE}"], "prompt"),
            ({"a": [{"b": f"A secret shoe {LONE_SURROGATE}"}]}, "prompt.a.b"),
            ({f"b{LONE_SURROGATE}": 1}, r"prompt.b\ud83d"),
        ],
    )
    def test_lone_surrogate_is_named_and_the_text_is_not_quoted(self, value: object, field: str) -> None:
        with rejects(field, LONE_SURROGATE) as rejected:
            require_encodable("prompt", value)
        message = str(rejected.value)
        assert "secret" not in message
        message.encode()

    def test_lone_surrogate_position_is_reported(self) -> None:
        with rejects("prompt", LONE_SURROGATE) as rejected:
            require_encodable("prompt", f"abc{LONE_SURROGATE}")
        assert " 4 " in str(rejected.value)

    def test_valid_text_is_accepted(self) -> None:
        require_encodable("prompt", {"a": "\U0001f45f", "b": [1, None, True]})

    def test_recursive_value_is_rejected(self) -> None:
        recursive: list[Any] = []
        recursive.append(recursive)
        with rejects("parameters"):
            require_encodable("parameters", recursive)


class TestPath:
    @pytest.mark.parametrize(
        "path", ["./None/", "None", "s3://bucket/None/a.mp4", "/v/None.mp4", f"/v/{LONE_SURROGATE}/"]
    )
    def test_invalid_path_segment_is_rejected(self, path: str) -> None:
        with rejects("output_path"):
            require_path("output_path", path)

    @pytest.mark.parametrize("path", [None, "", "/v/Nonesuch/", "/v/a-None.mp4", "s3://none/a.None"])
    def test_other_paths_are_accepted(self, path: str | None) -> None:
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
def test_emptied_detects_values_lost_in_rendering(before: object, after: object, expected: bool) -> None:
    assert emptied(before, after) is expected
