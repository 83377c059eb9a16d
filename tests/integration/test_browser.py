"""What the images of the documentation rely on: waiting for what a page shows, and whole images of it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from dev.demo.browser import BrowserError, Page

PAGE = """<!DOCTYPE html><title>Page</title>
<style>body { margin: 0 } div { position: absolute; left: 10px; width: 40px; background: #a82422 }</style>
<div id="seen" style="top: 20px; height: 30px"></div><div id="cropped" style="top: 180px; height: 30px"></div>
<script>setTimeout(() => { document.title = localStorage.greeting }, 300)</script>"""


@pytest.fixture
def page(page: Page, tmp_path: Path) -> Page:
    file = tmp_path / "page.html"
    file.write_text(PAGE, encoding="utf-8")
    page.resize(700, 200, scale=2)
    page.run_at_start("localStorage.greeting = 'Hello'")
    page.open(file.as_uri())
    return page


def test_wait_ends_when_the_page_shows_it(page: Page) -> None:
    page.wait_until("document.title === 'Hello'", "a greeting")

    assert page.evaluate("document.title") == "Hello"


def test_what_is_never_shown_is_named(page: Page) -> None:
    with pytest.raises(BrowserError, match=r"page\.html does not show a moon after 0 seconds"):
        page.wait_until("document.getElementById('moon')", "a moon", timeout=0.1)


def test_picture_of_an_element_is_that_element_in_pixels_of_the_screen(page: Page) -> None:
    with Image.open(io.BytesIO(page.screenshot("#seen"))) as image:
        assert image.size == (80, 60)
        assert image.convert("RGB").getcolors() == [(80 * 60, (168, 36, 34))]


def test_picture_of_the_window_has_all_of_its_pixels(page: Page) -> None:
    with Image.open(io.BytesIO(page.screenshot())) as image:
        assert image.size == (1400, 400)


def test_cropped_element_is_no_picture(page: Page) -> None:
    with pytest.raises(BrowserError, match="the whole of #cropped"):
        page.screenshot("#cropped")
