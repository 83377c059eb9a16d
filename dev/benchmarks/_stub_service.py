"""A service that serves only status polls, in its own process.

It uses as little CPU as possible, because it runs on the measured machine. The id of a video contains its times, so no
submission is needed.
"""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Self

STATUS_PATH = "/v1/videos/generations"
#: Path that returns 404 until the video is ready, because ``HttpSensorTrigger`` keeps waiting only after a 404.
READY_PATH = "/ready"
_LOG_PATH = "/_log"
_HOST = "127.0.0.1"
#: Seconds for which the status of a video is ``queued``.
_QUEUED_SECONDS = 2.0
_RESULT_LIFETIME = 24 * 60 * 60
#: Seconds after which a process that has not ended is killed.
_STOP_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class Video:
    """A video with predefined times, in milliseconds since the epoch.

    :param model: Model name of letters, digits and ``-``.
    :param reports_progress: Whether the progress is reported in whole percent. If not, it is 0 until the video is
        ready.
    """

    model: str
    index: int
    created_ms: int
    ready_ms: int
    reports_progress: bool

    @classmethod
    def lasting(cls, model: str, index: int, created_at: float, seconds: float, *, reports_progress: bool) -> Self:
        """Return a video that is created at ``created_at`` (epoch seconds) and ready ``seconds`` later."""
        return cls(model, index, round(created_at * 1000), round((created_at + seconds) * 1000), reports_progress)

    @classmethod
    def parse(cls, video_id: str) -> Self:
        """Return the video that an id describes."""
        _, model, index, created_ms, ready_ms, kind = video_id.split("_")
        return cls(model, int(index), int(created_ms), int(ready_ms), kind == "h")

    @property
    def id(self) -> str:
        """The id, which contains all data of the video."""
        kind = "h" if self.reports_progress else "n"
        return f"video_{self.model}_{self.index}_{self.created_ms}_{self.ready_ms}_{kind}"

    @property
    def ready_at(self) -> float:
        """Time when the video is ready, in epoch seconds."""
        return self.ready_ms / 1000

    def status_body(self, now: float) -> dict[str, object]:
        """Return the documented status object at ``now`` (epoch seconds)."""
        created_at = self.created_ms / 1000
        task: dict[str, object] = {
            "id": self.id,
            "object": "generation.task",
            "model": self.model,
            "created_at": int(created_at),
            "metadata": {},
        }
        if now < self.ready_at:
            made = max(0.0, now - created_at) / (self.ready_at - created_at)
            status = "queued" if now < created_at + _QUEUED_SECONDS else "in_progress"
            return task | {
                "status": status,
                "progress": min(99, math.floor(100 * made)) if self.reports_progress else 0,
            }
        url = f"https://files.example/videos/{self.id}/output.mp4"
        return task | {
            "status": "completed",
            "progress": 100,
            "completed_at": int(self.ready_at),
            "expires_at": int(self.ready_at) + _RESULT_LIFETIME,
            "result": {"type": "video", "data": [{"url": url, "format": "mp4"}]},
        }


@dataclass(frozen=True, slots=True)
class Poll:
    """One request for the status of a video.

    :param received_at: Time of arrival in epoch seconds.
    :param connection: Number of the client connection.
    """

    received_at: float
    video_id: str
    connection: int


class StubService:
    """Runs the service in its own process until the block ends.

    The process ends when its standard input is closed, so it does not outlive its parent.
    """

    url: str

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dev.benchmarks._stub_service"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert self._process.stdout is not None  # noqa: S101
            self._port = int(self._process.stdout.readline())
        except BaseException:
            self._stop()
            raise
        self.url = f"http://{_HOST}:{self._port}"
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def polls(self, model: str) -> list[Poll]:
        """Return the polls of videos of ``model`` so far, in the order of arrival."""
        connection = HTTPConnection(_HOST, self._port)
        try:
            connection.request("GET", _LOG_PATH)
            rows = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return [poll for row in rows if Video.parse((poll := Poll(*row)).video_id).model == model]

    def _stop(self) -> None:
        try:
            self._process.communicate(timeout=_STOP_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


class _Connection(asyncio.Protocol):
    """Minimal HTTP/1.1 with keep-alive, for GET requests only."""

    def __init__(self, number: int, log: list[tuple[float, str, int]]) -> None:
        self._number = number
        self._log = log
        self._received = b""
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *requests, self._received = (self._received + data).split(b"\r\n\r\n")
        for request in requests:
            _, path, _ = request.decode("latin-1").split(" ", 2)
            status, body = self._response(path, time.time())
            content = json.dumps(body, separators=(",", ":")).encode()
            head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            self._transport.write(head.encode() + content)

    def _response(self, path: str, now: float) -> tuple[str, object]:
        if path == _LOG_PATH:
            return "200 OK", self._log
        directory, _, video_id = path.rpartition("/")
        self._log.append((now, video_id, self._number))
        video = Video.parse(video_id)
        if directory == READY_PATH and now < video.ready_at:
            return "404 Not Found", {"error": {"code": 404, "message": "Not ready", "type": "not_found_error"}}
        return "200 OK", video.status_body(now)


async def _serve() -> None:
    """Print the port to standard output, and serve requests until standard input is closed."""
    loop = asyncio.get_running_loop()
    log: list[tuple[float, str, int]] = []
    numbers = iter(range(sys.maxsize))
    server = await loop.create_server(lambda: _Connection(next(numbers), log), _HOST, 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    stopped = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), stopped.set)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve())
