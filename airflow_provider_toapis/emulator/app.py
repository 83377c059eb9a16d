"""ASGI application with all routes of one emulator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from airflow_provider_toapis.emulator.account_routes import account_routes
from airflow_provider_toapis.emulator.clock import DateMiddleware
from airflow_provider_toapis.emulator.control_routes import Controls
from airflow_provider_toapis.emulator.error_bodies import error_body
from airflow_provider_toapis.emulator.file_routes import file_routes
from airflow_provider_toapis.emulator.middleware import RouteFactory
from airflow_provider_toapis.emulator.request_log import RequestLogMiddleware
from airflow_provider_toapis.emulator.service import Service
from airflow_provider_toapis.emulator.shop import shop_routes
from airflow_provider_toapis.emulator.video_routes import video_routes

_NOT_FOUND_PAGE = "<!DOCTYPE html><html><head><title>404</title></head><body><h1>404 Not Found</h1></body></html>"


def create_app(service: Service) -> Starlette:
    """Return the application. Its startup starts ``service``, and its shutdown stops ``service``."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    routes = RouteFactory(service)
    return Starlette(
        routes=[
            *video_routes(service, routes),
            *account_routes(service, routes),
            *file_routes(service, routes),
            *shop_routes(service.shop),
            *Controls(service).routes(),
            # The provider's extra link in Airflow opens the service's console. The emulator shows its ledger instead.
            Route("/console", RedirectResponse("/_emulator/ledger")),
        ],
        middleware=[
            Middleware(DateMiddleware, clock=service.clock),
            Middleware(RequestLogMiddleware, log=service.requests),
        ],
        exception_handlers={404: _unknown_path, ClientDisconnect: _client_disconnected},
        lifespan=lifespan,
    )


async def _unknown_path(request: Request, _error: Exception) -> Response:
    """Return a 404 response: JSON for a path of the API, and an HTML page for any other path."""
    path = request.url.path
    if path.startswith(("/v1/", "/_emulator/")):
        message = f"Invalid URL ({request.method} {path})"
        return JSONResponse(error_body("", message, "invalid_request_error"), 404)
    return HTMLResponse(_NOT_FOUND_PAGE, 404)


async def _client_disconnected(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)
