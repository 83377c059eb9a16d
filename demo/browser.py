"""A real Chromium without a window, driven through the pipe of its DevTools protocol."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

PROJECT = Path(__file__).parents[1]
#: Seconds that the browser may take for one thing.
_PATIENCE = 60.0
#: CSS pixels below which a window is a phone's.
_PHONE = 600
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    # Nothing but the page that is looked at is asked for.
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)


class BrowserError(Exception):
    """The browser or the script in the page says that something went wrong."""


def find_browser() -> str:
    """Return the path of Chromium, which is installed first where it is missing."""
    run = subprocess.run([PROJECT / "scripts" / "browser"], stdout=subprocess.PIPE, text=True, check=True)
    return run.stdout.strip()


class Browser:
    """Runs until the block ends.

    :param program: The path of Chromium.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._received = b""
        self._number = 0
        #: What the browser said unasked: objects with ``method``, ``params`` and ``sessionId``.
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="toapis-browser-", ignore_cleanup_errors=True)
        commands, self._commands = _pipe()
        self._answers, answers = _pipe()
        self._pid = os.posix_spawn(
            self._program,
            [self._program, *_FLAGS, f"--user-data-dir={self._folder.name}", "about:blank"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, commands, 3),
                (os.POSIX_SPAWN_DUP2, answers, 4),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setpgroup=0,
        )
        os.close(commands)
        os.close(answers)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._commands)
        os.close(self._answers)
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._folder.cleanup()

    def call(self, method: str, params: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """Call a method of the protocol and return its result.

        :raises BrowserError: The browser refuses.
        """
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
        raise AssertionError("unreachable")

    def wait_for(self, method: str, session: str, since: int) -> None:
        """Return once an event has happened after the first ``since`` events."""
        waited_for = {"method": method, "sessionId": session}
        messages = self._messages()
        while not any(waited_for.items() <= event.items() for event in self.events[since:]):
            next(messages)

    @contextmanager
    def page(self) -> Iterator[Page]:
        """Open a tab."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        page.resize(1280, 800)
        yield page
        self.call("Target.closeTarget", {"targetId": target})

    def _messages(self) -> Iterator[dict[str, Any]]:
        """Yield what the browser says from now on; what is no answer is kept too.

        :raises BrowserError: It says nothing any more.
        """
        end = time.monotonic() + _PATIENCE
        while True:
            while b"\0" not in self._received:
                if not select.select([self._answers], [], [], max(0.0, end - time.monotonic()))[0]:
                    raise BrowserError("Chromium does not answer")
                if not (piece := os.read(self._answers, 1024 * 1024)):
                    raise BrowserError("Chromium has ended")
                self._received += piece
            line, _, self._received = self._received.partition(b"\0")
            message: dict[str, Any] = json.loads(line)
            if "method" in message:
                self.events.append(message)
            yield message


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method of the protocol in this tab."""
        return self._browser.call(method, params, self._session)

    def open(self, url: str) -> None:
        """Load a page and everything that it needs to be ready."""
        since = len(self._browser.events)
        if error := self.call("Page.navigate", url=url).get("errorText"):
            raise BrowserError(f"{url}: {error}")
        self._browser.wait_for("Page.loadEventFired", self._session, since)

    def evaluate(self, script: str) -> Any:  # noqa: ANN401 - whatever the script comes to
        """Return the value of an expression; of a promise, what it comes to.

        :raises BrowserError: The script raises.
        """
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if details := answer.get("exceptionDetails"):
            raise BrowserError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait_until(self, condition: str, what: str, timeout: float = _PATIENCE) -> None:
        """Return once an expression is true in the page.

        :param what: Says in words what is waited for.
        :raises BrowserError: ``timeout`` seconds passed.
        """
        deadline = time.monotonic() + timeout
        while not self.evaluate(f"Boolean({condition})"):
            if time.monotonic() > deadline:
                place = self.evaluate("location.href")
                raise BrowserError(f"{place} does not show {what} after {timeout:.0f} seconds")
            time.sleep(0.2)

    def press(self, key: str, *, text: str = "") -> None:
        """Press and release a key, say ``Tab``."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}.get(key, 0)
        named = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def type(self, text: str) -> None:
        """Write into what has the focus."""
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click with the mouse on the middle of the first element that fits."""
        x, y = self.evaluate(f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "center", behavior: "instant"}});
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def resize(self, width: int, height: int, *, scale: float = 1) -> None:
        """Set the size of the window in CSS pixels; a narrow one is a phone's.

        :param scale: Pixels of the screen, along an edge, for one of CSS.
        """
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < _PHONE,
        )

    def prefer(self, scheme: Literal["light", "dark"]) -> None:
        """Look at the page as somebody who set their system to dark or light."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def run_at_start(self, script: str) -> None:
        """Run a script in every page that is opened from now on, before its own."""
        self.call("Page.addScriptToEvaluateOnNewDocument", source=script)

    def screenshot(self, selector: str | None = None) -> bytes:
        """Return what the window shows as PNG.

        :param selector: Only the first element that fits.
        :raises BrowserError: The window does not show the whole of it.
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

    def complaints(self) -> list[str]:
        """Return what the console shows as errors and warnings, exceptions, and dialogs that were opened."""
        own = [event for event in self._browser.events if event.get("sessionId") == self._session]
        return [text for event in own for text in _complaint(event["method"], event["params"])]


def _complaint(method: str, params: dict[str, Any]) -> Iterator[str]:
    if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
        yield params["entry"]["text"]
    elif method == "Runtime.consoleAPICalled":
        yield f"console.{params['type']}: {params['args']}"
    elif method == "Runtime.exceptionThrown":
        yield params["exceptionDetails"]["exception"]["description"]
    elif method == "Page.javascriptDialogOpening":
        yield f"{params['type']}: {params['message']}"


def _pipe() -> tuple[int, int]:
    """Open a pipe at numbers that do not collide with those that the browser takes for its own."""
    ends = os.pipe()
    high = (
        fcntl.fcntl(ends[0], fcntl.F_DUPFD_CLOEXEC, 10),
        fcntl.fcntl(ends[1], fcntl.F_DUPFD_CLOEXEC, 10),
    )
    for end in ends:
        os.close(end)
    return high
