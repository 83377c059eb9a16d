"""Airflow's own pages as a person opens them: what they are opened for can be seen, and nothing loads any more."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Literal

from dev.demo.browser import BrowserError, Page

#: The dialog that the connection form is.
FORM = "[role=dialog]"
_VISIBLE = "(element) => element.checkVisibility({opacityProperty: true, visibilityProperty: true})"
_SETTLED = f"""document.fonts.status === "loaded"
    && [...document.images].every((image) => image.complete)
    && ![...document.querySelectorAll("[role=progressbar], .chakra-spinner, .chakra-skeleton")].some({_VISIBLE})
    && document.getAnimations().every(({{playState, effect}}) =>
        playState !== "running" || effect.getComputedTiming().iterations === Infinity)"""
_TROUBLE = """[...document.querySelectorAll("[data-scope=toast][data-part=root], [role=alert]")]
    .map((element) => element.innerText.trim()).filter(Boolean)"""
#: Whether the little map hides a part of the graph.
_MAP_HIDES_A_TASK = """(() => {
    const map = document.querySelector(".react-flow__minimap").getBoundingClientRect();
    return [...document.querySelectorAll(".react-flow__node")].some((node) => {
        const box = node.getBoundingClientRect();
        return box.right > map.left && box.bottom > map.top;
    });
})()"""
#: How often to zoom out before there must be room.
_ZOOMS = 8


class AirflowPages:
    """Opens pages of one Airflow.

    Every method raises :class:`~dev.demo.browser.BrowserError`, which says what was not seen or what was seen instead.

    :param page: A tab of a browser.
    :param url: Address of the Airflow, which must ask for no login.
    """

    def __init__(self, page: Page, url: str) -> None:
        self._page = page
        self._url = url

    def open_graph(self, dag_id: str, run_id: str, task_id: str, states: Mapping[str, int]) -> None:
        """Show the graph of a run, from top to bottom, with the instances of a mapped task beside it.

        :param states: How many of them are in which state, spelt as the page does, say ``Deferred``.
        """
        self._prefer(f"direction-{dag_id}", json.dumps("DOWN"))
        self._prefer_view("graph")
        layout = {"details-panel,main-panel": {"expandToSizes": {}, "layout": [44, 56]}}
        self._prefer("react-resizable-panels:graph-ltr", json.dumps(layout))
        self._page.open(f"{self._url}/dags/{dag_id}/runs/{run_id}/tasks/{task_id}/mapped")
        for state, count in states.items():
            self._wait_for_words("body", rf"Total {state}\s+{count}\b", f"{count} instances as {state}")
        total = sum(states.values())
        self._wait_for_words(f".react-flow__node[data-id={task_id}]", rf"^{task_id} \[{total}\]", "the mapped task")
        self._page.wait_until(f"document.querySelectorAll('tbody tr').length >= {total}", f"{total} rows")
        self._settle()
        for _ in range(_ZOOMS):
            if not self._page.evaluate(_MAP_HIDES_A_TASK):
                return
            self._page.click(".react-flow__controls-zoomout")
            self._settle()
        raise BrowserError("The graph does not fit beside its map.")

    def open_connection_form(self, conn_type: str, connection_id: str) -> None:
        """Show the form for a new connection of a type, empty but for the id; it is never saved.

        :param conn_type: As the form's list has it, say ``ToAPIs``.
        """
        self._page.open(f"{self._url}/connections")
        self._click("button", "Add Connection")
        self._write(f"{FORM} [name=connection_id]", connection_id)
        self._write(f"{FORM} [role=combobox]", conn_type)
        self._wait_for_words("[role=option]", rf"^{conn_type}$", f"the connection type {conn_type}")
        self._page.press("Enter")
        self._page.wait_until(f"document.querySelector('{FORM} [name=password]')", "the standard fields")
        self._settle()

    def unfold(self, section: str, labels: Iterable[str]) -> None:
        """Open a section of the connection form, which closes the others.

        :param labels: Of its fields.
        """
        self._click(f"{FORM} button[data-part=item-trigger]", section)
        for label in labels:
            self._wait_for_words(f"{FORM} [data-part=item-content]:not([data-state=closed])", rf"^{label}$", label)
        self._settle()

    def open_links(self, dag_id: str, run_id: str, task_id: str, map_index: int, links: Iterable[str]) -> None:
        """Show the page of a task instance with the buttons of its operator.

        :param links: What stands on them.
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

    def _click(self, selector: str, words: str) -> None:
        """Click with the mouse on the element that says so."""
        found = (
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            f".find((element) => element.innerText.trim() === {json.dumps(words)})"
        )
        self._page.wait_until(found, words)
        self._settle()
        self._page.evaluate(f"{found}.dataset.clicked = ''")
        self._page.click("[data-clicked]")
        self._page.evaluate("delete document.querySelector('[data-clicked]')?.dataset.clicked")

    def _write(self, selector: str, words: str) -> None:
        self._page.wait_until(f"document.querySelector({json.dumps(selector)})", words)
        self._page.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self._page.type(words)

    def _wait_for_words(self, selector: str, pattern: str, what: str) -> None:
        self._page.wait_until(
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            f".some((element) => new RegExp({json.dumps(pattern)}, 'm').test(element.innerText))",
            what,
        )

    def _settle(self) -> None:
        """Wait until nothing loads and nothing moves; nothing may complain."""
        self._page.evaluate("document.activeElement?.blur()")
        self._page.wait_until(_SETTLED, "a page that has been loaded")
        if trouble := self._page.evaluate(_TROUBLE):
            raise BrowserError(f"{self._page.evaluate('location.href')} complains: {'; '.join(trouble)}")
