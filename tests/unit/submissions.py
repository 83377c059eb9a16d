"""Requests, and possible responses of the service to submissions and look-ups."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pendulum
import pytest

from airflow_provider_toapis.api.submission import submit_once
from airflow_provider_toapis.api.submit_spec import Callback, IdempotencyKeys, PriorSubmission, Submission, SubmitSpec
from airflow_provider_toapis.api.video_request import FileUpload, ReferenceImage, VideoRequest
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsContentPolicyError,
    ToAPIsError,
    ToAPIsQuotaError,
    ToAPIsRequestError,
)
from tests.unit.scripted_service import (
    HTML_PAGE,
    MODEL,
    NOT_SENT,
    TIMED_OUT,
    Response,
    drive,
    rejection,
    response,
    task,
)

NOW = pendulum.datetime(2026, 10, 1, 12)
PROMPT = "a red shoe turns slowly on a table"
IMAGE_URL = "https://example.com/shoe.jpg"
REQUEST = VideoRequest(model=MODEL, prompt=PROMPT, images=(ReferenceImage.from_url(IMAGE_URL),), duration=10)
FILE_REQUEST = VideoRequest(
    model=MODEL,
    prompt=PROMPT,
    images=(ReferenceImage("sha256:aa", upload=FileUpload("shoe.jpg", "image/jpeg", BytesIO)),),
)

FAILED = task("failed", "video_0", error={"code": "generation_failed", "message": "no GPU"})
REJECTED = task("failed", "video_0", error={"code": "content_policy_violation", "message": "no"})
EXPIRED = task(
    "completed",
    "video_0",
    expires_at=NOW.int_timestamp,
    result={"data": [{"url": "https://files.toapis.com/videos/0.mp4"}]},
    billing={"status": "settled", "cost_usd": "0.15"},
)

#: Responses after which the submission may have been accepted and billed.
UNKNOWN_OUTCOMES: dict[str, Response] = {
    "timed out after sending": TIMED_OUT,
    "500": rejection(500, "internal_error"),
    "500 with a code that means a rejection elsewhere": rejection(500, "task_not_exist"),
    "502 with an HTML page": HTML_PAGE,
    "504": response(504),
    "524": response(524, b"<html>"),
    "503 that is neither limiter nor model": response(503, b"<html>"),
    "403 of a firewall": response(403, b"<html>error code: 1010</html>"),
    "404 of a proxy": response(404, b"<html>not found</html>"),
    "404 without a body": response(404),
    "409: the key exists": rejection(409, "conflict"),
    "408": response(408),
    "redirect": response(302, location="https://elsewhere"),
    "200 without an id": response(200, {"status": "queued"}),
    "200 without success": response(200, {"success": False, "message": "busy", "request_id": "r1"}),
    "200 with an HTML page": response(200, b"<html>"),
    "200 cut short": response(200, b'{"id": "video_1"'),
    "204": response(204),
}
#: Responses after which nothing was created: the submission was not sent, or was rejected before it had an effect.
NOTHING_CREATED: dict[str, Response] = {
    "429": rejection(429, "rate_limit_exceeded"),
    "503 of the limiter": rejection(503, "rate_limit_unavailable"),
    "not connected": NOT_SENT,
}
#: Responses that permanently reject the submission.
PERMANENT_REJECTIONS: dict[str, tuple[Response, type[ToAPIsError]]] = {
    "400": (rejection(400, "invalid_request"), ToAPIsRequestError),
    "400 with low balance": (rejection(400, "quota_not_enough"), ToAPIsQuotaError),
    "400 content": (rejection(400, "InputImageSensitiveContentDetected"), ToAPIsContentPolicyError),
    "400 webhook": (rejection(400, "webhook_not_configured"), ToAPIsRequestError),
    "401": (rejection(401, "unauthorized"), ToAPIsAuthError),
    "402": (rejection(402, "insufficient_quota"), ToAPIsQuotaError),
    "403": (response(403), ToAPIsAuthError),
    "404 of a URL": (response(404, {"message": "no Route matched with those values"}), ToAPIsRequestError),
    "404 on the source video": (rejection(404, "task_not_found"), ToAPIsRequestError),
    "413": (response(413), ToAPIsRequestError),
    "422": (rejection(422, "content_policy_violation"), ToAPIsContentPolicyError),
    "503 model": (rejection(503, "model_not_found"), ToAPIsRequestError),
    "503 channel": (rejection(503, "", "no available channel for this model"), ToAPIsRequestError),
}
#: Responses to look-ups that do not show whether the video exists.
INCONCLUSIVE_LOOKUPS: dict[str, Response] = {
    "timed out": TIMED_OUT,
    "not connected": NOT_SENT,
    "500": response(500),
    "502 with an HTML page": HTML_PAGE,
    "429": response(429),
    "503": response(503),
    "200 without an id": response(200, {}),
    "200 with an HTML page": response(200, b"<html>"),
    "400": rejection(400, "invalid_request"),
    "401": response(401),
    "403": response(403),
    "403 of a firewall": response(403, b"<html>error code: 1010</html>"),
    "404 of a proxy": response(404, b"<html>not found</html>"),
    "404 without a body": response(404),
    "another video": response(200, {"id": "video_9", "client_business_id": "id-9", "status": "completed"}),
}


def cases(table: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", table.values(), ids=table.keys())


class NumberedKeys(IdempotencyKeys):
    """The keys ``id-0``, ``id-1`` and so on."""

    def for_generation(self, generation: int) -> str:
        return f"id-{generation}"


def submit(
    service: Any,
    request: VideoRequest = REQUEST,
    *,
    max_generations: int = 3,
    retry_timeout: float = 1800,
    earlier: PriorSubmission | None = None,
    callback: Callback | None = None,
    key_includes_model: bool = False,
    found_by_key: set[str] | None = None,
    free_replacements: int = 0,
) -> Submission:
    return drive(
        submit_once(
            SubmitSpec(
                request,
                NumberedKeys(),
                max_generations=max_generations,
                retry_timeout=retry_timeout,
                earlier=earlier,
                callback=lambda: callback,
                key_includes_model=key_includes_model,
                free_replacements=free_replacements,
            ),
            now=lambda: NOW.add(seconds=service.clock),
            clock=lambda: service.clock,
            found_by_key=found_by_key,
        ),
        service,
    )
