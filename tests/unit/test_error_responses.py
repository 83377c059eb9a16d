"""Errors for HTTP responses: every envelope and every line of the service's error table."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import Any

import pytest

from airflow_provider_toapis.api.error_responses import (
    HttpResponse,
    error_for,
    is_content_policy,
    retry_after_seconds,
    without_private,
)
from airflow_provider_toapis.api.responses import TaskError
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsContentPolicyError,
    ToAPIsError,
    ToAPIsModelNotOfferedError,
    ToAPIsNotFoundError,
    ToAPIsQuotaError,
    ToAPIsRateLimitError,
    ToAPIsRequestError,
    ToAPIsServerError,
)
from tests.errors import claims_nothing_was_billed

REQUEST_LINE = "POST /v1/videos/generations"
KEY = "sk-" + "a1B2" * 12
SIGNED_URL = "https://bucket.s3.amazonaws.com/shoe.jpg?X-Amz-Credential=AKIA&X-Amz-Signature=0123456789abcdef"
PROMPT = 'A red shoe turns slowly on a white table, the "camera" pushes in.'


def response_of(status: int, body: object = b"", headers: dict[str, str] | None = None) -> HttpResponse:
    return HttpResponse(status, headers or {}, body if isinstance(body, bytes) else json.dumps(body).encode())


def error(status: int, body: object = b"", headers: dict[str, str] | None = None) -> ToAPIsError:
    return error_for(response_of(status, body, headers), REQUEST_LINE, private=(PROMPT,), is_submission=True)


def envelope(code: object, message: str = "a message", **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **more}}


LOW_BALANCE = "user quota is not enough for grok-video-1.5 deposit, user quota: $0.01, required deposit: $0.15"
LIMITER_DOWN = "The async task submit limiter is temporarily unavailable"


class TestErrorTable:
    @pytest.mark.parametrize(
        ("status", "body", "error_class"),
        [
            (400, envelope("invalid_request"), ToAPIsRequestError),
            (400, envelope(400, type="invalid_request_error"), ToAPIsRequestError),
            (400, envelope("webhook_not_configured"), ToAPIsRequestError),
            (400, envelope("task_not_exist"), ToAPIsNotFoundError),
            (400, {"message": "task_not_exist"}, ToAPIsNotFoundError),
            (400, {"code": "task_not_exist", "message": "", "data": None}, ToAPIsNotFoundError),
            (400, envelope(400, "task_not_exist"), ToAPIsNotFoundError),
            (400, envelope(400, "no such task", type="task_not_exist"), ToAPIsNotFoundError),
            (400, envelope("BadRequest", LOW_BALANCE), ToAPIsQuotaError),
            (400, envelope("quota_not_enough"), ToAPIsQuotaError),
            (400, envelope("InputVideoSensitiveContentDetected.PrivacyInformation"), ToAPIsContentPolicyError),
            (400, envelope("content_policy_violation"), ToAPIsContentPolicyError),
            (400, envelope("UnsupportedImageFormat"), ToAPIsRequestError),
            (400, envelope("", "image_urls cannot be used together with image_with_roles"), ToAPIsRequestError),
            (400, envelope("", "base64 image is not allowed"), ToAPIsRequestError),
            (400, envelope("", "model is required (request id: 1)", type="new_api_error"), ToAPIsRequestError),
            (401, envelope("unauthorized"), ToAPIsAuthError),
            (401, envelope(401, type="authentication_error"), ToAPIsAuthError),
            (402, envelope("insufficient_quota"), ToAPIsQuotaError),
            (402, envelope(402, type="payment_required"), ToAPIsQuotaError),
            (403, envelope("forbidden", "this token may not use this model"), ToAPIsAuthError),
            (404, envelope("task_not_found"), ToAPIsNotFoundError),
            (404, envelope(404, "Task not found", type="not_found_error"), ToAPIsNotFoundError),
            (404, envelope("model_not_found"), ToAPIsModelNotOfferedError),
            (404, {}, ToAPIsNotFoundError),
            (404, b"<html>", ToAPIsServerError),
            (403, b"", ToAPIsAuthError),
            (403, b"<html>error code: 1010</html>", ToAPIsServerError),
            (410, {}, ToAPIsNotFoundError),
            (408, b"", ToAPIsServerError),
            (413, b"<html>too large</html>", ToAPIsRequestError),
            (422, envelope("content_policy_violation"), ToAPIsContentPolicyError),
            (425, b"", ToAPIsServerError),
            (429, envelope("rate_limit_exceeded"), ToAPIsRateLimitError),
            (429, envelope(429, type="rate_limit_error"), ToAPIsRateLimitError),
            (429, b"<html>", ToAPIsRateLimitError),
            (500, envelope("internal_error"), ToAPIsServerError),
            (500, envelope("task_not_exist"), ToAPIsServerError),
            (502, b"<html>bad gateway</html>", ToAPIsServerError),
            (504, b"", ToAPIsServerError),
            (524, b"<html>cloudflare</html>", ToAPIsServerError),
            (503, envelope("rate_limit_unavailable", LIMITER_DOWN), ToAPIsRateLimitError),
            (503, envelope(503, LIMITER_DOWN, type="rate_limit_unavailable"), ToAPIsRateLimitError),
            (503, envelope("model_not_found"), ToAPIsModelNotOfferedError),
            (
                503,
                envelope("", "No available channel for model seedance-2.0 under group default"),
                ToAPIsModelNotOfferedError,
            ),
            (503, envelope("", "未配置渠道能力"), ToAPIsModelNotOfferedError),
            (503, envelope("", "ChannelCapability: no SKU 路由"), ToAPIsModelNotOfferedError),
            (503, envelope("", "所有渠道都失败"), ToAPIsModelNotOfferedError),
            (503, envelope("pricing_unavailable"), ToAPIsServerError),
            (503, b"<html>", ToAPIsServerError),
            (302, b"", ToAPIsServerError),
        ],
        ids=str,
    )
    def test_each_response_maps_to_its_error(self, status: int, body: object, error_class: type[ToAPIsError]) -> None:
        raised = error(status, body)
        assert type(raised) is error_class
        assert raised.http_status == status

    @pytest.mark.parametrize(
        ("body", "expected"),
        [(b"", []), (envelope("task_not_found"), [400, 404, 410]), ({"message": "no route"}, [404, 410])],
        ids=str,
    )
    def test_only_documented_responses_mean_not_found(self, body: object, expected: list[int]) -> None:
        statuses = range(300, 600)
        assert [s for s in statuses if isinstance(error(s, body), ToAPIsNotFoundError)] == expected

    @pytest.mark.parametrize(
        ("body", "by_service"),
        [
            (envelope(404, "Task not found", type="not_found_error"), True),
            ({"error": {}}, True),
            ({"message": "task_not_exist"}, True),
            ({"code": "task_not_found"}, True),
            ({"message": "no Route matched with those values"}, False),
            ({"error": "Not Found"}, False),
            ({}, False),
        ],
        ids=str,
    )
    def test_not_found_error_reports_whether_the_service_sent_it(self, body: object, by_service: bool) -> None:
        raised = error(404, body)
        assert isinstance(raised, ToAPIsNotFoundError)
        assert raised.by_service == by_service

    @pytest.mark.parametrize("status", [400, 401, 402, 404, 422, 429])
    def test_only_submission_errors_state_the_cost(self, status: int) -> None:
        response = response_of(status, envelope("code"))
        rejected = error_for(response, REQUEST_LINE, is_submission=True)
        assert claims_nothing_was_billed(rejected)
        assert str(rejected).startswith(rejected.without_cost)
        assert not claims_nothing_was_billed(ToAPIsError(rejected.without_cost))
        assert not claims_nothing_was_billed(error_for(response, "GET /v1/balance"))

    @pytest.mark.parametrize("page", [b"<html>not found</html>", b"Access denied", b'{"error": "cut o'], ids=str)
    def test_gateway_page_is_a_server_error_not_an_auth_or_not_found_error(self, page: bytes) -> None:
        for status in (403, 404, 410):
            raised = error(status, page)
            assert type(raised) is ToAPIsServerError

    @pytest.mark.parametrize("body", [b"", b"<html>", envelope("rate_limit_exceeded")], ids=str)
    def test_only_429_is_a_rate_limit_error(self, body: object) -> None:
        expected = [status for status in range(300, 600) if isinstance(error(status, body), ToAPIsRateLimitError)]
        assert expected == [429]

    @pytest.mark.parametrize("status", [301, 302, 304, 307, 308, 408, 425, 500, 501, 502, 503, 504, 520, 524, 599])
    def test_inconclusive_statuses_are_server_errors(self, status: int) -> None:
        assert type(error(status)) is ToAPIsServerError


class TestEnvelopes:
    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ({"error": {"code": "c", "message": "no", "type": "t", "param": None}}, "c"),
            ({"error": {"code": 400, "message": "no"}}, "400"),
            ({"success": False, "message": "no"}, None),
            ({"code": "c", "message": "no", "data": None}, "c"),
            ({"message": "no"}, None),
            ({"error": {"code": "", "message": "no (request id: 2026)", "type": "new_api_error"}}, "new_api_error"),
            ({"error": {"code": 400, "message": json.dumps({"error": {"code": "c", "message": "no"}})}}, "c"),
            ({"error": "no"}, None),
            ({"error": {"message": "no", "type": "t"}}, "t"),
        ],
        ids=str,
    )
    def test_code_and_message_are_read_from_each_envelope(self, body: object, code: str | None) -> None:
        raised = error(400, body)
        assert raised.code == code
        assert "no" in str(raised)

    @pytest.mark.parametrize("page", [b"<html>ray 123</html>", b'["a"]', b"\xff\xfe\x00", b'{"error"', b"[" * 100_000])
    def test_non_json_page_is_mentioned_but_not_shown(self, page: bytes) -> None:
        assert "ray 123" not in str(error(502, page))
        assert "JSON" in str(error(502, page))

    def test_message_names_request_and_response(self) -> None:
        assert str(error(400, envelope("invalid_request", "seconds must be 10 or 15"))) == (
            "POST /v1/videos/generations returned 400 (invalid_request): seconds must be 10 or 15."
            " The same request would be rejected again. Nothing was billed."
        )


class TestAdvice:
    @pytest.mark.parametrize(
        "body", [envelope("model_not_found"), envelope("", "no available channel")], ids=["code", "message"]
    )
    def test_model_not_offered_names_the_model_list_and_the_successor(self, body: object) -> None:
        message = str(error(503, body))
        assert "GET /v1/models?type=video" in message
        assert "grok-video-1.5-preview" in message
        assert "grok-video-1.5" in message.replace("grok-video-1.5-preview", "")

    def test_message_explains_missing_webhook_configuration(self) -> None:
        assert "This API key has no webhook" in str(error(400, envelope("webhook_not_configured")))

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("body", [b"", b"<html>moved</html>", envelope("moved")], ids=["none", "page", "JSON"])
    def test_redirect_names_the_connection_fields_to_check(self, status: int, body: object) -> None:
        assert "Check the connection's host and its scheme (https)" in str(error(status, body))

    def test_other_responses_are_not_called_redirects(self) -> None:
        assert "redirect" not in str(error(304)) + str(error(500))

    @pytest.mark.parametrize("status", [400, 402, 422, 429])
    def test_rejection_states_that_nothing_was_billed(self, status: int) -> None:
        assert claims_nothing_was_billed(error(status))

    def test_server_error_does_not_claim_that_nothing_was_billed(self) -> None:
        assert not claims_nothing_was_billed(error(500, envelope("internal_error")))


class TestSecrets:
    @pytest.mark.parametrize(
        "quoted",
        [
            f"Incorrect API key provided: {KEY}",
            f"Authorization: Bearer {KEY}",
            "Authorization: bearer not-an-ordinary-key",
            f"cannot fetch {SIGNED_URL}",
            f"cannot fetch '{SIGNED_URL}' (403)",
            f"cannot fetch {SIGNED_URL.removeprefix('https://bucket.s3.amazonaws.com')}",
            f"cannot fetch https://name:password@host/shoe.jpg and {SIGNED_URL}",
            f"prompt rejected: {PROMPT}",
            f"prompt rejected: {PROMPT[:40]}...",
            f"invalid body: {json.dumps({'prompt': PROMPT})}",
            "image data:image/png;base64," + "iVBORw0KGgo" * 500,
            "image " + "iVBORw0KGgo" * 500,
        ],
        ids=lambda text: text[:40],
    )
    @pytest.mark.parametrize("envelope_form", ["message", "code", "json in message", "plain"])
    def test_sensitive_text_quoted_by_the_service_is_not_shown(self, quoted: str, envelope_form: str) -> None:
        body: object = {
            "message": envelope("c", quoted),
            "code": envelope(quoted, "no"),
            "json in message": envelope(400, json.dumps({"error": {"code": "c", "message": quoted}})),
            "plain": {"error": quoted},
        }[envelope_form]
        message = str(error(400, body))
        for secret in (KEY, "ordinary-key", "0123456789abcdef", "AKIA", "password", PROMPT[:30], "iVBORw0KGgo" * 20):
            assert secret not in message
        assert len(message) < 800

    def test_prompt_with_trailing_line_break_is_redacted(self) -> None:
        assert "shoe" not in without_private("refused: 'a shoe'", ("a shoe\n",))

    @pytest.mark.parametrize("private", ["", " \n"])
    def test_empty_private_text_redacts_nothing(self, private: str) -> None:
        assert without_private("too many requests", (private,)) == "too many requests"

    def test_harmless_text_is_unchanged(self) -> None:
        text = "aspect_ratio must be one of 16:9, 9:16; a shoe is fine"
        assert without_private(text, (PROMPT,)) == text


class TestContentPolicy:
    @pytest.mark.parametrize(
        "code",
        [
            "content_policy_violation",
            "InputVideoSensitiveContentDetected.PrivacyInformation",
            "InputImageSensitiveContentDetected",
            "OutputVideoSensitiveContentDetected",
            "moderation_blocked",
        ],
    )
    def test_content_policy_codes_are_recognized(self, code: str) -> None:
        assert is_content_policy(TaskError(code, ""))

    @pytest.mark.parametrize("code", ["generation_failed", "InvalidParameter.TaskTypeConstraint", "500", "", None])
    def test_other_codes_are_not_content_policy(self, code: str | None) -> None:
        assert not is_content_policy(TaskError(code, "Generation failed"))

    def test_missing_error_is_not_content_policy(self) -> None:
        assert not is_content_policy(None)


class TestRetryAfter:
    NOW = 1_790_000_000.0

    @pytest.mark.parametrize(
        ("given", "seconds"),
        [
            ("7", 7.0),
            ("0.5", 0.5),
            (" 7 ", 7.0),
            ("0", 0.0),
            ("-3", 0.0),
            ("86400", 300.0),
            ("1790000012", 12.0),
            ("1789999999", 0.0),
            (formatdate(NOW + 30, usegmt=True), 30.0),
            (formatdate(NOW - 30, usegmt=True), 0.0),
            (formatdate(NOW + 86400, usegmt=True), 300.0),
            ("", None),
            ("soon", None),
            ("nan", None),
            ("inf", None),
            ("1e999", None),
            ("Wed, 99 Foo 2026 07:28:00 GMT", None),
        ],
    )
    def test_retry_after_is_parsed_and_capped(self, given: str, seconds: float | None) -> None:
        assert retry_after_seconds({"retry-after": given}, self.NOW) == seconds

    def test_missing_retry_after_is_none(self) -> None:
        assert retry_after_seconds({}, self.NOW) is None

    def test_retry_after_is_set_on_the_error(self) -> None:
        assert error(429, b"", {"retry-after": "12"}).retry_after == 12.0
        assert error(429).retry_after is None
