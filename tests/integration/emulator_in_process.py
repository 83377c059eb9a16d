"""The emulator without a socket: httpx calls its application directly, and its clock moves only on request."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import httpx
import pytest

from airflow_provider_toapis.emulator.app import create_app
from airflow_provider_toapis.emulator.service import Service
from airflow_provider_toapis.emulator.settings import Settings
from airflow_provider_toapis.emulator.store import Task

T = TypeVar("T")

ORIGIN = "http://127.0.0.1:8790"
#: Start time of the emulators' clocks, in epoch seconds.
START = 1_800_000_000.0
LATENCY = 120.0


def freeze_emulator_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only ``advance`` move the clocks of emulators in this process, and render only a few frames."""
    provider = "airflow_provider_toapis.emulator"
    monkeypatch.setattr(f"{provider}.clock.time", SimpleNamespace(time=lambda: START))
    monkeypatch.setattr(f"{provider}.rendering.FRAME_RATE", 1)


class EmulatorInProcess:
    """One emulator on an event loop in its own thread, usable from threads and event loops.

    :param data_dir: Directory for its state and its videos.
    """

    def __init__(self, data_dir: Path, *, replay: bool, lookup_lag: float) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        settings = Settings(
            origin=ORIGIN,
            data_dir=data_dir,
            latency=LATENCY,
            latency_spread=0.0,
            replay=replay,
            lookup_lag=lookup_lag,
            submit_rps=0.0,
            query_rps=0.0,
        )
        self._service = self._call(lambda: Service(settings, []))
        self._app = httpx.ASGITransport(create_app(self._service))

    def close(self) -> None:
        """Stop the emulator and end the thread."""
        self._wait(self._service.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def reset(self) -> None:
        """Reset everything except the renderings."""
        self._wait(self._service.reset())

    def send(self, request: httpx.Request) -> httpx.Response:
        """Return the complete response to a request."""
        return self._wait(self._send(request))

    def time(self) -> float:
        """Return the emulator's time in epoch seconds."""
        return self._service.clock.now()

    def advance(self, seconds: float) -> None:
        """Advance the time, and do the work that is due then."""
        self._call(lambda: self._service.advance_clock(seconds))

    def tasks(self) -> list[Task]:
        """Return the current state of all tasks, oldest first. The ledger charges for each of them."""
        return self._call(self._service.store.tasks)

    def task(self, video_id: str) -> Task:
        """Return the current state of one task."""
        return next(task for task in self.tasks() if task.id == video_id)

    def plan_failure(self, video_id: str, code: str) -> None:
        """Have a generation fail when it is due."""
        self._call(lambda: self._service.tasks.plan_failure(video_id, code, "The generation failed", "error"))

    def posted(self) -> int:
        """Return the number of charged submissions, including refunded ones."""
        return int(self._call(self._service.ledger.statement)["posted"])

    def sha256(self, video_id: str) -> str:
        """Return the SHA-256 of a video's file."""
        file = self._service.renderer.file(str(self.task(video_id).rendering))
        return hashlib.sha256(file.read_bytes()).hexdigest()

    async def _send(self, request: httpx.Request) -> httpx.Response:
        response = await self._app.handle_async_request(request)
        content = await response.aread()
        # Wait for the rendering, because it takes real time.
        await asyncio.gather(*self._service.tasks._productions.values())
        return httpx.Response(response.status_code, headers=response.headers, stream=httpx.ByteStream(content))

    def _call(self, function: Callable[[], T]) -> T:
        async def called() -> T:
            return function()

        return self._wait(called())

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
