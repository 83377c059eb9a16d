"""Wrapper of every endpoint of the API. It checks the API key, limits the rate and injects faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from airflow_provider_toapis.emulator.error_bodies import RejectedError, error_body, unauthorized, upload_rejected
from airflow_provider_toapis.emulator.faults import Fault
from airflow_provider_toapis.emulator.rate_limits import TokenBucket
from airflow_provider_toapis.emulator.request_log import ENDPOINT_KEY
from airflow_provider_toapis.emulator.response_variants import RESPONSES
from airflow_provider_toapis.emulator.responses import BrokenFile, DroppedConnection
from airflow_provider_toapis.emulator.service import Service

Handler = Callable[[Request], Awaitable[Response]]

_REPLACING = ("status", "error", "html", "drop", "upload_refused", "url_forbidden")
_RESHAPING = ("variant", "task_status", "no_url")
_DEFAULT_FAILURE = ("generation_failed", "Generation failed: the model could not make this video")


class RouteFactory:
    """Makes the routes of one emulator from handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def route(
        self,
        path: str,
        endpoint: str,
        handler: Handler,
        *,
        method: str = "GET",
        limit: TokenBucket | None = None,
        public: bool = False,
    ) -> Route:
        """Return a route that checks the API key, limits the rate and injects faults.

        :param endpoint: Name of the endpoint in faults and in the request log.
        :param limit: Rate limit; None for no limit.
        :param public: Whether the route needs no API key.
        """

        async def serve(request: Request) -> Response:
            request.scope[ENDPOINT_KEY] = endpoint
            headers: dict[str, str] = {}
            try:
                if not public:
                    self._check_key(request)
                headers = limit.take() if limit else {}
                response = await self._with_faults(endpoint, request, handler)
            except RejectedError as rejection:
                response = rejection.response()
            for name, value in headers.items():
                response.headers.setdefault(name, value)
            return response

        return Route(path, serve, methods=[method])

    def _check_key(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        accepted = self._service.api_key
        if scheme.lower() != "bearer" or not key.strip() or (accepted is not None and key.strip() != accepted):
            raise unauthorized()

    async def _with_faults(self, endpoint: str, request: Request, handler: Handler) -> Response:
        subjects = await self._subjects(request)
        faults = self._service.faults
        if endpoint in {"status", "result"}:
            await self._change_task(endpoint, request, subjects)
        for fault in faults.applicable(endpoint, subjects, "delay", only=_before):
            await asyncio.sleep(fault.options["seconds"])
        for fault in faults.applicable(endpoint, subjects, *_REPLACING, only=_before):
            return _fault_response(fault)
        response = await self._handle(request, handler)
        response = self._reshape(endpoint, subjects, response)
        for fault in faults.applicable(endpoint, subjects, "delay", only=_after):
            await asyncio.sleep(fault.options["seconds"])
        for fault in faults.applicable(endpoint, subjects, *_REPLACING, only=_after):
            return _fault_response(fault)
        return response

    async def _handle(self, request: Request, handler: Handler) -> Response:
        try:
            return await handler(request)
        except RejectedError as rejection:
            return rejection.response()

    async def _subjects(self, request: Request) -> list[str]:
        """Return the texts of a request that can contain a fault's ``match``: path, ids, prompt and model."""
        subjects = [request.url.path]
        if task := self._service.tasks.get(request.path_params.get("task_id", "")):
            subjects += [task.id, task.client_business_id or "", task.prompt, task.model]
        if request.headers.get("content-type", "").startswith("application/json"):
            body = await json_body(request)
            if isinstance(body, dict):
                subjects += [str(body.get(name, "")) for name in ("client_business_id", "prompt", "model")]
        return subjects

    async def _change_task(self, endpoint: str, request: Request, subjects: list[str]) -> None:
        """Apply the faults that change the generation task itself: it fails, or its video file expires."""
        task = self._service.tasks.get(request.path_params["task_id"])
        if task is None:
            return
        if task.outcome is None:
            for fault in self._service.faults.applicable(endpoint, subjects, "task_failed"):
                await self._service.tasks.force(task, "failed", *_failure(fault))
        if task.outcome == "completed":
            for _ in self._service.faults.applicable(endpoint, subjects, "expired"):
                self._service.tasks.expire(task)

    def _reshape(self, endpoint: str, subjects: list[str], response: Response) -> Response:
        faults = self._service.faults
        if isinstance(response, FileResponse):
            for fault in faults.applicable(endpoint, subjects, "truncate", "wrong_length"):
                return _broken_file(fault, response)
            return response
        if response.status_code != 200:  # noqa: PLR2004 - HTTP OK
            return response
        body = _parsed(response)
        if endpoint in {"submit", "remix", "extend"}:
            for fault in faults.applicable(endpoint, subjects, "task_failed"):
                self._service.tasks.plan_failure(body["id"], *_failure(fault))
            for fault in faults.applicable(endpoint, subjects, "flaw"):
                self._service.tasks.plan_flaw(body["id"], fault.options["name"])
        for fault in faults.applicable(endpoint, subjects, *_RESHAPING, only=lambda fault: fault.variant.matches(body)):
            response = JSONResponse(fault.variant.apply(_parsed(response)))
        return response


def _parsed(response: Response) -> dict[str, Any]:
    return dict(json.loads(bytes(response.body)))


async def json_body(request: Request) -> object:
    """Return the JSON body of a request; None if it is missing or malformed."""
    try:
        return await request.json()
    except ValueError:
        return None


def _before(fault: Fault) -> bool:
    return not fault.options.get("after", False)


def _after(fault: Fault) -> bool:
    return bool(fault.options.get("after", False))


def _failure(fault: Fault) -> tuple[str, str, str]:
    code, message = _DEFAULT_FAILURE
    return fault.options.get("code", code), fault.options.get("message", message), fault.options.get("form", "error")


def _fault_response(fault: Fault) -> Response:
    """Return the response that a fault sends instead of the real one."""
    options = fault.options
    if fault.kind == "drop":
        return DroppedConnection(reset=options.get("reset", False))
    if fault.kind == "upload_refused":
        rejection = upload_rejected(options.get("message", "upload failed"))
        return JSONResponse(rejection.body, 200)
    if fault.kind == "url_forbidden":
        return Response("Forbidden", options.get("status", 403), media_type="text/plain")
    if fault.kind == "html":
        return Response(RESPONSES["bad_gateway"]["html"], options.get("status", 502), media_type="text/html")
    if fault.kind == "error":
        return _named_response(options["name"])
    return _custom_response(options)


def _named_response(name: str) -> Response:
    response = RESPONSES[name]
    if "html" in response:
        return Response(response["html"], response["status"], media_type="text/html")
    return JSONResponse(response["body"], response["status"], response.get("headers"))


def _custom_response(options: dict[str, Any]) -> Response:
    status = options["status"]
    body = options.get("body", error_body(status, f"HTTP {status}", "server_error"))
    content = body if isinstance(body, str) else json.dumps(body)
    media_type = options.get("content_type", "application/json")
    headers = {name: str(value) for name, value in options.get("headers", {}).items()}
    return Response(content, status, headers, media_type)


def _broken_file(fault: Fault, response: FileResponse) -> BrokenFile:
    size = int(response.headers["Content-Length"])
    if fault.kind == "truncate":
        return BrokenFile(response, announced=size, sent=int(size * min(fault.options.get("fraction", 0.5), 0.999)))
    announced = max(0, size + fault.options.get("by", 1000))
    return BrokenFile(response, announced=announced, sent=min(size, announced))
