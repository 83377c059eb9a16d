"""The service's webhooks: what is checked before one is believed, and what it says. Pure: time comes from outside.

Documented: ``X-ToAPIs-Webhook-Signature: v1=<hex>[,v1=<hex>]`` with the lower-case hex HMAC-SHA256 over the id, a dot,
the timestamp, a dot and the raw body; the key is the secret as text. For a day after a rotation both secrets sign.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Self, TypeGuard

#: Documented: an older or newer timestamp is to be refused.
MAX_SKEW_SECONDS = 300.0
#: More signatures than any rotation needs.
_MAX_SIGNATURES = 8
_LONGEST_ID = 200

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
    """What the headers of a webhook say about its origin; nothing of it is believed yet.

    :param signatures: Lower-case hex digests, of which one must fit.
    """

    event_id: str
    timestamp: str
    signatures: tuple[str, ...]

    @classmethod
    def read(cls, headers: Mapping[str, str], now: float) -> Self | None:
        """Read the headers (names in lower case); None where they are incomplete, malformed, or not of these minutes.

        :param now: Epoch seconds.
        """
        event_id = headers.get("x-toapis-webhook-id", "")
        timestamp = headers.get("x-toapis-webhook-timestamp", "")
        signatures = tuple(_signatures(headers.get("x-toapis-webhook-signature", "")))
        is_complete = _is_id(event_id) and 0 < len(signatures) <= _MAX_SIGNATURES
        if not is_complete or not _TIMESTAMP.fullmatch(timestamp) or abs(now - int(timestamp)) > MAX_SKEW_SECONDS:
            return None
        return cls(event_id, timestamp, signatures)

    def fits(self, body: bytes, secrets: Iterable[str]) -> bool:
        """Whether one of the signatures was made with one of ``secrets``; takes the same time whichever it is."""
        fitting = False
        message = f"{self.event_id}.{self.timestamp}.".encode() + body
        for secret in secrets:
            expected = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
            for signature in self.signatures:
                fitting |= hmac.compare_digest(expected, signature)
        return fitting


@dataclass(frozen=True)
class WebhookEvent:
    """What a webhook says, as far as it matters. It is a hint: the service is asked for the truth."""

    event_id: str
    status: WebhookStatus
    video_id: str

    @classmethod
    def parse(cls, event_id: str, body: bytes) -> Self | None:
        """Read a body whose seal fits; None where it is no event that is known."""
        try:
            event = json.loads(body)
            status = _STATUSES[event["type"]]
            video_id = event["data"]["task_id"]
        except (ValueError, RecursionError, KeyError, TypeError):
            return None
        return cls(event_id, status, video_id) if _is_id(video_id) else None


def _is_id(value: object) -> TypeGuard[str]:
    """Whether a value can be an id. Ids are logged: a line break in one would forge a line of the log."""
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_ID and value.isprintable()


def _signatures(header: str) -> Iterable[str]:
    """Return the digests of a header's ``v1`` signatures; other versions may stand beside them."""
    found = (_SIGNATURE.fullmatch(part.strip()) for part in header.split(",", _MAX_SIGNATURES + 1))
    return (match[1] for match in found if match)
