"""What Airflow's ProvidersManager reads."""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata, resources
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from airflow.providers.common.compat.sdk import BaseHook, BaseOperator, BaseOperatorLink, BaseSensorOperator, task
from airflow.triggers.base import BaseTrigger

import airflow_provider_toapis
from airflow_provider_toapis.hooks.connection import field_behavior
from airflow_provider_toapis.hooks.toapis import ToAPIsHook

INFO = airflow_provider_toapis.get_provider_info()


def airflow_schema(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(resources.files("airflow").joinpath(name).read_text(encoding="utf-8"))
    return schema


def named_modules() -> Iterator[str]:
    for kind in ("operators", "sensors", "hooks", "triggers"):
        for entry in INFO[kind]:
            yield from entry["python-modules"]


def offered(base: type) -> dict[str, str]:
    """Every class of ours below ``base`` that users are meant to see, and the module that defines it."""
    found = {}
    for layer in ("hooks", "links", "operators", "sensors", "triggers"):
        package = import_module(f"airflow_provider_toapis.{layer}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for name, value in vars(import_module(module.name)).items():
                is_ours = isinstance(value, type) and issubclass(value, base) and value.__module__ == module.name
                if is_ours and name.startswith("ToAPIs") and "Base" not in name:
                    found[name] = module.name
    return found


def modules_of(kind: str) -> set[str]:
    return {name for entry in INFO[kind] for name in entry["python-modules"]}


def task_decorators() -> dict[str, str]:
    return {entry["name"]: entry["class-name"] for entry in INFO["task-decorators"]}


def connection_type() -> Mapping[str, Any]:
    (entry,) = INFO["connection-types"]
    return dict(entry)


def test_it_is_valid_for_airflow() -> None:
    jsonschema.validate(INFO, airflow_schema("provider_info.schema.json"))


def test_it_names_nothing_that_airflows_own_providers_may_not() -> None:
    """Their schema is the strict one: it knows every key, and lets nothing else be."""
    schema = airflow_schema("provider.yaml.schema.json")
    # How they are released from Airflow's own repository.
    required = {"state", "lifecycle", "source-date-epoch", "dependencies", "versions"}
    schema["required"] = [key for key in schema["required"] if key not in required]
    jsonschema.validate(INFO, schema)


def test_entry_point_leads_to_it() -> None:
    points = metadata.entry_points(group="apache_airflow_provider")
    (point,) = [point for point in points if point.value.startswith("airflow_provider_toapis")]
    assert point.load()() == INFO


def test_package_name_is_that_of_the_distribution() -> None:
    assert metadata.metadata(INFO["package-name"])["Name"] == "airflow-provider-toapis"
    assert metadata.version(INFO["package-name"]) == airflow_provider_toapis.__version__


@pytest.mark.parametrize("name", sorted(named_modules()))
def test_every_named_module_exists(name: str) -> None:
    import_module(name)


@pytest.mark.parametrize(
    ("kind", "base", "apart"),
    [
        ("operators", BaseOperator, BaseSensorOperator),
        ("sensors", BaseSensorOperator, ()),
        ("hooks", BaseHook, ()),
        ("triggers", BaseTrigger, ()),
    ],
    ids=["operators", "sensors", "hooks", "triggers"],
)
def test_every_class_that_users_import_is_in_a_named_module(kind: str, base: type, apart: Any) -> None:
    modules = {module for name, module in offered(base).items() if not apart or name not in offered(apart)}
    assert modules == modules_of(kind)


def test_every_link_is_named() -> None:
    assert {f"{module}.{name}" for name, module in offered(BaseOperatorLink).items()} == set(INFO["extra-links"])


def test_every_option_of_the_configuration_says_what_airflow_shows_of_it() -> None:
    ((section, described),) = INFO["config"].items()
    assert section == "toapis"
    for option in described["options"].values():
        assert option.keys() == {"description", "version_added", "type", "example", "default"}
        assert option["type"] == "float"
        # Airflow below 3.0 writes them into a configuration file as they are.
        assert all(isinstance(value, str) and value for value in option.values())
        assert float(option["default"]) > 0
        assert float(option["example"]) > 0


def test_options_are_as_old_as_the_changelog_says() -> None:
    changelog = (Path(__file__).parent.parent.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = set(re.findall(r"^## \[?(\d+\.\d+\.\d+)", changelog, re.MULTILINE))
    # What is not released yet will be, under the version that the package has now.
    versions.add(airflow_provider_toapis.__version__)
    (described,) = INFO["config"].values()
    assert {option["version_added"] for option in described["options"].values()} <= versions


def test_task_decorators_are_these() -> None:
    assert task_decorators().keys() == {"toapis_video", "toapis_video_batch"}


@pytest.mark.parametrize("name", sorted(task_decorators()))
def test_every_task_decorator_is_what_airflow_offers_under_its_name(name: str) -> None:
    module, _, function = task_decorators()[name].rpartition(".")
    assert getattr(task, name) is getattr(import_module(module), function)


def test_every_integration_that_is_used_is_declared() -> None:
    declared = {entry["integration-name"] for entry in INFO["integrations"]}
    used = {entry["integration-name"] for kind in ("operators", "sensors", "hooks", "triggers") for entry in INFO[kind]}
    assert used == declared


def test_connection_type_is_that_of_the_hook() -> None:
    entry = connection_type()
    module, _, name = entry["hook-class-name"].rpartition(".")
    assert getattr(import_module(module), name) is ToAPIsHook
    assert entry["connection-type"] == ToAPIsHook.conn_type
    assert entry["hook-name"] == ToAPIsHook.hook_name
    assert ToAPIsHook.default_conn_name == "toapis_default"
    assert ToAPIsHook.conn_name_attr == "toapis_conn_id"


def test_form_fields_are_those_that_the_hook_reads() -> None:
    read = {"timeout", "verify", "proxy", "namespace", "query_rate", "submit_rate"}
    read |= {"webhook", "webhook_secret", "webhook_url", "webhook_poll_interval"}
    assert set(connection_type()["conn-fields"]) == read


def test_form_hides_the_proxy_because_it_may_hold_a_password() -> None:
    assert connection_type()["conn-fields"]["proxy"]["schema"]["format"] == "password"


def test_form_of_older_airflow_versions_says_the_same() -> None:
    behavior = field_behavior()
    jsonschema.validate(behavior, airflow_schema("customized_form_field_behaviours.schema.json"))
    assert behavior["hidden_fields"] == connection_type()["ui-field-behaviour"]["hidden-fields"]
    assert behavior["relabeling"] == {"password": "API key"}


def test_plugin_is_the_one_of_the_entry_point() -> None:
    ((name, path),) = [(entry["name"], entry["plugin-class"]) for entry in INFO["plugins"]]
    points = metadata.entry_points(group="airflow.plugins", name=name)
    (point,) = [point for point in points if point.value.startswith("airflow_provider_toapis")]
    module, _, plugin = path.rpartition(".")
    assert point.load() is getattr(import_module(module), plugin)
