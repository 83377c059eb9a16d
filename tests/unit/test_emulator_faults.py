from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_toapis.emulator.error_bodies import RejectedError
from airflow_provider_toapis.emulator.faults import KINDS, FaultBook
from airflow_provider_toapis.emulator.response_variants import RESPONSES, VARIANTS, Variant

URL = "http://127.0.0.1:1/files/videos/video_1/output.mp4"
COMPLETED: dict[str, Any] = {
    "id": "video_1",
    "status": "completed",
    "progress": 100,
    "result": {"type": "video", "data": [{"url": URL, "format": "mp4"}]},
    "billing": {"status": "settled", "credits": "20", "cost_usd": "0.10"},
    "metadata": {},
}
FAILED: dict[str, Any] = {
    "id": "video_1",
    "status": "failed",
    "progress": 0,
    "error": {"code": "generation_failed", "message": 'It said "no"'},
}


def struck(book: FaultBook, endpoint: str, *subjects: str) -> list[str]:
    return [fault.id for fault in book.applicable(endpoint, subjects or ("/",), *KINDS)]


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ({"on": "submit", "kind": "explode"}, "explode"),
        ({"on": "submit"}, "kind"),
        ({"kind": "html"}, "on"),
        ({"on": "moon", "kind": "html"}, "moon"),
        ({"on": "submit", "kind": "truncate"}, "submit"),
        ({"on": "submit", "kind": "html", "color": "red"}, "color"),
        ({"on": "submit", "kind": "html", "times": "twice"}, "times"),
        ({"on": "submit", "kind": "status"}, "status"),
        ({"on": "submit", "kind": "status", "status": 99}, "status"),
        ({"on": "submit", "kind": "error", "name": "gremlin"}, "gremlin"),
        ({"on": "status", "kind": "variant", "name": "gremlin"}, "gremlin"),
        ({"on": "status", "kind": "task_failed", "form": "gremlin"}, "gremlin"),
        ({"on": "status", "kind": "task_status", "value": "x", "when": "later"}, "later"),
        ("html", "fault"),
    ],
)
def test_malformed_fault_is_refused_and_its_fault_is_named(fault: object, named: str) -> None:
    with pytest.raises(RejectedError, match=named) as rejection:
        FaultBook(seed=0).add(fault)

    assert rejection.value.status == 400


def test_fault_strikes_as_often_as_ordered() -> None:
    book = FaultBook(seed=0)
    book.add({"on": "status", "kind": "html", "times": 2})

    assert [bool(struck(book, "status")) for _ in range(4)] == [True, True, False, False]
    assert book.all()[0].struck == 2


def test_fault_without_end_keeps_striking() -> None:
    book = FaultBook(seed=0)
    book.add({"on": "any", "kind": "html", "times": -1})

    assert all(struck(book, endpoint) for endpoint in ("submit", "status", "result", "balance") * 5)
    assert not struck(book, "webhook")


def test_fault_strikes_only_what_it_matches() -> None:
    book = FaultBook(seed=0)
    book.add({"on": "status", "kind": "html", "match": "order-7", "times": -1})

    assert not struck(book, "status", "/v1/videos/generations/video_1", "order-8")
    assert not struck(book, "submit", "order-7")
    assert struck(book, "status", "/v1/videos/generations/video_1", "order-7")


def test_probability_is_repeatable_and_depends_on_the_seed() -> None:
    def pattern(seed: int) -> list[bool]:
        book = FaultBook(seed)
        book.add({"on": "status", "kind": "html", "times": -1, "probability": 0.3})
        return [bool(struck(book, "status")) for _ in range(200)]

    assert pattern(1) == pattern(1) != pattern(2)
    assert 30 < sum(pattern(1)) < 90


def test_every_named_answer_has_a_status_and_a_body() -> None:
    for name, answer in RESPONSES.items():
        assert 200 <= answer["status"] < 600, name
        assert ("html" in answer) != ("body" in answer), name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("video_url", {"video_url": URL}),
        ("url", {"url": URL}),
        ("metadata_url", {"metadata": {"url": URL}}),
        ("data_result_data", {"data": {"result": {"type": "video", "data": [{"url": URL, "format": "mp4"}]}}}),
        ("data_data", {"data": {"data": [{"url": URL}]}}),
        ("data_url", {"data": {"url": URL}}),
        ("data_list", {"data": [{"url": URL}]}),
        ("output_url", {"output": {"url": URL}}),
        ("content_video_url", {"content": {"video_url": URL}}),
        ("result_video_url", {"result": {"type": "video", "video": {"url": URL}}}),
        ("result_videos", {"result": {"type": "video", "videos": [{"url": URL}]}}),
        ("result_outputs", {"result": {"type": "video", "outputs": [{"url": URL}]}}),
        ("item_video_url", {"result": {"type": "video", "data": [{"video_url": URL, "format": "mp4"}]}}),
        ("result_type_image", {"result": {"type": "image", "data": [{"url": URL, "format": "mp4"}]}}),
        ("empty_result", {"result": {"type": "video", "data": []}}),
        ("billing_pending", {"billing": {"status": "pending"}}),
    ],
)
def test_variant_of_a_completed_video_moves_the_url(name: str, expected: dict[str, Any]) -> None:
    shaped = VARIANTS[name].apply(COMPLETED)

    assert {key: shaped[key] for key in expected} == expected
    assert ("result" in shaped) == (name.startswith(("result", "item", "empty", "billing")))


def test_nested_variant_puts_everything_under_data() -> None:
    assert VARIANTS["nested"].apply(COMPLETED) == {"data": COMPLETED}


def test_variant_leaves_the_answer_itself_alone() -> None:
    before = json.dumps(COMPLETED)

    for variant in VARIANTS.values():
        variant.apply(COMPLETED)

    assert json.dumps(COMPLETED) == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fail_reason", {"fail_reason": 'It said "no"'}),
        ("error_message", {"error_message": 'It said "no"'}),
        ("data_error_message", {"data": {"error_message": 'It said "no"'}}),
        ("error_detail", {"error": {"code": "generation_failed", "detail": 'It said "no"'}}),
        ("error_string", {"error": 'It said "no"'}),
        ("error_code_int", {"error": {"code": 400, "message": 'It said "no"'}}),
        ("failed_progress_100", {"progress": 100}),
    ],
)
def test_variant_of_a_failed_video_moves_the_reason(name: str, expected: dict[str, Any]) -> None:
    shaped = VARIANTS[name].apply(FAILED)

    assert {key: shaped[key] for key in expected} == expected


def test_reason_can_be_json_in_a_string() -> None:
    message = VARIANTS["error_message_json"].apply(FAILED)["error"]["message"]

    assert json.loads(message) == {"error": FAILED["error"]}


def test_variant_suits_only_the_state_it_is_for() -> None:
    assert VARIANTS["no_url"].matches(COMPLETED)
    assert not VARIANTS["no_url"].matches(FAILED)
    assert not Variant(when="unfinished").matches(COMPLETED)
    assert Variant(when="unfinished").matches({"status": "queued"})


def test_merging_null_removes() -> None:
    assert Variant(merge={"result": {"type": None}, "id": None}).apply(COMPLETED)["result"].keys() == {"data"}
    assert "id" not in Variant(merge={"id": None}).apply(COMPLETED)


def test_every_name_is_documented() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "emulator.md").read_text(encoding="utf-8")

    assert [name for name in (*KINDS, *RESPONSES, *VARIANTS) if f"`{name}`" not in documented] == []
