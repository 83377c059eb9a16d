"""A server that drips: every total limit once for real, shortened to a second."""

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

#: Seconds of every limit here, between two bytes, and after which a request that is limited has surely ended.
LIMIT = 1.0
PAUSE = 0.1
SOON = 4.0
#: Seconds for which the server goes on if nobody stops it.
FOR_EVER = 60.0


class SlowServer(LoopbackServer):
    """Sends its response byte by byte.

    :ivar drips: What is sent so, the ``headers`` or the ``body``; anything else sends ``body`` as it is.
    """

    def __init__(self) -> None:
        super().__init__(_SlowHandler)
        self.drips = "body"
        self.body = b""


class _SlowHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = cast("SlowServer", self.server.owner)  # type: ignore[attr-defined]
        if self.headers.get("content-length"):
            self.rfile.read(int(self.headers["content-length"]))
        head = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nConnection: close\r\n"
        if server.drips == "headers":
            self._drip(head, b"X-More: 1\r\n")
        elif server.drips == "body":
            self._drip(head + b"\r\n", b" ")
        else:
            self.wfile.write(head + b"Content-Encoding: gzip\r\n\r\n" + server.body)

    def do_POST(self) -> None:
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def _drip(self, first: bytes, drop: bytes) -> None:
        self.wfile.write(first)
        end = time.monotonic() + FOR_EVER
        while time.monotonic() < end:
            self.wfile.write(drop)
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
def soon_over() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert LIMIT * 0.9 <= time.monotonic() - began <= SOON


UPLOAD = FileUpload(name="shoe.jpg", media_type="image/jpeg", open=lambda: io.BytesIO(b"an image"))
REQUESTS: dict[str, Callable[[ToAPIsClient], object]] = {
    "poll": lambda client: client.get_video("video_1", 0),
    "submission": lambda client: _raised(client._send(HttpRequest("POST", "/v1/videos/generations", json={}))),
    "upload": lambda client: _raised(client._send(HttpRequest("POST", "/v1/uploads/images", file=UPLOAD))),
}


def _raised(outcome: Any) -> None:
    assert isinstance(outcome, ToAPIsConnectionError), outcome
    raise outcome


@pytest.mark.parametrize("drips", ["headers", "body"])
@pytest.mark.parametrize("request_", REQUESTS)
def test_worker_s_request_ends_and_may_have_had_an_effect(server: SlowServer, drips: str, request_: str) -> None:
    server.drips = drips
    with ToAPIsClient(settings(server)) as client, soon_over():
        with pytest.raises(ToAPIsConnectionError) as slow:
            REQUESTS[request_](client)
        assert slow.value.sent


@pytest.mark.parametrize("drips", ["headers", "body"])
def test_poll_on_an_event_loop_ends(server: SlowServer, drips: str) -> None:
    server.drips = drips

    async def poll() -> None:
        async with AsyncToAPIsClient(settings(server)) as client:
            await client.get_video("video_1")

    with soon_over(), pytest.raises(ToAPIsConnectionError, match="within 1 s"):
        asyncio.run(poll())


def test_look_at_an_image_s_headers_ends(server: SlowServer) -> None:
    server.drips = "headers"
    with ToAPIsClient(settings(server)) as client, soon_over():
        assert isinstance(client._head(server.url), ToAPIsConnectionError)


@pytest.mark.parametrize("drips", ["headers", "body"])
def test_download_from_a_host_that_drips_ends(
    server: SlowServer, drips: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.drips = drips
    monkeypatch.setattr("airflow_provider_toapis.api.download.MAX_ATTEMPTS", 1)
    replace_clock(monkeypatch, time.time)
    task = VideoTask(id="video_1", status=TaskStatus.COMPLETED, raw_status="completed", urls=(f"{server.url}/a.mp4",))
    with (
        ToAPIsClient(settings(server)) as client,
        soon_over(),
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


def test_redirect_whose_body_inflates_to_200_mb_takes_no_memory() -> None:
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
def test_response_that_inflates_to_300_mb_takes_no_memory(server: SlowServer, *, on_loop: bool) -> None:
    server.drips, server.body = "nothing", gzip.compress(bytes(300_000_000), compresslevel=9)

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
