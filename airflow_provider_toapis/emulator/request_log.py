"""What was asked of the emulator, for tests to look at."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_toapis.emulator.clock import Clock

MAX_ENTRIES = 50_000
#: Where the endpoint that serves a request leaves its name for the log.
ENDPOINT_KEY = "emulator.endpoint"


class RequestLog:
    """The latest requests and the number of all of them by endpoint; the test controls themselves are left out.

    :param clock: The emulator's time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: deque[dict[str, Any]] = deque(maxlen=MAX_ENTRIES)
        self._counts: Counter[str] = Counter()

    def times(self) -> dict[str, float]:
        """Return the present moment by both clocks: a rate is read off the one that the asking side goes by."""
        return {"time": time.time(), "emulator_time": self._clock.now()}

    def add(self, scope: Scope, started_at: Mapping[str, float], status: int | None) -> None:
        """Remember a request that was answered with ``status``, or with None where the connection was dropped."""
        headers = Headers(scope=scope)
        endpoint = scope.get(ENDPOINT_KEY, "other")
        self._counts[endpoint] += 1
        self._entries.append(
            {
                **started_at,
                "method": scope["method"],
                "path": scope["path"],
                "endpoint": endpoint,
                "status": status,
                "has_authorization": "authorization" in headers,
                "user_agent": headers.get("user-agent", ""),
            }
        )

    def body(self) -> dict[str, Any]:
        """Return the log as the control endpoint shows it."""
        return {"requests": list(self._entries), "counts": dict(self._counts)}

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._counts.clear()


class RequestLogMiddleware:
    """Fills a :class:`RequestLog`."""

    def __init__(self, app: ASGIApp, log: RequestLog) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and remember it."""
        if scope["type"] != "http" or scope["path"].startswith("/_emulator/"):
            await self._app(scope, receive, send)
            return
        started_at = self._log.times()
        noted = False

        async def note_and_send(message: Message) -> None:
            nonlocal noted
            if message["type"] == "http.response.start":
                # Before the client learns of the answer, or it could look here too early.
                self._log.add(scope, started_at, message["status"])
                noted = True
            await send(message)

        try:
            await self._app(scope, receive, note_and_send)
        finally:
            if not noted:
                self._log.add(scope, started_at, None)
