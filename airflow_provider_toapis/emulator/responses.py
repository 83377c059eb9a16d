"""Broken HTTP responses, whose connection closes early or whose Content-Length is wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

_CHUNK_BYTES = 64 * 1024
_transports: dict[Any, asyncio.Transport] = {}


class BreakableProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's HTTP protocol that records the transport of each client, so that a response can close it."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Record the connection."""
        super().connection_made(transport)
        _transports[_client(transport)] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection."""
        _transports.pop(_client(self.transport), None)
        super().connection_lost(exc)


def _client(transport: asyncio.Transport) -> tuple[str, int]:
    host, port = transport.get_extra_info("peername")[:2]
    return host, port


async def _hang_up(scope: Scope, receive: Receive, *, reset: bool) -> None:
    """Close the connection and wait until it is closed, so that the server sends no response."""
    transport = _transports[tuple(scope["client"])]
    if reset:
        transport.abort()
    else:
        transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass


class DroppedConnection(Response):
    """Closes the connection without a response.

    :param reset: Reset the connection (RST) instead of closing it gracefully.
    """

    def __init__(self, *, reset: bool) -> None:
        super().__init__()
        self._reset = reset

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the ASGI signature
        """Close the connection."""
        await _hang_up(scope, receive, reset=self._reset)


class BrokenFile(Response):
    """Sends ``sent`` bytes of a file with a Content-Length of ``announced`` bytes.

    :param file: The complete response that this response replaces.
    """

    def __init__(self, file: FileResponse, *, announced: int, sent: int) -> None:
        super().__init__(headers=dict(file.headers), media_type=file.media_type)
        self.headers["Content-Length"] = str(announced)
        self._path = Path(file.path)
        self._announced = announced
        self._sent = sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the bytes, then close the connection if more were announced."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        content = (await asyncio.to_thread(self._path.read_bytes))[: self._sent]
        whole = len(content) == self._announced
        for start in range(0, max(1, len(content)), _CHUNK_BYTES):
            chunk = content[start : start + _CHUNK_BYTES]
            last = whole and start + _CHUNK_BYTES >= len(content)
            await send({"type": "http.response.body", "body": chunk, "more_body": not last})
        if not whole:
            await _hang_up(scope, receive, reset=False)
