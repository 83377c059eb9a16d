"""A service that answers nothing but status polls, in a process of its own.

It is as light as it can be, because it shares the machine with what is measured. The life of a video is written in its
id, so that nothing has to be ordered first.
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
#: Answers 404 until the video is ready, which is the only "not yet" that ``HttpSensorTrigger`` knows.
READY_PATH = "/ready"
_LOG_PATH = "/_log"
_HOST = "127.0.0.1"
#: Seconds that a video is reported as queued.
_QUEUED_SECONDS = 2.0
_RESULT_LIFETIME = 24 * 60 * 60
#: Seconds that the process gets to end by itself.
_STOP_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class Video:
    """A video whose whole life is known beforehand. Times are milliseconds since the epoch.

    :param model: Letters, digits and ``-``.
    :param honest: Whether whole percents are reported while it is made; else 0 until it is ready.
    """

    model: str
    index: int
    created_ms: int
    ready_ms: int
    honest: bool

    @classmethod
    def lasting(cls, model: str, index: int, created_at: float, seconds: float, *, honest: bool) -> Self:
        """Return a video that is created at ``created_at`` (epoch seconds) and ready ``seconds`` later."""
        return cls(model, index, round(created_at * 1000), round((created_at + seconds) * 1000), honest)

    @classmethod
    def parse(cls, video_id: str) -> Self:
        """Return the video that an id stands for."""
        _, model, index, created_ms, ready_ms, kind = video_id.split("_")
        return cls(model, int(index), int(created_ms), int(ready_ms), kind == "h")

    @property
    def id(self) -> str:
        """The id, which is all that the service needs to know."""
        kind = "h" if self.honest else "n"
        return f"video_{self.model}_{self.index}_{self.created_ms}_{self.ready_ms}_{kind}"

    @property
    def ready_at(self) -> float:
        """Epoch seconds."""
        return self.ready_ms / 1000

    def as_answered(self, now: float) -> dict[str, object]:
        """Return the documented status object as it is at ``now`` (epoch seconds)."""
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
            return task | {"status": status, "progress": min(99, math.floor(100 * made)) if self.honest else 0}
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
    """One request for a video, as the service saw it.

    :param asked_at: Epoch seconds of its arrival.
    :param connection: Number of the connection that it came through.
    """

    asked_at: float
    video_id: str
    connection: int


class StubService:
    """Run the service in a process of its own until the block ends.

    The process ends when its standard input does, so it does not outlive the one that started it either.
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
        """Return what was asked so far for videos of ``model``, in the order of arrival."""
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
    """HTTP/1.1 with keep-alive, as far as a GET needs it."""

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
            status, body = self._answer(path, time.time())
            content = json.dumps(body, separators=(",", ":")).encode()
            head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            self._transport.write(head.encode() + content)

    def _answer(self, path: str, now: float) -> tuple[str, object]:
        if path == _LOG_PATH:
            return "200 OK", self._log
        folder, _, video_id = path.rpartition("/")
        self._log.append((now, video_id, self._number))
        video = Video.parse(video_id)
        if folder == READY_PATH and now < video.ready_at:
            return "404 Not Found", {"error": {"code": 404, "message": "Not ready", "type": "not_found_error"}}
        return "200 OK", video.as_answered(now)


async def _serve() -> None:
    """Tell the port on standard output, and answer until standard input ends."""
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
