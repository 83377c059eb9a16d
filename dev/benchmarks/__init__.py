"""Measurements of what the design promises. Each is one command and prints its figure on the last line."""

from __future__ import annotations

import os
import tempfile

if "AIRFLOW_HOME" not in os.environ:
    # Before anything imports Airflow: the configuration file that it writes there does not go to the user's home.
    _home = tempfile.TemporaryDirectory(prefix="toapis-benchmarks-airflow-")
    os.environ["AIRFLOW_HOME"] = _home.name
