"""Links on the pages inside Airflow, in a frame with the restrictions that Airflow gives to the pages of plugins."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from importlib import resources

import pytest

from dev.demo.browser import Page
from tests.integration.loopback_server import LoopbackServer

SCRIPT = resources.files("airflow_provider_toapis.ui").joinpath("templates", "player.js").read_bytes()
#: The restrictions of Airflow 3.1 and 3.2. Airflow 3.3 also allows downloads.
SANDBOX = "allow-scripts allow-same-origin allow-forms"
LINKS = b"""
<a href="/task" target="_top"><b>Task</b></a> <a href="/spend.csv?x=1" download>CSV</a> <a href="/here">Here</a>
<script src="/player.js"></script>
"""
PAGES = {
    "/plugin": ("text/html", f'<iframe sandbox="{SANDBOX}" src="/videos"></iframe>'.encode()),
    "/videos": ("text/html", LINKS),
    "/player.js": ("text/javascript", SCRIPT),
    "/spend.csv?x=1": ("text/csv", b"day,videos"),
    "/task": ("text/html", b"task"),
    "/here": ("text/html", b"here"),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        media_type, content = PAGES.get(self.path, ("text/plain", b""))
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        if media_type == "text/csv":
            self.send_header("Content-Disposition", 'attachment; filename="spend.csv"')
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(Handler) as server:
        yield server


def click(page: Page, selector: str) -> None:
    page._page.frame_locator("iframe").locator(selector).click()


def test_link_to_airflow_replaces_airflows_page(page: Page, server: LoopbackServer) -> None:
    page.open(f"{server.url}/plugin")
    click(page, "a[target] > b")
    page._page.wait_for_url(f"{server.url}/task")


def test_export_is_downloaded(page: Page, server: LoopbackServer) -> None:
    page.open(f"{server.url}/plugin")
    with page._page.expect_download() as started:
        click(page, "a[download]")
    assert started.value.suggested_filename == "spend.csv"
    assert started.value.path().read_bytes() == b"day,videos"
    assert page.evaluate("document.querySelectorAll('body > a').length") == 0


def test_other_links_stay_in_the_frame(page: Page, server: LoopbackServer) -> None:
    page.open(f"{server.url}/plugin")
    click(page, "a:last-of-type")
    page._page.frame_locator("iframe").get_by_text("here", exact=True).wait_for()
    assert page._page.url == f"{server.url}/plugin"
