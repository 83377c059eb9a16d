"""A task instance without Airflow's processes: what an operator sees of it, and how Airflow would run it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import TaskDeferred
from pydantic import JsonValue, TypeAdapter

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context
    from airflow.triggers.base import BaseTrigger

#: More deferrals than this in one attempt are a loop.
MAX_DEFERRALS = 20


def outlet_events() -> Any:
    """Return the events of a task's outlets as Airflow hands them to ``execute``."""
    try:
        module = import_module("airflow.sdk.execution_time.context")
    except ImportError:  # Airflow 2.11
        module = import_module("airflow.utils.context")
    return module.OutletEventAccessors()


def stored_json(value: Any) -> Any:
    """Return a value as Airflow's task state store keeps it.

    :raises ValueError: It is not JSON, to which a tuple does not belong either.
    """
    return TypeAdapter(JsonValue).validate_python(value)


def let_operators_run_in_this_thread() -> None:
    """Do what Airflow 2.11 does only in the thread that imports it, and what later ones do not need."""
    try:
        safeguard = import_module("airflow.models.baseoperator").ExecutorSafeguard
    except (ImportError, AttributeError):
        return
    callers = getattr(safeguard, "_sentinel", None)
    if callers is not None and not hasattr(callers, "callers"):
        callers.callers = {}


class FakeTaskInstance:
    """One task instance, with the XComs of its current attempt."""

    def __init__(
        self,
        *,
        dag_id: str = "videos",
        task_id: str = "video",
        run_id: str = "scheduled__2026-01-01",
        map_index: int = -1,
        max_tries: int = 2,
    ) -> None:
        self.dag_id = dag_id
        self.task_id = task_id
        self.run_id = run_id
        self.map_index = map_index
        self.max_tries = max_tries
        self.try_number = 1
        self.xcoms: dict[str, Any] = {}
        #: What the task returned in its latest run before.
        self.earlier_result: Any = None
        self.outlet_events = outlet_events()

    @property
    def context(self) -> Context:
        """What Airflow hands to ``execute``."""
        let_operators_run_in_this_thread()
        return cast("Context", {"ti": self, "task_instance": self, "outlet_events": self.outlet_events})

    def next_attempt(self) -> FakeTaskInstance:
        """Forget the XComs, as Airflow does before each attempt that is not the end of a deferral."""
        self.try_number += 1
        self.xcoms.clear()
        return self

    def cleared(self) -> FakeTaskInstance:
        """Be cleared by a person: Airflow then allows as many tries again."""
        self.max_tries = self.try_number + self.max_tries
        return self.next_attempt()

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value))

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: int, include_prior_dates: bool = False) -> Any:
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcoms.get(key, self.earlier_result if include_prior_dates and key == "return_value" else None)


def stored_and_loaded(trigger: BaseTrigger) -> BaseTrigger:
    """Return the trigger as the triggerer gets it: its class imported by path, its arguments read from JSON."""
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    loaded: BaseTrigger = getattr(import_module(module), name)(**json.loads(json.dumps(arguments)))
    return loaded


def fired(trigger: BaseTrigger) -> dict[str, Any]:
    """Run a trigger to its first event and return the payload."""

    async def first() -> dict[str, Any]:
        events = trigger.run()
        async for event in events:
            return cast("dict[str, Any]", json.loads(json.dumps(event.payload)))
        raise AssertionError("the trigger ended without an event")

    return asyncio.run(first())


def deferral(run: Callable[[], Any]) -> TaskDeferred:
    """Return how ``run`` defers."""
    try:
        result = run()
    except TaskDeferred as deferred:
        return deferred
    raise AssertionError(f"it did not defer but returned {result!r}")


def attempt(make: Callable[[], BaseOperator], ti: FakeTaskInstance) -> Any:
    """Run one attempt of a task as Airflow would, with a new operator object after each deferral.

    :param make: Makes the operator, as parsing the DAG file does.
    """
    step: Callable[[], Any] = lambda: make().execute(ti.context)  # noqa: E731
    for _ in range(MAX_DEFERRALS):
        try:
            return step()
        except TaskDeferred as deferred:
            event = fired(stored_and_loaded(cast("BaseTrigger", deferred.trigger)))
            step = _resumption(make(), deferred, event, ti)
    raise AssertionError("it defers for ever")


def _resumption(
    operator: BaseOperator, deferred: TaskDeferred, event: Mapping[str, Any], ti: FakeTaskInstance
) -> Callable[[], Any]:
    return lambda: operator.resume_execution(deferred.method_name, {"event": event}, ti.context)
