"""Records that a DAG author forged: the pages inside Airflow read and show any JSON."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_toapis.version_compat import AIRFLOW_V_3_1_PLUS

if not AIRFLOW_V_3_1_PLUS:
    pytest.skip("needs Airflow 3.1: earlier versions cannot show pages of plugins", allow_module_level=True)

from airflow_provider_toapis.ui.records import (
    BatchState,
    Facts,
    Generation,
    Result,
    batch_of,
    generations_of,
    results_of,
)
from tests.shown_videos import (
    DEEP,
    FORGED,
    HUGE,
    SURROGATES,
    recorded_video,
    returned_video,
    shown_list,
    shown_task,
    task_videos,
)

EACH_VALUE = pytest.mark.parametrize("value", FORGED.values(), ids=FORGED)
TIMESTAMPS = st.datetimes().map(str) | st.sampled_from(["0001-01-01T00:00+23:59", "9999-12-31T23:59-23:59"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | TIMESTAMPS | st.just(SURROGATES)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)


def names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def records(kind: type, **known: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects with any of the fields of a record and any values."""
    return st.fixed_dictionaries({}, optional={name: known.get(name, JSON) for name in names(kind)})


def assert_shown(videos: Any = (), returned: Any = None, *, batch: Any = None) -> list[str]:
    """Render all pages. Encoding a page fails if it contains a lone surrogate."""
    shown = task_videos(videos, returned, batch=batch)
    pages = [shown_list(shown)] if batch is not None else [shown_list(shown), shown_task(shown)]
    assert all(page.rstrip().endswith("</html>") for page in pages)
    return pages


@EACH_VALUE
def test_any_value_of_an_xcom_is_shown(value: Any) -> None:
    assert_shown(value, value)
    assert_shown(batch=value)


@EACH_VALUE
def test_any_value_of_a_field_is_shown(value: Any) -> None:
    value = value[:1000] if isinstance(value, list) else value
    generation = dict.fromkeys(names(Generation), value)
    result = dict.fromkeys(names(Result), value)
    assert_shown([generation, generation], result)
    assert_shown(
        [generation | {"id": "video_1"}], [result | {"id": "video_1", "media": dict.fromkeys(names(Facts), value)}]
    )
    assert_shown(batch=dict.fromkeys(names(BatchState), value) | {"spend": [{"cost_usd": value, "price_usd": value}]})


@given(
    videos=st.lists(records(Generation, id=st.sampled_from(["video_1", "video_2"]))) | JSON,
    returned=st.lists(records(Result, id=st.sampled_from(["video_1", "video_2"]), media=records(Facts))) | JSON,
    batch=records(BatchState) | JSON,
)
@settings(max_examples=50, deadline=None)
def test_any_json_is_shown(videos: Any, returned: Any, batch: Any) -> None:
    assert_shown(videos, returned)
    assert_shown(batch=batch if batch is not None else {})


@pytest.mark.parametrize("field", ["dag_id", "run_id", "label", "task_id"])
def test_lone_surrogates_in_any_name_are_replaced(field: str) -> None:
    changes: dict[str, Any] = {field: SURROGATES}
    shown_list(task_videos(**changes))
    assert "a\ufffdb\ufffd" in shown_task(task_videos(**changes))


def test_lone_surrogates_in_rendered_fields_are_replaced() -> None:
    rendered = {"prompt": SURROGATES, "image": [f"https://a.example/{SURROGATES}"]}
    page = shown_task(task_videos(rendered=rendered))
    assert page.count("a\ufffdb\ufffd") == 3  # also as the placeholder of the video


def test_control_characters_are_visible() -> None:
    page = shown_task(task_videos([recorded_video(reason="a\x00b\x1bc\x85d\te")]))
    assert "a\u2400b\u241bc\ufffdd\te" in page


def test_result_that_is_nested_too_deeply_is_left_out() -> None:
    shown = shown_task(task_videos((), returned_video(extra=[])))
    left_out = shown_task(task_videos((), returned_video(extra=DEEP)))
    assert "&#34;extra&#34;" in shown
    assert "&#34;extra&#34;" not in left_out


def test_pages_of_large_records_are_small() -> None:
    texts = ["a warning" * 10] * 100_000
    videos = [recorded_video(f"video_{number}", reason="r" * 1_000_000) for number in range(2)]
    shown = task_videos(videos, [returned_video(f"video_{number}", warnings=texts) for number in range(2)])
    assert len(shown_list(shown)) < 50_000
    assert len(shown_task(shown)) < 300_000


class TestGenerations:
    def test_recorded_video_is_read(self) -> None:
        (video,) = generations_of([recorded_video(cost_usd=0.3, output_path="/videos/1.mp4")])
        assert (video.id, video.generation, video.cost_usd) == ("video_1", 0, 0.3)
        assert video.output_path == "/videos/1.mp4"
        assert video.submitted_at == "2026-01-01T12:00:00+00:00"

    @pytest.mark.parametrize("value", [None, {}, "text", 7, [7, "text", None, []]])
    def test_other_values_are_no_videos(self, value: Any) -> None:
        assert generations_of(value) == ()

    def test_newest_videos_are_shown(self) -> None:
        videos = generations_of([recorded_video(f"video_{number}") for number in range(1000)])
        assert len(videos) == 100
        assert videos[-1].id == "video_999"

    @pytest.mark.parametrize("value", [True, "0.3", HUGE, float("nan"), float("-inf"), [0.3], {}])
    def test_number_of_another_type_is_unknown(self, value: Any) -> None:
        (video,) = generations_of([recorded_video(cost_usd=value)])
        assert video.cost_usd is None

    def test_unknown_field_is_ignored(self) -> None:
        assert generations_of([recorded_video(__class__="os.system", other=1)]) == generations_of([recorded_video()])


class TestResults:
    def test_result_of_each_video_is_found(self) -> None:
        returned = [returned_video("video_1", size=1), returned_video("video_2", size=2)]
        results = results_of(returned, ["video_2", "video_1", None, "video_3"])
        assert {video_id: result.size for video_id, result in results.items()} == {"video_1": 1, "video_2": 2}

    def test_result_of_another_video_is_not_read(self) -> None:
        assert results_of(returned_video("video_2"), ["video_1"]) == {}

    @pytest.mark.parametrize(
        "url",
        [
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "//a.example",
            "s3://bucket/a",
            7,
            ["https://a"],
        ],
    )
    def test_only_web_addresses_are_urls(self, url: Any) -> None:
        assert results_of(returned_video(url=url), ["video_1"])["video_1"].url is None

    def test_facts_of_another_type_are_unknown(self) -> None:
        media = {"duration": "6", "width": 1280, "has_audio": 1, "video_codec": ["h264"]}
        facts = results_of(returned_video(media=media), ["video_1"])["video_1"].media
        assert facts == Facts(width=1280)


class TestBatchState:
    def test_state_is_read(self) -> None:
        spend = [{"model": "a", "cost_usd": 0.5, "price_usd": 0.25}, {"model": "b", "cost_usd": 1, "price_usd": None}]
        state = batch_of({"output_path": "/videos", "saved": 2, "spend": spend})
        assert (state.output_path, state.saved, state.failed, state.cost_usd) == ("/videos", 2, 0, 1.75)

    @pytest.mark.parametrize("value", [-1, True, 0.5, "3", None, [3]])
    def test_count_of_another_type_is_zero(self, value: Any) -> None:
        assert batch_of({"saved": value}).saved == 0

    @pytest.mark.parametrize("value", [None, [], "text", 7])
    def test_other_values_are_an_empty_state(self, value: Any) -> None:
        assert batch_of(value) == BatchState()
