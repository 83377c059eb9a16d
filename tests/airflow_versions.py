"""What a test needs of Airflow. The summary of a run says which tests were left out, and why."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version

AIRFLOW = Version(version("apache-airflow"))


def needs_airflow(minimum: str, why: str) -> pytest.MarkDecorator:
    """Leave a test out where Airflow is older.

    :param why: What that Airflow has and older ones have not.
    """
    return pytest.mark.skipif(Version(minimum) > AIRFLOW, reason=f"needs Airflow {minimum}: {why}")
