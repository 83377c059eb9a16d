"""ASGI endpoint that verifies the signature of a webhook and resumes the task that waits for its video."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from cachetools import TTLCache
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from airflow_provider_toapis import metrics
from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.hooks.callback_url import TaskCoordinates
from airflow_provider_toapis.webhooks.secrets import SecretStore
from airflow_provider_toapis.webhooks.signature import MAX_SKEW_SECONDS, WebhookEvent, WebhookSignature

if TYPE_CHECKING:
    from airflow_provider_toapis.webhooks.resume import DeliveryResult

log = logging.getLogger(__name__)

#: Maximum bytes of a body. An event has about one KiB.
MAX_BODY = 256 * 1024
#: Maximum seconds until the body has arrived, and until the response is sent.
READ_SECONDS = 0.7
RESPONSE_SECONDS = 0.9
#: Maximum concurrent database sessions. It is low, so that most of the API server's pool is left to other requests.
MAX_SESSIONS = 4
#: Maximum number of handled events that are recorded, and the seconds for which they are recorded. A later replay is
#: rejected because of its timestamp.
MAX_SEEN_EVENTS, SEEN_SECONDS = 50_000, 2 * MAX_SKEW_SECONDS
#: Seconds between two log lines about rejected webhooks.
LOG_INTERVAL = 60.0

#: Status for an unknown connection, a connection without a secret, and an invalid signature. It is the same for all, so
#: that it does not disclose which connections exist.
_REJECTED = 401
_RETRY_LATER = 503


class Receiver:
    """Receives webhooks for the deferred tasks of this Airflow deployment.

    :param secrets: Returns a connection's secrets.
    """

    def __init__(self, secrets: SecretStore) -> None:
        self._secrets = secrets
        # Recorded per process. If an event is delivered again to another process, the task can look up its video once
        # more.
        self._seen: TTLCache[tuple[str, str], None] = TTLCache(MAX_SEEN_EVENTS, SEEN_SECONDS, clock.monotonic)
        # A separate pool, because a busy UI can use all threads of the default pool.
        self._threads = ThreadPoolExecutor(MAX_SESSIONS, thread_name_prefix="toapis-webhooks")
        self._timers: dict[int, tuple[float, asyncio.TimerHandle]] = {}
        self._rejected = 0
        self._logged_at = -LOG_INTERVAL

    async def receive(self, conn_id: str, request: Request) -> Response:
        """Respond to any request within a second."""
        try:
            async with asyncio.timeout(RESPONSE_SECONDS):
                return await self._handle(conn_id, request)
        except TimeoutError:
            log.warning("A webhook was not handled within %s s. The service delivers it again.", RESPONSE_SECONDS)
        except Exception as error:  # noqa: BLE001 - a traceback of database or secrets backend can quote a secret
            log.warning("Handling a webhook failed (%s). The service delivers it again.", type(error).__name__)
        return _respond(_RETRY_LATER, "try again")

    async def _handle(self, conn_id: str, request: Request) -> Response:
        signature = WebhookSignature.read(request.headers, clock.time())
        if signature is None:
            return self._reject()
        try:
            async with asyncio.timeout(READ_SECONDS):
                body = await _read(request)
        except TimeoutError:
            return _respond(408, "too slow")
        except ClientDisconnect:
            return _respond(400, "incomplete")
        if body is None:
            return _respond(413, "too large")
        # A connection without a secret causes the same work, so that the response time does not disclose that it has
        # none.
        if not signature.verify(body, await self._secrets.get(conn_id)):
            return self._reject()
        return await self._deliver(conn_id, WebhookEvent.parse(signature.event_id, body), request)

    async def _deliver(self, conn_id: str, event: WebhookEvent | None, request: Request) -> Response:
        if event is None or event.status == "test":
            kind = "a webhook of an unknown type" if event is None else "a test event"
            log.info("Connection %s received %s.", conn_id, kind)
            return _respond(200, "received")
        coordinates = TaskCoordinates.parse(request.query_params)
        if coordinates is None or (conn_id, event.event_id) in self._seen:
            return _respond(200, "ignored")
        result = await self._in_thread(partial(_resume_waiting_tasks, conn_id, event, coordinates))
        metrics.webhook_received(conn_id, result.outcome)
        log.info(
            "Webhook %s: video %s is final. Result: %s (DAG %r, run %r).",
            event.event_id,
            event.video_id,
            result.outcome,
            coordinates.dag_id,
            coordinates.run_id,
        )
        if result.retry_later:
            return _respond(_RETRY_LATER, "too_early")
        self._seen[conn_id, event.event_id] = None
        if result.due_at is not None:
            self._start_timer(result.trigger_id, result.due_at)
        return _respond(200, result.outcome)

    def _start_timer(self, trigger_id: int, due_at: float) -> None:
        """Resume a batch at ``due_at``, unless another webhook resumes it earlier."""
        running = self._timers.get(trigger_id)
        if running is not None:
            if running[0] <= due_at:
                return
            running[1].cancel()
        loop = asyncio.get_running_loop()
        timer = loop.call_later(max(0.0, due_at - clock.time()), self._on_timer, trigger_id)
        self._timers[trigger_id] = (due_at, timer)

    def _on_timer(self, trigger_id: int) -> None:
        del self._timers[trigger_id]
        self._threads.submit(_resume_due, trigger_id)

    async def _in_thread(self, work: partial[DeliveryResult]) -> DeliveryResult:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _reject(self) -> Response:
        self._rejected += 1
        if clock.monotonic() >= self._logged_at + LOG_INTERVAL:
            log.warning(
                "Webhooks rejected since the last such line: %s. Possible causes: an unknown connection, a connection"
                " without webhook_secret, or an invalid signature or timestamp.",
                self._rejected,
            )
            self._logged_at, self._rejected = clock.monotonic(), 0
        return _respond(_REJECTED, "rejected")


def webhook_app(route: str) -> FastAPI:
    """Return the application with one endpoint, ``POST <route>/<connection id>``."""
    # Without documentation pages, because the API server documents only Airflow's API.
    app = FastAPI(title="ToAPIs webhooks", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    receiver = Receiver(SecretStore())
    app.add_api_route(f"{route}/{{conn_id}}", receiver.receive, methods=["POST"], response_model=None)
    return app


async def _read(request: Request) -> bytes | None:
    """Return the body; None if it is too large."""
    declared = request.headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit() or int(declared[:10]) > MAX_BODY:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            return None
    return bytes(body)


def _respond(status: int, detail: str) -> Response:
    # Close the connection if the body was not read. Otherwise the body would be parsed as the next request.
    headers = {"Connection": "close"} if status in {408, 413} else None
    return JSONResponse({"detail": detail}, status, headers)


def _resume_waiting_tasks(conn_id: str, event: WebhookEvent, coordinates: TaskCoordinates) -> DeliveryResult:
    # Imported here, because it imports the triggers, which an API server does not need at its start.
    from airflow_provider_toapis.webhooks.resume import resume_waiting_tasks

    return resume_waiting_tasks(conn_id, event, coordinates)


def _resume_due(trigger_id: int) -> None:
    from airflow_provider_toapis.webhooks.resume import resume_due

    try:
        resume_due(trigger_id)
    except Exception as error:  # noqa: BLE001 - no caller handles it, and the trigger polls the videos
        log.warning("Could not resume a batch (%s). Its trigger continues to poll the videos.", type(error).__name__)
