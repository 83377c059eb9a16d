"""At what rate requests leave, and how a service that refuses them is spared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_toapis.api.rate_limit import RateLimiter

RATE = 10.0
#: Seconds between two requests at the full rate.
SPACING = 1 / RATE


def spacing(budget: RateLimiter, now: float) -> float:
    """Return the seconds between the next two requests."""
    first = budget.reserve(now)
    return budget.reserve(now) - first


def refused_in_bursts(bursts: int) -> tuple[RateLimiter, float]:
    """Return a budget that was refused once a second, and the moment of the last time."""
    budget = RateLimiter(RATE)
    for now in range(bursts):
        assert budget.on_rate_limit(0, now)
    return budget, bursts - 1.0


class TestSlots:
    def test_requests_that_come_together_leave_evenly_spaced(self) -> None:
        budget = RateLimiter(RATE)
        assert [budget.reserve(100) for _ in range(4)] == pytest.approx([0, SPACING, 2 * SPACING, 3 * SPACING])

    def test_request_after_a_pause_leaves_at_once_and_nothing_is_saved_up(self) -> None:
        budget = RateLimiter(RATE)
        budget.reserve(100)
        assert [budget.reserve(200) for _ in range(2)] == pytest.approx([0, SPACING])

    @given(
        rate=st.integers(1, 200),
        travel_spread=st.floats(0, 0.5),
        requests=st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), min_size=1, max_size=300),
    )
    def test_in_no_second_more_requests_than_the_rate_arrive(
        self, rate: int, travel_spread: float, requests: list[tuple[float, float]]
    ) -> None:
        budget, now, slots, arrivals = RateLimiter(rate, travel_spread=travel_spread), 0.0, [], []
        for pause, traveled in requests:
            now += pause
            slots.append(now + budget.reserve(now))
            arrivals.append(slots[-1] + traveled * travel_spread)
        assert slots == sorted(slots)
        for begin in arrivals:
            assert sum(begin <= arrival < begin + 1 - 1e-9 for arrival in arrivals) <= rate

    def test_requests_that_travel_differently_long_leave_further_apart(self) -> None:
        assert spacing(RateLimiter(RATE, travel_spread=0.06), 0) == pytest.approx(1.06 * SPACING)

    def test_less_than_one_request_per_second_is_a_rate_too(self) -> None:
        assert spacing(RateLimiter(0.1), 0) == 10

    def test_rate_can_be_changed(self) -> None:
        budget = RateLimiter(RATE)
        budget.reserve(0)
        budget.rate = 2 * RATE
        budget.reserve(0)
        assert spacing(budget, 0) == pytest.approx(SPACING / 2)


class TestRefusals:
    @pytest.mark.parametrize(("retry_after", "closed"), [(None, 1), (0, 0), (0.5, 0.5), (17, 17)])
    def test_nothing_leaves_before_the_service_wants_it(self, retry_after: float | None, closed: float) -> None:
        budget = RateLimiter(RATE)
        budget.on_rate_limit(retry_after, 100)
        assert budget.reserve(100) == closed

    @pytest.mark.parametrize(("now", "closed"), [(100, True), (116.9, True), (117, False), (200, False)])
    def test_slot_that_was_reserved_before_is_lost(self, now: float, closed: bool) -> None:
        budget = RateLimiter(RATE)
        budget.reserve(100)
        assert not budget.is_closed(100)
        budget.on_rate_limit(17, 100)
        assert budget.is_closed(now) is closed

    def test_shorter_time_told_later_does_not_shorten_the_longer_one(self) -> None:
        budget = RateLimiter(RATE)
        budget.on_rate_limit(17, 100)
        budget.on_rate_limit(1, 101)
        assert budget.reserve(101) == 16

    def test_rate_recovers_from_the_end_of_the_pause_on(self) -> None:
        budget = RateLimiter(RATE)
        budget.on_rate_limit(20, 100)
        assert spacing(budget, 120) == pytest.approx(2 * SPACING)

    def test_burst_of_refusals_halves_the_rate_once(self) -> None:
        budget = RateLimiter(RATE)
        assert [budget.on_rate_limit(0, 100) for _ in range(4)] == [True, False, False, False]
        assert spacing(budget, 100) == pytest.approx(2 * SPACING)

    def test_burst_is_over_after_a_second(self) -> None:
        budget = RateLimiter(RATE)
        assert [budget.on_rate_limit(0, moment) for moment in (100, 100.99, 101)] == [True, False, True]

    def test_each_further_burst_halves_it_again(self) -> None:
        spacings = [spacing(*refused_in_bursts(bursts)) for bursts in (1, 2, 3)]
        # It has grown by a thirtieth between two bursts.
        assert spacings == pytest.approx([SPACING / share for share in (1 / 2, 4 / 15, 3 / 20)])

    def test_it_does_not_fall_below_a_sixteenth(self) -> None:
        assert spacing(*refused_in_bursts(20)) == pytest.approx(16 * SPACING)

    @pytest.mark.parametrize("bursts", [1, 20])
    def test_full_rate_is_back_within_thirty_seconds(self, bursts: int) -> None:
        budget, now = refused_in_bursts(bursts)
        spacings = [spacing(budget, now + seconds) for seconds in (0, 5, 10, 30)]
        assert spacings[1:3] == sorted(spacings[1:3], reverse=True)
        assert spacings[0] > spacings[1] > spacings[-1] == pytest.approx(SPACING)

    def test_slowed_rate_follows_a_change_of_the_rate(self) -> None:
        budget, now = refused_in_bursts(1)
        budget.rate = 2 * RATE
        assert spacing(budget, now) == pytest.approx(SPACING)


class TestHeaders:
    @pytest.mark.parametrize("left", ["0", " 0 "])
    def test_nothing_left_means_no_request_for_a_second(self, left: str) -> None:
        budget = RateLimiter(RATE)
        budget.on_headers({"x-ratelimit-remaining": left}, 100)
        assert budget.reserve(100.25) == 0.75

    @pytest.mark.parametrize(
        "headers", [{}, {"x-ratelimit-remaining": ""}, {"x-ratelimit-remaining": "10"}, {"x-ratelimit-limit": "0"}]
    )
    def test_other_headers_change_nothing(self, headers: dict[str, str]) -> None:
        budget = RateLimiter(RATE)
        budget.on_headers(headers, 100)
        assert budget.reserve(100) == 0

    def test_they_do_not_shorten_what_a_refusal_asked_for(self) -> None:
        budget = RateLimiter(RATE)
        budget.on_rate_limit(17, 100)
        budget.on_headers({"x-ratelimit-remaining": "0"}, 100)
        assert budget.reserve(100) == 17
