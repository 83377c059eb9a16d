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
    Answer,
    answer,
    drive,
    refusal,
    task,
)

NOW = pendulum.datetime(2026, 10, 1, 12)
PROMPT = "a red shoe turns slowly on a table"
LINK = "https://example.com/shoe.jpg"
WANTED = VideoRequest(model=MODEL, prompt=PROMPT, images=(ReferenceImage.from_url(LINK),), duration=10)
FROM_A_FILE = VideoRequest(
    model=MODEL,
    prompt=PROMPT,
    images=(ReferenceImage("sha256:aa", upload=FileUpload("shoe.jpg", "image/jpeg", BytesIO)),),
)

FAILED = task("failed", "video_0", error={"code": "generation_failed", "message": "no GPU"})
REFUSED = task("failed", "video_0", error={"code": "content_policy_violation", "message": "no"})
EXPIRED = task(
    "completed",
    "video_0",
    expires_at=NOW.int_timestamp,
    result={"data": [{"url": "https://files.toapis.com/videos/0.mp4"}]},
    billing={"status": "settled", "cost_usd": "0.15"},
)

#: Responses after which the submission may have been accepted and billed.
UNKNOWN_OUTCOMES: dict[str, Answer] = {
    "timed out after sending": TIMED_OUT,
    "500": refusal(500, "internal_error"),
    "500 with a code that means a rejection elsewhere": refusal(500, "task_not_exist"),
    "502 with an HTML page": HTML_PAGE,
    "504": answer(504),
    "524": answer(524, b"<html>"),
    "503 that is neither limiter nor model": answer(503, b"<html>"),
    "403 of a firewall": answer(403, b"<html>error code: 1010</html>"),
    "404 of a proxy": answer(404, b"<html>not found</html>"),
    "404 without a body": answer(404),
    "409: the key exists": refusal(409, "conflict"),
    "408": answer(408),
    "redirect": answer(302, location="https://elsewhere"),
    "200 without an id": answer(200, {"status": "queued"}),
    "200 that says no success": answer(200, {"success": False, "message": "busy", "request_id": "r1"}),
    "200 with an HTML page": answer(200, b"<html>"),
    "200 cut short": answer(200, b'{"id": "video_1"'),
    "204": answer(204),
}
#: Responses after which nothing was created: the submission was not sent, or was rejected before it had an effect.
CREATED_NOTHING: dict[str, Answer] = {
    "429": refusal(429, "rate_limit_exceeded"),
    "503 of the limiter": refusal(503, "rate_limit_unavailable"),
    "not connected": NOT_SENT,
}
#: Responses that permanently reject the submission.
DEFINITE_REFUSALS: dict[str, tuple[Answer, type[ToAPIsError]]] = {
    "400": (refusal(400, "invalid_request"), ToAPIsRequestError),
    "400 without money": (refusal(400, "quota_not_enough"), ToAPIsQuotaError),
    "400 content": (refusal(400, "InputImageSensitiveContentDetected"), ToAPIsContentPolicyError),
    "400 webhook": (refusal(400, "webhook_not_configured"), ToAPIsRequestError),
    "401": (refusal(401, "unauthorized"), ToAPIsAuthError),
    "402": (refusal(402, "insufficient_quota"), ToAPIsQuotaError),
    "403": (answer(403), ToAPIsAuthError),
    "404 of an address": (answer(404, {"message": "no Route matched with those values"}), ToAPIsRequestError),
    "404 on the source video": (refusal(404, "task_not_found"), ToAPIsRequestError),
    "413": (answer(413), ToAPIsRequestError),
    "422": (refusal(422, "content_policy_violation"), ToAPIsContentPolicyError),
    "503 model": (refusal(503, "model_not_found"), ToAPIsRequestError),
    "503 channel": (refusal(503, "", "no available channel for this model"), ToAPIsRequestError),
}
#: Responses to look-ups that do not show whether the video exists.
UNANSWERED: dict[str, Answer] = {
    "timed out": TIMED_OUT,
    "not connected": NOT_SENT,
    "500": answer(500),
    "502 with an HTML page": HTML_PAGE,
    "429": answer(429),
    "503": answer(503),
    "200 without an id": answer(200, {}),
    "200 with an HTML page": answer(200, b"<html>"),
    "400": refusal(400, "invalid_request"),
    "401": answer(401),
    "403": answer(403),
    "403 of a firewall": answer(403, b"<html>error code: 1010</html>"),
    "404 of a proxy": answer(404, b"<html>not found</html>"),
    "404 without a body": answer(404),
    "another video": answer(200, {"id": "video_9", "client_business_id": "id-9", "status": "completed"}),
}


def cases(table: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", table.values(), ids=table.keys())


class NumberedKeys(IdempotencyKeys):
    """The keys ``id-0``, ``id-1`` and so on."""

    def for_generation(self, generation: int) -> str:
        return f"id-{generation}"


def submit(
    service: Any,
    request: VideoRequest = WANTED,
    *,
    max_generations: int = 3,
    retry_timeout: float = 1800,
    earlier: PriorSubmission | None = None,
    callback: Callback | None = None,
    ids_name_model: bool = False,
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
                key_includes_model=ids_name_model,
                free_replacements=free_replacements,
            ),
            now=lambda: NOW.add(seconds=service.clock),
            clock=lambda: service.clock,
            found_by_key=found_by_key,
        ),
        service,
    )
