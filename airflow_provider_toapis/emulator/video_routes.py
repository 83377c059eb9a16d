"""Ordering videos and asking about them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airflow_provider_toapis.emulator.middleware import Serving, json_body
from airflow_provider_toapis.emulator.service import Service
from airflow_provider_toapis.emulator.store import Task
from airflow_provider_toapis.emulator.tasks import EXTENSION_SECONDS
from airflow_provider_toapis.emulator.validation import Order, derivation_order, generation_order


def video_routes(service: Service, serving: Serving) -> list[Route]:
    """Return the routes of ``/v1/videos``."""

    def created(order: Order, operation: str, source: Task | None = None) -> Response:
        service.webhooks.check_callback_url(order.callback_url)
        task, is_new = service.tasks.create(order, operation, source)
        body = service.tasks.status_body(task)
        if is_new:
            # However short its time is: the answer to an order comes before anything is done.
            body |= {"status": "queued", "progress": 0}
            del body["billing"]
        return JSONResponse(body)

    async def submit(request: Request) -> Response:
        return created(generation_order(await json_body(request), service.prices.charged), "generate")

    async def remix(request: Request) -> Response:
        source = service.tasks.source(request.path_params["task_id"])
        body, charged = await json_body(request), service.prices.charged
        order = derivation_order(body, "remix", source.duration, source.aspect_ratio, charged)
        return created(order, "remix", source)

    async def extend(request: Request) -> Response:
        source = service.tasks.source(request.path_params["task_id"])
        duration = source.duration + EXTENSION_SECONDS
        body, charged = await json_body(request), service.prices.charged
        order = derivation_order(body, "extend", duration, source.aspect_ratio, charged)
        return created(order, "extend", source)

    async def status(request: Request) -> Response:
        return JSONResponse(service.tasks.status_body(service.tasks.find(request.path_params["task_id"])))

    submits, queries = service.submit_limit, service.query_limit
    return [
        serving.route("/v1/videos/generations", "submit", submit, method="POST", limit=submits),
        serving.route("/v1/videos", "submit", submit, method="POST", limit=submits),
        serving.route("/v1/videos/{task_id}/remix", "remix", remix, method="POST", limit=submits),
        serving.route("/v1/videos/{task_id}/extend", "extend", extend, method="POST", limit=submits),
        serving.route("/v1/videos/generations/{task_id}", "status", status, limit=queries),
        serving.route("/v1/videos/{task_id}", "status", status, limit=queries),
    ]
