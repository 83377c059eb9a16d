"""Rows of a catalogue as they stand after a run."""

from __future__ import annotations

from typing import Any, cast

from airflow_provider_toapis.batch.entries import Entry, Kept, Order, OrderState

TIME = "2026-02-03T02:14:06+00:00"
RUN = "scheduled__2026-02-03T00:00:00+00:00"


def kept(key: str, **changes: Any) -> Kept:
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
        "time": TIME,
        "run": RUN,
        "adopted": False,
    }
    return Kept(**(facts | changes))


def order(state: str, **changes: Any) -> Order:
    facts: dict[str, Any] = {"fingerprint": "f" * 64, "run": RUN, "attempt": 1, "price_usd": "0.3"}
    return Order(state=cast("OrderState", state), **(facts | changes))


def entry(key: str, state: str = "kept", **changes: Any) -> Entry:
    """Return a row of one of the states that a row can have, or ``vanished`` with its video."""
    facts: dict[str, Any] = {
        "row": 1,
        "time": TIME,
        "prompt": f"The camera glides towards {key}",
        "images": (),
        "model": "grok-video-1.5-preview",
        "kept": kept(key) if state in ("kept", "vanished") else None,
        "order": None if state in ("kept", "vanished") else order(state),
        "in_feed": state != "vanished",
    }
    return Entry(key=key, **(facts | changes))
