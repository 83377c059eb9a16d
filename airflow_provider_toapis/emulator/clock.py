"""The emulator's clock, which tests can advance."""

from __future__ import annotations

import time
from email.utils import formatdate

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Clock:
    """A clock that returns the wall-clock time plus an offset.

    :param offset: Seconds by which the emulator's time is ahead of the machine's clock.
    """

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def now(self) -> float:
        """Return the emulator's time in epoch seconds."""
        return time.time() + self.offset

    def advance(self, seconds: float) -> None:
        """Advance the emulator's time by ``seconds``."""
        self.offset += seconds


class DateMiddleware:
    """Sets the ``Date`` header of every response to the emulator's time.

    :param clock: The emulator's time.
    """

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def date_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("date", formatdate(self._clock.now(), usegmt=True))
            await send(message)

        await self._app(scope, receive, date_and_send)
