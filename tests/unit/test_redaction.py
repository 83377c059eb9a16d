"""Redaction of secrets in messages and logs."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.redaction import MAX_SHOWN_LENGTH, redacted

KEY = "sk-" + "a1B2" * 12


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("https://example.com/shoe.jpg", "https://example.com/shoe.jpg"),
        ("https://example.com/shoe.jpg?v=2", "https://example.com/shoe.jpg"),
        ("https://example.com?v=2", "https://example.com"),
        ("https://example.com/shoe.jpg#part", "https://example.com/shoe.jpg"),
        ("https://name:word@example.com/shoe.jpg", "https://example.com/shoe.jpg"),
        ("s3://bucket/shoe.jpg?versionId=7", "s3://bucket/shoe.jpg"),
        ("HTTPS://EXAMPLE.COM/A?SIG=1", "HTTPS://EXAMPLE.COM/A"),
        ("'https://a/b?c=1' and \"https://d/e?f=2\"", "'https://a/b' and \"https://d/e\""),
        ("socks5://me:word@proxy:1080 failed", "socks5://proxy:1080 failed"),
        (f"key {KEY}!", "key sk-***!"),
        (f"Authorization: Bearer {KEY}", "Authorization: Bearer ***"),
        ("bearer   whatever-it-is", "Bearer ***"),
        ("data:image/png;base64,iVBORw0KGgo=", "data:image/png;base64,***"),
        ("GET /shoe.jpg?X-Amz-Signature=abc&x=1", "GET /shoe.jpg?X-Amz-Signature=***&x=1"),
        ("?sv=2024&sig=abc%2B", "?sv=2024&sig=***"),
        ("GET /a.jpg?q-ak=A&q-signature=abc", "GET /a.jpg?q-ak=A&q-signature=***"),
        ("GET /a.jpg?X-Tos-Signature=abc&e=1&token=a:b", "GET /a.jpg?X-Tos-Signature=***&e=1&token=***"),
        ("?x-amz-security-token=a&x-cos-security-token=b", "?x-amz-security-token=***&x-cos-security-token=***"),
        ("the task-12345678 at risk-free", "the task-12345678 at risk-free"),
        (7, "7"),
        (None, "None"),
    ],
)  # fmt: skip
def test_secrets_are_redacted(text: object, shown: str) -> None:
    assert redacted(text) == shown


def test_long_text_is_truncated() -> None:
    shown = redacted("x" * 10_000)
    assert shown == "x" * MAX_SHOWN_LENGTH + "..."


def test_maximum_length_can_be_set() -> None:
    assert redacted("abcdef", 3) == "abc..."


@given(st.text(max_size=300), st.text(alphabet="abcXYZ019_-", min_size=20, max_size=48), st.text(max_size=300))
def test_key_is_redacted_in_any_text(before: str, secret: str, after: str) -> None:
    assume(secret not in before + after)
    assert secret not in redacted(f"{before} sk-{secret} {after}")


@given(st.text(max_size=300), st.text(alphabet="0123456789abcdef%", min_size=20, max_size=3000))
def test_signature_is_redacted_after_any_text(before: str, signature: str) -> None:
    assume(signature not in before)
    assert signature not in redacted(f"{before} https://bucket/a.jpg?X-Amz-Signature={signature}")


def test_rejected_field_shows_its_value_without_secrets() -> None:
    message = str(ToAPIsRequestError.for_field("image", f"https://a/b.jpg?sig={KEY}", "must be a file"))
    assert message == "Invalid image='https://a/b.jpg': must be a file. Nothing was submitted."
