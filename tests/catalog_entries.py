"""Manifest entries of a batch, as a run leaves them."""

from __future__ import annotations

from typing import Any, cast

from airflow_provider_toapis.batch.manifest_entry import (
    ManifestEntry,
    RowStatus,
    RowSubmission,
    SavedVideo,
    SubmissionState,
)

TIME = "2026-02-03T02:14:06+00:00"
RUN = "scheduled__2026-02-03T00:00:00+00:00"


def saved(key: str, **changes: Any) -> SavedVideo:
    facts: dict[str, Any] = {
        "fingerprint": "f" * 64,
        "video_id": f"video_{key}",
        "client_business_id": "af-1",
        "generation": 0,
        "file": f"{key}.mp4",
        "size": 1_400_000,
        "sha256": "a" * 64,
        "price_usd": "0.3",
        "billed": True,
        "saved_at": TIME,
        "run_id": RUN,
        "reattached": False,
    }
    return SavedVideo(**(facts | changes))


def submission(state: str, **changes: Any) -> RowSubmission:
    facts: dict[str, Any] = {"fingerprint": "f" * 64, "run_id": RUN, "try_number": 1, "price_usd": "0.3"}
    return RowSubmission(state=cast("SubmissionState", RowStatus(state)), **(facts | changes))


def entry(key: str, state: str = "saved", **changes: Any) -> ManifestEntry:
    """Return the entry of a row in this state. A ``saved`` or ``removed`` row has a saved video."""
    facts: dict[str, Any] = {
        "row": 1,
        "updated_at": TIME,
        "prompt": f"The camera glides towards {key}",
        "images": (),
        "model": "grok-video-1.5-preview",
        "saved": saved(key) if state in ("saved", "removed") else None,
        "submission": None if state in ("saved", "removed") else submission(state),
        "in_feed": state != "removed",
    }
    return ManifestEntry(key=key, **(facts | changes))
