"""What is known of each row of a feed: the video that is saved, and the submission for another one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import pendulum
from pydantic import AfterValidator, ConfigDict, TypeAdapter

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.responses import amount
from airflow_provider_toapis.batch.feed import normal_key

#: Of a line of the manifest.
VERSION = 1
#: Attempts that are remembered to have waited for a submission: far more than can be alive at a time.
_MAX_ATTEMPTS = 16
#: Videos whose costs are noted in a row: far more than a run submits for it.
_MAX_COSTS = 32
#: Of all that is read from the directory: a newer release may know of more fields.
READ_STRICTLY = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)


class RowStatus(StrEnum):
    """What a plan says of a row, or where its submission is."""

    NEW = "new"
    CHANGED = "changed"
    #: Its video is saved, or another run works on it.
    UNCHANGED = "unchanged"
    #: It is missing in the feed.
    REMOVED = "removed"
    #: It will be submitted.
    PENDING = "pending"
    #: It changed after the run was planned: the next run submits it.
    POSTPONED = "postponed"
    #: Its video is in progress, and billed.
    SUBMITTED = "submitted"
    #: The wait for its video, or for the response to its submission, has ended early; the next attempt re-attaches.
    INTERRUPTED = "interrupted"
    #: It has no video; the next attempt submits it again.
    FAILED = "failed"
    #: Its content is rejected; it is submitted again only when it has changed.
    REJECTED = "rejected"
    SAVED = "saved"


SubmissionState = Literal[
    RowStatus.PENDING,
    RowStatus.POSTPONED,
    RowStatus.SUBMITTED,
    RowStatus.INTERRUPTED,
    RowStatus.FAILED,
    RowStatus.REJECTED,
]


def _timestamp(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without a time zone")
    return text


def _price(text: str) -> str:
    if amount(text) is None:
        raise ValueError("not an amount")
    return text


#: ISO 8601, with a time zone.
Timestamp = Annotated[str, AfterValidator(_timestamp)]
#: A decimal number, in US dollars.
Price = Annotated[str, AfterValidator(_price)]


@dataclass(frozen=True)
class SavedVideo:
    """The video of a row that is in the directory.

    :param fingerprint: Of the row that it was made from.
    :param generation: Which of the videos that were submitted for this fingerprint it is, from 0.
    :param file: Its name in the directory.
    :param size: Bytes.
    :param sha256: Hex digest of the file.
    :param price_usd: What the service says it billed, else what was expected; None where neither is known.
    :param billed: Whether the service reported the price.
    :param run_id: The Airflow run that saved it.
    :param reattached: Whether an earlier run submitted it.
    :param posted_at: Epoch seconds at which it was submitted; None where that is not known.
    """

    __pydantic_config__: ClassVar = READ_STRICTLY

    fingerprint: str
    video_id: str
    client_business_id: str
    generation: int
    file: str
    size: int
    sha256: str
    price_usd: Price | None
    billed: bool
    saved_at: Timestamp
    run_id: str
    reattached: bool
    posted_at: float | None = None


@dataclass(frozen=True)
class RowSubmission:
    """The submission for a video that is not saved yet; planned, sent, or come to nothing.

    :param run_id: The Airflow run that worked on it last.
    :param try_number: Of that run's task.
    :param first_generation: The first generation that this run may submit.
    :param generation: The newest one that was submitted or found; below ``first_generation`` where none was yet.
    :param deadline: Epoch seconds until which this attempt waits for it.
    :param posted_at: Epoch seconds at which it was submitted; None where that is not known.
    :param price_usd: What it is expected to cost; None where no price is known.
    :param reason: Why the video is not there.
    :param webhook: Whether the service sends a webhook when the video is final.
    :param has_private_text: Whether the row's ``parameters`` hold texts. They are not saved, and the service may quote
        them.
    :param plan_rejected: Whether the attempt only waits for it, because its plan is rejected.
    :param attempts: The attempts that have waited for it, the newest last. Each extends the deadline once.
    """

    __pydantic_config__: ClassVar = READ_STRICTLY

    state: SubmissionState
    fingerprint: str
    run_id: str
    try_number: int
    first_generation: int = 0
    generation: int = -1
    client_business_id: str | None = None
    video_id: str | None = None
    deadline: float | None = None
    posted_at: float | None = None
    price_usd: Price | None = None
    reason: str | None = None
    webhook: bool = False
    has_private_text: bool = False
    plan_rejected: bool = False
    attempts: tuple[str, ...] = ()

    @property
    def is_in_progress(self) -> bool:
        """Whether it has a video that is billed, and not saved yet."""
        return self.video_id is not None and self.state in (RowStatus.SUBMITTED, RowStatus.INTERRUPTED)

    def with_attempt(self, run_id: str, try_number: int) -> RowSubmission:
        """Return it with one more attempt that waits for it."""
        return replace(self, attempts=(*self.attempts, attempt_name(run_id, try_number))[-_MAX_ATTEMPTS:])


@dataclass(frozen=True)
class Superseded:
    """A billed video that is not saved, because its row changed while it was being made.

    :param price_usd: What it was expected to cost; None where no price is known.
    :param run_id: The Airflow run that found the row changed.
    :param generation: Which of the videos that were submitted for this fingerprint it is, from 0.
    :param posted_at: Epoch seconds at which it was submitted; None where that is not known.
    """

    __pydantic_config__: ClassVar = READ_STRICTLY

    video_id: str
    client_business_id: str | None
    fingerprint: str
    price_usd: Price | None
    superseded_at: Timestamp
    run_id: str
    generation: int = 0
    posted_at: float | None = None


@dataclass(frozen=True)
class Cost:
    """What a run spent on one video of a row.

    :param run_id: The Airflow run that submitted the video.
    :param price_usd: What the service says it billed, else what is expected; None where neither is known.
    :param billed: Whether the service reported the price.
    """

    __pydantic_config__: ClassVar = READ_STRICTLY

    video_id: str
    client_business_id: str
    run_id: str
    price_usd: Price | None
    billed: bool = False


@dataclass(frozen=True)
class ManifestEntry:
    """One row of the feed as it is known; ``key`` names it.

    :param row: Its number in the feed that was read last.
    :param updated_at: When this was noted.
    :param images: Its images: URLs without credentials and signatures, paths or URIs.
    :param saved: The video that is in the directory; it stays there until a newer one takes its place.
    :param submission: For another video; None when ``saved`` is what the row asks for.
    :param in_feed: False once the row is missing in the feed.
    :param superseded: Billed videos for earlier forms of the row that were not saved.
    :param costs: What runs spent on videos of the row, the newest last; the last 32 videos.
    """

    key: str
    row: int
    updated_at: str
    prompt: str | None
    images: tuple[str, ...]
    model: str
    saved: SavedVideo | None = None
    submission: RowSubmission | None = None
    in_feed: bool = True
    superseded: tuple[Superseded, ...] = ()
    costs: tuple[Cost, ...] = ()

    def __post_init__(self) -> None:
        """Keep out of ``superseded`` what is saved, or in progress: a run has re-attached to it."""
        reattached = {self.saved.video_id if self.saved else None}
        if self.submission and self.submission.is_in_progress:
            reattached.add(self.submission.video_id)
        left = tuple(video for video in self.superseded if video.video_id not in reattached)
        object.__setattr__(self, "superseded", left)
        object.__setattr__(self, "costs", self.costs[-_MAX_COSTS:])

    @property
    def state(self) -> RowStatus:
        """``saved``, or the state of the submission."""
        return self.submission.state if self.submission else RowStatus.SAVED

    @property
    def videos(self) -> tuple[tuple[str, str], ...]:
        """The client_business_id and the id of each video that is known."""
        known = (self.saved, self.submission, *self.superseded, *self.costs)
        return tuple(
            (item.client_business_id, item.video_id)
            for item in known
            if item and item.video_id and item.client_business_id
        )

    def with_cost(self, run_id: str) -> ManifestEntry:
        """Return it with the price of its submitted video among the costs, unless it is there, or was free.

        A run re-attaches for nothing to a video that an earlier run submitted.
        """
        submission = self.submission
        if submission is None or submission.video_id is None or submission.generation < submission.first_generation:
            return self
        if any(cost.video_id == submission.video_id for cost in self.costs):
            return self
        cost = Cost(submission.video_id, str(submission.client_business_id), run_id, submission.price_usd)
        return replace(self, costs=(*self.costs, cost))

    def with_billed(self, video_id: str, price_usd: str) -> ManifestEntry:
        """Return it with the price that the service says it billed for a video, 0 where it has refunded it."""
        costs = (
            replace(cost, price_usd=price_usd, billed=True) if cost.video_id == video_id else cost
            for cost in self.costs
        )
        return replace(self, costs=tuple(costs))

    def as_dict(self) -> dict[str, Any]:
        """Return the line of the manifest: what is saved stands at its top level."""
        saved = asdict(self.saved) if self.saved else dict.fromkeys(_SAVED_FIELDS)
        return {
            "version": VERSION,
            "key": self.key,
            "state": self.state,
            **saved,
            "row": self.row,
            "in_feed": self.in_feed,
            "model": self.model,
            "prompt": self.prompt,
            "images": list(self.images),
            "updated_at": self.updated_at,
            "submission": asdict(self.submission) if self.submission else None,
            "superseded": [asdict(video) for video in self.superseded],
            "costs": [asdict(cost) for cost in self.costs],
        }

    def as_line(self) -> str:
        """Return the line of the manifest as text.

        A lone surrogate, which the service can send in the text of an error, becomes ``?``: no such line is read.
        """
        line = json.dumps(self.as_dict())
        if "\\ud" not in line:
            return line
        return json.dumps(json.loads(json.dumps(self.as_dict(), ensure_ascii=False).encode(errors="replace")))

    @classmethod
    def from_line(cls, text: str) -> ManifestEntry:
        """Read a line of the manifest.

        :raises ValueError: It is not one of this version.
        """
        line = _LINE.validate_json(text)
        return cls(
            key=normal_key(line.key),
            row=line.row,
            updated_at=line.updated_at,
            prompt=line.prompt,
            images=line.images,
            model=line.model,
            saved=None if line.file is None else _SAVED_VIDEO.validate_json(text),
            submission=line.submission,
            in_feed=line.in_feed,
            superseded=line.superseded,
            costs=line.costs,
        )


@dataclass(frozen=True)
class _Line:
    """What a line of the manifest has besides the fields of a saved video."""

    __pydantic_config__: ClassVar = READ_STRICTLY

    version: Literal[1]
    key: str
    file: str | None
    row: int
    in_feed: bool
    model: str
    prompt: str | None
    images: tuple[str, ...]
    updated_at: Timestamp
    submission: RowSubmission | None
    superseded: tuple[Superseded, ...]
    costs: tuple[Cost, ...]


_LINE = TypeAdapter(_Line)
_SAVED_VIDEO = TypeAdapter(SavedVideo)
_SAVED_FIELDS = tuple(field.name for field in fields(SavedVideo))


def time_now() -> str:
    """Return the time as entries tell it."""
    return pendulum.from_timestamp(clock.time()).to_iso8601_string()


def time_after(timestamp: str) -> str:
    """Return a time that is later than another one, and no earlier than now as entries tell it."""
    now = time_now()
    if is_later(now, timestamp):
        return now
    return pendulum.instance(datetime.fromisoformat(timestamp)).add(microseconds=1).to_iso8601_string()


def is_later(timestamp: str, other: str) -> bool:
    """Whether one time is later than another one.

    :raises ValueError: One of them is no time.
    """
    return datetime.fromisoformat(timestamp) > datetime.fromisoformat(other)


def newer_of(one: ManifestEntry, other: ManifestEntry) -> ManifestEntry:
    """Return which of two states of a row counts, the later one, with the billed videos of both.

    A pending submission that another run noted, before it knew of a video for the same row, does not hide that video.
    """
    newer, older = (one, other) if is_later(one.updated_at, other.updated_at) else (other, one)
    chosen, left = (older, newer) if _hides_video(newer, older) else (newer, older)
    saved = left.saved if _is_saved_later(left.saved, chosen.saved) else chosen.saved
    superseded = {video.video_id: video for video in (*left.superseded, *_dropped(left, chosen), *chosen.superseded)}
    return replace(chosen, saved=saved, superseded=tuple(superseded.values()), costs=_merged_costs(left, chosen))


def _merged_costs(left: ManifestEntry, chosen: ManifestEntry) -> tuple[Cost, ...]:
    """Return the costs of both states; what the service reports counts."""
    costs = {cost.video_id: cost for cost in left.costs}
    for cost in chosen.costs:
        if cost.billed or not (known := costs.get(cost.video_id)) or not known.billed:
            costs[cost.video_id] = cost
    return tuple(costs.values())


def _hides_video(newer: ManifestEntry, older: ManifestEntry) -> bool:
    """Whether a pending submission would hide the very video that it is for, submitted or saved by another run."""
    pending = newer.submission
    if pending is None or pending.state != RowStatus.PENDING:
        return False
    submission, saved = older.submission, older.saved
    is_submitted = (
        submission is not None and submission.is_in_progress and submission.fingerprint == pending.fingerprint
    )
    return is_submitted or (
        saved is not None and saved.fingerprint == pending.fingerprint and _is_saved_later(saved, newer.saved)
    )


def _is_saved_later(saved: SavedVideo | None, other: SavedVideo | None) -> bool:
    """Whether a video was saved, over another one where there was one."""
    return saved is not None and (other is None or is_later(saved.saved_at, other.saved_at))


def _dropped(left: ManifestEntry, chosen: ManifestEntry) -> tuple[Superseded, ...]:
    """Return the video that is in progress for another request than the one that counts."""
    submission, counts = left.submission, chosen.submission or chosen.saved
    if submission is None or not submission.is_in_progress:
        return ()
    if counts is None or counts.fingerprint == submission.fingerprint:
        return ()
    return (superseded_by(submission, chosen.updated_at, counts.run_id),)


def superseded_by(submission: RowSubmission, timestamp: str, run_id: str) -> Superseded:
    """Return the video of a submission that a run drops at a timestamp."""
    return Superseded(
        video_id=str(submission.video_id),
        client_business_id=submission.client_business_id,
        fingerprint=submission.fingerprint,
        price_usd=submission.price_usd,
        superseded_at=timestamp,
        run_id=run_id,
        generation=submission.generation,
        posted_at=submission.posted_at,
    )


def attempt_name(run_id: str, try_number: int) -> str:
    """Return what an attempt is called among those that have waited for a submission."""
    return f"{run_id}#{try_number}"
