"""A browser that crashes or hangs. In its own module, because a thread can use only one playwright at a time."""

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
    ids=["crashes", "never resolves", "never stops"],
)
def test_crashed_or_hanging_browser_raises_an_error(action: Callable[[Page], object]) -> None:
    with (
        pytest.raises(PlaywrightError, match="has been closed"),
        Browser(find_browser()) as browser,
        browser.page(timeout=2) as page,
    ):
        action(page)
