"""The part of the service that a download needs: the status of one finished video, with its result URLs."""

from __future__ import annotations

import json
import time
from collections import deque
from http.server import BaseHTTPRequestHandler
from typing import Any, cast

from tests.integration.loopback_server import LoopbackServer

VIDEO_ID = "video_0123456789"
LIFETIME = 24 * 3600


class StatusService(LoopbackServer):
    """Returns the status of one finished video, and an error for any other request.

    :ivar expires_in: Seconds until the video's result expires.
    :ivar polls: Number of polls.
    :ivar posted: Paths of the POST requests, which are the billed ones.
    """

    def __init__(self) -> None:
        super().__init__(_StatusHandler)
        self.expires_in = LIFETIME
        self.polls = 0
        self.posted: list[str] = []
        self._urls: deque[str] = deque()

    def set_urls(self, *urls: str) -> None:
        """Return these result URLs, one with each poll. The last one is repeated."""
        self._urls = deque(urls)

    def status(self) -> dict[str, Any]:
        """Return the response to a poll."""
        self.polls += 1
        url = self._urls.popleft() if len(self._urls) > 1 else self._urls[0]
        expires_at = int(time.time()) + self.expires_in
        return {
            "id": VIDEO_ID,
            "object": "generation.task",
            "model": "grok-video-1.5-preview",
            "status": "completed",
            "progress": 100,
            "created_at": expires_at - LIFETIME - 60,
            "completed_at": expires_at - LIFETIME,
            "expires_at": expires_at,
            "result": {"type": "video", "data": [{"url": url, "format": "mp4"}]},
        }


class _StatusHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_video = self.path == f"/v1/videos/generations/{VIDEO_ID}"
        self._respond(200, self._service.status()) if is_video else self._respond(404, {"error": {"code": "not_found"}})

    def do_POST(self) -> None:
        self._service.posted.append(self.path)
        self._respond(500, {"error": {"code": "server_error"}})

    @property
    def _service(self) -> StatusService:
        return cast("StatusService", self.server.owner)  # type: ignore[attr-defined]

    def _respond(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Print nothing."""
