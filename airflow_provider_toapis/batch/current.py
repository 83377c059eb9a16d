"""What came of a video, held against what its row asks for by now: another run may have changed that meanwhile."""

from __future__ import annotations

from dataclasses import replace

from airflow_provider_toapis.batch.entries import Entry, Kept, Order, time_now
from airflow_provider_toapis.batch.plan import Attempt


def waits_for(entry: Entry, order: Order | None) -> bool:
    """Whether a row still waits for the video of an order, and for the same attempt."""
    now = entry.order
    if now is None or order is None:
        return False
    return (now.video_id, now.run, now.attempt, now.state) == (order.video_id, order.run, order.attempt, order.state)


def after_saving(entry: Entry, saved: Kept, attempt: Attempt) -> Entry:
    """Return a row, as it is known now, once a video is saved in its file.

    Where it waits for another video by now it goes on to do so. Where another run has saved a newer one, over which
    this one was written, it waits for that one again.
    """
    if saved.billed and saved.price_usd is not None:
        entry = entry.with_billed(saved.video_id, saved.price_usd)
    order = entry.order
    is_same = entry.kept is not None and entry.kept.video_id == saved.video_id
    if order is None and is_same:
        return entry
    if order is not None and order.video_id == saved.video_id:
        order = None
    elif order is None and entry.kept is not None:
        order = _once_more(entry.kept, attempt)
    superseded = tuple(video for video in entry.superseded if video.video_id != saved.video_id)
    return replace(entry, time=time_now(), kept=saved, order=order, superseded=superseded)


def _once_more(kept: Kept, attempt: Attempt) -> Order:
    return Order(
        "ordered",
        kept.fingerprint,
        attempt.run,
        attempt.number,
        base=kept.generation + 1,
        generation=kept.generation,
        client_business_id=kept.client_business_id,
        video_id=kept.video_id,
        deadline=attempt.deadline,
        price_usd=kept.price_usd,
    )
