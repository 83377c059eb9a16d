"""The browser functions for the documentation's screenshots: waits, and complete screenshots."""

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


def test_wait_ends_when_the_condition_is_true(page: Page) -> None:
    page.wait_until("document.title === 'Hello'", "a greeting")

    assert page.evaluate("document.title") == "Hello"


def test_wait_that_times_out_names_the_missing_content(page: Page) -> None:
    with pytest.raises(BrowserError, match=r"page\.html does not show a moon after 0 seconds"):
        page.wait_until("document.getElementById('moon')", "a moon", timeout=0.1)


def test_screenshot_of_an_element_has_its_size_in_device_pixels(page: Page) -> None:
    with Image.open(io.BytesIO(page.screenshot("#seen"))) as image:
        assert image.size == (80, 60)
        assert image.convert("RGB").getcolors() == [(80 * 60, (168, 36, 34))]


def test_screenshot_of_the_viewport_has_all_device_pixels(page: Page) -> None:
    with Image.open(io.BytesIO(page.screenshot())) as image:
        assert image.size == (1400, 400)


def test_screenshot_of_a_cropped_element_is_an_error(page: Page) -> None:
    with pytest.raises(BrowserError, match="the whole of #cropped"):
        page.screenshot("#cropped")
