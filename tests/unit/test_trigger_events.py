"""When a batch's task is resumed, depending on its final videos and its deadlines."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_toapis.triggers.events import LONGEST_WAIT, Window, parse_positions, positions_text

NOW = 1_000_000.0


def window(size: int, final: int, **limits: float | None) -> Window:
    result = Window(size, not_before=limits.get("not_before"), end_time=limits.get("end_time"))
    for position in range(final):
        result.on_final(position, NOW + position)
    return result


@pytest.mark.parametrize(("size", "enough"), [(1, 1), (9, 9), (10, 10), (40, 10), (100, 10), (101, 11), (500, 50)])
def test_a_tenth_but_at_least_ten_final_videos_resume_the_task(size: int, enough: int) -> None:
    assert window(size, enough).resume_at() <= NOW
    assert window(size, enough - 1).resume_at() == (NOW + LONGEST_WAIT if enough > 1 else math.inf)


def test_no_final_video_does_not_resume_the_task() -> None:
    assert window(500, 0).resume_at() == math.inf


def test_first_final_video_resumes_the_task_after_one_minute() -> None:
    assert window(500, 20).resume_at() == NOW + LONGEST_WAIT


@pytest.mark.parametrize("final", [0, 1, 50, 499])
def test_task_is_not_resumed_before_not_before(final: int) -> None:
    assert window(500, final, not_before=NOW + 90, end_time=NOW + 30).resume_at() == NOW + 90


@pytest.mark.parametrize("size", [1, 500])
def test_task_is_resumed_at_once_when_all_are_final(size: int) -> None:
    assert window(size, size, not_before=NOW + 90).resume_at() == -math.inf


def test_deadline_resumes_the_task_without_final_videos() -> None:
    timed_window = window(500, 0, end_time=NOW + 30)
    assert timed_window.resume_at() == NOW + 30
    assert timed_window.is_timeout(NOW + 30)
    assert not timed_window.is_timeout(NOW + 29)


def test_final_video_at_the_deadline_is_not_a_timeout() -> None:
    assert not window(500, 1, end_time=NOW + 30).is_timeout(NOW + 30)


def test_empty_window_resumes_at_once() -> None:
    assert Window(0).resume_at() == -math.inf


@given(st.sets(st.integers(0, 9_999)))
def test_positions_round_trip_through_the_event(positions: set[int]) -> None:
    text = positions_text(positions)
    assert len(text) < 2_600
    assert parse_positions(text, 10_000) == sorted(positions)


@pytest.mark.parametrize("text", ["", "none", None, "-0x3", "0x", 1.5])
def test_invalid_event_has_no_positions(text: object) -> None:
    assert parse_positions(text, 10) == []


def test_positions_beyond_the_window_are_ignored() -> None:
    assert parse_positions(positions_text({1, 5, 10}), 6) == [1, 5]
