"""A fake service that the triggers poll, and the Airflow connection to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import pytest

from airflow_provider_toapis.api.responses import VideoTask, parse_video_task
from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.exceptions import ToAPIsAuthError
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from tests.unit.virtual_time import now, patch_time

T = TypeVar("T")

KEY = "sk-unit-0123456789"


def task(status: str, **fields: Any) -> VideoTask:
    """Return a video in the form of the service's response."""
    parsed = parse_video_task({"id": "video_1", "status": status, **fields})
    assert parsed is not None
    return parsed


READY = task("completed", result={"data": [{"url": "https://files.example/v.mp4?X-Amz-Signature=private"}]})
RUNNING = task("in_progress")
REJECTED = ToAPIsAuthError("GET returned 401.", http_status=401)


@dataclass(frozen=True)
class Poll:
    """One poll of the service.

    :param at: Seconds since the creation of the event loop.
    :param key: The API key of the request.
    """

    at: float
    video_id: str
    key: str


class PolledService:
    """Responds to polls. By default it responds immediately, and a video is ready after one minute.

    ``connection`` and the return value of ``respond`` are raised if they are exceptions.
    """

    def __init__(self) -> None:
        self.connection: ClientSettings | Exception = ClientSettings(api_key=KEY)
        self.accepted_key = KEY
        self.respond: Callable[[str], VideoTask | Exception] = lambda _: READY if now() >= 60 else RUNNING
        self.headers: Mapping[str, str] = {}
        #: Seconds that a response takes.
        self.latency = 0.0
        #: Videos whose responses never end, and the ones among them whose requests were canceled.
        self.hanging: set[str] = set()
        self.canceled: list[str] = []
        self.connection_reads: list[tuple[str, float]] = []
        self.clients: list[_Client] = []
        self.polls: list[Poll] = []

    @classmethod
    def installed(cls, monkeypatch: pytest.MonkeyPatch) -> Self:
        """Return a service that the triggers use, with the time of their event loop."""
        service = cls()

        async def settings(hook: ToAPIsHook) -> ClientSettings:
            service.connection_reads.append((hook.toapis_conn_id, now()))
            return _returned(service.connection)

        def client(settings: ClientSettings, *, on_headers: Callable[[Mapping[str, str]], None]) -> _Client:
            service.clients.append(_Client(service, settings, on_headers))
            return service.clients[-1]

        monkeypatch.setattr(ToAPIsHook, "async_settings", settings)
        monkeypatch.setattr("airflow_provider_toapis.triggers.poller.AsyncToAPIsClient", client)
        patch_time(monkeypatch)
        return service

    @property
    def connection_read_times(self) -> list[float]:
        return [at for _, at in self.connection_reads]

    @property
    def poll_times(self) -> list[float]:
        return [poll.at for poll in self.polls]

    @property
    def open_clients(self) -> int:
        return sum(client.is_open for client in self.clients)

    def poll_times_of(self, video_id: str) -> list[float]:
        """Return the times at which a video was polled."""
        return [poll.at for poll in self.polls if poll.video_id == video_id]


class _Client:
    def __init__(
        self, service: PolledService, settings: ClientSettings, on_headers: Callable[[Mapping[str, str]], None]
    ) -> None:
        self._service = service
        self._on_headers = on_headers
        self.settings = settings
        self.is_open = False

    async def __aenter__(self) -> Self:
        self.is_open = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.is_open = False

    async def get_video(self, video_id: str) -> VideoTask:
        assert self.is_open
        service = self._service
        service.polls.append(Poll(now(), video_id, self.settings.api_key))
        await asyncio.sleep(service.latency)
        if video_id in service.hanging:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                service.canceled.append(video_id)
                raise
        self._on_headers(service.headers)
        if self.settings.api_key != service.accepted_key:
            raise REJECTED
        return _returned(service.respond(video_id))


def _returned(value: T | Exception) -> T:
    if isinstance(value, Exception):
        raise value
    return value
