"""Log of the requests that reached the emulator, for tests."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_toapis.emulator.clock import Clock

MAX_ENTRIES = 50_000
#: Key of the ASGI scope under which an endpoint stores its name for the log.
ENDPOINT_KEY = "emulator.endpoint"


class RequestLog:
    """The latest requests, and the number of all requests by endpoint. Requests to ``/_emulator`` are not logged.

    :param clock: The emulator's time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: deque[dict[str, Any]] = deque(maxlen=MAX_ENTRIES)
        self._counts: Counter[str] = Counter()

    def times(self) -> dict[str, float]:
        """Return the machine's time and the emulator's time.

        A test of a client's request rate needs times from the client, because requests do not all arrive equally fast.
        """
        return {"time": time.time(), "emulator_time": self._clock.now()}

    def add(self, scope: Scope, started_at: Mapping[str, float], status: int | None) -> None:
        """Log a request and the ``status`` of its response. The status is None if the connection was dropped."""
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
        """Return the log as the control endpoint reports it."""
        return {"requests": list(self._entries), "counts": dict(self._counts)}

    def clear(self) -> None:
        """Delete all entries and counts."""
        self._entries.clear()
        self._counts.clear()


class RequestLogMiddleware:
    """Fills a :class:`RequestLog`."""

    def __init__(self, app: ASGIApp, log: RequestLog) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and log it."""
        if scope["type"] != "http" or scope["path"].startswith("/_emulator/"):
            await self._app(scope, receive, send)
            return
        started_at = self._log.times()
        logged = False

        async def log_and_send(message: Message) -> None:
            nonlocal logged
            if message["type"] == "http.response.start":
                # The request is logged before its response is sent, because the client can read the log as soon as it
                # has the response.
                self._log.add(scope, started_at, message["status"])
                logged = True
            await send(message)

        try:
            await self._app(scope, receive, log_and_send)
        finally:
            if not logged:
                self._log.add(scope, started_at, None)
