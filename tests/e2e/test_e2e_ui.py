"""Airflow's pages show the content of the documentation's screenshots.

These tests run after ``test_e2e_runs``, because tests in that module check tasks that are still waiting.
"""

from __future__ import annotations

from urllib.parse import quote

import pytest

from airflow_provider_toapis.links.video import VIDEOS_PATH, ToAPIsConsoleLink, ToAPIsVideoLink
from dev.airflow.airflow_instance import AirflowInstance
from dev.demo.airflow_pages import AirflowPages
from dev.demo.browser import Page
from tests.e2e.dag_run import Run


@pytest.fixture
def pages(page: Page, airflow: AirflowInstance) -> AirflowPages:
    return AirflowPages(page, airflow.url)


@pytest.fixture
def catalog(runs: dict[str, Run]) -> Run:
    run = runs["example_product_catalog"]
    assert run.wait() == "success"
    return run


def test_graph_shows_the_states_of_the_mapped_videos(pages: AirflowPages, page: Page, catalog: Run) -> None:
    pages.open_graph(catalog.dag_id, catalog.run_id, "make_video", {"Success": 3})

    shown = page.evaluate("document.querySelector('.react-flow__node[data-id=make_video]').innerText")
    assert "ToAPIsSubmitVideoOperator" in shown
    assert page.complaints() == []


def test_page_of_a_finished_task_has_links_to_video_and_console(
    pages: AirflowPages, page: Page, airflow: AirflowInstance, catalog: Run
) -> None:
    names = [ToAPIsVideoLink.name, ToAPIsConsoleLink.name]

    pages.open_links(catalog.dag_id, catalog.run_id, "make_video", 0, names)

    urls = page.evaluate("Object.fromEntries([...document.links].map((link) => [link.innerText, link.href]))")
    path = f"{VIDEOS_PATH}/{catalog.dag_id}/{quote(catalog.run_id)}/make_video?map_index=0"
    assert urls["Video"] == f"{airflow.url}{path}"
    assert urls["ToAPIs console"].endswith("/console")
