"""A server for one video file that can send faulty responses, and records its requests."""

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
class Response:
    """The response to one request. The defaults are a correct response.

    :param status: HTTP status; None for the correct one.
    :param headers: Headers that replace the correct ones.
    :param content: Content to send instead of the video.
    :param part: First and last byte to send, regardless of the requested range.
    :param stops_after: Number of bytes of the body after which the connection breaks.
    :param drops_connection: Whether the connection breaks without a response.
    :param chunked: Whether the body has no Content-Length, unless ``headers`` has one.
    :param endless: Whether the body never ends.
    :param before_end: Called when 99 % of the body has been sent.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    part: tuple[int, int] | None = None
    stops_after: int | None = None
    drops_connection: bool = False
    chunked: bool = False
    endless: bool = False
    before_end: Callable[[], object] = lambda: None


def redirect(location: str) -> Response:
    """Return a redirect to another URL."""
    return Response(302, {"location": location}, b"")


@dataclass
class Received:
    """One received request.

    :param headers: Headers with names in lower case.
    :param sent: Number of bytes of the response body that were sent.
    """

    path: str
    headers: dict[str, str]
    sent: int = 0


class FileHost(LoopbackServer):
    """Serves ``content`` at every path.

    :param ranges: Whether range requests are supported; else every response has the whole content.
    """

    def __init__(self, content: bytes, *, ranges: bool = True) -> None:
        super().__init__(_FileHandler)
        self.content = content
        self.ranges = ranges
        self.requests: list[Received] = []
        self._script: deque[Response] = deque()
        self._default = Response()

    def respond_with(self, *responses: Response) -> None:
        """Send these responses to the next requests, and correct ones afterwards."""
        self._script.extend(responses)

    def always_respond_with(self, response: Response) -> None:
        """Send this response to all requests after the scripted ones."""
        self._default = response

    def next_response(self) -> Response:
        return self._script.popleft() if self._script else self._default


def etag(content: bytes) -> str:
    """Return a strong ETag for a content."""
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


class _FileHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        host = cast("FileHost", self.server.owner)  # type: ignore[attr-defined]
        self.close_connection = True
        received = Received(self.path, {name.lower(): value for name, value in self.headers.items()})
        host.requests.append(received)
        response = host.next_response()
        if response.drops_connection:
            return
        status, headers, body = _correct_response(host, received, response)
        headers.update(response.headers)
        if response.chunked or response.endless:
            headers = {"transfer-encoding": "chunked", **response.headers}
        self.send_response(response.status or status)
        self.send_header("connection", "close")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self._send(received, response, body)

    def _send(self, received: Received, response: Response, body: bytes) -> None:
        size = ENDLESS if response.endless else len(body)
        end = size if response.stops_after is None else response.stops_after
        pause = size * 99 // 100
        while received.sent < end:
            start = received.sent
            stop = min(start + _PIECE, end, pause if start < pause else end)
            self._send_piece(body[start % len(body) :][: stop - start], chunked=response.chunked or response.endless)
            received.sent = min(stop, start + len(body) - start % len(body))
            if received.sent == pause:
                response.before_end()
        if response.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _send_piece(self, piece: bytes, *, chunked: bool) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


def _correct_response(host: FileHost, received: Received, response: Response) -> tuple[int, dict[str, str], bytes]:
    content = host.content if response.content is None else response.content
    size = len(content)
    headers = {"content-type": "video/mp4", "etag": etag(content), "content-length": str(size)}
    first, last = response.part or (_first_byte(host, received, etag(content)), size - 1)
    if first is None:
        return 200, headers, content
    if first >= size:
        return 416, {"content-range": f"bytes */{size}", "content-length": "0"}, b""
    part = content[first : last + 1]
    headers |= {"content-range": f"bytes {first}-{last}/{size}", "content-length": str(len(part))}
    return 206, headers, part


def _first_byte(host: FileHost, received: Received, validator: str) -> int | None:
    """Return the first byte of the requested range; None for the whole file."""
    requested = re.fullmatch(r"bytes=(\d+)-", received.headers.get("range", ""))
    if not host.ranges or requested is None or received.headers.get("if-range", validator) != validator:
        return None
    return int(requested[1])
