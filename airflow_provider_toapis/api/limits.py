"""Total limits on responses: time, size and speed, whatever the other side does.

httpx limits single reads only: a server that sends a byte now and then holds a request up for hours. On an event loop
``asyncio.timeout`` ends it. In a worker the connection itself knows the deadline (:class:`LimitedNetwork`): every
connect, read and write, headers and TLS handshake included, gets the time that is left and no more.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

#: Seconds for one request. The vendor's proxy gives a POST up after about 100.
GET_SECONDS = 60.0
POST_SECONDS = 120.0
#: Bytes of a decoded response. A page of prices has some 100 KiB.
MAX_RESPONSE_BYTES = 8 * 1024**2
#: Bytes per second that a file transfer must reach, over so many seconds of waiting for it.
SLOWEST_TRANSFER = 10 * 1024
TRANSFER_WINDOW = 60.0
#: Tells gzip and zlib apart by itself.
_ANY_ZLIB = zlib.MAX_WBITS | 32


class LimitExceededError(Exception):
    """A response that is too slow, too large or unreadable; the text completes a sentence about the request."""


class _Deadline(threading.local):
    """When the request of this thread must be over, in seconds of the monotonic clock."""

    at: float | None = None
    seconds = 0.0


_deadline = _Deadline()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let reads and writes of this thread, through connections of :class:`LimitedNetwork`, end after ``seconds``."""
    before = _deadline.at, _deadline.seconds
    _deadline.at, _deadline.seconds = time.monotonic() + seconds, seconds
    try:
        yield
    finally:
        _deadline.at, _deadline.seconds = before


def time_left(timeout: float | None) -> float | None:
    """Return the seconds for the next read or write, at most ``timeout``.

    :raises LimitExceededError: The time of the request is up.
    """
    if _deadline.at is None:
        return timeout
    left = _deadline.at - time.monotonic()
    if left <= 0:
        raise too_slow(_deadline.seconds)
    return left if timeout is None else min(timeout, left)


def too_slow(seconds: float) -> LimitExceededError:
    """Return the error of a response that took longer than ``seconds``."""
    return LimitExceededError(f"was not answered completely within {seconds:.0f} s")


class LimitedNetwork:
    """Opens connections that keep to :func:`within`; in the place of httpcore's network backend.

    :param network: The backend that does the work.
    """

    def __init__(self, network: Any) -> None:  # noqa: ANN401 - httpcore is httpx's own matter
        self._network = network

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> Any:  # noqa: ANN401
        """Connect, then limit what is read and written."""
        return _LimitedStream(self._network.connect_tcp(host, port, timeout=time_left(timeout), **options))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._network, name)


class _LimitedStream:
    def __init__(self, stream: Any) -> None:  # noqa: ANN401
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = self._stream.read(max_bytes, timeout=time_left(timeout))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout=time_left(timeout))

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:  # noqa: ANN401
        secure = self._stream.start_tls(ssl_context, server_hostname=server_hostname, timeout=time_left(timeout))
        return _LimitedStream(secure)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._stream, name)


class ResponseBody:
    """A response's body as it arrives, decoded, never larger than ``MAX_RESPONSE_BYTES``.

    No encoding is asked for; gzip and deflate come all the same from some proxies.

    :param headers: Names in lower case.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        encoding = headers.get("content-encoding", "identity").strip().lower() or "identity"
        if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
            raise LimitExceededError("was answered in an encoding that was not asked for")
        self._decoder = None if encoding == "identity" else zlib.decompressobj(_ANY_ZLIB)
        self._content = bytearray()

    def add(self, chunk: bytes) -> None:
        """Take the next bytes.

        :raises LimitExceededError: There are too many, or they cannot be decoded.
        """
        # One byte more than is allowed shows that there are more; a bomb is inflated no further.
        room = MAX_RESPONSE_BYTES - len(self._content) + 1
        try:
            self._content += self._decoder.decompress(chunk, room) if self._decoder else chunk[:room]
        except zlib.error:
            raise LimitExceededError("was answered with a body that cannot be decoded") from None
        if len(self._content) > MAX_RESPONSE_BYTES:
            raise LimitExceededError(f"was answered with more than {MAX_RESPONSE_BYTES // 1024**2} MiB")

    def content(self) -> bytes:
        """Return what has arrived."""
        return bytes(self._content)


def fast_enough(chunks: Iterable[bytes], chunk_size: int) -> Iterator[bytes]:
    """Yield the bytes of a file transfer in pieces of ``chunk_size``, unless they come too slowly.

    Only the time spent on waiting for them counts: a slow disk is not the host's fault.

    :raises LimitExceededError: Less than ``SLOWEST_TRANSFER`` bytes per second over ``TRANSFER_WINDOW`` seconds.
    """
    pending = bytearray()
    window_bytes, window_seconds = 0, 0.0
    arriving = iter(chunks)
    while True:
        began = time.monotonic()
        with within(TRANSFER_WINDOW):
            chunk = next(arriving, None)
        if chunk is None:
            break
        window_seconds += time.monotonic() - began
        window_bytes += len(chunk)
        if window_seconds >= TRANSFER_WINDOW:
            if window_bytes < SLOWEST_TRANSFER * window_seconds:
                raise LimitExceededError(f"sent less than {SLOWEST_TRANSFER // 1024} KiB per second")
            window_bytes, window_seconds = 0, 0.0
        pending += chunk
        while len(pending) >= chunk_size:
            yield bytes(pending[:chunk_size])
            del pending[:chunk_size]
    if pending:
        yield bytes(pending)
