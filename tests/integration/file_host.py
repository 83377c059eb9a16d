"""A host of one video that can be told how to go wrong, and writes down what it was asked for."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import cast

from tests.integration.loopback_server import LoopbackServer

_PIECE = 64 * 1024
#: Bytes after which even an endless body ends, so that a client without a limit fails instead of filling the disk.
ENDLESS = 256 * 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """How the host answers one request; the defaults are what a sound host does.

    :param status: None for the one that fits.
    :param headers: Replace those of a sound host.
    :param content: Sent instead of the video.
    :param part: First and last byte that are sent, whatever was asked for.
    :param stops_after: Bytes of the body after which the connection breaks.
    :param hangs_up: The connection breaks without an answer.
    :param chunked: The body has no announced length, but for what ``headers`` say.
    :param endless: The body never ends.
    :param meanwhile: Called when 99 % of the body were sent.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    part: tuple[int, int] | None = None
    stops_after: int | None = None
    hangs_up: bool = False
    chunked: bool = False
    endless: bool = False
    meanwhile: Callable[[], object] = lambda: None


def redirect(location: str) -> Answer:
    """Return the answer that leads to another address."""
    return Answer(302, {"location": location}, b"")


@dataclass
class Received:
    """One request.

    :param headers: Names in lower case.
    :param sent: Bytes of the body that were sent.
    """

    path: str
    headers: dict[str, str]
    sent: int = 0


class FileHost(LoopbackServer):
    """Serves ``content`` under every path.

    :param ranges: Parts can be asked for; else the whole is sent whatever was asked.
    """

    def __init__(self, content: bytes, *, ranges: bool = True) -> None:
        super().__init__(_FileHandler)
        self.content = content
        self.ranges = ranges
        self.requests: list[Received] = []
        self._script: deque[Answer] = deque()
        self._afterwards = Answer()

    def will(self, *answers: Answer) -> None:
        """Answer the next requests like this; further ones as a sound host does."""
        self._script.extend(answers)

    def always(self, answer: Answer) -> None:
        """Answer all requests like this."""
        self._afterwards = answer

    def next_answer(self) -> Answer:
        return self._script.popleft() if self._script else self._afterwards


def etag(content: bytes) -> str:
    """Return the strong validator of a content."""
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


class _FileHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        host = cast("FileHost", self.server.owner)  # type: ignore[attr-defined]
        self.close_connection = True
        received = Received(self.path, {name.lower(): value for name, value in self.headers.items()})
        host.requests.append(received)
        answer = host.next_answer()
        if answer.hangs_up:
            return
        status, headers, body = _sound(host, received, answer)
        headers.update(answer.headers)
        if answer.chunked or answer.endless:
            headers = {"transfer-encoding": "chunked", **answer.headers}
        self.send_response(answer.status or status)
        self.send_header("connection", "close")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self._send(received, answer, body)

    def _send(self, received: Received, answer: Answer, body: bytes) -> None:
        size = ENDLESS if answer.endless else len(body)
        end = size if answer.stops_after is None else answer.stops_after
        pause = size * 99 // 100
        while received.sent < end:
            start = received.sent
            stop = min(start + _PIECE, end, pause if start < pause else end)
            self._send_piece(body[start % len(body) :][: stop - start], chunked=answer.chunked or answer.endless)
            received.sent = min(stop, start + len(body) - start % len(body))
            if received.sent == pause:
                answer.meanwhile()
        if answer.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _send_piece(self, piece: bytes, *, chunked: bool) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


def _sound(host: FileHost, received: Received, answer: Answer) -> tuple[int, dict[str, str], bytes]:
    content = host.content if answer.content is None else answer.content
    size = len(content)
    headers = {"content-type": "video/mp4", "etag": etag(content), "content-length": str(size)}
    first, last = answer.part or (_first_byte(host, received, etag(content)), size - 1)
    if first is None:
        return 200, headers, content
    if first >= size:
        return 416, {"content-range": f"bytes */{size}", "content-length": "0"}, b""
    part = content[first : last + 1]
    headers |= {"content-range": f"bytes {first}-{last}/{size}", "content-length": str(len(part))}
    return 206, headers, part


def _first_byte(host: FileHost, received: Received, validator: str) -> int | None:
    """Return where the part begins that was asked for, or None for the whole file."""
    asked = re.fullmatch(r"bytes=(\d+)-", received.headers.get("range", ""))
    if not host.ranges or asked is None or received.headers.get("if-range", validator) != validator:
        return None
    return int(asked[1])
