"""What Airflow's ProvidersManager reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata, resources
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from airflow.providers.common.compat.sdk import task

import airflow_provider_toapis
from airflow_provider_toapis.hooks.connection_form import field_behaviour
from airflow_provider_toapis.hooks.toapis import ToAPIsHook

INFO = airflow_provider_toapis.get_provider_info()


def airflow_schema(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(resources.files("airflow").joinpath(name).read_text(encoding="utf-8"))
    return schema


def named_modules() -> Iterator[str]:
    for kind in ("operators", "sensors", "hooks", "triggers"):
        for entry in INFO[kind]:
            yield from entry["python-modules"]


def task_decorators() -> dict[str, str]:
    return {entry["name"]: entry["class-name"] for entry in INFO["task-decorators"]}


def connection_type() -> Mapping[str, Any]:
    (entry,) = INFO["connection-types"]
    return dict(entry)


def test_it_is_valid_for_airflow() -> None:
    jsonschema.validate(INFO, airflow_schema("provider_info.schema.json"))


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
    behaviour = field_behaviour()
    jsonschema.validate(behaviour, airflow_schema("customized_form_field_behaviours.schema.json"))
    assert behaviour["hidden_fields"] == connection_type()["ui-field-behaviour"]["hidden-fields"]
    assert behaviour["relabeling"] == {"password": "API key"}


def test_plugin_is_the_one_of_the_entry_point() -> None:
    ((name, path),) = [(entry["name"], entry["plugin-class"]) for entry in INFO["plugins"]]
    points = metadata.entry_points(group="airflow.plugins", name=name)
    (point,) = [point for point in points if point.value.startswith("airflow_provider_toapis")]
    module, _, plugin = path.rpartition(".")
    assert point.load() is getattr(import_module(module), plugin)
