"""Airflow and the wheel in their own virtual environment, without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from uv import find_uv_bin

#: Seconds for one command, on a busy machine.
TIME_LIMIT = 300.0


class BareAirflow:
    """A user's home directory with an Airflow.

    :param home: An empty directory.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.dags_folder = home / "airflow" / "dags"
        self.dags_folder.mkdir(parents=True)
        self._venv = home / "venv"

    def install(self, wheel: Path, constraints: Path) -> None:
        """Install Airflow and the wheel, and check that all dependencies are compatible."""
        python = str(self._venv / "bin" / "python")
        self._uv("venv", "--python", sys.executable, str(self._venv))
        self._uv("pip", "install", "--python", python, "--constraint", str(constraints), "apache-airflow", str(wheel))
        self._uv("pip", "check", "--python", python)

    def version(self) -> str:
        """Return the version of the installed Airflow."""
        return self.run(
            """python -c 'from importlib.metadata import version; print(version("apache-airflow"))'"""
        ).strip()

    def run(self, command: str, **environment: str) -> str:
        """Run a shell command as the user does, and return its output.

        :raises AssertionError: The command failed.
        """
        variables = {
            "HOME": str(self.home),
            "PATH": f"{self._venv / 'bin'}:{os.environ['PATH']}",
            "AIRFLOW_HOME": str(self.home / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "NO_PROXY": "127.0.0.1",
            "PYTHONWARNINGS": "default",
            **environment,
        }
        run = subprocess.run(
            ["sh", "-c", command],
            cwd=self.home,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )
        assert run.returncode == 0, f"{command}\n{run.stdout}"
        return run.stdout

    @staticmethod
    def _uv(*arguments: str) -> None:
        run = subprocess.run([find_uv_bin(), "--quiet", *arguments], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
