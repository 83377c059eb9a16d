"""Fixtures: the emulator, an Airflow connection to it, and a virtual clock."""

from __future__ import annotations

import inspect
import json
import logging
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from airflow.providers.common.compat.sdk import BaseSensorOperator, ObjectStoragePath

from airflow_provider_toapis.api import rate_limit
from tests.clock import replace_clock
from tests.integration.emulator_process import EmulatorProcess
from tests.integration.storages import aws_connection, s3_client_at, s3_server
from tests.unit.conftest import unchecked_videos

__all__ = ["unchecked_videos"]

API_KEY = "sk-integration-0123456789abcdef"
#: Seconds that a video of the emulator takes.
LATENCY = 60.0
PROMPT = "The camera glides slowly towards a coral running shoe"


class Clock:
    """Virtual clock of the provider and the emulator. Sleeping advances it and takes no time."""

    def __init__(self, emulator: EmulatorProcess) -> None:
        self._emulator = emulator
        self.offset = 0.0
        self.slept: list[float] = []
        #: Called with the seconds of each wait, after the clock was advanced.
        self.on_sleep: Callable[[float], object] = lambda _: None

    def time(self) -> float:
        return time.time() + self.offset

    def sleep(self, seconds: float) -> None:
        if seconds:
            self.slept.append(seconds)
            self.offset += seconds
            self._emulator.advance(seconds)
        self.on_sleep(seconds)

    def during_sleep(self, number: int, action: Callable[[], object]) -> None:
        """Call ``action`` during the wait with this ``number``. The next wait is number 1."""
        self.slept.clear()
        self.on_sleep = lambda _: action() if len(self.slept) == number else None


@pytest.fixture(scope="session")
def running_emulator() -> Iterator[EmulatorProcess]:
    options: dict[str, Any] = {"latency": LATENCY, "latency_spread": 0, "submit_rps": 0, "query_rps": 0}
    with EmulatorProcess(api_key=API_KEY, **options) as emulator:
        render_once(emulator)
        yield emulator


def render_once(emulator: EmulatorProcess) -> None:
    """Render a video, so that later ones with the same image and length are complete immediately."""
    body = {"model": "grok-video-1.5-preview", "prompt": PROMPT, "images": [image_url(emulator)]}
    submitted = emulator.api("/v1/videos/generations", "POST", json=body)
    emulator.finish(submitted.raise_for_status().json()["id"])


@pytest.fixture
def clock(running_emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the provider's clock. Every wait of the provider advances the emulator's time."""
    clock = Clock(running_emulator)
    replace_clock(monkeypatch, clock.time, clock.sleep)
    # Discard the rate limiters of earlier tests, which used other clocks.
    rate_limit._limiter.cache_clear()
    # Discard the record of the models for which earlier tests have found a video by its idempotency key.
    rate_limit._found_by_key.cache_clear()
    seconds = SimpleNamespace(time=clock.time, sleep=clock.sleep, monotonic=clock.time)
    monkeypatch.setattr(inspect.getmodule(BaseSensorOperator), "time", seconds)
    return clock


@pytest.fixture
def service(running_emulator: EmulatorProcess, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> EmulatorProcess:
    """A reset emulator with the tests' clock, and the connection ``toapis_default`` to it."""
    running_emulator.reset()
    connect(monkeypatch, running_emulator)
    return running_emulator


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return a function that returns the log so far. It includes stdout, because Airflow's loggers can write there."""
    caplog.set_level(logging.DEBUG)
    # The level of this logger is set separately, because Airflow raises it.
    caplog.set_level(logging.INFO, logger="httpx")
    printed: list[str] = []

    def text() -> str:
        printed.extend(capfd.readouterr())
        return "\n".join([*printed, caplog.text])

    return text


@pytest.fixture(scope="module")
def stores() -> Iterator[Any]:
    """Return Airflow's module of object stores. Stores of these tests are removed at the end."""
    store = import_module(f"{ObjectStoragePath.__module__.rpartition('.')[0]}.store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_STORE_CACHE", {})
        yield store


@pytest.fixture(scope="module")
def s3_client(stores: Any) -> Iterator[Any]:
    with s3_server() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(aws_connection(url)))
        yield s3_client_at(url)


@pytest.fixture
def image(service: EmulatorProcess) -> str:
    """URL of an image."""
    return image_url(service)


@pytest.fixture
def image_file(service: EmulatorProcess, tmp_path: Path) -> Path:
    """A local file with the content of ``image``."""
    file = tmp_path / "shoe.jpg"
    file.write_bytes(service.get(image_url(service)).raise_for_status().content)
    service.clear_requests()
    return file


def image_url(emulator: EmulatorProcess) -> str:
    return f"{emulator.url}/shop/images/sneaker.jpg"


def connect(
    monkeypatch: pytest.MonkeyPatch, emulator: EmulatorProcess, *, conn_id: str = "toapis_default", **fields: Any
) -> None:
    """Define a connection to the emulator."""
    # Without verification, because loading the CA certificates is slow, and http does not need them.
    extra = {"timeout": 5, "verify": False} | fields.pop("extra", {})
    connection = {"conn_type": "toapis", "host": emulator.url, "password": API_KEY, "extra": extra} | fields
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))


def recorded_clients(
    patch: pytest.MonkeyPatch, kind: type[httpx.Client | httpx.AsyncClient]
) -> list[httpx.Client | httpx.AsyncClient]:
    """Return a list to which every new HTTP client of this class is appended."""
    clients: list[httpx.Client | httpx.AsyncClient] = []
    original: Callable[..., None] = kind.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        clients.append(self)

    patch.setattr(kind, "__init__", init)
    return clients


def posts(emulator: EmulatorProcess) -> list[dict[str, Any]]:
    """Return the submissions that reached the emulator, with or without a response."""
    return [entry for entry in emulator.requests() if entry["endpoint"] in {"submit", "remix", "extend"}]
