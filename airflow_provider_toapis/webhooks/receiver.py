"""The HTTP side of the receiver: whom it believes, and what it answers."""

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

#: Bytes. An event has about one KiB.
MAX_BODY = 256 * 1024
#: Seconds for the body to arrive, and for the whole answer.
READ_WITHIN = 0.7
ANSWER_WITHIN = 0.9
#: Database sessions at a time: a few of the API server's pool.
SESSIONS = 4
#: Events that were dealt with, and seconds for which they are remembered: an older replay is refused for its timestamp.
REMEMBERED_EVENTS, REMEMBERED_SECONDS = 50_000, 2 * MAX_SKEW_SECONDS
#: Seconds from one line about refused webhooks to the next.
LOG_INTERVAL = 60.0

#: The same for an unknown connection, one without a secret and a signature that does not fit.
_REJECTED = 401
_LATER = 503


class Receiver:
    """Receives webhooks for the deferred tasks of this Airflow.

    :param secrets: Gives a connection's secrets.
    """

    def __init__(self, secrets: SecretStore) -> None:
        self._secrets = secrets
        # In this process only: what another one is told again is a hint once more, and costs a request.
        self._seen: TTLCache[tuple[str, str], None] = TTLCache(REMEMBERED_EVENTS, REMEMBERED_SECONDS, clock.monotonic)
        # Its own: a busy UI leaves no threads to others.
        self._threads = ThreadPoolExecutor(SESSIONS, thread_name_prefix="toapis-webhooks")
        self._timers: dict[int, tuple[float, asyncio.TimerHandle]] = {}
        self._rejected = 0
        self._logged_at = -LOG_INTERVAL

    async def receive(self, conn_id: str, request: Request) -> Response:
        """Answer one webhook, whatever it is, within a second."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                return await self._received(conn_id, request)
        except TimeoutError:
            log.warning("A webhook could not be dealt with in time; the service delivers it again.")
        except Exception as error:  # noqa: BLE001 - a traceback of database or secrets backend may quote what it got
            log.warning("A webhook could not be dealt with (%s); the service delivers it again.", type(error).__name__)
        return _answer(_LATER, "try again")

    async def _received(self, conn_id: str, request: Request) -> Response:
        signature = WebhookSignature.read(request.headers, clock.time())
        if signature is None:
            return self._reject()
        try:
            async with asyncio.timeout(READ_WITHIN):
                body = await _read(request)
        except TimeoutError:
            return _answer(408, "too slow")
        except ClientDisconnect:
            return _answer(400, "incomplete")
        if body is None:
            return _answer(413, "too large")
        # Without a secret the work is the same, so that the time tells nothing either.
        if not signature.fits(body, await self._secrets.of(conn_id)):
            return self._reject()
        return await self._believed(conn_id, WebhookEvent.parse(signature.event_id, body), request)

    async def _believed(self, conn_id: str, event: WebhookEvent | None, request: Request) -> Response:
        if event is None or event.status == "test":
            log.info("Connection %s: %s.", conn_id, "a webhook of an unknown kind" if event is None else "a test event")
            return _answer(200, "received")
        coordinates = TaskCoordinates.parse(request.query_params)
        if coordinates is None or (conn_id, event.event_id) in self._seen:
            return _answer(200, "ignored")
        waking = await self._in_thread(partial(_wake, conn_id, event, coordinates))
        metrics.webhook_received(conn_id, waking.word)
        log.info(
            "Webhook %s: video %s is final; %s (DAG %r, run %r).",
            event.event_id,
            event.video_id,
            waking.word,
            coordinates.dag_id,
            coordinates.run_id,
        )
        if waking.later:
            return _answer(_LATER, "too_early")
        self._seen[conn_id, event.event_id] = None
        if waking.due_at is not None:
            self._arm(waking.trigger_id, waking.due_at)
        return _answer(200, waking.word)

    def _arm(self, trigger_id: int, due_at: float) -> None:
        """Wake a batch when its time comes, should no further webhook do so."""
        armed = self._timers.get(trigger_id)
        if armed is not None:
            if armed[0] <= due_at:
                return
            armed[1].cancel()
        loop = asyncio.get_running_loop()
        timer = loop.call_later(max(0.0, due_at - clock.time()), self._fire, trigger_id)
        self._timers[trigger_id] = (due_at, timer)

    def _fire(self, trigger_id: int) -> None:
        del self._timers[trigger_id]
        self._threads.submit(_wake_due, trigger_id)

    async def _in_thread(self, work: partial[DeliveryResult]) -> DeliveryResult:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _reject(self) -> Response:
        self._rejected += 1
        if clock.monotonic() >= self._logged_at + LOG_INTERVAL:
            log.warning(
                "Webhooks refused since the last such line: %s. No such connection, no webhook_secret in it, or a"
                " signature or a time that does not fit.",
                self._rejected,
            )
            self._logged_at, self._rejected = clock.monotonic(), 0
        return _answer(_REJECTED, "refused")


def webhook_app(route: str) -> FastAPI:
    """Return the application with one address, ``route`` and a connection's id."""
    # No pages of its own: the API server's documentation is Airflow's.
    app = FastAPI(title="ToAPIs webhooks", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    receiver = Receiver(SecretStore())
    app.add_api_route(f"{route}/{{conn_id}}", receiver.receive, methods=["POST"], response_model=None)
    return app


async def _read(request: Request) -> bytes | None:
    """Return the body; None where it is too large."""
    declared = request.headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit() or int(declared[:10]) > MAX_BODY:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            return None
    return bytes(body)


def _answer(status: int, word: str) -> Response:
    # A body that was not read would be taken for the next request.
    headers = {"Connection": "close"} if status in {408, 413} else None
    return JSONResponse({"detail": word}, status, headers)


def _wake(conn_id: str, event: WebhookEvent, coordinates: TaskCoordinates) -> DeliveryResult:
    # Not at the top: it takes our triggers with it, and the start of an API server needs none of them.
    from airflow_provider_toapis.webhooks.resume import wake

    return wake(conn_id, event, coordinates)


def _wake_due(trigger_id: int) -> None:
    from airflow_provider_toapis.webhooks.resume import resume_due

    try:
        resume_due(trigger_id)
    except Exception as error:  # noqa: BLE001 - nobody waits for it, and polling finds what it missed
        log.warning("A batch could not be woken (%s); its trigger asks for the videos.", type(error).__name__)
