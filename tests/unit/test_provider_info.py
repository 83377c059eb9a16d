"""The provider info that Airflow's ProvidersManager reads."""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata, resources
from pathlib import Path
from typing import Any, get_args

import jsonschema  # type: ignore[import-untyped]
import pytest
from airflow.providers.common.compat.sdk import BaseHook, BaseOperator, BaseOperatorLink, BaseSensorOperator, task
from airflow.triggers.base import BaseTrigger

import airflow_provider_toapis
from airflow_provider_toapis.hooks.connection import field_behavior
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.media_check import CheckMode

INFO = airflow_provider_toapis.get_provider_info()


def airflow_schema(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(resources.files("airflow").joinpath(name).read_text(encoding="utf-8"))
    return schema


def named_modules() -> Iterator[str]:
    for kind in ("operators", "sensors", "hooks", "triggers"):
        for entry in INFO[kind]:
            yield from entry["python-modules"]


def public_classes(base: type) -> dict[str, str]:
    """Return every public subclass of ``base`` in the provider, and the module that defines it."""
    found = {}
    for layer in ("hooks", "links", "operators", "sensors", "triggers"):
        package = import_module(f"airflow_provider_toapis.{layer}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for name, value in vars(import_module(module.name)).items():
                is_own = isinstance(value, type) and issubclass(value, base) and value.__module__ == module.name
                if is_own and name.startswith("ToAPIs") and "Base" not in name:
                    found[name] = module.name
    return found


def modules_of(kind: str) -> set[str]:
    return {name for entry in INFO[kind] for name in entry["python-modules"]}


def task_decorators() -> dict[str, str]:
    return {entry["name"]: entry["class-name"] for entry in INFO["task-decorators"]}


def connection_type() -> Mapping[str, Any]:
    (entry,) = INFO["connection-types"]
    return dict(entry)


def test_provider_info_is_valid_for_airflow() -> None:
    jsonschema.validate(INFO, airflow_schema("provider_info.schema.json"))


def test_provider_info_is_valid_for_the_provider_yaml_schema() -> None:
    """This schema is strict: it allows only known keys."""
    schema = airflow_schema("provider.yaml.schema.json")
    # Required only for providers released from Airflow's repository.
    required = {"state", "lifecycle", "source-date-epoch", "dependencies", "versions"}
    schema["required"] = [key for key in schema["required"] if key not in required]
    jsonschema.validate(INFO, schema)


def test_entry_point_returns_the_provider_info() -> None:
    points = metadata.entry_points(group="apache_airflow_provider")
    (point,) = [point for point in points if point.value.startswith("airflow_provider_toapis")]
    assert point.load()() == INFO


def test_package_name_matches_the_distribution() -> None:
    assert metadata.metadata(INFO["package-name"])["Name"] == "airflow-provider-toapis"
    assert metadata.version(INFO["package-name"]) == airflow_provider_toapis.__version__


@pytest.mark.parametrize("name", sorted(named_modules()))
def test_every_named_module_exists(name: str) -> None:
    import_module(name)


@pytest.mark.parametrize(
    ("kind", "base", "excluded"),
    [
        ("operators", BaseOperator, BaseSensorOperator),
        ("sensors", BaseSensorOperator, ()),
        ("hooks", BaseHook, ()),
        ("triggers", BaseTrigger, ()),
    ],
    ids=["operators", "sensors", "hooks", "triggers"],
)
def test_every_public_class_is_in_a_named_module(kind: str, base: type, excluded: Any) -> None:
    modules = {
        module for name, module in public_classes(base).items() if not excluded or name not in public_classes(excluded)
    }
    assert modules == modules_of(kind)


def test_every_link_is_named() -> None:
    assert {f"{module}.{name}" for name, module in public_classes(BaseOperatorLink).items()} == set(INFO["extra-links"])


def test_every_configuration_option_has_the_fields_that_airflow_shows() -> None:
    ((section, described),) = INFO["config"].items()
    assert section == "toapis"
    for name, option in described["options"].items():
        assert option.keys() == {"description", "version_added", "type", "example", "default"}
        # Airflow before 3.0 writes these values into a configuration file unchanged.
        assert all(isinstance(value, str) for value in option.values())
        # Without a configured directory, no file is served.
        assert {field for field, value in option.items() if not value} == (
            {"default"} if name == "media_roots" else set()
        )
        if option["type"] == "float":
            assert float(option["default"]) > 0
            assert float(option["example"]) > 0
        else:
            assert option["type"] == "string"
    check = described["options"]["check"]
    assert {check["default"], check["example"]} <= set(get_args(CheckMode))


def test_version_added_of_options_is_in_the_changelog() -> None:
    changelog = (Path(__file__).parent.parent.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = set(re.findall(r"^## \[?(\d+\.\d+\.\d+)", changelog, re.MULTILINE))
    # Unreleased changes belong to the current version of the package.
    versions.add(airflow_provider_toapis.__version__)
    (described,) = INFO["config"].values()
    assert {option["version_added"] for option in described["options"].values()} <= versions


def test_provider_info_has_two_task_decorators() -> None:
    assert task_decorators().keys() == {"toapis_video", "toapis_video_batch"}


@pytest.mark.parametrize("name", sorted(task_decorators()))
def test_airflow_offers_every_task_decorator_under_its_name(name: str) -> None:
    module, _, function = task_decorators()[name].rpartition(".")
    assert getattr(task, name) is getattr(import_module(module), function)


def test_every_used_integration_is_declared() -> None:
    declared = {entry["integration-name"] for entry in INFO["integrations"]}
    used = {entry["integration-name"] for kind in ("operators", "sensors", "hooks", "triggers") for entry in INFO[kind]}
    assert used == declared


def test_connection_type_matches_the_hook() -> None:
    entry = connection_type()
    module, _, name = entry["hook-class-name"].rpartition(".")
    assert getattr(import_module(module), name) is ToAPIsHook
    assert entry["connection-type"] == ToAPIsHook.conn_type
    assert entry["hook-name"] == ToAPIsHook.hook_name
    assert ToAPIsHook.default_conn_name == "toapis_default"
    assert ToAPIsHook.conn_name_attr == "toapis_conn_id"


def test_form_fields_match_the_fields_that_the_hook_reads() -> None:
    read = {"timeout", "verify", "proxy", "namespace", "query_rate", "submit_rate"}
    read |= {"webhook", "webhook_secret", "webhook_url", "webhook_poll_interval"}
    assert set(connection_type()["conn-fields"]) == read


def test_form_hides_the_proxy() -> None:
    assert connection_type()["conn-fields"]["proxy"]["schema"]["format"] == "password"


def test_form_of_older_airflow_versions_matches() -> None:
    behavior = field_behavior()
    jsonschema.validate(behavior, airflow_schema("customized_form_field_behaviours.schema.json"))
    assert behavior["hidden_fields"] == connection_type()["ui-field-behaviour"]["hidden-fields"]
    assert behavior["relabeling"] == {"password": "API key"}


def test_plugin_matches_the_entry_point() -> None:
    ((name, path),) = [(entry["name"], entry["plugin-class"]) for entry in INFO["plugins"]]
    points = metadata.entry_points(group="airflow.plugins", name=name)
    (point,) = [point for point in points if point.value.startswith("airflow_provider_toapis")]
    module, _, plugin = path.rpartition(".")
    assert point.load() is getattr(import_module(module), plugin)
