"""Differences between Airflow versions. No other module reads the version of Airflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from airflow import __version__ as _airflow_version
from packaging.version import Version

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath
    from typing_extensions import TypeIs

_RELEASE = Version(_airflow_version).release

AIRFLOW_V_3_PLUS = _RELEASE >= (3,)
AIRFLOW_V_3_1_PLUS = _RELEASE >= (3, 1)
AIRFLOW_V_3_2_PLUS = _RELEASE >= (3, 2)
AIRFLOW_V_3_4_PLUS = _RELEASE >= (3, 4)

try:
    from airflow.sdk.exceptions import TaskDeferralError
except ImportError:  # Airflow 2.11 to 3.1
    from airflow.exceptions import TaskDeferralError  # type: ignore[no-redef,assignment]


def deferral_timed_out(next_method: str, next_kwargs: Mapping[str, Any] | None) -> bool:
    """Return whether Airflow resumes a task because ``defer(timeout=)`` has expired.

    Only the text of the error shows that: "Trigger timeout" in Airflow 3, "Trigger/execution timeout" in Airflow 2.11.
    The exception is the same as for a trigger that failed.
    """
    return next_method == "__fail__" and "timeout" in str((next_kwargs or {}).get("error", "")).lower()


def is_rescheduled(operator: Any, error: Exception, context: Mapping[str, Any]) -> bool:  # noqa: ANN401
    """Return whether the task's retry policy reschedules the task after an error. Policies of Airflow 3.4+ can do so.

    A rescheduled task does not use up a retry.
    """
    policy = getattr(operator, "retry_policy", None)
    if policy is None or not AIRFLOW_V_3_4_PLUS:
        return False
    ti = context["ti"]
    try:
        decision = policy.evaluate(error, ti.try_number, ti.max_tries, context)
    except Exception:  # noqa: BLE001 - Airflow logs it when it asks the policy itself
        return False
    return str(decision.action.value) == "reschedule"


def is_local(path: Path | ObjectStoragePath) -> TypeIs[Path]:
    """Return whether a path is on local disk.

    The type alone does not show it: with the universal-pathlib of Airflow 2.11 and 3.1, every path is a ``Path``.
    """
    return isinstance(path, Path) and not hasattr(type(path), "fs")


def open_lines(path: Path | ObjectStoragePath, **options: Any) -> TextIO:  # noqa: ANN401
    """Open a text file to read it line by line.

    In Airflow 2.11 and 3.0, the file that ``path.open()`` returns for an object in a bucket cannot be iterated.
    """
    opened = path.open("r", **options) if is_local(path) else path.fs.open(path.path, "r", **options)
    return cast("TextIO", opened)


def alias_event_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``extra`` for an event of an asset alias, with hashable values for Airflow 2.11, which hashes them."""
    return dict(extra) if _RELEASE >= (3,) else {name: _hashable(value) for name, value in extra.items()}


class _HashableDict(dict[str, Any]):
    """A JSON object that can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def _hashable(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, Mapping):
        return _HashableDict(value)
    return tuple(value) if isinstance(value, list) else value


def is_of_task_instance(model: Any, task_instance: Any) -> Any:  # noqa: ANN401 - classes of Airflow's ORM
    """Return the SQL condition that a row belongs to a task instance.

    :param model: ``XComModel`` or ``RenderedTaskInstanceFields``.
    """
    if AIRFLOW_V_3_4_PLUS:
        return model.task_instance_id == task_instance.id
    return (
        (model.dag_id == task_instance.dag_id)
        & (model.task_id == task_instance.task_id)
        & (model.run_id == task_instance.run_id)
        & (model.map_index == task_instance.map_index)
    )


def needs_sync_connection_lookup() -> bool:
    """Return whether connections must be read synchronously, even on an event loop.

    This is the case in two kinds of processes, because their supervisor has no asynchronous API: in a worker of Airflow
    3.0, and in ``airflow dags test`` or ``dag.test()``. In such a test, an awaited look-up does not find the connection
    (seen in Airflow 3.3.2). The supervisor of a triggerer has an asynchronous API.
    """
    try:
        from airflow.sdk.execution_time import task_runner
    except ImportError:  # Airflow 2
        return False
    supervisor = getattr(task_runner, "SUPERVISOR_COMMS", None)
    return hasattr(supervisor, "send") and not hasattr(supervisor, "asend")


__all__ = [
    "AIRFLOW_V_3_1_PLUS",
    "AIRFLOW_V_3_2_PLUS",
    "AIRFLOW_V_3_4_PLUS",
    "AIRFLOW_V_3_PLUS",
    "TaskDeferralError",
    "alias_event_extra",
    "deferral_timed_out",
    "is_local",
    "is_of_task_instance",
    "is_rescheduled",
    "needs_sync_connection_lookup",
    "open_lines",
]
