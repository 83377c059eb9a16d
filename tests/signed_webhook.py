"""Webhooks with the signatures of the service, implemented independently from its documentation."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import uuid
from typing import Any

SECRET = "3f8a" * 16


def body_of(video_id: str, event_type: str = "generation.completed") -> bytes:
    event = {
        "id": "evt_1",
        "type": event_type,
        "api_version": "v1",
        "created_at": 1783953302,
        "data": {"task_id": video_id, "task_type": "video", "status": "SUCCESS", "progress": "100%"},
    }
    return json.dumps(event, separators=(",", ":")).encode()


def signature(secret: str, event_id: str, timestamp: object, body: bytes) -> str:
    message = f"{event_id}.{timestamp}.".encode() + body
    return f"v1={hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()}"


def headers_for(body: bytes, *, secret: str = SECRET, event_id: str = "", skew: float = 0.0) -> dict[str, str]:
    event_id = event_id or f"evt_{uuid.uuid4().hex}"
    timestamp = str(int(time.time() + skew))
    return {
        "Content-Type": "application/json",
        "X-ToAPIs-Webhook-Id": event_id,
        "X-ToAPIs-Webhook-Timestamp": timestamp,
        "X-ToAPIs-Webhook-Signature": signature(secret, event_id, timestamp, body),
    }


def signed(video_id: str, **options: Any) -> dict[str, Any]:
    """Return the httpx arguments for posting a webhook about a video."""
    body = body_of(video_id)
    return {"content": body, "headers": headers_for(body, **options)}
