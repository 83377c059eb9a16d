"""Airflow's commands show the options of ``[toapis]``, their defaults and their configured values."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_toapis.get_provider_info import CONFIG_OPTIONS


@pytest.fixture
def airflow_home(tmp_path: Path) -> Path:
    (tmp_path / "airflow.cfg").write_text("[toapis]\ntimeout = 900\n", encoding="utf-8")
    return tmp_path


def airflow(home: Path, *command: str, **variables: str) -> str:
    """Run an Airflow command and return its output."""
    environment = {**os.environ, "AIRFLOW_HOME": str(home), **variables}
    run = subprocess.run(
        [sys.executable, "-m", "airflow", *command], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def option_value(home: Path, option: str, **variables: str) -> str:
    return airflow(home, "config", "get-value", "toapis", option, **variables).strip().splitlines()[-1]


def test_unset_option_has_the_providers_default(airflow_home: Path) -> None:
    assert option_value(airflow_home, "poll_interval") == CONFIG_OPTIONS["poll_interval"]["default"]


def test_configuration_file_and_environment_override_the_default(airflow_home: Path) -> None:
    assert option_value(airflow_home, "timeout") == "900"
    assert option_value(airflow_home, "timeout", AIRFLOW__TOAPIS__TIMEOUT="600") == "600"


def test_airflow_lists_every_option_with_its_description(airflow_home: Path) -> None:
    listed = airflow(airflow_home, "providers", "configs", "--output", "json")
    assert "airflow-provider-toapis" in listed
    for described in CONFIG_OPTIONS.values():
        assert described["description"].splitlines()[0] in listed
