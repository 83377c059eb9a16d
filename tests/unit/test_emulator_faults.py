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
    "error": {"code": "generation_failed", "message": 'The model reported "no"'},
}


def struck_ids(book: FaultBook, endpoint: str, *subjects: str) -> list[str]:
    return [fault.id for fault in book.applicable(endpoint, subjects or ("/",), *KINDS)]


@pytest.mark.parametrize(
    ("fault", "invalid"),
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
def test_malformed_fault_is_rejected_with_the_invalid_field(fault: object, invalid: str) -> None:
    with pytest.raises(RejectedError, match=invalid) as rejection:
        FaultBook(seed=0).add(fault)

    assert rejection.value.status == 400


def test_fault_strikes_the_requested_number_of_times() -> None:
    book = FaultBook(seed=0)
    book.add({"on": "status", "kind": "html", "times": 2})

    assert [bool(struck_ids(book, "status")) for _ in range(4)] == [True, True, False, False]
    assert book.all()[0].struck == 2


def test_fault_without_end_keeps_striking() -> None:
    book = FaultBook(seed=0)
    book.add({"on": "any", "kind": "html", "times": -1})

    assert all(struck_ids(book, endpoint) for endpoint in ("submit", "status", "result", "balance") * 5)
    assert not struck_ids(book, "webhook")


def test_fault_strikes_only_matching_requests() -> None:
    book = FaultBook(seed=0)
    book.add({"on": "status", "kind": "html", "match": "sku-7", "times": -1})

    assert not struck_ids(book, "status", "/v1/videos/generations/video_1", "sku-8")
    assert not struck_ids(book, "submit", "sku-7")
    assert struck_ids(book, "status", "/v1/videos/generations/video_1", "sku-7")


def test_probability_is_repeatable_and_depends_on_the_seed() -> None:
    def pattern(seed: int) -> list[bool]:
        book = FaultBook(seed)
        book.add({"on": "status", "kind": "html", "times": -1, "probability": 0.3})
        return [bool(struck_ids(book, "status")) for _ in range(200)]

    assert pattern(1) == pattern(1) != pattern(2)
    assert 30 < sum(pattern(1)) < 90


def test_every_named_response_has_a_status_and_a_body() -> None:
    for name, response in RESPONSES.items():
        assert 200 <= response["status"] < 600, name
        assert ("html" in response) != ("body" in response), name


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
    variant_body = VARIANTS[name].apply(COMPLETED)

    assert {key: variant_body[key] for key in expected} == expected
    assert ("result" in variant_body) == (name.startswith(("result", "item", "empty", "billing")))


def test_nested_variant_puts_everything_under_data() -> None:
    assert VARIANTS["nested"].apply(COMPLETED) == {"data": COMPLETED}


def test_variant_does_not_change_the_original_response() -> None:
    before = json.dumps(COMPLETED)

    for variant in VARIANTS.values():
        variant.apply(COMPLETED)

    assert json.dumps(COMPLETED) == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fail_reason", {"fail_reason": 'The model reported "no"'}),
        ("error_message", {"error_message": 'The model reported "no"'}),
        ("data_error_message", {"data": {"error_message": 'The model reported "no"'}}),
        ("error_detail", {"error": {"code": "generation_failed", "detail": 'The model reported "no"'}}),
        ("error_string", {"error": 'The model reported "no"'}),
        ("error_code_int", {"error": {"code": 400, "message": 'The model reported "no"'}}),
        ("failed_progress_100", {"progress": 100}),
    ],
)
def test_variant_of_a_failed_video_moves_the_reason(name: str, expected: dict[str, Any]) -> None:
    variant_body = VARIANTS[name].apply(FAILED)

    assert {key: variant_body[key] for key in expected} == expected


def test_failure_reason_can_be_json_in_a_string() -> None:
    message = VARIANTS["error_message_json"].apply(FAILED)["error"]["message"]

    assert json.loads(message) == {"error": FAILED["error"]}


def test_variant_matches_only_its_state() -> None:
    assert VARIANTS["no_url"].matches(COMPLETED)
    assert not VARIANTS["no_url"].matches(FAILED)
    assert not Variant(when="unfinished").matches(COMPLETED)
    assert Variant(when="unfinished").matches({"status": "queued"})


def test_merging_null_removes_the_field() -> None:
    assert Variant(merge={"result": {"type": None}, "id": None}).apply(COMPLETED)["result"].keys() == {"data"}
    assert "id" not in Variant(merge={"id": None}).apply(COMPLETED)


def test_every_fault_and_variant_name_is_documented() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "emulator.md").read_text(encoding="utf-8")

    assert [name for name in (*KINDS, *RESPONSES, *VARIANTS) if f"`{name}`" not in documented] == []
