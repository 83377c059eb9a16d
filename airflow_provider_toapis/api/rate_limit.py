"""Rate limiters that slow down after a 429. The current time is an argument of each call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from threading import Lock

from airflow_provider_toapis.api.error_responses import HttpResponse, retry_after_seconds
from airflow_provider_toapis.api.settings import ClientSettings

#: A 429 halves the rate. Further 429s within this many seconds do not halve it again, because they respond to requests
#: that were sent at the old rate.
BURST_SECONDS = 1.0
#: Minimum fraction of the full rate, however many 429s there are.
MIN_RATE_FACTOR = 1 / 16
#: Seconds in which the rate would recover from zero to the full rate.
RECOVERY_SECONDS = 30.0
#: Seconds in which no request is sent after the service reports that no request is left.
EMPTY_SECONDS = 1.0
_TOO_MANY_REQUESTS = 429


class RateLimiter:
    """Evenly spaced slots for requests.

    :param rate: Requests per second.
    :param travel_spread: Seconds by which the network can delay one request more than another. The slots are further
        apart accordingly, so that at most ``rate`` requests arrive in any second.
    """

    def __init__(self, rate: float, *, travel_spread: float = 0.0) -> None:
        self.rate = rate
        self._travel_spread = travel_spread
        self._last_slot = -math.inf
        self._closed_until = -math.inf
        self._limited_at = -math.inf
        self._reduced_factor = 1.0
        self._slow_until = -math.inf

    def reserve(self, now: float) -> float:
        """Reserve the next slot and return the seconds until then."""
        distance = (1 + self._travel_spread) / (self.rate * self._rate_factor(now))
        self._last_slot = max(now, self._last_slot + distance, self._closed_until)
        return self._last_slot - now

    def is_closed(self, now: float) -> bool:
        """Return whether no request is allowed now, not even in a slot that was reserved before."""
        return now < self._closed_until

    def closed_for(self, now: float) -> float:
        """Return the seconds for which no request is allowed."""
        return max(0.0, self._closed_until - now)

    def on_rate_limit(self, retry_after: float | None, now: float) -> bool:
        """Slow down after a 429. Return False if a 429 in the last ``BURST_SECONDS`` has already reduced the rate.

        :param retry_after: Seconds to wait, as the service requested; None for the default, one second.
        """
        self._close(now + (BURST_SECONDS if retry_after is None else retry_after))
        if now < self._limited_at + BURST_SECONDS:
            return False
        self._limited_at = now
        self._reduced_factor = max(MIN_RATE_FACTOR, self._rate_factor(now) / 2)
        self._slow_until = self._closed_until
        return True

    def on_headers(self, headers: Mapping[str, str], now: float) -> None:
        """Pause if a response reports that no request is left (``X-RateLimit-Remaining: 0``)."""
        if headers.get("x-ratelimit-remaining", "").strip() == "0":
            self._close(now + EMPTY_SECONDS)

    def _close(self, until: float) -> None:
        self._closed_until = max(self._closed_until, until)

    def _rate_factor(self, now: float) -> float:
        """Return the fraction of the full rate to use now. A 429 reduces it, and it recovers with time."""
        return min(1.0, self._reduced_factor + max(0.0, now - self._slow_until) / RECOVERY_SECONDS)


class ThreadSafeRateLimiter:
    """Rate limiter shared by threads.

    Processes that share an account do not coordinate. Requests above the account's limit are rejected with 429, cost
    nothing and are sent again.

    :param rate: Requests per second.
    """

    def __init__(self, rate: float) -> None:
        self._limiter = RateLimiter(rate)
        self._lock = Lock()

    def reserve(self, now: float) -> float:
        """Reserve the next slot and return the seconds until then."""
        with self._lock:
            return self._limiter.reserve(now)

    def on_response(self, response: HttpResponse, now: float) -> None:
        """Slow down or pause if a response limits the rate."""
        with self._lock:
            self._limiter.on_headers(response.headers, now)
            if response.status_code == _TOO_MANY_REQUESTS:
                self._limiter.on_rate_limit(retry_after_seconds(response.headers), now)


@cache
def _limiter(kind: str, base_url: str, api_key: str, rate: float) -> ThreadSafeRateLimiter:  # noqa: ARG001 - the cache key
    return ThreadSafeRateLimiter(rate)


def submit_limiter(settings: ClientSettings) -> ThreadSafeRateLimiter:
    """Return this process's limiter for an account's submissions."""
    return _limiter("submissions", settings.base_url, settings.api_key, settings.submit_rate)


def poll_limiter(settings: ClientSettings) -> ThreadSafeRateLimiter:
    """Return this process's limiter for an account's polls by synchronous clients."""
    return _limiter("polls", settings.base_url, settings.api_key, settings.query_rate)


@cache
def _found_by_key(base_url: str, api_key: str) -> set[str]:  # noqa: ARG001 - the cache key
    return set()


def found_by_key(settings: ClientSettings) -> set[str]:
    """Return the models for which the service is known to find the account's videos by client_business_id.

    A model is added after this process has found one of its videos in this way.
    """
    return _found_by_key(settings.base_url, settings.api_key)
