"""Change the manifest entry of a row when its video is submitted, saved or lost."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.responses import RESULT_LIFETIME
from airflow_provider_toapis.batch.manifest import is_later, time_after
from airflow_provider_toapis.batch.manifest_entry import (
    ManifestEntry,
    RowStatus,
    RowSubmission,
    SavedVideo,
    SubmissionState,
    time_now,
)
from airflow_provider_toapis.batch.plan import Attempt
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsContentPolicyError,
    ToAPIsError,
    ToAPIsNotFoundError,
    ToAPIsQuotaError,
    ToAPIsWaitInterruptedError,
)

if TYPE_CHECKING:
    from airflow_provider_toapis.api.download import StoredFile
    from airflow_provider_toapis.api.responses import VideoTask
    from airflow_provider_toapis.api.submit_spec import Submission

log = logging.getLogger(__name__)


def waits_for(entry: ManifestEntry, submission: RowSubmission | None) -> bool:
    """Return whether the attempt that waited for the video of ``submission`` still waits for it."""
    now = entry.submission
    if now is None or submission is None:
        return False
    same = ("video_id", "run_id", "try_number", "state")
    return all(getattr(now, name) == getattr(submission, name) for name in same)


def after_saving(entry: ManifestEntry, saved: SavedVideo, attempt: Attempt) -> ManifestEntry:
    """Return a row's entry after the video ``saved`` was written to the row's file.

    A submission for another video stays in the entry. If ``saved`` has overwritten a newer video that another run had
    saved, the entry gets a submission for that newer video, so that it is saved again.
    """
    if saved.billed and saved.price_usd is not None:
        entry = entry.with_billed(saved.video_id, saved.price_usd)
    submission = entry.submission
    is_same = entry.saved is not None and entry.saved.video_id == saved.video_id
    if submission is None and is_same:
        return entry
    saved = saved_after(entry.saved, saved)
    if submission is not None and submission.video_id == saved.video_id:
        submission = None
    elif submission is None and entry.saved is not None:
        submission = _waited_for_again(entry.saved, attempt)
    superseded = tuple(video for video in entry.superseded if video.video_id != saved.video_id)
    return replace(entry, updated_at=time_now(), saved=saved, submission=submission, superseded=superseded)


def saved_after(before: SavedVideo | None, saved: SavedVideo) -> SavedVideo:
    """Return ``saved`` with a later time than the video that it replaces.

    The clock of the worker that saved the replaced video can be ahead. Without a later time, a merge would choose the
    replaced video, although its file is gone.
    """
    if before is None or is_later(saved.saved_at, before.saved_at):
        return saved
    return replace(saved, saved_at=time_after(before.saved_at))


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
        duration=saved.duration,
        aspect_ratio=saved.aspect_ratio,
        redos=saved.redos,
    )


@dataclass(frozen=True)
class Outcome:
    """The result of submitting, looking up or saving one row's video.

    :param entry: The row's new state.
    :param abort_error: An error that would affect all other submissions as well; else None.
    :param claimed_elsewhere: Whether another process is submitting the row right now. ``entry`` is then unchanged.
    """

    entry: ManifestEntry
    abort_error: ToAPIsError | None = None
    claimed_elsewhere: bool = False


def _submission_of(entry: ManifestEntry) -> RowSubmission:
    if entry.submission is None:
        raise ValueError(f"row {entry.key} has no submission")
    return entry.submission


def _state_after(error: ToAPIsError) -> SubmissionState:
    return RowStatus.REJECTED if isinstance(error, ToAPIsContentPolicyError) else RowStatus.FAILED


def _with_submission(entry: ManifestEntry, **changes: object) -> ManifestEntry:
    submission = replace(_submission_of(entry), **changes)  # type: ignore[arg-type]
    return replace(entry, updated_at=time_now(), submission=submission)


def submitted_elsewhere(entry: ManifestEntry) -> ManifestEntry:
    """Mark a row as interrupted: another process was still submitting it when this attempt stopped waiting."""
    reason = "Another process is submitting this row. It is billed once, and the next attempt re-attaches to its video."
    return _with_submission(entry, state=RowStatus.INTERRUPTED, reason=reason, video_id=None)


def mark_missing_from_feed(entry: ManifestEntry) -> ManifestEntry:
    """Mark a pending row as failed, because it was missing when the feed was read again."""
    reason = "The row is no longer in the feed. Nothing was submitted for it."
    return _with_submission(entry, state=RowStatus.FAILED, reason=reason)


def _interrupted(entry: ManifestEntry, error: ToAPIsError) -> Outcome:
    return Outcome(_with_submission(entry, state=RowStatus.INTERRUPTED, reason=str(error)))


def _on_look_up_error(entry: ManifestEntry, error: ToAPIsError) -> Outcome:
    """Handle a failed look-up. The row keeps waiting until its deadline, unless the service rejects the account."""
    submission = _submission_of(entry)
    is_rejection = isinstance(error, ToAPIsAuthError | ToAPIsQuotaError)
    if _is_before_deadline(submission) and not is_rejection:
        return Outcome(entry)
    if isinstance(error, ToAPIsNotFoundError) and not _must_exist(submission):
        return _not_found(entry)
    return _interrupted(entry, ToAPIsWaitInterruptedError.for_video(str(submission.video_id), error))


def _lost(entry: ManifestEntry, reason: str) -> Outcome:
    """Mark a row as failed because the result of its video expired before it was saved.

    The next attempt submits a new video.
    """
    price = _submission_of(entry).price_usd
    log.warning("%s: %s Price of the lost video: %s.", entry.key, reason, f"{price} USD" if price else "not known")
    return Outcome(_with_submission(entry, state=RowStatus.FAILED, reason=reason))


def _not_found(entry: ManifestEntry) -> Outcome:
    """Mark a row as failed because the service does not find its video.

    The next attempt looks the video up again. If the video is still not found, the attempt submits a new one.
    """
    submission = _submission_of(entry)
    reason = (
        f"The service does not find submitted video {submission.video_id}. The next attempt looks it up again. If the"
        " video is still not found, the attempt submits a new one, which is billed."
    )
    log.warning("%s: %s", entry.key, reason)
    # Reset to the state before this generation was submitted.
    first, before = min(submission.first_generation, submission.generation), submission.generation - 1
    return Outcome(
        _with_submission(entry, state=RowStatus.FAILED, reason=reason, first_generation=first, generation=before)
    )


def _saved_video(submission: RowSubmission, task: VideoTask, stored: StoredFile, *, check_pending: bool) -> SavedVideo:
    billed = task.cost_usd
    return SavedVideo(
        fingerprint=submission.fingerprint,
        video_id=task.id,
        client_business_id=str(submission.client_business_id),
        generation=submission.generation,
        file=stored.path.rpartition("/")[2],
        size=stored.size,
        sha256=stored.sha256,
        price_usd=submission.price_usd if billed is None else f"{billed:f}",
        billed=billed is not None,
        saved_at=time_now(),
        run_id=submission.run_id,
        reattached=submission.generation < submission.first_generation,
        posted_at=submission.posted_at,
        duration=submission.duration,
        aspect_ratio=submission.aspect_ratio,
        redos=submission.redos,
        check_pending=check_pending,
        warnings=stored.warnings,
    )


def _posted_at(submission: Submission, before: RowSubmission) -> float | None:
    """Return when a video was submitted: now, or the recorded or reported time if the video was re-attached."""
    if not submission.reattached:
        return clock.time()
    created_at = submission.task.created_at
    known = before.posted_at if before.client_business_id == submission.client_business_id else None
    return created_at.timestamp() if known is None and created_at else known


def _must_exist(submission: RowSubmission) -> bool:
    """Return whether the service must still have the video, because it was submitted less than a day ago."""
    return submission.posted_at is not None and clock.time() < submission.posted_at + RESULT_LIFETIME


def _is_before_deadline(submission: RowSubmission) -> bool:
    return submission.deadline is None or clock.time() < submission.deadline
