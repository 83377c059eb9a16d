"""The rates at which orders and polls leave a process."""

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


def test_orders_leave_one_by_one_at_the_rate() -> None:
    gate = ThreadSafeRateLimiter(5)
    assert [gate.reserve(NOW) for _ in range(4)] == pytest.approx([0.0, 0.2, 0.4, 0.6])


def test_no_two_threads_get_the_same_slot() -> None:
    gate = ThreadSafeRateLimiter(1000)
    with ThreadPoolExecutor(8) as threads:
        slots = sorted(threads.map(lambda _: gate.reserve(NOW), range(2000)))
    assert all(later - earlier == pytest.approx(0.001) for earlier, later in pairwise(slots))


def test_refused_order_holds_up_all_that_follow() -> None:
    gate = ThreadSafeRateLimiter(5)
    gate.on_response(HttpResponse(429, {"retry-after": "7"}), NOW)
    assert gate.reserve(NOW) == pytest.approx(7)


def test_accepted_order_holds_up_nothing() -> None:
    gate = ThreadSafeRateLimiter(5)
    gate.on_response(HttpResponse(200, {"retry-after": "7", "x-ratelimit-remaining": "3"}), NOW)
    assert gate.reserve(NOW) == 0


def test_all_clients_of_an_account_share_a_gate_and_other_accounts_do_not() -> None:
    gate = submit_limiter(ClientSettings("sk-one"))
    assert submit_limiter(ClientSettings("sk-one", timeout=7)) is gate
    assert submit_limiter(ClientSettings("sk-two")) is not gate
    assert submit_limiter(ClientSettings("sk-one", base_url="http://127.0.0.1:1")) is not gate


def test_order_that_came_to_nothing_takes_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> Flow[None]:
        yield RecordSubmission("id-0", video_id=None)
        yield RecordSubmission("id-0", video_id=None, rejected=True)

    slept: list[float] = []
    with ToAPIsClient(ClientSettings("sk-slots", submit_rate=1)) as client:
        monkeypatch.setattr(client, "_sleep", slept.append)
        client._drive(refused())
    assert slept == []


def test_polls_of_all_clients_keep_to_the_query_rate_and_orders_to_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = HttpResponse(200, {}, b'{"id": "video_1", "status": "completed"}')
    slept: list[float] = []
    settings = ClientSettings("sk-polls", query_rate=0.001, submit_rate=1)
    for _ in range(3):
        with ToAPIsClient(settings) as client:
            monkeypatch.setattr(client, "_sleep", slept.append)
            monkeypatch.setattr(client, "_send", lambda _: answer)
            client.get_video("video_1")
    assert slept == pytest.approx([1000, 2000], abs=100)
    assert submit_limiter(settings) is not poll_limiter(settings)
