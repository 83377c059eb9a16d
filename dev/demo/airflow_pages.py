"""Open pages of Airflow's UI and wait until they show the expected content and nothing is loading."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Literal

from dev.demo.browser import BrowserError, Page

#: Selector of the dialog with the connection form.
FORM = "[role=dialog]"
_VISIBLE = "(element) => element.checkVisibility({opacityProperty: true, visibilityProperty: true})"
_SETTLED = f"""document.fonts.status === "loaded"
    && [...document.images].every((image) => image.complete)
    && ![...document.querySelectorAll("[role=progressbar], .chakra-spinner, .chakra-skeleton")].some({_VISIBLE})
    && document.getAnimations().every(({{playState, effect}}) =>
        playState !== "running" || effect.getComputedTiming().iterations === Infinity)"""
_ALERTS = """[...document.querySelectorAll("[data-scope=toast][data-part=root], [role=alert]")]
    .map((element) => element.innerText.trim()).filter(Boolean)"""
#: JavaScript expression: whether the minimap covers a part of the graph.
_MAP_HIDES_A_TASK = """(() => {
    const map = document.querySelector(".react-flow__minimap").getBoundingClientRect();
    return [...document.querySelectorAll(".react-flow__node")].some((node) => {
        const box = node.getBoundingClientRect();
        return box.right > map.left && box.bottom > map.top;
    });
})()"""
#: Maximum number of times to zoom out.
_ZOOMS = 8


class AirflowPages:
    """Opens pages of one Airflow.

    Every method raises :class:`~dev.demo.browser.BrowserError` if the page does not show what is expected.

    :param page: A browser tab.
    :param url: URL of the Airflow, which must not require a login.
    """

    def __init__(self, page: Page, url: str) -> None:
        self._page = page
        self._url = url

    def open_graph(self, dag_id: str, run_id: str, task_id: str, states: Mapping[str, int]) -> None:
        """Show the graph of a run from top to bottom, next to the instances of a mapped task.

        :param states: Expected number of instances in each state, spelled as on the page, for example ``Deferred``.
        """
        self._prefer(f"direction-{dag_id}", json.dumps("DOWN"))
        self._prefer_view("graph")
        layout = {"details-panel,main-panel": {"expandToSizes": {}, "layout": [44, 56]}}
        self._prefer("react-resizable-panels:graph-ltr", json.dumps(layout))
        self._page.open(f"{self._url}/dags/{dag_id}/runs/{run_id}/tasks/{task_id}/mapped")
        for state, count in states.items():
            self._wait_for_text("body", rf"Total {state}\s+{count}\b", f"{count} instances as {state}")
        total = sum(states.values())
        self._wait_for_text(f".react-flow__node[data-id={task_id}]", rf"^{task_id} \[{total}\]", "the mapped task")
        self._page.wait_until(f"document.querySelectorAll('tbody tr').length >= {total}", f"{total} rows")
        self._settle()
        for _ in range(_ZOOMS):
            if not self._page.evaluate(_MAP_HIDES_A_TASK):
                return
            self._page.click(".react-flow__controls-zoomout")
            self._settle()
        raise BrowserError("The minimap still covers a part of the graph.")

    def open_connection_form(self, conn_type: str, connection_id: str) -> None:
        """Show the form for a new connection, with only its id and type set. The connection is not saved.

        :param conn_type: The type as in the form's list, for example ``ToAPIs``.
        """
        self._page.open(f"{self._url}/connections")
        self._click("button", "Add Connection")
        self._write(f"{FORM} [name=connection_id]", connection_id)
        self._write(f"{FORM} [role=combobox]", conn_type)
        self._wait_for_text("[role=option]", rf"^{conn_type}$", f"the connection type {conn_type}")
        self._page.press("Enter")
        self._page.wait_until(f"document.querySelector('{FORM} [name=password]')", "the standard fields")
        self._settle()

    def unfold(self, section: str, labels: Iterable[str]) -> None:
        """Open a section of the connection form. The other sections close.

        :param labels: Labels of the section's fields.
        """
        self._click(f"{FORM} button[data-part=item-trigger]", section)
        for label in labels:
            self._wait_for_text(f"{FORM} [data-part=item-content]:not([data-state=closed])", rf"^{label}$", label)
        self._settle()

    def open_links(self, dag_id: str, run_id: str, task_id: str, map_index: int, links: Iterable[str]) -> None:
        """Show the page of a task instance with the extra links of its operator.

        :param links: Names of the extra links.
        """
        self._prefer_view("grid")
        self._page.open(f"{self._url}/dags/{dag_id}/runs/{run_id}/tasks/{task_id}/mapped/{map_index}/details")
        grid = f"document.querySelector('a[href=\"/dags/{dag_id}/tasks/{task_id}\"]')"
        self._page.wait_until(grid, "the grid of the run")
        for link in links:
            self._page.wait_until(
                f"[...document.querySelectorAll('a[href]')].some((link) => link.innerText === {json.dumps(link)})",
                f"the link {link}",
            )
        self._settle()

    def _prefer_view(self, view: Literal["graph", "grid"]) -> None:
        self._prefer("default_dag_view", json.dumps(view))

    def _prefer(self, key: str, value: str) -> None:
        self._page.run_at_start(f"localStorage.setItem({json.dumps(key)}, {json.dumps(value)})")

    def _click(self, selector: str, text: str) -> None:
        """Click on the element with this text."""
        found = (
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            f".find((element) => element.innerText.trim() === {json.dumps(text)})"
        )
        self._page.wait_until(found, text)
        self._settle()
        self._page.evaluate(f"{found}.dataset.clicked = ''")
        self._page.click("[data-clicked]")
        self._page.evaluate("delete document.querySelector('[data-clicked]')?.dataset.clicked")

    def _write(self, selector: str, text: str) -> None:
        self._page.wait_until(f"document.querySelector({json.dumps(selector)})", text)
        self._page.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self._page.type(text)

    def _wait_for_text(self, selector: str, pattern: str, what: str) -> None:
        self._page.wait_until(
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            f".some((element) => new RegExp({json.dumps(pattern)}, 'm').test(element.innerText))",
            what,
        )

    def _settle(self) -> None:
        """Wait until nothing is loading and nothing is moving.

        :raises BrowserError: The page shows an alert.
        """
        self._page.evaluate("document.activeElement?.blur()")
        self._page.wait_until(_SETTLED, "a loaded page")
        if alerts := self._page.evaluate(_ALERTS):
            raise BrowserError(f"{self._page.evaluate('location.href')} shows alerts: {'; '.join(alerts)}")
