"""What the plugin adds to Airflow's API server and UI, by Airflow version."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_toapis import get_provider_info, plugin
from tests.airflow_versions import needs_airflow

API_SERVER = needs_airflow("3.1", "pages inside Airflow's UI")


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes the plugin see another version of Airflow."""

    def pretend(version: tuple[int, int]) -> None:
        monkeypatch.setattr(plugin, "AIRFLOW_V_3_1_PLUS", version >= (3, 1))
        monkeypatch.setattr(plugin, "AIRFLOW_V_3_4_PLUS", version >= (3, 4))

    return pretend


def operator_names() -> set[str]:
    """Return the names of all operators that have videos, and of all task decorators, as Airflow's UI shows them."""
    info = get_provider_info()
    modules = [import_module(name) for entry in info["operators"] for name in entry["python-modules"]]
    classes = {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BaseOperator) and value.__module__ == module.__name__
    }
    decorators = {f"@task.{entry['name']}" for entry in info["task-decorators"]}
    return {name for name in classes if name.startswith("ToAPIs") and "Upload" not in name} | decorators


def test_older_airflow_gets_no_pages(airflow: Any) -> None:
    airflow((3, 0))
    assert plugin._views() == []


@needs_airflow("3.0", "its API server receives the webhooks")
def test_older_airflow_gets_only_the_receiver(airflow: Any) -> None:
    airflow((3, 0))
    assert [app["name"] for app in plugin._Apps()._created] == ["ToAPIs webhooks"]


def test_navigation_gets_a_page_and_no_tab_before_3_4(airflow: Any) -> None:
    airflow((3, 3))
    (view,) = plugin._views()
    assert (view["destination"], view["href"], view["url_route"]) == ("nav", "/toapis/videos/", "toapis-videos")


def test_tab_is_shown_only_on_task_instances_with_videos(airflow: Any) -> None:
    airflow((3, 4))
    _, tab = plugin._views()
    assert tab["destination"] == "task_instance"
    assert set(tab["applies_to"]["operator_name"]) == operator_names()


def test_tab_opens_the_page_of_the_extra_link(airflow: Any) -> None:
    airflow((3, 4))
    _, tab = plugin._views()
    assert re.findall(r"\{\w+\}", tab["href"]) == ["{DAG_ID}", "{RUN_ID}", "{TASK_ID}", "{MAP_INDEX}"]
    assert re.sub(r"\{\w+\}", "x", tab["href"]) == "/toapis/videos/x/x/x?map_index=x"


def test_views_are_below_the_path_of_the_base_url(airflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/team/")
    airflow((3, 4))
    assert {view["href"].partition("/toapis/videos/")[0] for view in plugin._views()} == {"/team"}


@API_SERVER
def test_views_are_valid_for_airflow() -> None:
    response = import_module("airflow.api_fastapi.core_api.datamodels.plugins").ExternalViewResponse
    for view in plugin.ToAPIsPlugin.external_views:
        assert response.model_validate(view).href == view["href"]


@API_SERVER
def test_pages_are_mounted_before_the_receiver() -> None:
    """Airflow mounts the applications in this order, and the first prefix that matches a path is used."""
    videos, webhooks = plugin.ToAPIsPlugin.fastapi_apps
    assert (videos["url_prefix"], webhooks["url_prefix"]) == ("/toapis/videos", "/toapis")
    paths = {route.path for route in videos["app"].routes}
    assert "/{dag_id}/{run_id}/{task_id}" in paths
    assert not paths & {"/docs", "/redoc", "/openapi.json"}
