"""The batch trigger: its polls, when it fires, and its cleanup."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from typing import Any

import pytest

from airflow_provider_toapis.triggers.events import BatchEvent, positions_text
from airflow_provider_toapis.triggers.video import ToAPIsVideoBatchTrigger
from tests.airflow_task import fired, stored_and_loaded
from tests.unit.polled_service import KEY, READY, REJECTED, RUNNING, PolledService
from tests.unit.virtual_time import START, in_virtual_time, now, patch_time, run


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> PolledService:
    monkeypatch.setattr(asyncio, "run", run)
    service = PolledService.installed(monkeypatch)
    patch_time(monkeypatch)
    return service


def ids(count: int) -> list[str]:
    return [f"video_{number}" for number in range(count)]


def set_ready(service: PolledService, *video_ids: str, at: float = 0.0) -> None:
    service.respond = lambda video_id: READY if video_id in video_ids and now() >= at else RUNNING


def last_poll_at(service: PolledService) -> float:
    return max(service.poll_times)


def test_arguments_round_trip_through_the_database() -> None:
    trigger = ToAPIsVideoBatchTrigger(ids(3), "my_conn", 7.5, 1_800_000_000.25, 1_790_000_000.5)
    assert stored_and_loaded(trigger).serialize() == trigger.serialize()


def test_arguments_and_event_of_ten_thousand_videos_are_small(service: PolledService) -> None:
    trigger = ToAPIsVideoBatchTrigger([f"task_{number:032x}" for number in range(10_000)])
    assert len(json.dumps(trigger.serialize())) < 450_000
    service.respond = lambda _: READY
    event = fired(trigger)
    assert len(json.dumps(event)) < 4_096
    assert set(event) == {"status", "final", "waiting"}


def test_trigger_fires_with_final_videos_once_a_tenth_are_final(service: PolledService) -> None:
    final = ids(100)[40:60]
    set_ready(service, *final)
    event = BatchEvent.parse(fired(ToAPIsVideoBatchTrigger(ids(100))))
    positions = event.final_positions(100)
    assert event.status == "success"
    assert 10 <= len(positions) <= 20
    assert {f"video_{position}" for position in positions} <= set(final)
    assert event.waiting == 100 - len(positions)


def test_single_final_video_fires_one_minute_later(service: PolledService) -> None:
    set_ready(service, "video_7")
    event = BatchEvent.parse(fired(ToAPIsVideoBatchTrigger(ids(100))))
    assert event.final_positions(100) == [7]
    assert 60 <= last_poll_at(service) <= 75


def test_trigger_fires_at_once_if_all_are_final_despite_not_before(service: PolledService) -> None:
    service.respond = lambda _: READY
    event = BatchEvent.parse(fired(ToAPIsVideoBatchTrigger(ids(12), not_before=START + 3_600)))
    assert event.final_positions(12) == list(range(12))
    assert last_poll_at(service) <= 15


def test_task_is_not_resumed_before_not_before(service: PolledService) -> None:
    set_ready(service, *ids(99))
    event = BatchEvent.parse(fired(ToAPIsVideoBatchTrigger(ids(100), not_before=START + 300)))
    assert event.waiting == 1
    assert 280 <= last_poll_at(service) <= 300


def test_deadline_without_a_final_video_is_a_timeout(service: PolledService) -> None:
    service.respond = lambda _: RUNNING
    event = BatchEvent.parse(fired(ToAPIsVideoBatchTrigger(ids(20), end_time=START + 100)))
    assert (event.status, event.waiting) == ("timeout", 20)


def test_video_with_a_failed_wait_counts_as_final(
    service: PolledService,
) -> None:
    service.respond = lambda _: REJECTED
    event = BatchEvent.parse(fired(ToAPIsVideoBatchTrigger(ids(3))))
    assert event.final_positions(3) == [0, 1, 2]


def test_unexpected_poll_error_is_logged_and_other_videos_are_waited_for(
    service: PolledService, caplog: pytest.LogCaptureFixture
) -> None:
    service.respond = lambda video_id: ValueError(KEY) if video_id == "video_2" else RUNNING if now() < 30 else READY
    event = BatchEvent.parse(fired(ToAPIsVideoBatchTrigger(ids(5))))
    assert event.final_positions(5) == list(range(5))
    assert "Cannot poll video video_2 (ValueError)" in caplog.text
    assert KEY not in caplog.text


def test_each_video_is_polled_at_most_every_five_seconds(service: PolledService) -> None:
    service.respond = lambda _: RUNNING
    fired(ToAPIsVideoBatchTrigger(ids(20), poll_interval=1, end_time=START + 100))
    for video_id in ids(20):
        polled = service.poll_times_of(video_id)
        assert len(polled) > 5
        assert min(later - earlier for earlier, later in itertools.pairwise(polled)) >= 4.99


def test_fired_trigger_leaves_no_tasks_or_clients(service: PolledService) -> None:
    async def first_event() -> set[Any]:
        events = ToAPIsVideoBatchTrigger(ids(50)).run()
        await anext(aiter(events))
        return asyncio.all_tasks() - {asyncio.current_task()}

    set_ready(service, *ids(20))
    assert run(first_event()) == set()
    assert service.open_clients == 0


@in_virtual_time
async def cancel_while_waiting(trigger: ToAPIsVideoBatchTrigger) -> None:
    async def wait() -> None:
        async for _ in trigger.run():
            raise AssertionError("the trigger fired")

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(30)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    # Long enough for a leftover task to poll again.
    await asyncio.sleep(300)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_canceled_trigger_stops_polling_and_closes_its_client(service: PolledService) -> None:
    service.respond = lambda _: RUNNING
    cancel_while_waiting(ToAPIsVideoBatchTrigger(ids(50)))
    assert service.open_clients == 0
    assert last_poll_at(service) <= 30


class TestWebhook:
    def test_only_videos_with_webhooks_are_polled_rarely(self, service: PolledService) -> None:
        set_ready(service, *ids(4), at=500)
        trigger = ToAPIsVideoBatchTrigger(ids(4), fallback_interval=300.0, webhook_positions=positions_text([0, 1]))
        fired(trigger)
        polled = Counter(poll.video_id for poll in service.polls)
        assert max(polled["video_0"], polled["video_1"]) <= 3
        assert min(polled["video_2"], polled["video_3"]) > 20

    def test_arguments_round_trip_through_the_database(self) -> None:
        trigger = ToAPIsVideoBatchTrigger(ids(3), fallback_interval=300.0, webhook_positions="0x7", final="0x2")
        assert stored_and_loaded(trigger).serialize() == trigger.serialize()

    def test_few_webhooks_are_collected_for_one_minute(self) -> None:
        trigger = ToAPIsVideoBatchTrigger(ids(50))
        assert trigger.on_webhook("video_7", "success", 1000.0).at == 1060.0
        assert trigger.final == positions_text([7])

    def test_trigger_fires_at_once_when_a_tenth_is_final(self) -> None:
        trigger = ToAPIsVideoBatchTrigger(ids(50))
        for number in range(9):
            assert trigger.on_webhook(f"video_{number}", "success", 1000.0).at == 1060.0
        resume = trigger.on_webhook("video_9", "failed", 1000.0)
        assert resume.at < 1000.0
        assert BatchEvent.parse(resume.payload).final_positions(50) == list(range(10))

    def test_recently_resumed_task_is_resumed_early_only_if_all_are_final(self) -> None:
        trigger = ToAPIsVideoBatchTrigger(ids(2), not_before=1050.0)
        assert trigger.on_webhook("video_0", "success", 1000.0).at == 1060.0
        assert trigger.on_webhook("video_0", "success", 1000.0).at == 1060.0
        resume = trigger.on_webhook("video_1", "success", 1000.0)
        assert resume.at < 1000.0
        assert resume.payload == {"status": "success", "final": "0x3", "waiting": 0}

    def test_restarted_trigger_fires_with_webhooks_received_before(self, service: PolledService) -> None:
        set_ready(service)
        trigger = ToAPIsVideoBatchTrigger(ids(30), fallback_interval=300.0, webhook_positions="0xff", final="0x3ff")
        event = BatchEvent.parse(fired(stored_and_loaded(trigger)))
        assert event.final_positions(30) == list(range(10))
        assert not service.polls

    def test_pending_event_contains_final_videos(self) -> None:
        trigger = ToAPIsVideoBatchTrigger(ids(30), final="0x5")
        assert trigger.pending_event() == {"status": "success", "final": "0x5", "waiting": 28}
