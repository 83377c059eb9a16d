"""Verification and parsing of webhooks."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_toapis.webhooks.signature import MAX_SKEW_SECONDS, WebhookEvent, WebhookSignature
from tests.signed_webhook import SECRET, body_of, signature

NOW = 1_783_953_302
BODY = body_of("video_1")


def headers(**changed: str) -> dict[str, str]:
    fields = {"id": "evt_1", "timestamp": str(NOW), "signature": signature(SECRET, "evt_1", NOW, BODY)} | changed
    return {f"x-toapis-webhook-{name}": value for name, value in fields.items()}


def is_verified(body: bytes = BODY, *secrets: str, now: float = NOW, **changed: str) -> bool:
    webhook_signature = WebhookSignature.read(headers(**changed), now)
    return webhook_signature is not None and webhook_signature.verify(body, secrets or (SECRET,))


class TestSignature:
    def test_signature_of_the_service_is_verified(self) -> None:
        assert is_verified()

    @given(st.binary(max_size=200), st.text(min_size=1, max_size=50), st.binary(min_size=1, max_size=5))
    def test_other_body_is_rejected(self, body: bytes, secret: str, more: bytes) -> None:
        signed = signature(secret, "evt_1", NOW, body)
        assert is_verified(body, secret, signature=signed)
        assert not is_verified(body + more, secret, signature=signed)

    def test_other_id_or_timestamp_is_rejected(self) -> None:
        assert not is_verified(id="evt_2")
        assert not is_verified(timestamp=str(NOW + 1))

    @pytest.mark.parametrize(
        ("skew", "verified"),
        [(0, True), (MAX_SKEW_SECONDS, True), (-MAX_SKEW_SECONDS, True), (301, False), (-301, False)],
    )
    def test_clock_skew_of_five_minutes_is_accepted(self, skew: float, verified: bool) -> None:
        assert is_verified(now=NOW + skew) is verified

    @pytest.mark.parametrize("timestamp", ["", "now", "-5", "1.5e9", "\uff11" * 10, " 1783953302", "9" * 13])
    def test_invalid_timestamp_is_rejected(self, timestamp: str) -> None:
        assert WebhookSignature.read(headers(timestamp=timestamp), NOW) is None

    def test_any_secret_and_any_signature_of_a_rotation_is_accepted(self) -> None:
        good = signature(SECRET, "evt_1", NOW, BODY)
        other = signature("new", "evt_1", NOW, BODY)
        assert is_verified(BODY, "new", SECRET, signature=good)
        assert is_verified(BODY, "new", signature=f"{good},{other}")
        assert is_verified(BODY, SECRET, signature=f"v2=later, {other} , {good}")
        assert not is_verified(BODY, "third", signature=f"{good},{other}")

    @pytest.mark.parametrize(
        "header", ["", "v1=", "v1", ",,,", f"v1={'0' * 63}", f"V1={'0' * 64}", f"v1={'G' * 64}", ",".join(["x"] * 1000)]
    )
    def test_header_without_a_signature_is_rejected(self, header: str) -> None:
        assert WebhookSignature.read(headers(signature=header), NOW) is None

    def test_missing_secret_verifies_nothing(self) -> None:
        webhook_signature = WebhookSignature.read(headers(), NOW)
        assert webhook_signature is not None
        assert not webhook_signature.verify(BODY, ())

    @given(st.dictionaries(st.sampled_from(sorted(headers())), st.text(), max_size=3))
    def test_arbitrary_headers_are_rejected_without_errors(self, given_headers: dict[str, str]) -> None:
        webhook_signature = WebhookSignature.read(given_headers, NOW)
        assert webhook_signature is None or not webhook_signature.verify(BODY, (SECRET,))


class TestEvent:
    @pytest.mark.parametrize(
        ("event_type", "status"),
        [("generation.completed", "success"), ("generation.failed", "failed"), ("endpoint.test", "test")],
    )
    def test_documented_event_types_are_parsed(self, event_type: str, status: str) -> None:
        event = WebhookEvent.parse("evt_1", body_of("video_1", event_type))
        assert event == WebhookEvent("evt_1", status, "video_1")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b"\xff\xfe",
            b"[" * 100_000,
            json.dumps({"type": "generation.begun", "data": {"task_id": "video_1"}}).encode(),
            json.dumps({"type": ["generation.completed"], "data": {"task_id": "video_1"}}).encode(),
            json.dumps({"type": "generation.completed"}).encode(),
            json.dumps({"type": "generation.completed", "data": []}).encode(),
            json.dumps({"type": "generation.completed", "data": {"task_id": 7}}).encode(),
            json.dumps({"type": "generation.completed", "data": {"task_id": "v" * 1000}}).encode(),
        ],
    )
    def test_other_body_is_not_an_event(self, body: bytes) -> None:
        assert WebhookEvent.parse("evt_1", body) is None

    @pytest.mark.parametrize("video_id", ["", "v\nWARNING forged", "v\r", "v\x1b[2J", "v\x85", "v\u2028", "v\u202e"])
    def test_id_with_control_characters_is_rejected(self, video_id: str) -> None:
        assert WebhookEvent.parse("evt_1", body_of(video_id)) is None
        assert WebhookSignature.read(headers(id=video_id), NOW) is None
