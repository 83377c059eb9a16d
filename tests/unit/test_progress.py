"""The remaining time of a video, estimated from its progress."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_toapis.api.progress import Percentages, ProgressLog, Remaining

FINE = range(1, 100)
STEPS = (10, 30, 60, 90)


def percentages(*seen: int) -> Percentages:
    known = Percentages()
    for percent in seen:
        known.add(percent)
    return known


def remaining(
    *readings: tuple[float, int], created_at: float | None = 0.0, seen: Percentages | None = None
) -> Remaining | None:
    """Return the remaining time after the last reading. A reading is a pair of seconds and progress."""
    log = ProgressLog(created_at)
    for now, percent in readings:
        log.add(percent, now)
    return log.remaining(seen or percentages(*FINE))


class TestPercentages:
    @pytest.mark.parametrize(
        ("seen", "percent", "following"), [(FINE, 30, 31), (STEPS, 30, 60), (STEPS, 40, 60), ((30, 99), 30, 99)]
    )
    def test_next_percentage_is_known_from_other_videos(
        self, seen: tuple[int, ...], percent: int, following: int
    ) -> None:
        assert percentages(*seen).next_above(percent) == following

    def test_unknown_coarse_step_ends_at_hundred(self) -> None:
        assert percentages(10, 30).next_above(30) == 100

    def test_one_fine_percentage_makes_all_steps_fine(self) -> None:
        assert percentages(10, 30, 47).next_above(30) == 31

    @pytest.mark.parametrize(("seen", "are_moving"), [((0, 100), False), ((10, 10, 10), False), (STEPS, True)])
    def test_different_percentages_are_moving(self, seen: tuple[int, ...], *, are_moving: bool) -> None:
        assert percentages(*seen).are_moving is are_moving


class TestRemaining:
    def test_single_reading_gives_only_the_maximum(self) -> None:
        assert remaining((20, 10)) == Remaining(0.0, 180.0)

    def test_single_reading_gives_nothing_if_the_age_is_unknown(self) -> None:
        assert remaining((20, 10), created_at=None) is None
        assert remaining((20, 10), created_at=3600) is None

    def test_two_readings_give_both_limits(self) -> None:
        assert remaining((10, 10), (50, 50)) == Remaining(49 / (41 / 40), 50.0)

    def test_late_start_shortens_the_maximum(self) -> None:
        at_once = remaining((60, 20))
        late = remaining((50, 0), (60, 20))
        assert at_once is not None
        assert late is not None
        assert late.latest < at_once.latest / 4

    def test_middle_and_error(self) -> None:
        assert (Remaining(10, 30).middle, Remaining(10, 30).error) == (20, 10)

    def test_coarse_step_gives_a_wide_range(self) -> None:
        found = remaining((40, 10), (80, 30), seen=percentages(*STEPS))
        # At least 30 % took 80 s, and at most 50 percent took 40 s.
        assert found == Remaining(40 / (50 / 40), 70 / (30 / 80))

    def test_constant_fine_progress_gives_nothing(self) -> None:
        assert remaining((10, 37), (20, 37), (40, 37)) is None

    def test_constant_coarse_progress_is_consistent(self) -> None:
        assert remaining((40, 10), (80, 30), (100, 30), seen=percentages(*STEPS)) is not None

    def test_progress_that_slows_down_is_estimated_from_the_last_responses(self) -> None:
        found = remaining((10, 50), (20, 60), (30, 70))
        assert found is not None
        assert found.earliest < 30 < found.latest

    def test_decrease_is_recorded(self) -> None:
        log = ProgressLog(0.0)
        log.add(50, 10)
        assert not log.has_decreased
        log.add(40, 20)
        assert log.has_decreased
        assert log.remaining(percentages(*FINE)) is None

    def test_only_the_last_two_responses_count_as_constant(self) -> None:
        log = ProgressLog(0.0)
        found = []
        for percent in (10, 10, 20, 20):
            log.add(percent, 10.0)
            found.append(log.is_constant)
        assert found == [False, True, False, True]

    def test_number_of_readings_is_bounded(self) -> None:
        many, few = ProgressLog(None), ProgressLog(None)
        for number in range(1, 50):
            many.add(number, number * 2.0)
        for number in range(42, 50):
            few.add(number, number * 2.0)
        assert many.remaining(percentages(*FINE)) == few.remaining(percentages(*FINE))


@given(
    start=st.floats(0, 200),
    seconds=st.floats(10, 600),
    times=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=12, unique=True),
    floor=st.sampled_from([int, lambda percent: max(s for s in (0, *STEPS) if s <= percent)]),
)
def test_linear_progress_ends_within_the_limits(
    start: float, seconds: float, times: list[float], floor: Callable[[float], int]
) -> None:
    """The limits are right for linear progress, whenever it starts and however it is rounded down."""
    seen = percentages(*{floor(percent) for percent in range(1, 100)})
    log = ProgressLog(0.0)
    for share in sorted(times):
        now = share * (start + seconds)
        percent = floor(max(0.0, 100 * (now - start) / seconds))
        log.add(percent, now)
        if percent and (found := log.remaining(seen)):
            rest = start + seconds - now
            assert found.earliest <= rest * (1 + 1e-6) + 1e-6
            assert found.latest >= rest * (1 - 1e-6) - 1e-6
            assert math.isfinite(found.latest)
