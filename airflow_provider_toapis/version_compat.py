"""The only place that knows Airflow versions."""

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
AIRFLOW_V_3_2_PLUS = _RELEASE >= (3, 2)

try:
    from airflow.sdk.exceptions import TaskDeferralError
except ImportError:  # Airflow 2.11 to 3.1
    from airflow.exceptions import TaskDeferralError  # type: ignore[no-redef,assignment]


def deferral_timed_out(next_method: str, next_kwargs: Mapping[str, Any] | None) -> bool:
    """Whether Airflow resumes a task only to say that ``defer(timeout=)`` has expired.

    Airflow 3 says "Trigger timeout", Airflow 2.11 "Trigger/execution timeout", with the same exception as for a trigger
    that broke.
    """
    return next_method == "__fail__" and "timeout" in str((next_kwargs or {}).get("error", "")).lower()


def is_local(path: Path | ObjectStoragePath) -> TypeIs[Path]:
    """Whether a path is on local disk. Airflow 2.11 and 3.1 take a universal-pathlib whose every path is a ``Path``."""
    return isinstance(path, Path) and not hasattr(type(path), "fs")


def open_lines(path: Path | ObjectStoragePath, **options: Any) -> TextIO:  # noqa: ANN401
    """Open a text to be read line by line: what Airflow 2.11 and 3.0 wrap around an open object cannot be."""
    opened = path.open("r", **options) if is_local(path) else path.fs.open(path.path, "r", **options)
    return cast("TextIO", opened)


def alias_event_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``extra`` as the events of an asset alias take it: Airflow 2.11 hashes its values, so no lists there."""
    if _RELEASE >= (3,):
        return dict(extra)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in extra.items()}


def needs_sync_connection_lookup() -> bool:
    """Whether a trigger runs in the process of ``airflow dags test`` or ``dag.test()``.

    What stands for the supervisor there answers at once and has no asynchronous side: whoever awaits a connection is
    told that there is none (seen on Airflow 3.3.2). Triggerers have that side; workers of Airflow 3.0 have not.
    """
    try:
        from airflow.sdk.execution_time import task_runner
    except ImportError:  # Airflow 2
        return False
    supervisor = getattr(task_runner, "SUPERVISOR_COMMS", None)
    return hasattr(supervisor, "send") and not hasattr(supervisor, "asend")


__all__ = [
    "AIRFLOW_V_3_2_PLUS",
    "AIRFLOW_V_3_PLUS",
    "TaskDeferralError",
    "alias_event_extra",
    "deferral_timed_out",
    "is_local",
    "needs_sync_connection_lookup",
    "open_lines",
]
