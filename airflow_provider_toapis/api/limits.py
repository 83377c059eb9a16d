"""Limits on the total time, the size and the speed of responses.

httpx limits only the time of each single read, so a server that sends a byte now and then can delay a request for
hours. On an event loop, ``asyncio.timeout`` ends such a request. In a worker, the connection enforces the deadline
(:class:`LimitedNetwork`): every connect, read and write, including headers and the TLS handshake, gets only the time
that is left.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

#: Maximum seconds for one request. The vendor's proxy aborts a POST after about 100 seconds.
GET_SECONDS = 60.0
POST_SECONDS = 120.0
#: Maximum bytes of a decoded response. A page of prices has about 100 KiB.
MAX_RESPONSE_BYTES = 8 * 1024**2
#: Minimum bytes per second of a file transfer, and the seconds over which this rate is measured.
MIN_TRANSFER_RATE = 10 * 1024
TRANSFER_WINDOW = 60.0
#: Makes zlib detect both formats, gzip and zlib.
_ANY_ZLIB = zlib.MAX_WBITS | 32


class LimitExceededError(Exception):
    """A response is too slow, too large or unreadable. In messages, its text follows the name of the request."""


class _Deadline(threading.local):
    """Deadline of this thread's request, in seconds of the monotonic clock."""

    at: float | None = None
    seconds = 0.0


_deadline = _Deadline()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Limit this thread's reads and writes through :class:`LimitedNetwork` to ``seconds`` in total."""
    before = _deadline.at, _deadline.seconds
    _deadline.at, _deadline.seconds = time.monotonic() + seconds, seconds
    try:
        yield
    finally:
        _deadline.at, _deadline.seconds = before


def time_left(timeout: float | None) -> float | None:
    """Return the seconds for the next read or write, at most ``timeout``.

    :raises LimitExceededError: The deadline of the request has passed.
    """
    if _deadline.at is None:
        return timeout
    left = _deadline.at - time.monotonic()
    if left <= 0:
        raise too_slow(_deadline.seconds)
    return left if timeout is None else min(timeout, left)


def too_slow(seconds: float) -> LimitExceededError:
    """Return the error for a response that was not complete within ``seconds``."""
    return LimitExceededError(f"got no complete response within {seconds:.0f} s")


class LimitedNetwork:
    """Network backend for httpcore whose connections enforce the limit of :func:`within`.

    :param network: The backend that opens the connections.
    """

    def __init__(self, network: Any) -> None:  # noqa: ANN401 - httpcore is no dependency of this package
        self._network = network

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> Any:  # noqa: ANN401
        """Open a connection with limited reads and writes."""
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
    """Decoded body of a response, at most ``MAX_RESPONSE_BYTES`` long.

    The clients request no content encoding, but some proxies send gzip or deflate nevertheless.

    :param headers: Names in lower case.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        encoding = headers.get("content-encoding", "identity").strip().lower() or "identity"
        if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
            raise LimitExceededError("got a response in an encoding that was not requested")
        self._decoder = None if encoding == "identity" else zlib.decompressobj(_ANY_ZLIB)
        self._content = bytearray()

    def add(self, chunk: bytes) -> None:
        """Add the next bytes.

        :raises LimitExceededError: The body is too large or cannot be decoded.
        """
        # Decode one byte more than allowed, to detect a larger body. A decompression bomb is not decoded further.
        room = MAX_RESPONSE_BYTES - len(self._content) + 1
        try:
            self._content += self._decoder.decompress(chunk, room) if self._decoder else chunk[:room]
        except zlib.error:
            raise LimitExceededError("got a body that cannot be decoded") from None
        if len(self._content) > MAX_RESPONSE_BYTES:
            raise LimitExceededError(f"got a body of more than {MAX_RESPONSE_BYTES // 1024**2} MiB")

    def content(self) -> bytes:
        """Return the bytes so far."""
        return bytes(self._content)


def fast_enough(chunks: Iterable[bytes], chunk_size: int) -> Iterator[bytes]:
    """Yield the bytes of a file transfer in pieces of ``chunk_size``, as long as they arrive fast enough.

    The speed is measured only while waiting for the host, so a slow disk does not reduce it.

    :raises LimitExceededError: Over ``TRANSFER_WINDOW`` seconds, less than ``MIN_TRANSFER_RATE`` bytes per second
        arrived.
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
            if window_bytes < MIN_TRANSFER_RATE * window_seconds:
                raise LimitExceededError(f"received less than {MIN_TRANSFER_RATE // 1024} KiB per second")
            window_bytes, window_seconds = 0, 0.0
        pending += chunk
        while len(pending) >= chunk_size:
            yield bytes(pending[:chunk_size])
            del pending[:chunk_size]
    if pending:
        yield bytes(pending)
