"""Skip tests on older Airflow versions. The summary of a run lists the skipped tests and the reasons."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version

AIRFLOW = Version(version("apache-airflow"))


def needs_airflow(minimum: str, why: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test if Airflow is older than ``minimum``.

    :param why: The feature that older versions do not have.
    """
    return pytest.mark.skipif(Version(minimum) > AIRFLOW, reason=f"needs Airflow {minimum}: {why}")
