"""A server that sends its response slowly, and total time limits that are shortened to a second."""

from __future__ import annotations

import asyncio
import gzip
import io
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast

import pytest

from airflow_provider_toapis.api import limits, transport
from airflow_provider_toapis.api.client import AsyncToAPIsClient, ToAPIsClient
from airflow_provider_toapis.api.error_responses import HttpResponse
from airflow_provider_toapis.api.flows import HttpRequest
from airflow_provider_toapis.api.responses import TaskStatus, VideoTask
from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.api.video_request import FileUpload
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsDownloadError
from airflow_provider_toapis.storage import destination
from tests.clock import replace_clock
from tests.integration.loopback_server import LoopbackServer

#: Every time limit in seconds, seconds between two bytes, and maximum seconds until a limited request has ended.
LIMIT = 1.0
PAUSE = 0.1
LATEST_END = 4.0
#: Seconds until the server stops by itself.
SERVER_LIMIT = 60.0


class SlowServer(LoopbackServer):
    """Sends its response byte by byte.

    :ivar slow_part: Part that is sent byte by byte: ``headers`` or ``body``. Any other value sends ``body`` at once.
    """

    def __init__(self) -> None:
        super().__init__(_SlowHandler)
        self.slow_part = "body"
        self.body = b""


class _SlowHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = cast("SlowServer", self.server.owner)  # type: ignore[attr-defined]
        if self.headers.get("content-length"):
            self.rfile.read(int(self.headers["content-length"]))
        head = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nConnection: close\r\n"
        if server.slow_part == "headers":
            self._send_slowly(head, b"X-More: 1\r\n")
        elif server.slow_part == "body":
            self._send_slowly(head + b"\r\n", b" ")
        else:
            self.wfile.write(head + b"Content-Encoding: gzip\r\n\r\n" + server.body)

    def do_POST(self) -> None:
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send_slowly(self, first: bytes, piece: bytes) -> None:
        self.wfile.write(first)
        end = time.monotonic() + SERVER_LIMIT
        while time.monotonic() < end:
            self.wfile.write(piece)
            time.sleep(PAUSE)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowServer]:
    for name in ("GET_SECONDS", "POST_SECONDS"):
        monkeypatch.setattr(transport, name, LIMIT)
    monkeypatch.setattr(limits, "TRANSFER_WINDOW", LIMIT)
    with SlowServer() as server:
        yield server


def settings(server: SlowServer) -> ClientSettings:
    return ClientSettings(api_key="sk-slow-0123456789", base_url=server.url, timeout=30)


@contextmanager
def ends_at_limit() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert LIMIT * 0.9 <= time.monotonic() - began <= LATEST_END


UPLOAD = FileUpload(name="shoe.jpg", media_type="image/jpeg", open=lambda: io.BytesIO(b"an image"))
REQUESTS: dict[str, Callable[[ToAPIsClient], object]] = {
    "poll": lambda client: client.get_video("video_1", 0),
    "submission": lambda client: _raised(client._send(HttpRequest("POST", "/v1/videos/generations", json={}))),
    "upload": lambda client: _raised(client._send(HttpRequest("POST", "/v1/uploads/images", file=UPLOAD))),
}


def _raised(outcome: Any) -> None:
    assert isinstance(outcome, ToAPIsConnectionError), outcome
    raise outcome


@pytest.mark.parametrize("slow_part", ["headers", "body"])
@pytest.mark.parametrize("request_", REQUESTS)
def test_slow_response_in_a_worker_raises_a_connection_error_for_a_sent_request(
    server: SlowServer, slow_part: str, request_: str
) -> None:
    server.slow_part = slow_part
    with ToAPIsClient(settings(server)) as client, ends_at_limit():
        with pytest.raises(ToAPIsConnectionError) as slow:
            REQUESTS[request_](client)
        assert slow.value.sent


@pytest.mark.parametrize("slow_part", ["headers", "body"])
def test_slow_response_on_an_event_loop_raises_a_connection_error(server: SlowServer, slow_part: str) -> None:
    server.slow_part = slow_part

    async def poll() -> None:
        async with AsyncToAPIsClient(settings(server)) as client:
            await client.get_video("video_1")

    with ends_at_limit(), pytest.raises(ToAPIsConnectionError, match="within 1 s"):
        asyncio.run(poll())


def test_slow_response_to_a_head_request_is_a_connection_error(server: SlowServer) -> None:
    server.slow_part = "headers"
    with ToAPIsClient(settings(server)) as client, ends_at_limit():
        assert isinstance(client._head(server.url), ToAPIsConnectionError)


@pytest.mark.parametrize("slow_part", ["headers", "body"])
def test_slow_download_raises_a_download_error(
    server: SlowServer, slow_part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.slow_part = slow_part
    monkeypatch.setattr("airflow_provider_toapis.api.download.MAX_ATTEMPTS", 1)
    replace_clock(monkeypatch, time.time)
    task = VideoTask(id="video_1", status=TaskStatus.COMPLETED, raw_status="completed", urls=(f"{server.url}/a.mp4",))
    with (
        ToAPIsClient(settings(server)) as client,
        ends_at_limit(),
        pytest.raises(ToAPIsDownloadError),
    ):
        client.download(task, destination(str(tmp_path), "a.mp4"), refresh=lambda: task)
    assert list(tmp_path.iterdir()) == []


class _InflatingRedirect(BaseHTTPRequestHandler):
    body = gzip.compress(bytes(200_000_000), compresslevel=9)

    def do_GET(self) -> None:
        is_redirect = self.path == "/a.mp4"
        self.send_response(302 if is_redirect else 404)
        self.send_header("Location", "/next.mp4")
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(self.body) if is_redirect else 0))
        self.end_headers()
        self.wfile.write(self.body if is_redirect else b"")

    def log_message(self, *args: object) -> None:
        """Print nothing."""


def test_redirect_with_a_compressed_200_mb_body_uses_little_memory() -> None:
    with LoopbackServer(_InflatingRedirect) as host:
        tracemalloc.start()
        try:
            with ToAPIsClient(ClientSettings("sk-slow-0123456789", base_url=host.url)) as client:
                tried = client._try_url(f"{host.url}/a.mp4")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert isinstance(tried, HttpResponse)
    assert tried.status_code == 404
    assert peak < 40 * 1024**2


@pytest.mark.parametrize("on_loop", [False, True], ids=["worker", "event loop"])
def test_response_that_inflates_to_300_mb_uses_little_memory(server: SlowServer, *, on_loop: bool) -> None:
    server.slow_part, server.body = "nothing", gzip.compress(bytes(300_000_000), compresslevel=9)

    async def poll() -> None:
        async with AsyncToAPIsClient(settings(server)) as client:
            await client.get_video("video_1")

    tracemalloc.start()
    try:
        with pytest.raises(ToAPIsConnectionError, match="8 MiB"), ToAPIsClient(settings(server)) as client:
            asyncio.run(poll()) if on_loop else client.get_video("video_1", 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * 1024**2
