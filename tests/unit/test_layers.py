"""Imports point one way: api <- hooks <- triggers <- sensors, operators. Nothing imports the emulator."""

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

#: What each layer may import of the package. A layer is a folder, or a module beside the folders.
ALLOWED = {
    "api": {"api"},
    "exceptions": {"api"},
    "storage": {"api"},
    "receipts": {"api", "storage"},
    "metrics": {"api"},
    "version_compat": set(),
    "get_provider_info": set(),
    "retry_policy": {"exceptions"},
    "manifest": {"api"},
    "outlets": {"manifest", "version_compat"},
    "lineage": {"__version__", "manifest"},
    "links": {"api", "manifest"},
    "hooks": {"api", "exceptions", "get_provider_info", "hooks", "metrics", "storage", "version_compat"},
    "triggers": {"api", "exceptions", "hooks", "metrics", "triggers", "version_compat"},
    "batch": {"api", "batch", "hooks", "manifest", "metrics", "storage"},
    "decorators": {"api", "decorators", "exceptions", "operators"},
    "operators": {
        "api",
        "batch",
        "exceptions",
        "hooks",
        "lineage",
        "links",
        "manifest",
        "metrics",
        "operators",
        "outlets",
        "receipts",
        "storage",
        "triggers",
        "version_compat",
    },
    "sensors": {"api", "exceptions", "hooks", "metrics", "sensors", "triggers", "version_compat"},
    "webhooks": {"api", "hooks", "metrics", "triggers", "webhooks"},
    "emulator": {"emulator"},
}


def modules(*folders: str) -> list[Path]:
    return [
        path for path in sorted(PACKAGE.rglob("*.py")) if not folders or path.relative_to(PACKAGE).parts[0] in folders
    ]


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    return _imports(path, ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported_at_once(path: Path) -> Iterator[str]:
    """Every module that a file imports when it is imported itself."""
    return _imports(path, ast.parse(path.read_text(encoding="utf-8")).body)


def _imports(path: Path, nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_layers(path: Path) -> set[str]:
    own = (name.split(".") for name in imported(path) if name.split(".")[0] == NAME)
    return {parts[1] for parts in own}


def test_every_layer_is_described_here() -> None:
    assert {layer(path) for path in modules()} - {"__init__"} <= ALLOWED.keys()


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_layer_imports_only_what_is_below_it(name: str) -> None:
    files = [path for path in modules() if layer(path) == name]
    assert files
    for path in files:
        assert imported_layers(path) <= ALLOWED[name], path


def test_api_imports_nothing_of_airflow() -> None:
    for path in modules("api"):
        assert not [name for name in imported(path) if name.split(".")[0] == "airflow"], path


def test_api_runs_where_airflow_is_not_installed() -> None:
    names = [
        ".".join([NAME, *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
        for path in modules("api")
    ]
    code = f"import sys; sys.modules['airflow'] = None; import {', '.join(names)}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_httpx_stays_in_one_module() -> None:
    users = {path.name for path in modules() if layer(path) != "emulator" and "httpx" in set(imported(path))}
    assert users == {"client.py"}


def test_airflow_versions_are_known_in_one_module_only() -> None:
    asking = {path.name for path in modules() if {"airflow.__version__", "airflow.version"} & set(imported(path))}
    assert asking == {"version_compat.py"}


#: Distributions that take long to import, by the names of their packages.
HEAVY = {"httpx", "httpcore", "aiohttp", "requests", "fsspec", "upath"}


@pytest.fixture(scope="module")
def loaded_for_dag_files() -> tuple[set[str], set[str]]:
    """Modules that are there after a DAG file imported everything of ours: our own, and the heavy ones we added."""
    code = f"""
import json, sys
import airflow.sdk
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
    assert not own & {f"{NAME}.api.client", f"{NAME}.storage", f"{NAME}.receipts", f"{NAME}.triggers.video"}
    for path in modules():
        name = ".".join([NAME, *path.relative_to(PACKAGE).with_suffix("").parts])
        if name in own:
            assert not {asked.split(".")[0] for asked in imported_at_once(path)} & HEAVY, path
