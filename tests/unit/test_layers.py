"""Imports: the contracts of pyproject.toml, and what such contracts cannot say."""

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


def modules(folder: str = ".") -> dict[str, Path]:
    """Return the files of a folder, by the names of their modules."""
    return {
        ".".join([NAME, *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in sorted((PACKAGE / folder).rglob("*.py"))
    }


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    return _imports(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported_at_once(path: Path) -> Iterator[str]:
    """Every module that a file imports when it is imported itself."""
    return _imports(ast.parse(path.read_text(encoding="utf-8")).body)


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_keep_the_contracts() -> None:
    pytest.importorskip("importlinter", reason="make lint runs it, with the newest Airflow")
    # In a process of its own: it sets logging up anew, which silences the loggers that are there.
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=PROJECT)
    assert run.returncode == 0, run.stdout + run.stderr


def test_airflow_versions_are_known_in_one_module_only() -> None:
    asking = {
        name for name, path in modules().items() if {"airflow.__version__", "airflow.version"} & set(imported(path))
    }
    assert asking == {f"{NAME}.version_compat"}


#: Distributions that take long to import, by the names of their packages.
HEAVY = {"httpx", "httpcore", "aiohttp", "requests", "fsspec", "upath"}


@pytest.fixture(scope="module")
def loaded_for_dag_files() -> tuple[set[str], set[str]]:
    """Modules that are there after a DAG file imported everything of ours: our own, and the heavy ones we added."""
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
    own, heavy = json.loads(run.stdout.splitlines()[-1])
    return set(own), set(heavy)


def test_dag_files_load_nothing_heavy_beyond_what_airflow_loads(
    loaded_for_dag_files: tuple[set[str], set[str]],
) -> None:
    assert loaded_for_dag_files[1] == set()


def test_what_dag_files_load_asks_for_nothing_heavy(loaded_for_dag_files: tuple[set[str], set[str]]) -> None:
    """Airflow may already have loaded some of it, today; that is no reason to ask for it."""
    own = loaded_for_dag_files[0]
    assert f"{NAME}.operators.video" in own
    assert not own & {f"{NAME}.api.client", f"{NAME}.triggers.video", f"{NAME}.batch.engine"}
    for name, path in modules().items():
        if name in own:
            assert not {asked.split(".")[0] for asked in imported_at_once(path)} & HEAVY, path
