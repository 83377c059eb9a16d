"""The system's Chromium in headless mode, driven by playwright."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Dialog, Response, sync_playwright
from playwright.sync_api import Page as PlaywrightPage

PROJECT = Path(__file__).parents[2]
#: Maximum seconds for one call of the browser.
_TIMEOUT = 60.0
#: Windows that are narrower than this, in CSS pixels, emulate a phone.
_PHONE = 600
_FLAGS = (
    "--disable-gpu",
    # Load nothing from other hosts.
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class BrowserError(Exception):
    """A page does not show the expected content."""


def find_browser() -> str:
    """Return the path of Chromium. If it is missing, install it first."""
    run = subprocess.run([PROJECT / "dev/scripts/browser"], stdout=subprocess.PIPE, text=True, check=True)
    return run.stdout.strip()


class Browser:
    """Runs Chromium until the block ends.

    :param program: Path of Chromium.
    """

    def __init__(self, program: str) -> None:
        self._program = program

    def __enter__(self) -> Self:
        self._playwright = sync_playwright().start()
        try:
            self._browser = self._playwright.chromium.launch(executable_path=self._program, args=_FLAGS)
            processes = self._browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
        except BaseException:
            self._playwright.stop()
            raise
        self._pid = next(process["id"] for process in processes if process["type"] == "browser")
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._browser.close()
        self._playwright.stop()

    @contextmanager
    def page(self, timeout: float = _TIMEOUT) -> Iterator[Page]:
        """Open a tab with its own storage.

        :param timeout: Maximum seconds for one call of the browser.
        """
        with self._browser.new_context(viewport={"width": 1280, "height": 800}) as context:
            context.set_default_timeout(timeout * 1000)
            yield Page(context.new_page(), self._pid, timeout)


class Page:
    """One browser tab.

    :param page: playwright's page.
    :param browser_pid: Process id of the browser.
    :param timeout: Maximum seconds for one call of the browser.
    """

    def __init__(self, page: PlaywrightPage, browser_pid: int, timeout: float) -> None:
        self._page = page
        self._browser_pid = browser_pid
        self._timeout = timeout
        self._devtools = page.context.new_cdp_session(page)
        self._complaints: list[str] = []
        self._responses: list[Response] = []
        page.on("console", self._add_console_message)
        page.on("pageerror", lambda error: self._complaints.append(str(error)))
        page.on("dialog", self._dismiss)
        page.on("response", self._add_response)

    def _add_console_message(self, message: ConsoleMessage) -> None:
        # Messages of the browser itself have no arguments. They are ignored unless they are errors or warnings, because
        # some are only advice.
        if message.args or message.type in ("error", "warning"):
            self._complaints.append(message.text)

    def _add_response(self, response: Response) -> None:
        self._responses.append(response)

    def _dismiss(self, dialog: Dialog) -> None:
        self._complaints.append(f"{dialog.type}: {dialog.message}")
        dialog.dismiss()

    @contextmanager
    def _limited(self) -> Iterator[None]:
        """Kill the browser after the timeout, because some calls of playwright have no timeout."""
        timer = threading.Timer(self._timeout, os.kill, (self._browser_pid, signal.SIGKILL))
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method of the DevTools protocol in this tab."""
        with self._limited():
            return self._devtools.send(method, params)

    def open(self, url: str) -> None:
        """Load a page and its resources."""
        self._page.goto(url)

    def evaluate(self, script: str) -> Any:  # noqa: ANN401 - the value of the script
        """Return the value of an expression, or the value that a promise resolves to.

        :raises playwright.sync_api.Error: The script raises an error, or does not end before the timeout.
        """
        with self._limited():
            return self._page.evaluate(script)

    def wait_until(self, condition: str, what: str, timeout: float = _TIMEOUT) -> None:
        """Wait until an expression is true in the page.

        playwright's own wait needs ``eval``, which the content security policy of our pages forbids.

        :param what: The expected content, for the error message.
        :raises BrowserError: ``timeout`` seconds passed.
        """
        deadline = time.monotonic() + timeout
        while not self.evaluate(f"Boolean({condition})"):
            if time.monotonic() > deadline:
                raise BrowserError(f"{self._page.url} does not show {what} after {timeout:.0f} seconds")
            self._page.wait_for_timeout(200)

    def press(self, key: str) -> None:
        """Press and release a key, for example ``Tab``."""
        with self._limited():
            self._page.keyboard.press(key)

    def type(self, text: str) -> None:
        """Type text into the focused element."""
        with self._limited():
            self._page.keyboard.insert_text(text)

    def click(self, selector: str, *, frame: str | None = None) -> None:
        """Click on the center of the first matching element.

        :param frame: Selector of the frame that contains the element. Default: the page itself.
        """
        parent = self._page if frame is None else self._page.frame_locator(frame)
        parent.locator(selector).first.click()

    def resize(self, width: int, height: int, *, scale: float = 1) -> None:
        """Set the size of the window in CSS pixels. A narrow window emulates a phone.

        :param scale: Device pixel ratio.
        """
        # playwright can set the scale only once, for all pages.
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < _PHONE,
        )

    def prefer(self, scheme: Literal["light", "dark"] | None) -> None:
        """Emulate a system with a light or dark color scheme.

        :param scheme: None lets each frame follow the page around it, as in a real browser.
        """
        self._page.emulate_media(color_scheme=scheme or "null")

    def run_at_start(self, script: str) -> None:
        """Run a script in every page that is opened from now on, before the page's scripts."""
        self._page.add_init_script(script)

    def screenshot(self, selector: str | None = None) -> bytes:
        """Return a PNG screenshot of the window.

        :param selector: Capture only the first matching element. Default: the whole window.
        :raises BrowserError: The element is not completely visible.
        """
        clip = {} if selector is None else {"clip": {**self._box(selector), "scale": 1}}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", **clip)["data"])

    def _box(self, selector: str) -> dict[str, float]:
        box: dict[str, float] | None = self.evaluate(f"""(() => {{
            const {{x, y, width, height}} = document.querySelector({json.dumps(selector)}).getBoundingClientRect();
            const whole = x >= 0 && y >= 0 && x + width <= innerWidth && y + height <= innerHeight;
            return whole ? {{x, y, width, height}} : null;
        }})()""")
        if box is None:
            raise BrowserError(f"The window does not show the whole of {selector}")
        return box

    def statuses(self, path: str) -> list[int]:
        """Return the status of each response so far whose URL has this path."""
        return [response.status for response in self._responses if urlsplit(response.url).path == path]

    def complaints(self) -> list[str]:
        """Return the errors and warnings of the console, the exceptions, and the texts of opened dialogs."""
        return list(self._complaints)
