"""Delivery of signed webhooks: at once, then repeatedly on the service's schedule until the receiver returns 2xx."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import json
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

import httpx

from airflow_provider_toapis.emulator.clock import Clock
from airflow_provider_toapis.emulator.error_bodies import RejectedError, error_body, invalid_request
from airflow_provider_toapis.emulator.faults import FaultBook
from airflow_provider_toapis.emulator.ledger import billing
from airflow_provider_toapis.emulator.settings import LOOPBACK_HOSTS, Settings, port_of
from airflow_provider_toapis.emulator.store import Store, Task

#: Seconds between two delivery attempts.
RETRY_SECONDS = (10, 30, 120, 600, 3600, 21600, 86400)
ROTATION_SECONDS = 86400.0
TIMEOUT_SECONDS = 10.0
MAX_REPLY_BYTES = 4096


def is_allowed_url(url: str) -> bool:
    """Return whether webhooks can be sent to ``url``.

    The URL must use https, or http on a loopback host, and must contain neither a user nor a fragment.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS)
    return (
        secure
        and bool(parts.hostname)
        and "@" not in parts.netloc
        and not parts.fragment
        and port_of(parts) is not None
    )


def signature(secret: str, event_id: str, timestamp: str, body: bytes) -> str:
    """Return the webhook signature: the HMAC-SHA256 of id, timestamp and raw body, in lower-case hex."""
    return hmac.new(secret.encode(), f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


class Webhooks:
    """The webhook deliveries of one emulator.

    :param faults: The injected faults. Faults on the endpoint ``webhook`` apply to the deliveries.
    """

    def __init__(self, settings: Settings, clock: Clock, store: Store, faults: FaultBook) -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._faults = faults
        self._reset_secret()
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(TIMEOUT_SECONDS, pool=None), trust_env=False)
        self._deliveries: dict[str, asyncio.Task[None]] = {}

    def _reset_secret(self) -> None:
        self._secret = self._settings.webhook_secret
        self._previous: tuple[str, float] | None = None

    async def stop(self) -> None:
        """Stop all deliveries. The next start continues them."""
        deliveries = list(self._deliveries.values())
        for delivery in deliveries:
            delivery.cancel()
        await asyncio.gather(*deliveries, return_exceptions=True)

    async def close(self) -> None:
        """Stop all deliveries and close the HTTP client."""
        await self.stop()
        await self._client.aclose()

    async def reset(self) -> None:
        """Stop all deliveries and restore the initial secret."""
        await self.stop()
        self._reset_secret()

    def check_callback_url(self, url: str | None) -> None:
        """Check a ``callback_url`` against the token's default webhook URL.

        :raises RejectedError: The token has no webhook URL, or ``url`` is not allowed or has another origin.
        """
        if url is None:
            return
        default = self._settings.webhook_url
        if default is None:
            message = "Webhook is not configured for this token"
            raise RejectedError(400, error_body("webhook_not_configured", message, "invalid_request_error"))
        if not is_allowed_url(url) or _origin(url) != _origin(default):
            raise invalid_request("callback_url", "must have the scheme, host and port of the token's webhook URL")

    def rotate(self, secret: str) -> None:
        """Sign webhooks with a new secret, and for one day also with the previous secret."""
        if self._secret:
            self._previous = (self._secret, self._clock.now() + ROTATION_SECONDS)
        self._secret = secret

    def announce(self, task: Task, result: dict[str, Any] | None) -> None:
        """Queue the event that reports that a generation task is final."""
        url = task.callback_url or self._settings.webhook_url
        if url is None:
            return
        completed = task.outcome == "completed"
        data: dict[str, Any] = {"task_id": task.id}
        if task.client_business_id:
            data["client_business_id"] = task.client_business_id
        data |= {
            "task_type": "video",
            "model": task.model,
            "status": "SUCCESS" if completed else "FAILURE",
            "progress": "100%",
            "result": result,
            "billing": billing(task),
            "error": None if completed else {"code": task.error_code, "message": task.error_message},
            "submitted_at": int(task.created_at),
            "finished_at": int(task.finished_at or 0),
        }
        self._queue(url, "generation.completed" if completed else "generation.failed", data)

    def send_test(self) -> str:
        """Queue a test event and return its id.

        :raises RejectedError: The emulator has no webhook URL.
        """
        if self._settings.webhook_url is None:
            raise invalid_request("webhook", "is not configured; start the emulator with --webhook-url")
        data = {
            "task_id": "endpoint_test",
            "task_type": "image",
            "status": "SUCCESS",
            "progress": "100%",
            "result": {"message": "This is a test event"},
            "error": None,
            "submitted_at": 0,
            "finished_at": 0,
        }
        return self._queue(self._settings.webhook_url, "endpoint.test", data)

    def _queue(self, url: str, event_type: str, data: dict[str, Any]) -> str:
        now = self._clock.now()
        event = {
            "id": f"evt_{uuid.uuid4().hex}",
            "type": event_type,
            "api_version": "v1",
            "created_at": int(now),
            "data": data,
        }
        for fault in self._faults.applicable("webhook", (json.dumps(event),), "variant"):
            event = fault.variant.apply(event)
        values = (event["id"], url, json.dumps(event, separators=(",", ":")), 0, now, "[]")
        self._store.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)", values)
        self.deliver_due()
        return str(event["id"])

    def deliver_due(self) -> None:
        """Start to deliver every due event."""
        for row in self._store.execute("SELECT * FROM event WHERE next_at <= ?", (self._clock.now(),)):
            if row["id"] not in self._deliveries:
                delivery = asyncio.create_task(self._deliver(dict(row)), name=f"delivery of {row['id']}")
                self._deliveries[row["id"]] = delivery
                delivery.add_done_callback(functools.partial(self._forget, row["id"]))

    def _forget(self, event_id: str, _delivery: asyncio.Task[None]) -> None:
        del self._deliveries[event_id]

    async def _deliver(self, event: dict[str, Any]) -> None:
        status = await self._attempt(event)
        attempts = event["attempts"] + 1
        delivered = status is not None and httpx.codes.is_success(status)
        next_at = None
        if not delivered and attempts <= len(RETRY_SECONDS):
            next_at = self._clock.now() + RETRY_SECONDS[attempts - 1] * self._settings.webhook_retry_scale
        statuses = json.dumps([*json.loads(event["statuses"]), status])
        self._store.execute(
            "UPDATE event SET attempts = ?, next_at = ?, statuses = ? WHERE id = ?",
            (attempts, next_at, statuses, event["id"]),
        )

    async def _attempt(self, event: dict[str, Any]) -> int | None:
        """Send an event and return the HTTP status; None if there was no response."""
        subjects = (event["id"], event["url"], event["body"])
        for fault in self._faults.applicable("webhook", subjects, "delay"):
            await asyncio.sleep(fault.options["seconds"])
        if any(self._faults.applicable("webhook", subjects, "drop")):
            return None
        for _ in self._faults.applicable("webhook", subjects, "duplicate"):
            await self._post(event)
        return await self._post(event)

    async def _post(self, event: dict[str, Any]) -> int | None:
        body = event["body"].encode()
        with contextlib.suppress(httpx.HTTPError):
            async with self._client.stream(
                "POST", event["url"], content=body, headers=self._headers(event["id"], body)
            ) as response:
                received = 0
                async for chunk in response.aiter_raw():
                    received += len(chunk)
                    if received >= MAX_REPLY_BYTES:
                        break
                return response.status_code
        return None

    def _headers(self, event_id: str, body: bytes) -> dict[str, str]:
        # The timestamp is the machine's time and not the emulator's, because receivers compare it with their own clock.
        timestamp = str(int(time.time()))
        secrets = [self._secret or ""]
        if self._previous and self._clock.now() < self._previous[1]:
            secrets.append(self._previous[0])
        return {
            "Content-Type": "application/json",
            "User-Agent": "ToAPIs-Webhook/1.0",
            "X-ToAPIs-Webhook-Id": event_id,
            "X-ToAPIs-Webhook-Timestamp": timestamp,
            "X-ToAPIs-Webhook-Signature": ",".join(
                f"v1={signature(secret, event_id, timestamp, body)}" for secret in secrets
            ),
        }

    def body(self) -> list[dict[str, Any]]:
        """Return every event and the state of its delivery, as the control endpoint reports them."""
        rows = self._store.execute("SELECT * FROM event ORDER BY rowid")
        return [
            {
                "event": json.loads(row["body"]),
                "url": row["url"],
                "attempts": row["attempts"],
                "statuses": json.loads(row["statuses"]),
                "next_at": row["next_at"],
            }
            for row in rows
        ]


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, port_of(parts)
