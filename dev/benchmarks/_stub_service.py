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
from enum import StrEnum
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Self

STATUS_PATH = "/v1/videos/generations"
#: Path that returns 404 until the video is ready, because ``HttpSensorTrigger`` keeps waiting only after a 404.
READY_PATH = "/ready"
_LOG_PATH = "/_log"
_HOST = "127.0.0.1"
#: Minimum seconds for which the status of a video is ``queued``.
_QUEUED_SECONDS = 2.0
#: Fractions of a video's duration for which the videos with :attr:`Progress.LATE` are queued.
_QUEUED_SHARES = (0.1, 0.3, 0.5, 0.2, 0.4)
#: Percentages that are reported with :attr:`Progress.STEPS`.
_STEPS = (0, 10, 30, 60, 90)
_RESULT_LIFETIME = 24 * 60 * 60
#: Seconds after which a process that has not ended is killed.
_STOP_GRACE = 5.0


class Progress(StrEnum):
    """How the progress of a video is reported until the video is ready.

    - ``LINEAR``: in whole percent, from the creation on.
    - ``LATE``: in whole percent, after the video was queued for 10 to 50 % of its duration.
    - ``STEPS``: as 10, 30, 60 and 90 %.
    - ``NONE``: as 0.
    """

    LINEAR = "linear"
    LATE = "late"
    STEPS = "steps"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Video:
    """A video with predefined times, in milliseconds since the epoch.

    :param model: Model name of letters, digits and ``-``.
    """

    model: str
    index: int
    created_ms: int
    ready_ms: int
    progress: Progress

    @classmethod
    def lasting(
        cls, model: str, index: int, created_at: float, seconds: float, progress: Progress = Progress.LINEAR
    ) -> Self:
        """Return a video that is created at ``created_at`` (epoch seconds) and ready ``seconds`` later."""
        return cls(model, index, round(created_at * 1000), round((created_at + seconds) * 1000), progress)

    @classmethod
    def parse(cls, video_id: str) -> Self:
        """Return the video that an id describes."""
        _, model, index, created_ms, ready_ms, progress = video_id.split("_")
        return cls(model, int(index), int(created_ms), int(ready_ms), Progress(progress))

    @property
    def id(self) -> str:
        """The id, which contains all data of the video."""
        return f"video_{self.model}_{self.index}_{self.created_ms}_{self.ready_ms}_{self.progress}"

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
            return task | {
                "status": "queued" if now < self._started_at else "in_progress",
                "progress": self._percent(now),
            }
        url = f"https://files.example/videos/{self.id}/output.mp4"
        return task | {
            "status": "completed",
            "progress": 100,
            "completed_at": int(self.ready_at),
            "expires_at": int(self.ready_at) + _RESULT_LIFETIME,
            "result": {"type": "video", "data": [{"url": url, "format": "mp4"}]},
        }

    @property
    def _started_at(self) -> float:
        share = _QUEUED_SHARES[self.index % len(_QUEUED_SHARES)] if self.progress is Progress.LATE else 0.0
        return (self.created_ms + max(1000 * _QUEUED_SECONDS, share * (self.ready_ms - self.created_ms))) / 1000

    def _percent(self, now: float) -> int:
        start = self._started_at if self.progress is Progress.LATE else self.created_ms / 1000
        percent = min(99, math.floor(100 * max(0.0, now - start) / (self.ready_at - start)))
        if self.progress is Progress.STEPS:
            return max(step for step in _STEPS if step <= percent)
        return 0 if self.progress is Progress.NONE else percent


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
