"""The rate limiter: spacing of requests, and back-off after rejections."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_toapis.api.rate_limit import RateLimiter

RATE = 10.0
#: Seconds between two requests at the full rate.
SPACING = 1 / RATE


def spacing(limiter: RateLimiter, now: float) -> float:
    """Return the seconds between the next two requests."""
    first = limiter.reserve(now)
    return limiter.reserve(now) - first


def limited_in_bursts(bursts: int) -> tuple[RateLimiter, float]:
    """Return a limiter that had one rejection per second, and the time of its last rejection."""
    limiter = RateLimiter(RATE)
    for now in range(bursts):
        assert limiter.on_rate_limit(0, now)
    return limiter, bursts - 1.0


class TestSlots:
    def test_concurrent_requests_are_spaced_evenly(self) -> None:
        limiter = RateLimiter(RATE)
        assert [limiter.reserve(100) for _ in range(4)] == pytest.approx([0, SPACING, 2 * SPACING, 3 * SPACING])

    def test_request_after_a_pause_is_immediate_without_a_burst(self) -> None:
        limiter = RateLimiter(RATE)
        limiter.reserve(100)
        assert [limiter.reserve(200) for _ in range(2)] == pytest.approx([0, SPACING])

    @given(
        rate=st.integers(1, 200),
        travel_spread=st.floats(0, 0.5),
        requests=st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), min_size=1, max_size=300),
    )
    def test_requests_per_second_never_exceed_the_rate(
        self, rate: int, travel_spread: float, requests: list[tuple[float, float]]
    ) -> None:
        limiter, now, slots, arrivals = RateLimiter(rate, travel_spread=travel_spread), 0.0, [], []
        for pause, travel in requests:
            now += pause
            slots.append(now + limiter.reserve(now))
            arrivals.append(slots[-1] + travel * travel_spread)
        assert slots == sorted(slots)
        for start in arrivals:
            assert sum(start <= arrival < start + 1 - 1e-9 for arrival in arrivals) <= rate

    def test_travel_spread_increases_the_spacing(self) -> None:
        assert spacing(RateLimiter(RATE, travel_spread=0.06), 0) == pytest.approx(1.06 * SPACING)

    def test_rate_below_one_per_second_is_accepted(self) -> None:
        assert spacing(RateLimiter(0.1), 0) == 10

    def test_rate_can_be_changed(self) -> None:
        limiter = RateLimiter(RATE)
        limiter.reserve(0)
        limiter.rate = 2 * RATE
        limiter.reserve(0)
        assert spacing(limiter, 0) == pytest.approx(SPACING / 2)


class TestRejections:
    @pytest.mark.parametrize(("retry_after", "closed"), [(None, 1), (0, 0), (0.5, 0.5), (17, 17)])
    def test_retry_after_delays_the_next_request(self, retry_after: float | None, closed: float) -> None:
        limiter = RateLimiter(RATE)
        limiter.on_rate_limit(retry_after, 100)
        assert limiter.reserve(100) == closed

    @pytest.mark.parametrize(("now", "closed"), [(100, True), (116.9, True), (117, False), (200, False)])
    def test_pause_invalidates_reserved_slots(self, now: float, closed: bool) -> None:
        limiter = RateLimiter(RATE)
        limiter.reserve(100)
        assert not limiter.is_closed(100)
        limiter.on_rate_limit(17, 100)
        assert limiter.is_closed(now) is closed

    def test_shorter_retry_after_does_not_shorten_a_longer_one(self) -> None:
        limiter = RateLimiter(RATE)
        limiter.on_rate_limit(17, 100)
        limiter.on_rate_limit(1, 101)
        assert limiter.reserve(101) == 16

    def test_rate_recovers_after_the_pause(self) -> None:
        limiter = RateLimiter(RATE)
        limiter.on_rate_limit(20, 100)
        assert spacing(limiter, 120) == pytest.approx(2 * SPACING)

    def test_burst_of_rejections_halves_the_rate_once(self) -> None:
        limiter = RateLimiter(RATE)
        assert [limiter.on_rate_limit(0, 100) for _ in range(4)] == [True, False, False, False]
        assert spacing(limiter, 100) == pytest.approx(2 * SPACING)

    def test_burst_ends_after_one_second(self) -> None:
        limiter = RateLimiter(RATE)
        assert [limiter.on_rate_limit(0, now) for now in (100, 100.99, 101)] == [True, False, True]

    def test_each_further_burst_halves_the_rate_again(self) -> None:
        spacings = [spacing(*limited_in_bursts(bursts)) for bursts in (1, 2, 3)]
        # The rate recovers by a thirtieth between two bursts.
        assert spacings == pytest.approx([SPACING / share for share in (1 / 2, 4 / 15, 3 / 20)])

    def test_rate_does_not_fall_below_a_sixteenth(self) -> None:
        assert spacing(*limited_in_bursts(20)) == pytest.approx(16 * SPACING)

    @pytest.mark.parametrize("bursts", [1, 20])
    def test_full_rate_recovers_within_thirty_seconds(self, bursts: int) -> None:
        limiter, now = limited_in_bursts(bursts)
        spacings = [spacing(limiter, now + seconds) for seconds in (0, 5, 10, 30)]
        assert spacings[1:3] == sorted(spacings[1:3], reverse=True)
        assert spacings[0] > spacings[1] > spacings[-1] == pytest.approx(SPACING)

    def test_slowed_rate_follows_a_change_of_the_rate(self) -> None:
        limiter, now = limited_in_bursts(1)
        limiter.rate = 2 * RATE
        assert spacing(limiter, now) == pytest.approx(SPACING)


class TestHeaders:
    @pytest.mark.parametrize("left", ["0", " 0 "])
    def test_zero_remaining_header_pauses_for_one_second(self, left: str) -> None:
        limiter = RateLimiter(RATE)
        limiter.on_headers({"x-ratelimit-remaining": left}, 100)
        assert limiter.reserve(100.25) == 0.75

    @pytest.mark.parametrize(
        "headers", [{}, {"x-ratelimit-remaining": ""}, {"x-ratelimit-remaining": "10"}, {"x-ratelimit-limit": "0"}]
    )
    def test_other_headers_change_nothing(self, headers: dict[str, str]) -> None:
        limiter = RateLimiter(RATE)
        limiter.on_headers(headers, 100)
        assert limiter.reserve(100) == 0

    def test_remaining_header_does_not_shorten_retry_after(self) -> None:
        limiter = RateLimiter(RATE)
        limiter.on_rate_limit(17, 100)
        limiter.on_headers({"x-ratelimit-remaining": "0"}, 100)
        assert limiter.reserve(100) == 17
