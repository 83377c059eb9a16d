"""A browser that ends or hangs. No other test is in this module: a thread can use one playwright at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Error as PlaywrightError

from dev.demo.browser import Browser, Page, find_browser


@pytest.mark.parametrize(
    "action",
    [
        lambda page: page.call("Browser.crash"),
        lambda page: page.evaluate("new Promise(() => {})"),
        lambda page: page.evaluate("(() => { while (true); })()"),
    ],
    ids=["ends", "answers nothing", "never stops"],
)
def test_browser_fails_the_test_rather_than_blocking_it(action: Callable[[Page], object]) -> None:
    with (
        pytest.raises(PlaywrightError, match="has been closed"),
        Browser(find_browser()) as browser,
        browser.page(timeout=2) as page,
    ):
        action(page)
