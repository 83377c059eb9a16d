"""A fake task instance, and functions that run an operator as Airflow does, without Airflow's processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast
from uuid import NAMESPACE_URL, uuid5

from airflow.providers.common.compat.sdk import TaskDeferred
from pydantic import JsonValue, TypeAdapter

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context
    from airflow.triggers.base import BaseTrigger

#: Maximum number of deferrals in one attempt. More deferrals mean an endless loop.
MAX_DEFERRALS = 20


def outlet_events() -> Any:
    """Return the outlet events of a task, as in Airflow's context for ``execute``."""
    try:
        module = import_module("airflow.sdk.execution_time.context")
    except ImportError:  # Airflow 2.11
        module = import_module("airflow.utils.context")
    return module.OutletEventAccessors()


def stored_json(value: Any) -> Any:
    """Return a value as Airflow's task state store saves it.

    :raises ValueError: The value is not JSON. A tuple is not JSON either.
    """
    return TypeAdapter(JsonValue).validate_python(value)


def let_operators_run_in_this_thread() -> None:
    """Initialize Airflow 2.11's executor safeguard. Airflow initializes it only in the thread that imports it."""
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
        self.id = uuid5(NAMESPACE_URL, f"{dag_id}/{run_id}/{task_id}/{map_index}")
        self.dag_id = dag_id
        self.task_id = task_id
        self.run_id = run_id
        self.map_index = map_index
        self.max_tries = self.retries = max_tries
        self.try_number = 1
        self.xcoms: dict[str, Any] = {}
        #: Return value of the task in its previous run.
        self.earlier_result: Any = None
        self.outlet_events = outlet_events()

    @property
    def context(self) -> Context:
        """The context for ``execute``."""
        let_operators_run_in_this_thread()
        return cast("Context", {"ti": self, "task_instance": self, "outlet_events": self.outlet_events})

    def next_attempt(self) -> FakeTaskInstance:
        """Start the next attempt and delete the XComs, as Airflow does. A resumed task keeps its XComs."""
        self.try_number += 1
        self.xcoms.clear()
        return self

    def cleared(self) -> FakeTaskInstance:
        """Clear the task and start its next attempt. As in Airflow, all retries are left after it."""
        self.max_tries = self.try_number + self.retries
        return self.next_attempt()

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value))

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: int, include_prior_dates: bool = False) -> Any:
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcoms.get(key, self.earlier_result if include_prior_dates and key == "return_value" else None)


def stored_and_loaded(trigger: BaseTrigger) -> BaseTrigger:
    """Return the trigger as the triggerer loads it: the class imported by its path, the arguments parsed from JSON."""
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
        raise AssertionError("The trigger ended without an event.")

    return asyncio.run(first())


def deferral(run: Callable[[], Any]) -> TaskDeferred:
    """Call ``run`` and return its deferral."""
    try:
        result = run()
    except TaskDeferred as deferred:
        return deferred
    raise AssertionError(f"Expected a deferral, but got the result {result!r}.")


def attempt(make: Callable[[], BaseOperator], ti: FakeTaskInstance) -> Any:
    """Run one attempt of a task as Airflow does, with a new operator object after each deferral.

    :param make: Creates the operator, as parsing the DAG file does.
    """
    step: Callable[[], Any] = lambda: make().execute(ti.context)  # noqa: E731
    for _ in range(MAX_DEFERRALS):
        try:
            return step()
        except TaskDeferred as deferred:
            event = fired(stored_and_loaded(cast("BaseTrigger", deferred.trigger)))
            step = _resumption(make(), deferred, event, ti)
    raise AssertionError(f"The task deferred more than {MAX_DEFERRALS} times.")


def _resumption(
    operator: BaseOperator, deferred: TaskDeferred, event: Mapping[str, Any], ti: FakeTaskInstance
) -> Callable[[], Any]:
    return lambda: operator.resume_execution(deferred.method_name, {"event": event}, ti.context)
