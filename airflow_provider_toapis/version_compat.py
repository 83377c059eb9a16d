"""The only place that knows Airflow versions."""

from __future__ import annotations

from airflow import __version__ as _airflow_version
from packaging.version import Version

_RELEASE = Version(_airflow_version).release

AIRFLOW_V_3_2_PLUS = _RELEASE >= (3, 2)

try:
    from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout
except ImportError:  # Airflow 2.11 to 3.1
    from airflow.exceptions import TaskDeferralError, TaskDeferralTimeout  # type: ignore[no-redef,assignment]

__all__ = ["AIRFLOW_V_3_2_PLUS", "TaskDeferralError", "TaskDeferralTimeout"]
