"""Rate limits of the service: one token bucket for status queries and one for submissions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from airflow_provider_toapis.emulator.error_bodies import rate_limited

Category = Literal["async_submit", "async_query"]
#: Capacity of a bucket divided by its rate: the seconds in which an empty bucket fills up.
BURST_SECONDS = 10


class TokenBucket:
    """Allows ``rate`` requests per second on average, and up to ``10 * rate`` requests at once.

    :param category: Name of the limit in the response headers.
    :param rate: Requests per second; 0 for no limit.
    :param now: Returns the time in seconds.
    """

    def __init__(self, category: Category, rate: float, now: Callable[[], float]) -> None:
        self._category = category
        self._rate = rate
        self._now = now
        self._capacity = max(1.0, rate * BURST_SECONDS)
        self.refill()

    def refill(self) -> None:
        """Fill the bucket."""
        self._tokens = self._capacity
        self._counted_at = self._now()

    def take(self) -> dict[str, str]:
        """Take one token for a request and return the headers for its response. A rejected request takes none.

        :raises RejectedError: The bucket is empty. The response is a 429 with the time to wait.
        """
        if not self._rate:
            return {}
        now = self._now()
        self._tokens = min(self._capacity, self._tokens + (now - self._counted_at) * self._rate)
        self._counted_at = now
        if self._tokens < 1:
            wait = math.ceil((1 - self._tokens) / self._rate)
            raise rate_limited(self._headers() | {"Retry-After": str(wait)})
        self._tokens -= 1
        return self._headers()

    def _headers(self) -> dict[str, str]:
        return {
            "X-RateLimit-Limit": str(round(self._rate * 60)),
            "X-RateLimit-Remaining": str(int(self._tokens)),
            "X-RateLimit-Reset": str(math.ceil((self._capacity - self._tokens) / self._rate)),
            "X-RateLimit-Category": self._category,
        }
