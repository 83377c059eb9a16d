"""Routes of ``/_emulator``. Tests and demos use them to control the emulator: ledger, faults, clock, request log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airflow_provider_toapis.emulator.error_bodies import RejectedError, invalid_request, task_not_found
from airflow_provider_toapis.emulator.middleware import json_body
from airflow_provider_toapis.emulator.response_variants import VARIANTS
from airflow_provider_toapis.emulator.service import Service

Control = Callable[[Request], Awaitable[object]]
_FORCED = {"completed", "failed"}


class Controls:
    """Handlers of the routes of ``/_emulator``. Each returns the object that is sent as JSON."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """Return the routes of ``/_emulator``. They need no API key."""
        table: tuple[tuple[str, str, Control], ...] = (
            ("GET", "health", self._health),
            ("GET", "ledger", self._ledger),
            ("GET", "faults", self._faults),
            ("POST", "faults", self._add_fault),
            ("DELETE", "faults", self._clear_faults),
            ("GET", "prices", self._prices),
            ("POST", "prices", self._change_prices),
            ("DELETE", "prices", self._clear_prices),
            ("GET", "clock", self._clock),
            ("POST", "clock", self._advance),
            ("POST", "tasks/{task_id}", self._finish),
            ("GET", "requests", self._requests),
            ("DELETE", "requests", self._clear_requests),
            ("GET", "webhooks", self._webhooks),
            ("POST", "webhooks/test", self._test_webhook),
            ("POST", "webhooks/rotate", self._rotate_secret),
            ("POST", "api-key/rotate", self._rotate_api_key),
            ("POST", "reset", self._reset),
        )
        return [Route(f"/_emulator/{path}", _as_json(handler), methods=[method]) for method, path, handler in table]

    async def _health(self, _request: Request) -> object:
        return {"status": "ok"}

    async def _ledger(self, _request: Request) -> object:
        self._service.tasks.finish_due()
        return self._service.ledger.statement()

    async def _faults(self, _request: Request) -> object:
        return {"faults": [fault.body() for fault in self._service.faults.all()]}

    async def _add_fault(self, request: Request) -> object:
        return self._service.faults.add(await json_body(request)).body()

    async def _clear_faults(self, _request: Request) -> object:
        self._service.faults.clear()
        return {"faults": []}

    async def _prices(self, _request: Request) -> object:
        return self._service.prices.body()

    async def _change_prices(self, request: Request) -> object:
        self._service.prices.change(await json_body(request))
        return self._service.prices.body()

    async def _clear_prices(self, _request: Request) -> object:
        self._service.prices.clear()
        return self._service.prices.body()

    async def _clock(self, _request: Request) -> object:
        return {"now": self._service.clock.now(), "offset": self._service.clock.offset}

    async def _advance(self, request: Request) -> object:
        body = await _object(request)
        seconds = body.get("advance")
        if not isinstance(seconds, int | float) or seconds < 0:
            raise invalid_request("advance", "must be a number of seconds, not less than 0")
        self._service.advance_clock(seconds)
        return await self._clock(request)

    async def _finish(self, request: Request) -> object:
        body = await _object(request)
        if body.get("status") not in _FORCED:
            raise invalid_request("status", f"must be one of {', '.join(sorted(_FORCED))}")
        form = str(body.get("form", "error"))
        if form not in VARIANTS:
            raise invalid_request("form", f"{form!r} is unknown")
        task = self._service.tasks.get(request.path_params["task_id"])
        if task is None:
            raise task_not_found()
        code = str(body.get("code", "generation_failed"))
        message = str(body.get("message", "Generation failed: requested by the test"))
        finished = await self._service.tasks.force(task, body["status"], code, message, form)
        return self._service.tasks.status_body(finished)

    async def _requests(self, _request: Request) -> object:
        return self._service.requests.body()

    async def _clear_requests(self, _request: Request) -> object:
        self._service.requests.clear()
        return self._service.requests.body()

    async def _webhooks(self, _request: Request) -> object:
        return {"webhooks": self._service.webhooks.body()}

    async def _test_webhook(self, _request: Request) -> object:
        return {"id": self._service.webhooks.send_test()}

    async def _rotate_secret(self, request: Request) -> object:
        self._service.webhooks.rotate(await _text(request, "secret"))
        return {"rotated": True}

    async def _rotate_api_key(self, request: Request) -> object:
        self._service.rotate_api_key(await _text(request, "key"))
        return {"rotated": True}

    async def _reset(self, _request: Request) -> object:
        await self._service.reset()
        return {"status": "ok"}


def _as_json(handler: Control) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        try:
            return JSONResponse(await handler(request))
        except RejectedError as rejection:
            return rejection.response()

    return serve


async def _object(request: Request) -> dict[str, Any]:
    body = await json_body(request)
    if not isinstance(body, dict):
        raise invalid_request("body", "must be a JSON object")
    return body


async def _text(request: Request, field: str) -> str:
    text = (await _object(request)).get(field)
    if not isinstance(text, str) or not text:
        raise invalid_request(field, "must be a non-empty string")
    return text
