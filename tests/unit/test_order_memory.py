from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import pytest

from airflow_provider_toapis.api.protocol import Remember
from airflow_provider_toapis.api.requests import EarlierOrder
from airflow_provider_toapis.operators.order_memory import OrderMemory
from tests.airflow_task import FakeTaskInstance

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

RETRIES = 2
INTENT = Remember("af-1", video_id=None)
REFUSED = Remember("af-1", video_id=None, refused=True)


class StateStore:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def set(self, key: str, value: Any) -> None:
        self.values[key] = value


@pytest.fixture
def ti() -> FakeTaskInstance:
    return FakeTaskInstance(max_tries=RETRIES)


def memory(ti: FakeTaskInstance, store: StateStore | None) -> OrderMemory:
    context = cast("Context", {**ti.context, **({} if store is None else {"task_state_store": store})})
    return OrderMemory(context, "wanted", RETRIES)


@pytest.mark.parametrize("store", [StateStore(), None], ids=["store", "no store"])
def test_first_attempt_knows_of_no_order(ti: FakeTaskInstance, store: StateStore | None) -> None:
    assert memory(ti, store).earlier_order() is None


def test_retry_reads_the_note_of_the_attempt_before(ti: FakeTaskInstance) -> None:
    store = StateStore()
    memory(ti, store).note("af-1", None)

    assert memory(ti.next_attempt(), store).earlier_order() == EarlierOrder("af-1", None)


@pytest.mark.parametrize("next_one", [FakeTaskInstance.next_attempt, FakeTaskInstance.cleared])
def test_attempt_after_a_refused_order_does_not_wait_for_its_video(
    ti: FakeTaskInstance, next_one: Callable[[FakeTaskInstance], FakeTaskInstance]
) -> None:
    store = StateStore()
    first = memory(ti, store)
    first.remember(INTENT)
    first.remember(REFUSED)

    assert memory(next_one(ti), store).earlier_order() is None


def test_refused_order_makes_nobody_forget_the_order_before(ti: FakeTaskInstance) -> None:
    store = StateStore()
    memory(ti, store).note("af-0", "video_0")
    second = memory(ti.next_attempt(), store)
    second.remember(INTENT)
    second.remember(REFUSED)

    assert memory(ti.next_attempt(), store).earlier_order() == EarlierOrder("af-0", "video_0")


def test_refused_order_does_not_rule_out_one_whose_note_a_clear_has_emptied(ti: FakeTaskInstance) -> None:
    store = StateStore()
    second = memory(ti.cleared(), store)
    second.remember(INTENT)
    second.remember(REFUSED)

    assert memory(ti.next_attempt(), store).earlier_order() == EarlierOrder("af-1", None)


def test_order_after_a_refused_one_is_noted(ti: FakeTaskInstance) -> None:
    store = StateStore()
    first = memory(ti, store)
    for order in (INTENT, REFUSED, INTENT):
        first.remember(order)

    assert memory(ti.next_attempt(), store).earlier_order() == EarlierOrder("af-1", None)


def test_refused_order_is_no_matter_without_a_store(ti: FakeTaskInstance) -> None:
    first = memory(ti, None)
    first.remember(INTENT)
    first.remember(REFUSED)

    assert memory(ti.next_attempt(), None).earlier_order() == EarlierOrder()


def test_retry_of_an_attempt_that_died_before_it_ordered_does_not_wait_for_its_video(ti: FakeTaskInstance) -> None:
    assert memory(ti.next_attempt(), StateStore()).earlier_order() is None


def test_retry_without_a_store_takes_an_earlier_order_as_possible(ti: FakeTaskInstance) -> None:
    assert memory(ti.next_attempt(), None).earlier_order() == EarlierOrder()


def test_clear_that_empties_the_store_leaves_an_earlier_order_possible(ti: FakeTaskInstance) -> None:
    assert memory(ti.cleared(), StateStore()).earlier_order() == EarlierOrder()
