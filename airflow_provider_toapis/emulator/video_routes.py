"""Routes that submit videos and return their status."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airflow_provider_toapis.emulator.middleware import RouteFactory, json_body
from airflow_provider_toapis.emulator.service import Service
from airflow_provider_toapis.emulator.store import Task
from airflow_provider_toapis.emulator.tasks import EXTENSION_SECONDS
from airflow_provider_toapis.emulator.validation import GenerationRequest, parse_derivation, parse_generation


def video_routes(service: Service, routes: RouteFactory) -> list[Route]:
    """Return the routes of ``/v1/videos``."""

    def create(generation: GenerationRequest, operation: str, source: Task | None = None) -> Response:
        service.webhooks.check_callback_url(generation.callback_url)
        task, is_new = service.tasks.create(generation, operation, source)
        body = service.tasks.status_body(task)
        if is_new:
            # The service responds to a submission before it starts the work. The status is therefore queued, even with
            # a latency of 0.
            body |= {"status": "queued", "progress": 0}
            del body["billing"]
        return JSONResponse(body)

    async def submit(request: Request) -> Response:
        return create(parse_generation(await json_body(request), service.prices.overrides), "generate")

    async def remix(request: Request) -> Response:
        source = service.tasks.source(request.path_params["task_id"])
        body, overrides = await json_body(request), service.prices.overrides
        generation = parse_derivation(body, "remix", source.duration, source.aspect_ratio, overrides)
        return create(generation, "remix", source)

    async def extend(request: Request) -> Response:
        source = service.tasks.source(request.path_params["task_id"])
        duration = source.duration + EXTENSION_SECONDS
        body, overrides = await json_body(request), service.prices.overrides
        generation = parse_derivation(body, "extend", duration, source.aspect_ratio, overrides)
        return create(generation, "extend", source)

    async def status(request: Request) -> Response:
        return JSONResponse(service.tasks.status_body(service.tasks.find(request.path_params["task_id"])))

    submits, queries = service.submit_limit, service.query_limit
    return [
        routes.route("/v1/videos/generations", "submit", submit, method="POST", limit=submits),
        routes.route("/v1/videos", "submit", submit, method="POST", limit=submits),
        routes.route("/v1/videos/{task_id}/remix", "remix", remix, method="POST", limit=submits),
        routes.route("/v1/videos/{task_id}/extend", "extend", extend, method="POST", limit=submits),
        routes.route("/v1/videos/generations/{task_id}", "status", status, limit=queries),
        routes.route("/v1/videos/{task_id}", "status", status, limit=queries),
    ]
