"""Merge a saved video into its row, which another run may have changed in the meantime."""

from __future__ import annotations

from dataclasses import replace

from airflow_provider_toapis.batch.manifest_entry import ManifestEntry, RowStatus, RowSubmission, SavedVideo, time_now
from airflow_provider_toapis.batch.plan import Attempt


def waits_for(entry: ManifestEntry, submission: RowSubmission | None) -> bool:
    """Whether a row still waits for the video of ``submission``, on behalf of the same attempt."""
    now = entry.submission
    if now is None or submission is None:
        return False
    same = ("video_id", "run_id", "try_number", "state")
    return all(getattr(now, name) == getattr(submission, name) for name in same)


def after_saving(entry: ManifestEntry, saved: SavedVideo, attempt: Attempt) -> ManifestEntry:
    """Return a row's current entry after ``saved`` was written to its file.

    A row that now waits for another video keeps waiting for it. If another run had saved a newer video, which this one
    has overwritten, the row waits for the newer one again.
    """
    if saved.billed and saved.price_usd is not None:
        entry = entry.with_billed(saved.video_id, saved.price_usd)
    submission = entry.submission
    is_same = entry.saved is not None and entry.saved.video_id == saved.video_id
    if submission is None and is_same:
        return entry
    if submission is not None and submission.video_id == saved.video_id:
        submission = None
    elif submission is None and entry.saved is not None:
        submission = _waited_for_again(entry.saved, attempt)
    superseded = tuple(video for video in entry.superseded if video.video_id != saved.video_id)
    return replace(entry, updated_at=time_now(), saved=saved, submission=submission, superseded=superseded)


def _waited_for_again(saved: SavedVideo, attempt: Attempt) -> RowSubmission:
    return RowSubmission(
        RowStatus.SUBMITTED,
        saved.fingerprint,
        attempt.run_id,
        attempt.try_number,
        first_generation=saved.generation + 1,
        generation=saved.generation,
        client_business_id=saved.client_business_id,
        video_id=saved.video_id,
        deadline=attempt.deadline,
        price_usd=saved.price_usd,
    )
