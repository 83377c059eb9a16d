from __future__ import annotations

import os
import tempfile

# Before anything imports Airflow: its home, and the configuration file that it writes there, are not the user's.
_home = tempfile.TemporaryDirectory(prefix="toapis-tests-airflow-")
os.environ["AIRFLOW_HOME"] = _home.name
