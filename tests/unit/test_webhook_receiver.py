"""The webhook receiver: its responses and limits."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi", reason="needs Airflow 3.0: its API server receives the webhooks")

from fastapi import FastAPI

from airflow_provider_toapis.hooks.callback_url import TaskCoordinates
from airflow_provider_toapis.plugin import ToAPIsPlugin
from airflow_provider_toapis.webhooks import receiver as receiver_app
from airflow_provider_toapis.webhooks import resume
from airflow_provider_toapis.webhooks.receiver import MAX_BODY, RESPONSE_SECONDS, webhook_app
from airflow_provider_toapis.webhooks.resume import DeliveryResult
from airflow_provider_toapis.webhooks.signature import WebhookEvent
from tests.signed_webhook import SECRET, body_of, headers_for, signed

#: Seconds after which a test fails.
RETRY_TIMEOUT = 60.0
URL_PATH = "/webhooks/hooked?dag_id=d&run_id=r&task_id=t&map_index=3"


class Tasks:
    """Replaces the tasks of an Airflow."""

    def __init__(self) -> None:
        self.process: Callable[[], DeliveryResult] = lambda: DeliveryResult("resumed")
        self.events: list[tuple[str, WebhookEvent, TaskCoordinates]] = []
        self.due: list[int] = []

    def on_event(self, conn_id: str, event: WebhookEvent, coordinates: TaskCoordinates) -> DeliveryResult:
        self.events.append((conn_id, event, coordinates))
        return self.process()


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Tasks:
    tasks = Tasks()
    monkeypatch.setattr(resume, "resume_waiting_tasks", tasks.on_event)
    monkeypatch.setattr(resume, "resume_due", tasks.due.append)
    monkeypatch.setenv("AIRFLOW_CONN_HOOKED", json.dumps({"conn_type": "toapis", "extra": {"webhook_secret": SECRET}}))
    return tasks


@pytest.fixture
async def client(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    # Timeouts of the receiver must not fail tests on a busy machine.
    monkeypatch.setattr(receiver_app, "READ_SECONDS", RETRY_TIMEOUT)
    monkeypatch.setattr(receiver_app, "RESPONSE_SECONDS", RETRY_TIMEOUT)
    transport = httpx.ASGITransport(webhook_app("/webhooks"))
    async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
        yield client


async def test_verified_event_reaches_its_task(client: httpx.AsyncClient, tasks: Tasks) -> None:
    response = await client.post(URL_PATH, **signed("video_1", event_id="evt_7"))
    assert (response.status_code, response.json()) == (200, {"detail": "resumed"})
    assert tasks.events == [("hooked", WebhookEvent("evt_7", "success", "video_1"), TaskCoordinates("d", "r", "t", 3))]


async def test_event_is_processed_once(client: httpx.AsyncClient, tasks: Tasks) -> None:
    event = signed("video_1", event_id="evt_7")
    again = signed("video_1", event_id="evt_7", skew=30)
    assert [(await client.post(URL_PATH, **post)).status_code for post in (event, event, again)] == [200] * 3
    assert len(tasks.events) == 1


async def test_too_early_event_is_accepted_when_it_is_delivered_again(client: httpx.AsyncClient, tasks: Tasks) -> None:
    event = signed("video_1")
    tasks.process = lambda: DeliveryResult("too_early", retry_later=True)
    assert (await client.post(URL_PATH, **event)).status_code == 503
    tasks.process = lambda: DeliveryResult("resumed")
    assert (await client.post(URL_PATH, **event)).status_code == 200
    assert len(tasks.events) == 2


async def test_endpoint_test_event_is_accepted_and_resumes_no_task(client: httpx.AsyncClient, tasks: Tasks) -> None:
    body = body_of("endpoint_test", "endpoint.test")
    response = await client.post("/webhooks/hooked", content=body, headers=headers_for(body))
    assert response.status_code == 200
    assert not tasks.events


async def test_body_of_256_kib_is_accepted_and_one_more_byte_is_rejected(
    client: httpx.AsyncClient, tasks: Tasks
) -> None:
    for size, status in ((MAX_BODY, 200), (MAX_BODY + 1, 413)):
        body = body_of("video_1").ljust(size)
        assert (await client.post(URL_PATH, content=body, headers=headers_for(body))).status_code == status
    assert len(tasks.events) == 1


async def test_size_is_counted_without_content_length(client: httpx.AsyncClient, tasks: Tasks) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65536
            yield bytes(65536)

    response = await client.post(URL_PATH, content=endless(), headers=headers_for(b""))
    assert response.status_code == 413
    assert sent <= 2 * MAX_BODY


@pytest.mark.parametrize("content_length", ["-1", "1e3", "9" * 4000, "x"])
async def test_invalid_content_length_is_rejected(client: httpx.AsyncClient, tasks: Tasks, content_length: str) -> None:
    event = signed("video_1")
    event["headers"]["Content-Length"] = content_length
    assert (await client.post(URL_PATH, **event)).status_code == 413
    assert not tasks.events


async def test_slow_processing_returns_503(
    client: httpx.AsyncClient, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert RESPONSE_SECONDS < 1
    monkeypatch.setattr(receiver_app, "RESPONSE_SECONDS", 0.05)
    released = threading.Event()

    def process_late() -> DeliveryResult:
        released.wait(RETRY_TIMEOUT)
        return DeliveryResult("resumed")

    tasks.process = process_late
    assert (await client.post(URL_PATH, **signed("video_1"))).status_code == 503
    released.set()


async def test_failed_processing_returns_503_without_details(
    client: httpx.AsyncClient, tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> DeliveryResult:
        raise RuntimeError("SELECT private FROM task_instance")

    tasks.process = fail
    response = await client.post(URL_PATH, **signed("video_1"))
    assert (response.status_code, response.json()) == (503, {"detail": "try again"})
    assert "RuntimeError" in caplog.text
    assert "private" not in caplog.text


async def test_batch_is_resumed_at_its_due_time(
    client: httpx.AsyncClient, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    later, resumed, timers = loop.call_later, asyncio.Event(), []

    def record_timer(delay: float, fire: Callable[..., object], *arguments: Any) -> asyncio.TimerHandle:
        timers.append(later(delay, fire, *arguments))
        return timers[-1]

    def resume_due(trigger_id: int) -> None:
        tasks.due.append(trigger_id)
        loop.call_soon_threadsafe(resumed.set)

    monkeypatch.setattr(resume, "resume_due", resume_due)
    monkeypatch.setattr(loop, "call_later", record_timer)
    for number, seconds in enumerate((2000, 4000, 0)):
        assert not tasks.due
        due_at = time.time() + seconds
        tasks.process = lambda due_at=due_at: DeliveryResult("noted", trigger_id=5, due_at=due_at)  # type: ignore[misc]
        assert (await client.post(URL_PATH, **signed(f"video_{number}"))).status_code == 200
    async with asyncio.timeout(RETRY_TIMEOUT):
        await resumed.wait()
    assert tasks.due == [5]
    assert [timer.cancelled() for timer in timers] == [True, False], "the second timer is due after the first one"


async def test_rejections_are_summarized_in_the_log(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(20):
        response = await client.post(URL_PATH, **signed(f"video_{number}", secret="guessed"))
        assert (response.status_code, response.content) == (401, b'{"detail":"rejected"}')
    assert caplog.text.count("Webhooks rejected") == 1
    assert "video_" not in caplog.text


@pytest.mark.parametrize("forged_id", ["video_1\nWARNING forged", "video_1\u2028forged", "video_1\x1b[31mforged"])
async def test_signed_id_with_a_line_break_does_not_reach_the_log(
    client: httpx.AsyncClient, tasks: Tasks, caplog: pytest.LogCaptureFixture, forged_id: str
) -> None:
    caplog.set_level(logging.DEBUG)
    response = await client.post(URL_PATH, **signed(forged_id))
    assert response.status_code == 200
    assert tasks.events == []
    assert "forged" not in caplog.text


async def test_application_has_only_one_route(client: httpx.AsyncClient) -> None:
    for path in ("/", "/docs", "/redoc", "/openapi.json", "/webhooks", "/webhooks/"):
        assert (await client.get(path)).status_code == 404


def test_plugin_registers_the_application() -> None:
    (entry,) = (entry for entry in ToAPIsPlugin.fastapi_apps if entry["name"] == "ToAPIs webhooks")
    assert isinstance(entry["app"], FastAPI)
    assert entry["url_prefix"] == "/toapis"
    assert [getattr(route, "path", None) for route in entry["app"].routes] == ["/webhooks/{conn_id}"]


def test_plugin_imports_no_heavy_packages() -> None:
    code = (
        "import sys, airflow.plugins_manager; before = set(sys.modules);"
        "import airflow_provider_toapis.plugin;"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded: list[Any] = json.loads(run.stdout.splitlines()[-1].replace("'", '"'))
    assert not {"fastapi", "starlette", "cachetools", "httpx"} & set(loaded)
