"""Test every supported Airflow with every Python that it supports: ``make test-matrix``.

Each pair has its own environment in ``.nox``, which later runs update.
"""

from __future__ import annotations

import os
from pathlib import Path

import nox

#: Airflow's minor versions, and the Pythons in the classifiers of their newest patch, starting with our oldest Python.
PYTHONS = {
    "2.11": ("3.11", "3.12"),
    "3.0": ("3.11", "3.12"),
    "3.1": ("3.11", "3.12", "3.13"),
    "3.2": ("3.11", "3.12", "3.13"),
    "3.3": ("3.11", "3.12", "3.13"),
    "3.4": ("3.13",),
}
#: The newest pre-release of an Airflow that is not released yet.
PRE_RELEASES = {"3.4": "3.4.0b2"}
#: The Airflow in ``.venv``. Its constraints cover all dependencies of this project.
NEWEST = "3.3"
#: Tests of DAG runs in a real Airflow.
REAL_RUNS = "tests/matrix"

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.stop_on_first_error = False
# A pair without its Python fails, and no Python is downloaded.
nox.options.error_on_missing_interpreters = True
nox.options.download_python = "never"

# Add all Pythons of pyenv to the PATH, because pyenv's shims offer only the selected ones.
_pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
os.environ["PATH"] = os.pathsep.join([*map(str, sorted(_pyenv.glob("versions/3.*/bin"))), os.environ["PATH"]])


@nox.session(name="airflow")
@nox.parametrize(
    ("python", "airflow"),
    [
        nox.param(python, airflow, id=f"{airflow}-{python}")
        for airflow, pythons in PYTHONS.items()
        for python in pythons
    ],
)
def test(session: nox.Session, airflow: str) -> None:
    """Run the unit and integration tests, and a DAG of deferrable tasks in a real Airflow."""
    constraints = "constraints.txt" if airflow == NEWEST else f"dev/constraints/airflow-{airflow}.txt"
    pins = ("--constraint", constraints, "--build-constraint", constraints)
    pre_release = PRE_RELEASES.get(airflow)
    version = f"=={pre_release}" if pre_release else f"~={airflow}.0"
    prerelease = ("--prerelease", "allow") if pre_release else ()
    session.install(*pins, *prerelease, "--editable", ".[emulator,test]", f"apache-airflow{version}")
    directories = session.posargs or ("tests/unit", "tests/integration", REAL_RUNS)
    # Fewer random sequences of faults than in `make test`, because every pair runs the same ones.
    environment = {"TOAPIS_MODEL_SEQUENCES": "50"}
    command = ("python", "-m", "pytest", "-o", "addopts=", "-ra", "-n", "2")
    if quick := [directory for directory in directories if directory != REAL_RUNS]:
        session.run(*command, *quick, env=environment)
    if REAL_RUNS in directories:
        # One process per file, because each file starts an Airflow.
        session.run(*command, "--dist", "loadfile", REAL_RUNS, env=environment)
