"""Error responses of the service, with the bodies that its documentation shows."""

from __future__ import annotations

import uuid
from typing import Any

from starlette.responses import JSONResponse


class RejectedError(Exception):
    """Raised for a request to which the emulator sends an error response.

    :param status: HTTP status.
    :param body: The complete JSON body.
    :param headers: Additional headers.
    """

    def __init__(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body
        self.headers = headers or {}

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        return JSONResponse(self.body, self.status, self.headers)


def error_body(code: str | int, message: str, error_type: str, param: str | None = None) -> dict[str, Any]:
    """Return the usual body of an error. Its message ends with a request id, as the service's messages do."""
    error: dict[str, Any] = {"code": code, "message": f"{message} (request id: {uuid.uuid4().hex})", "type": error_type}
    if param is not None:
        error["param"] = param
    return {"error": error}


def invalid_request(field: str, rule: str) -> RejectedError:
    """Return the exception for an invalid parameter. The body of its response names ``field``."""
    return RejectedError(400, error_body("invalid_request", f"{field} {rule}", "invalid_request_error", field))


def unauthorized() -> RejectedError:
    """Return the exception for a missing or wrong API key."""
    return RejectedError(401, {"error": {"code": 401, "message": "Invalid API key", "type": "authentication_error"}})


def task_not_found() -> RejectedError:
    """Return the exception, a 404, for an id or ``client_business_id`` that no generation task has."""
    return RejectedError(404, {"error": {"code": 404, "message": "Task not found", "type": "not_found_error"}})


def no_channel(model: str) -> RejectedError:
    """Return the exception for an unknown model. The service responds that the model has no available channel."""
    return RejectedError(
        503, error_body("model_not_found", f"no available channel for model {model}", "new_api_error", "model")
    )


def low_quota(model: str, quota: object, deposit: object) -> RejectedError:
    """Return the exception for a low balance, with the text that the service sends."""
    text = f"user quota is not enough for {model} deposit, user quota: ${quota}, required deposit: ${deposit}"
    return RejectedError(400, error_body("BadRequest", text, "new_api_error"))


def upload_rejected(message: str) -> RejectedError:
    """Return the exception for a rejected upload, in the body format of the upload and account endpoints."""
    return RejectedError(400, {"success": False, "message": message})


def rate_limited(headers: dict[str, str]) -> RejectedError:
    """Return the exception for too many requests."""
    return RejectedError(
        429, {"error": {"code": "rate_limit_exceeded", "message": "Async task request rate exceeded"}}, headers
    )
