"""Benchmarks of the design's performance targets. Each is one command, which prints its figure on the last line."""

from __future__ import annotations

import os
import tempfile

if "AIRFLOW_HOME" not in os.environ:
    # Set before Airflow is imported, so that its configuration file is not written to the user's home directory.
    _home = tempfile.TemporaryDirectory(prefix="toapis-benchmarks-airflow-")
    os.environ["AIRFLOW_HOME"] = _home.name
