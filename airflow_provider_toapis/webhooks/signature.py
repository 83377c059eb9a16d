"""Verify the signature of a webhook and parse its event.

Documented: the header ``X-ToAPIs-Webhook-Signature: v1=<hex>[,v1=<hex>]`` contains the lower-case hex HMAC-SHA256 of
``<id>.<timestamp>.<raw body>``. The key is the secret as text. For a day after a rotation, the service signs with both
secrets.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Self, TypeGuard

#: Maximum seconds between the timestamp of a webhook and now. A webhook with an older or newer timestamp must be
#: rejected (documented).
MAX_SKEW_SECONDS = 300.0
#: Maximum number of signatures of a webhook. A rotation needs only two.
_MAX_SIGNATURES = 8
_MAX_ID_LENGTH = 200

_SIGNATURE = re.compile(r"v1=([0-9a-f]{64})")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")

WebhookStatus = Literal["success", "failed", "test"]
_STATUSES: Mapping[str, WebhookStatus] = {
    "generation.completed": "success",
    "generation.failed": "failed",
    "endpoint.test": "test",
}


@dataclass(frozen=True)
class WebhookSignature:
    """The signature headers of a webhook. Call :meth:`verify` before the webhook is trusted.

    :param signatures: Lower-case hex digests. At least one must be valid.
    """

    event_id: str
    timestamp: str
    signatures: tuple[str, ...]

    @classmethod
    def read(cls, headers: Mapping[str, str], now: float) -> Self | None:
        """Read the headers. Return None if they are incomplete or malformed, or if the timestamp is too old or too new.

        :param headers: Names in lower case.
        :param now: Epoch seconds.
        """
        event_id = headers.get("x-toapis-webhook-id", "")
        timestamp = headers.get("x-toapis-webhook-timestamp", "")
        signatures = tuple(_signatures(headers.get("x-toapis-webhook-signature", "")))
        is_complete = _is_id(event_id) and 0 < len(signatures) <= _MAX_SIGNATURES
        if not is_complete or not _TIMESTAMP.fullmatch(timestamp) or abs(now - int(timestamp)) > MAX_SKEW_SECONDS:
            return None
        return cls(event_id, timestamp, signatures)

    def verify(self, body: bytes, secrets: Iterable[str]) -> bool:
        """Return whether one of the signatures was made with one of ``secrets``. Takes the same time for any result."""
        is_valid = False
        message = f"{self.event_id}.{self.timestamp}.".encode() + body
        for secret in secrets:
            expected = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
            for signature in self.signatures:
                is_valid |= hmac.compare_digest(expected, signature)
        return is_valid


@dataclass(frozen=True)
class WebhookEvent:
    """Event of a webhook. It is advisory, so the resumed task looks up the video."""

    event_id: str
    status: WebhookStatus
    video_id: str

    @classmethod
    def parse(cls, event_id: str, body: bytes) -> Self | None:
        """Parse a verified body. Return None if the event is malformed or of an unknown type."""
        try:
            event = json.loads(body)
            status = _STATUSES[event["type"]]
            video_id = event["data"]["task_id"]
        except (ValueError, RecursionError, KeyError, TypeError):
            return None
        return cls(event_id, status, video_id) if _is_id(video_id) else None


def _is_id(value: object) -> TypeGuard[str]:
    """Return whether a value can be an id.

    Line breaks are rejected, because ids are logged, and a line break could forge a log line.
    """
    return isinstance(value, str) and 0 < len(value) <= _MAX_ID_LENGTH and value.isprintable()


def _signatures(header: str) -> Iterable[str]:
    """Return the digests of the ``v1`` signatures in a header, and ignore signatures of other versions."""
    found = (_SIGNATURE.fullmatch(part.strip()) for part in header.split(",", _MAX_SIGNATURES + 1))
    return (match[1] for match in found if match)
