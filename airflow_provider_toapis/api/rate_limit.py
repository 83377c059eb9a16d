"""How many requests may leave at once, and how a service that is overrun is spared. Pure: time comes from outside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from threading import Lock

from airflow_provider_toapis.api.error_responses import HttpResponse, retry_after_seconds
from airflow_provider_toapis.api.settings import ClientSettings

#: A refused request halves the rate, once within these seconds: those behind it were sent at the old rate.
BURST_SECONDS = 1.0
#: Not slower than this part of the rate.
MIN_RATE_FACTOR = 1 / 16
#: Seconds in which a halved rate recovers.
RECOVERY_SECONDS = 30.0
#: Seconds without a request when the service says that nothing is left.
EMPTY_SECONDS = 1.0
_TOO_MANY_REQUESTS = 429


class RateLimiter:
    """Evenly spaced slots for requests.

    :param rate: Requests per second.
    :param travel_spread: Seconds by which one request may travel longer than another. They leave so much further apart
        that in no second more than ``rate`` of them arrive.
    """

    def __init__(self, rate: float, *, travel_spread: float = 0.0) -> None:
        self.rate = rate
        self._travel_spread = travel_spread
        self._last_slot = -math.inf
        self._closed_until = -math.inf
        self._limited_at = -math.inf
        self._slowed_to = 1.0
        self._slow_until = -math.inf

    def reserve(self, now: float) -> float:
        """Take the next slot; return the seconds until then."""
        distance = (1 + self._travel_spread) / (self.rate * self._share(now))
        self._last_slot = max(now, self._last_slot + distance, self._closed_until)
        return self._last_slot - now

    def is_closed(self, now: float) -> bool:
        """Return whether nothing may be sent now, not even in a slot that was reserved before."""
        return now < self._closed_until

    def closed_for(self, now: float) -> float:
        """Return the seconds for which nothing may be sent."""
        return max(0.0, self._closed_until - now)

    def on_rate_limit(self, retry_after: float | None, now: float) -> bool:
        """Slow down after a 429; return whether this one begins a new burst of them."""
        self._close(now + (BURST_SECONDS if retry_after is None else retry_after))
        if now < self._limited_at + BURST_SECONDS:
            return False
        self._limited_at = now
        self._slowed_to = max(MIN_RATE_FACTOR, self._share(now) / 2)
        self._slow_until = self._closed_until
        return True

    def on_headers(self, headers: Mapping[str, str], now: float) -> None:
        """Heed what an answer says is left (``X-RateLimit-Remaining``)."""
        if headers.get("x-ratelimit-remaining", "").strip() == "0":
            self._close(now + EMPTY_SECONDS)

    def _close(self, until: float) -> None:
        self._closed_until = max(self._closed_until, until)

    def _share(self, now: float) -> float:
        """Return the part of the rate that is used, which grows back after a refusal."""
        return min(1.0, self._slowed_to + max(0.0, now - self._slow_until) / RECOVERY_SECONDS)


class ThreadSafeRateLimiter:
    """A rate budget that threads share.

    Several processes share the account too, and know nothing of each other: what one sends in excess is refused, costs
    nothing, and is sent again.

    :param rate: Requests per second.
    """

    def __init__(self, rate: float) -> None:
        self._budget = RateLimiter(rate)
        self._lock = Lock()

    def reserve(self, now: float) -> float:
        """Take the next slot; return the seconds until then."""
        with self._lock:
            return self._budget.reserve(now)

    def on_response(self, response: HttpResponse, now: float) -> None:
        """Heed what an answer says about the rate."""
        with self._lock:
            self._budget.on_headers(response.headers, now)
            if response.status_code == _TOO_MANY_REQUESTS:
                self._budget.on_rate_limit(retry_after_seconds(response.headers), now)


@cache
def _gate(kind: str, base_url: str, api_key: str, rate: float) -> ThreadSafeRateLimiter:  # noqa: ARG001 - they name the gate
    return ThreadSafeRateLimiter(rate)


def submit_limiter(settings: ClientSettings) -> ThreadSafeRateLimiter:
    """Return the one gate of this process for an account's orders."""
    return _gate("orders", settings.base_url, settings.api_key, settings.submit_rate)


def poll_limiter(settings: ClientSettings) -> ThreadSafeRateLimiter:
    """Return the one gate of this process's workers for an account's polls."""
    return _gate("polls", settings.base_url, settings.api_key, settings.query_rate)


@cache
def _found_by_key(base_url: str, api_key: str) -> set[str]:  # noqa: ARG001 - they name the set
    return set()


def found_by_key(settings: ClientSettings) -> set[str]:
    """Return the models whose videos this process has found by their client_business_id, by account."""
    return _found_by_key(settings.base_url, settings.api_key)
