"""``.airflow-registry.yaml`` matches the provider info."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

import airflow_provider_toapis

INFO = airflow_provider_toapis.get_provider_info()
FILE = Path(__file__).parents[2] / ".airflow-registry.yaml"
REGISTRY: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))


def public_classes(kind: str) -> set[str]:
    modules = [import_module(name) for entry in INFO[kind] for name in entry["python-modules"]]
    return {
        f"{module.__name__}.{name}"
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def test_package_name_matches_the_provider_info() -> None:
    assert REGISTRY["package-name"] == INFO["package-name"]


@pytest.mark.parametrize("kind", ["operators", "sensors", "triggers", "hooks"])
def test_registry_lists_every_public_class_once(kind: str) -> None:
    listed = [entry["module"] for entry in REGISTRY[kind]]
    assert sorted(listed) == sorted(public_classes(kind))
    assert all(entry["description"] for entry in REGISTRY[kind])
