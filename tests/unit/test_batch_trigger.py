"""What a batch's wait in the triggerer asks, when it ends, and what it leaves behind."""

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
from tests.unit.polled_service import KEY, READY, REFUSED, RUNNING, PolledService
from tests.unit.virtual_time import START, in_virtual_time, now, patch_time, run


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> PolledService:
    monkeypatch.setattr(asyncio, "run", run)
    service = PolledService.installed(monkeypatch)
    patch_time(monkeypatch)
    return service


def ids(count: int) -> list[str]:
    return [f"video_{number}" for number in range(count)]


def ready(service: PolledService, *video_ids: str, at: float = 0.0) -> None:
    service.answer = lambda video_id: READY if video_id in video_ids and now() >= at else RUNNING


def ended_at(service: PolledService) -> float:
    return max(service.asked_at)


def test_arguments_survive_the_database() -> None:
    trigger = ToAPIsVideoBatchTrigger(ids(3), "my_conn", 7.5, 1_800_000_000.25, 1_790_000_000.5)
    assert stored_and_loaded(trigger).serialize() == trigger.serialize()


def test_arguments_and_event_of_ten_thousand_videos_are_small(service: PolledService) -> None:
    trigger = ToAPIsVideoBatchTrigger([f"task_{number:032x}" for number in range(10_000)])
    assert len(json.dumps(trigger.serialize())) < 450_000
    service.answer = lambda _: READY
    event = fired(trigger)
    assert len(json.dumps(event)) < 4_096
    assert set(event) == {"status", "final", "waiting"}


def test_it_ends_with_those_that_are_final_when_they_are_enough(service: PolledService) -> None:
    final = ids(100)[40:60]
    ready(service, *final)
    event = BatchEvent.parse(fired(ToAPIsVideoBatchTrigger(ids(100))))
    positions = event.final_positions(100)
    assert event.status == "success"
    assert 10 <= len(positions) <= 20
    assert {f"video_{position}" for position in positions} <= set(final)
    assert event.waiting == 100 - len(positions)


def test_single_one_is_told_of_a_minute_later(service: PolledService) -> None:
    ready(service, "video_7")
    event = BatchEvent.parse(fired(ToAPIsVideoBatchTrigger(ids(100))))
    assert event.final_positions(100) == [7]
    assert 60 <= ended_at(service) <= 75


def test_it_ends_at_once_when_all_are_final_whatever_the_earliest_time_is(service: PolledService) -> None:
    service.answer = lambda _: READY
    event = BatchEvent.parse(fired(ToAPIsVideoBatchTrigger(ids(12), not_before=START + 3_600)))
    assert event.final_positions(12) == list(range(12))
    assert ended_at(service) <= 15


def test_task_is_not_woken_before_the_time(service: PolledService) -> None:
    ready(service, *ids(99))
    event = BatchEvent.parse(fired(ToAPIsVideoBatchTrigger(ids(100), not_before=START + 300)))
    assert event.waiting == 1
    assert 280 <= ended_at(service) <= 300


def test_deadline_without_a_final_video_is_a_timeout(service: PolledService) -> None:
    service.answer = lambda _: RUNNING
    event = BatchEvent.parse(fired(ToAPIsVideoBatchTrigger(ids(20), end_time=START + 100)))
    assert (event.status, event.waiting) == ("timeout", 20)


def test_video_whose_wait_ends_in_an_error_counts_as_final_because_the_task_asks_for_the_truth(
    service: PolledService,
) -> None:
    service.answer = lambda _: REFUSED
    event = BatchEvent.parse(fired(ToAPIsVideoBatchTrigger(ids(3))))
    assert event.final_positions(3) == [0, 1, 2]


def test_video_that_cannot_be_watched_is_told_of_and_does_not_end_the_wait_for_the_others(
    service: PolledService, caplog: pytest.LogCaptureFixture
) -> None:
    service.answer = lambda video_id: ValueError(KEY) if video_id == "video_2" else RUNNING if now() < 30 else READY
    event = BatchEvent.parse(fired(ToAPIsVideoBatchTrigger(ids(5))))
    assert event.final_positions(5) == list(range(5))
    assert "Cannot poll video video_2 (ValueError)" in caplog.text
    assert KEY not in caplog.text


def test_no_video_is_asked_for_more_often_than_every_five_seconds(service: PolledService) -> None:
    service.answer = lambda _: RUNNING
    fired(ToAPIsVideoBatchTrigger(ids(20), poll_interval=1, end_time=START + 100))
    for video_id in ids(20):
        asked = service.asked_for(video_id)
        assert len(asked) > 5
        assert min(later - earlier for earlier, later in itertools.pairwise(asked)) >= 4.99


def test_nothing_is_left_behind_when_it_ends(service: PolledService) -> None:
    async def first_event() -> set[Any]:
        events = ToAPIsVideoBatchTrigger(ids(50)).run()
        await anext(aiter(events))
        return asyncio.all_tasks() - {asyncio.current_task()}

    ready(service, *ids(20))
    assert run(first_event()) == set()
    assert service.open_clients == 0


@in_virtual_time
async def cancelled(trigger: ToAPIsVideoBatchTrigger) -> None:
    async def wait() -> None:
        async for _ in trigger.run():
            raise AssertionError("it ended")

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(30)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    # Long enough for whatever goes on to ask again.
    await asyncio.sleep(300)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_canceled_one_stops_asking_and_closes_its_client(service: PolledService) -> None:
    service.answer = lambda _: RUNNING
    cancelled(ToAPIsVideoBatchTrigger(ids(50)))
    assert service.open_clients == 0
    assert ended_at(service) <= 30


class TestWebhook:
    def test_only_those_that_webhooks_tell_of_are_asked_for_rarely(self, service: PolledService) -> None:
        ready(service, *ids(4), at=500)
        trigger = ToAPIsVideoBatchTrigger(ids(4), fallback_interval=300.0, webhook_positions=positions_text([0, 1]))
        fired(trigger)
        asked = Counter(poll.video_id for poll in service.polls)
        assert max(asked["video_0"], asked["video_1"]) <= 3
        assert min(asked["video_2"], asked["video_3"]) > 20

    def test_arguments_survive_the_database(self) -> None:
        trigger = ToAPIsVideoBatchTrigger(ids(3), fallback_interval=300.0, webhook_positions="0x7", final="0x2")
        assert stored_and_loaded(trigger).serialize() == trigger.serialize()

    def test_few_webhooks_are_noted_until_a_minute_after_the_first(self) -> None:
        trigger = ToAPIsVideoBatchTrigger(ids(50))
        assert trigger.on_webhook("video_7", "success", 1000.0).at == 1060.0
        assert trigger.final == positions_text([7])

    def test_a_tenth_is_enough(self) -> None:
        trigger = ToAPIsVideoBatchTrigger(ids(50))
        for number in range(9):
            assert trigger.on_webhook(f"video_{number}", "success", 1000.0).at == 1060.0
        wake = trigger.on_webhook("video_9", "failed", 1000.0)
        assert wake.at < 1000.0
        assert BatchEvent.parse(wake.payload).final_positions(50) == list(range(10))

    def test_task_that_was_woken_a_moment_ago_is_left_alone_unless_all_are_final(self) -> None:
        trigger = ToAPIsVideoBatchTrigger(ids(2), not_before=1050.0)
        assert trigger.on_webhook("video_0", "success", 1000.0).at == 1060.0
        assert trigger.on_webhook("video_0", "success", 1000.0).at == 1060.0
        wake = trigger.on_webhook("video_1", "success", 1000.0)
        assert wake.at < 1000.0
        assert wake.payload == {"status": "success", "final": "0x3", "waiting": 0}

    def test_what_was_noted_counts_when_the_trigger_is_started_anew(self, service: PolledService) -> None:
        ready(service)
        trigger = ToAPIsVideoBatchTrigger(ids(30), fallback_interval=300.0, webhook_positions="0xff", final="0x3ff")
        event = BatchEvent.parse(fired(stored_and_loaded(trigger)))
        assert event.final_positions(30) == list(range(10))
        assert not service.polls

    def test_event_of_what_was_noted(self) -> None:
        trigger = ToAPIsVideoBatchTrigger(ids(30), final="0x5")
        assert trigger.pending_event() == {"status": "success", "final": "0x5", "waiting": 28}
