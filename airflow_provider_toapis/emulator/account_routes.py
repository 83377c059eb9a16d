"""Routes for the balance, the models and the prices."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airflow_provider_toapis.emulator.error_bodies import RejectedError, error_body
from airflow_provider_toapis.emulator.middleware import RouteFactory
from airflow_provider_toapis.emulator.models import MODELS
from airflow_provider_toapis.emulator.prices import PriceBook
from airflow_provider_toapis.emulator.service import Service

#: 2026-01-01, which is reported as the creation time of every model.
MODELS_CREATED_AT = 1767225600
MODEL_TYPES = frozenset({"text", "chat", "image", "video", "audio", "all"})
MAX_PAGE = 100


def account_routes(service: Service, routes: RouteFactory) -> list[Route]:
    """Return the routes for the balance, the models and the prices."""

    async def balance(_request: Request) -> Response:
        return JSONResponse(service.ledger.balance(), headers={"Access-Control-Allow-Origin": "*"})

    async def pricing(request: Request) -> Response:
        return _price_page(request, service.prices)

    paths = ("/v1/balance", "/balance", "/v1/user/balance", "/user/balance")
    return [
        *(routes.route(path, "balance", balance) for path in paths),
        routes.route("/v1/models", "models", _models),
        routes.route("/v1/pricing", "pricing", pricing),
    ]


async def _models(request: Request) -> Response:
    model_type = request.query_params.get("type") or "text"
    if model_type not in MODEL_TYPES:
        raise _invalid_query("type", f"must be one of {', '.join(sorted(MODEL_TYPES))}")
    # The emulator has only video models, so the service's default type, ``text``, lists no model.
    offered = MODELS.values() if model_type in {"video", "all"} else ()
    data = [
        {
            "id": model.id,
            "object": "model",
            "created": MODELS_CREATED_AT,
            "owned_by": "toapis-emulator",
            "supported_endpoint_types": ["video-generation"],
        }
        for model in offered
    ]
    return JSONResponse({"success": True, "object": "list", "data": data})


def _price_page(request: Request, prices: PriceBook) -> Response:
    query = request.query_params
    if query.get("type", "video") not in {"image", "video"}:
        raise _invalid_query("type", "must be image or video")
    limit = _page_size(query.get("limit", str(MAX_PAGE)))
    offered = [] if query.get("type") == "image" else sorted(MODELS)
    if model := query.get("model"):
        if model not in offered:
            raise RejectedError(404, error_body("model_not_found", f"Model {model} not found", "invalid_request_error"))
        offered = [model]
    offered = [model_id for model_id in offered if model_id > query.get("after", "")]
    page = offered[:limit]
    has_more = len(offered) > limit
    body = {
        "object": "list",
        "currency": prices.currency,
        "data": [prices.listed(MODELS[model_id]) for model_id in page],
        "has_more": has_more,
        "next_after": page[-1] if has_more else "",
    }
    return JSONResponse(body, headers={"Cache-Control": "private, no-store"})


def _page_size(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_PAGE:
        raise _invalid_query("limit", f"must be from 1 to {MAX_PAGE}")
    return int(text)


def _invalid_query(name: str, rule: str) -> RejectedError:
    return RejectedError(400, error_body("invalid_request_error", f"{name} {rule}", "invalid_request_error", name))
