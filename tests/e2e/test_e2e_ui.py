"""What the pictures of the documentation show can still be seen in Airflow's pages.

After the runs themselves: some of their tests look at tasks that still wait.
"""

from __future__ import annotations

import pytest

from airflow_provider_toapis.links.video import ToAPIsConsoleLink, ToAPIsVideoLink
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


def test_graph_shows_what_became_of_the_mapped_videos(pages: AirflowPages, page: Page, catalog: Run) -> None:
    pages.open_graph(catalog.dag_id, catalog.run_id, "make_video", {"Success": 3})

    shown = page.evaluate("document.querySelector('.react-flow__node[data-id=make_video]').innerText")
    assert "ToAPIsSubmitVideoOperator" in shown
    assert page.complaints() == []


def test_page_of_a_finished_task_has_buttons_that_lead_to_video_and_console(
    pages: AirflowPages, page: Page, catalog: Run
) -> None:
    names = [ToAPIsVideoLink.name, ToAPIsConsoleLink.name]

    pages.open_links(catalog.dag_id, catalog.run_id, "make_video", 0, names)

    places = page.evaluate("Object.fromEntries([...document.links].map((link) => [link.innerText, link.href]))")
    assert places["Video"] == catalog.xcom("make_video", 0)["url"]
    assert places["ToAPIs console"].endswith("/console")
