"""Imports: the contracts of pyproject.toml, and rules that such contracts cannot express."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import airflow_provider_toapis

PACKAGE = Path(airflow_provider_toapis.__file__).parent
NAME = "airflow_provider_toapis"
PROJECT = Path(__file__).parents[2]


def modules(directory: str = ".") -> dict[str, Path]:
    """Return the files of a directory, by the names of their modules."""
    return {
        ".".join([NAME, *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in sorted((PACKAGE / directory).rglob("*.py"))
    }


def imported(path: Path) -> Iterator[str]:
    """Return every module that a file imports."""
    return _imports(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported_at_module_level(path: Path) -> Iterator[str]:
    """Return every module that a file imports at module level."""
    return _imports(ast.parse(path.read_text(encoding="utf-8")).body)


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_follow_the_contracts() -> None:
    pytest.importorskip("importlinter", reason="make lint runs it, with the newest Airflow")
    # In its own process, because import-linter configures logging again, which silences existing loggers.
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=PROJECT)
    assert run.returncode == 0, run.stdout + run.stderr


def test_only_version_compat_reads_the_airflow_version() -> None:
    readers = {
        name for name, path in modules().items() if {"airflow.__version__", "airflow.version"} & set(imported(path))
    }
    assert readers == {f"{NAME}.version_compat"}


#: Packages that are slow to import.
HEAVY = {"httpx", "httpcore", "aiohttp", "requests", "fsspec", "upath"}


@pytest.fixture(scope="module")
def loaded_for_dag_files() -> tuple[set[str], set[str]]:
    """Return the modules of the provider and the heavy packages that are loaded when all operators are imported.

    Packages that Airflow itself has loaded before are excluded.
    """
    code = f"""
import json, sys
from airflow.providers.common.compat.sdk import DAG
before = set(sys.modules)
import {NAME}.exceptions, {NAME}.operators.video, {NAME}.operators.files, {NAME}.sensors.video
import {NAME}.operators.batch, {NAME}.decorators.video, {NAME}.decorators.batch
added = set(sys.modules) - before
heavy = {{name.split(".")[0] for name in added}} & set({sorted(HEAVY)!r})
print(json.dumps([sorted(name for name in added if name.startswith("{NAME}.")), sorted(heavy)]))
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    own_modules, heavy = json.loads(run.stdout.splitlines()[-1])
    return set(own_modules), set(heavy)


def test_dag_files_load_no_heavy_packages_that_airflow_does_not_load(
    loaded_for_dag_files: tuple[set[str], set[str]],
) -> None:
    assert loaded_for_dag_files[1] == set()


def test_modules_loaded_by_dag_files_import_no_heavy_packages(loaded_for_dag_files: tuple[set[str], set[str]]) -> None:
    """Airflow itself can load some heavy packages; the provider must not depend on that."""
    own_modules = loaded_for_dag_files[0]
    assert f"{NAME}.operators.video" in own_modules
    assert not own_modules & {f"{NAME}.api.client", f"{NAME}.triggers.video", f"{NAME}.batch.engine"}
    for name, path in modules().items():
        if name in own_modules:
            assert not {imported_name.split(".")[0] for imported_name in imported_at_module_level(path)} & HEAVY, path
