"""The error answers of the service, in the forms its documentation gives them."""

from __future__ import annotations

import uuid
from typing import Any

from starlette.responses import JSONResponse


class RefusedError(Exception):
    """A request that is answered with an error.

    :param status: HTTP status.
    :param body: The JSON body, complete.
    :param headers: Further headers.
    """

    def __init__(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body
        self.headers = headers or {}

    def response(self) -> JSONResponse:
        """Return the HTTP answer."""
        return JSONResponse(self.body, self.status, self.headers)


def error_body(code: str | int, message: str, error_type: str, param: str | None = None) -> dict[str, Any]:
    """Return the usual envelope; its message ends with a request id, as the service's own messages do."""
    error: dict[str, Any] = {"code": code, "message": f"{message} (request id: {uuid.uuid4().hex})", "type": error_type}
    if param is not None:
        error["param"] = param
    return {"error": error}


def invalid_request(field: str, rule: str) -> RefusedError:
    """Refuse a bad parameter, naming it."""
    return RefusedError(400, error_body("invalid_request", f"{field} {rule}", "invalid_request_error", field))


def unauthorized() -> RefusedError:
    """Refuse a missing or wrong API key."""
    return RefusedError(401, {"error": {"code": 401, "message": "Invalid API key", "type": "authentication_error"}})


def task_not_found() -> RefusedError:
    """Say that no task has this id."""
    return RefusedError(404, {"error": {"code": 404, "message": "Task not found", "type": "not_found_error"}})


def no_channel(model: str) -> RefusedError:
    """Say that this model is not offered, which is also the answer to a misspelt one."""
    return RefusedError(
        503, error_body("model_not_found", f"no available channel for model {model}", "new_api_error", "model")
    )


def quota_not_enough(model: str, quota: object, deposit: object) -> RefusedError:
    """Say that there is not enough money, in the words that the service really uses."""
    text = f"user quota is not enough for {model} deposit, user quota: ${quota}, required deposit: ${deposit}"
    return RefusedError(400, error_body("BadRequest", text, "new_api_error"))


def upload_refused(message: str) -> RefusedError:
    """Refuse an upload in the envelope of the upload and account endpoints."""
    return RefusedError(400, {"success": False, "message": message})


def rate_limited(headers: dict[str, str]) -> RefusedError:
    """Say that there were too many requests."""
    return RefusedError(
        429, {"error": {"code": "rate_limit_exceeded", "message": "Async task request rate exceeded"}}, headers
    )
