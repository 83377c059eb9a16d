"""Orders and polls leave a process at the rates that the account allows, whichever thread or client sends them.

The triggerer has a budget of its own for its polls, which no thread of another kind may hold up.
"""

from __future__ import annotations

from functools import cache
from threading import Lock

from airflow_provider_toapis.api.error_mapping import HttpResponse, retry_after_seconds
from airflow_provider_toapis.api.rate_budget import RateBudget
from airflow_provider_toapis.api.settings import ClientSettings

_TOO_MANY_REQUESTS = 429


class RateGate:
    """A rate budget that threads share.

    Several processes share the account too, and know nothing of each other: what one sends in excess is refused, costs
    nothing, and is sent again.

    :param rate: Requests per second.
    """

    def __init__(self, rate: float) -> None:
        self._budget = RateBudget(rate)
        self._lock = Lock()

    def reserve(self, now: float) -> float:
        """Take the next slot; return the seconds until then."""
        with self._lock:
            return self._budget.reserve(now)

    def on_answer(self, answer: HttpResponse, now: float) -> None:
        """Heed what an answer says about the rate."""
        with self._lock:
            self._budget.on_headers(answer.headers, now)
            if answer.status_code == _TOO_MANY_REQUESTS:
                self._budget.on_refusal(retry_after_seconds(answer.headers), now)


@cache
def _gate(kind: str, base_url: str, api_key: str, rate: float) -> RateGate:  # noqa: ARG001 - they name the gate
    return RateGate(rate)


def order_gate(settings: ClientSettings) -> RateGate:
    """Return the one gate of this process for an account's orders."""
    return _gate("orders", settings.base_url, settings.api_key, settings.submit_rate)


def poll_gate(settings: ClientSettings) -> RateGate:
    """Return the one gate of this process's workers for an account's polls."""
    return _gate("polls", settings.base_url, settings.api_key, settings.query_rate)


@cache
def _found_by_key(base_url: str, api_key: str) -> set[str]:  # noqa: ARG001 - they name the set
    return set()


def found_by_key(settings: ClientSettings) -> set[str]:
    """Return the models whose videos this process has found by their client_business_id, by account."""
    return _found_by_key(settings.base_url, settings.api_key)
