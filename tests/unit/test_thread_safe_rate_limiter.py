"""Rate limiters for the submissions and polls of a process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from airflow_provider_toapis.api.client import ToAPIsClient
from airflow_provider_toapis.api.error_responses import HttpResponse
from airflow_provider_toapis.api.flows import Flow, RecordSubmission
from airflow_provider_toapis.api.rate_limit import ThreadSafeRateLimiter, poll_limiter, submit_limiter
from airflow_provider_toapis.api.settings import ClientSettings

NOW = 1000.0


def test_requests_are_spaced_at_the_rate() -> None:
    limiter = ThreadSafeRateLimiter(5)
    assert [limiter.reserve(NOW) for _ in range(4)] == pytest.approx([0.0, 0.2, 0.4, 0.6])


def test_threads_get_different_slots() -> None:
    limiter = ThreadSafeRateLimiter(1000)
    with ThreadPoolExecutor(8) as threads:
        slots = sorted(threads.map(lambda _: limiter.reserve(NOW), range(2000)))
    assert all(later - earlier == pytest.approx(0.001) for earlier, later in pairwise(slots))


def test_rejected_submission_delays_later_submissions() -> None:
    limiter = ThreadSafeRateLimiter(5)
    limiter.on_response(HttpResponse(429, {"retry-after": "7"}), NOW)
    assert limiter.reserve(NOW) == pytest.approx(7)


def test_accepted_submission_delays_nothing() -> None:
    limiter = ThreadSafeRateLimiter(5)
    limiter.on_response(HttpResponse(200, {"retry-after": "7", "x-ratelimit-remaining": "3"}), NOW)
    assert limiter.reserve(NOW) == 0


def test_clients_of_one_account_share_a_limiter() -> None:
    limiter = submit_limiter(ClientSettings("sk-one"))
    assert submit_limiter(ClientSettings("sk-one", timeout=7)) is limiter
    assert submit_limiter(ClientSettings("sk-two")) is not limiter
    assert submit_limiter(ClientSettings("sk-one", base_url="http://127.0.0.1:1")) is not limiter


def test_withdrawn_submission_uses_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    def withdrawn() -> Flow[None]:
        yield RecordSubmission("id-0", video_id=None)
        yield RecordSubmission("id-0", video_id=None, rejected=True)

    slept: list[float] = []
    with ToAPIsClient(ClientSettings("sk-slots", submit_rate=1)) as client:
        monkeypatch.setattr(client, "_sleep", slept.append)
        client._drive(withdrawn())
    assert slept == []


def test_polls_and_submissions_have_separate_rates_for_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    response = HttpResponse(200, {}, b'{"id": "video_1", "status": "completed"}')
    slept: list[float] = []
    settings = ClientSettings("sk-polls", query_rate=0.001, submit_rate=1)
    for _ in range(3):
        with ToAPIsClient(settings) as client:
            monkeypatch.setattr(client, "_sleep", slept.append)
            monkeypatch.setattr(client, "_send", lambda _: response)
            client.get_video("video_1")
    assert slept == pytest.approx([1000, 2000], abs=100)
    assert submit_limiter(settings) is not poll_limiter(settings)
