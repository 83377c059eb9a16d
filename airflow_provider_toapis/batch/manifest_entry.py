"""Manifest entries. Each records a row's saved video, and the submission for the row's next video."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import pendulum
from pydantic import AfterValidator, ConfigDict, TypeAdapter

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.responses import amount
from airflow_provider_toapis.batch.feed import normal_key
from airflow_provider_toapis.media_check import MediaFacts

#: Version of a line of the manifest.
VERSION = 1
#: Maximum number of attempts that a submission records. Far more than can run at the same time.
_MAX_ATTEMPTS = 16
#: Maximum number of videos whose costs a row records. Far more than one run submits for a row.
_MAX_COSTS = 32
#: How every file in the directory is validated. Unknown fields are ignored, because a newer release may have written
#: them.
READ_STRICTLY = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)


class RowStatus(StrEnum):
    """The status of a row in a plan, or the state of its submission."""

    NEW = "new"
    CHANGED = "changed"
    #: The video is already saved, or another run works on the row.
    UNCHANGED = "unchanged"
    #: The row is not in the feed.
    REMOVED = "removed"
    #: The row will be submitted.
    PENDING = "pending"
    #: The row changed after the run was planned. The next run submits it.
    POSTPONED = "postponed"
    #: The video is in progress and billed.
    SUBMITTED = "submitted"
    #: The wait for the video, or for the response to the submission, ended early. The next attempt re-attaches to the
    #: video.
    INTERRUPTED = "interrupted"
    #: The row has no video to wait for. The next attempt submits the row again.
    FAILED = "failed"
    #: The service rejected the content. The row is submitted again only after it has changed.
    REJECTED = "rejected"
    #: The video is in the directory.
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
        raise ValueError("timestamp has no time zone")
    return text


def _price(text: str) -> str:
    if amount(text) is None:
        raise ValueError("not an amount")
    return text


#: ISO 8601 timestamp with a time zone.
Timestamp = Annotated[str, AfterValidator(_timestamp)]


#: Decimal number, in USD.
Price = Annotated[str, AfterValidator(_price)]


@dataclass(frozen=True)
class SavedVideo:
    """The saved video of a row.

    :param fingerprint: Fingerprint of the row that the video was made from.
    :param generation: Number of the submission among the row's submissions with this fingerprint, from 0.
    :param file: File name in the directory.
    :param size: File size in bytes.
    :param sha256: Hex digest of the file.
    :param price_usd: The price that the service billed, else the expected price; None if neither is known.
    :param billed: Whether the service reported the price.
    :param run_id: The Airflow run that saved the video.
    :param reattached: Whether an earlier run submitted the video.
    :param posted_at: Epoch seconds of the submission; None if unknown.
    :param duration: Requested seconds; None if the row requested no length.
    :param aspect_ratio: Requested aspect ratio; None if the row requested none.
    :param check_pending: Whether the video is still to be checked.
    :param media: The measured facts; None if the video was not measured.
    :param warnings: Deviations from the request, each a code, a colon and a text.
    :param poster_path: File name of the poster in the directory; None without a poster.
    :param check_failed: Whether the row counts as failed, because the video is not what was requested.
    :param redos: How many earlier videos of the row a reviewer had made again.
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
    duration: int | None = None
    aspect_ratio: str | None = None
    check_pending: bool = False
    media: MediaFacts | None = None
    warnings: tuple[str, ...] = ()
    poster_path: str | None = None
    check_failed: bool = False
    redos: int = 0

    @property
    def state(self) -> RowStatus:
        """``failed`` if the video is not what was requested, else ``saved``."""
        return RowStatus.FAILED if self.check_failed else RowStatus.SAVED


@dataclass(frozen=True)
class RowSubmission:
    """The submission for a video that is not saved. It is planned, sent or failed.

    :param run_id: The Airflow run that worked on the submission last.
    :param try_number: Try number of that run's task.
    :param first_generation: The first generation that this run can submit.
    :param generation: The newest generation that was submitted or found. Less than ``first_generation`` until this run
        has submitted or found a video.
    :param deadline: Epoch seconds until which the attempt waits for the video.
    :param posted_at: Epoch seconds of the submission; None if unknown.
    :param price_usd: Expected price; None if unknown.
    :param duration: Requested seconds; None if the row requested no length.
    :param aspect_ratio: Requested aspect ratio; None if the row requested none.
    :param reason: Why the video is not saved.
    :param webhook: Whether the service sends a webhook when the video is final.
    :param has_private_text: Whether the row's ``parameters`` contained text. That text is not recorded, but the service
        can quote it in an error message, so the whole message is redacted.
    :param plan_rejected: Whether the attempt only waits for the video, because the attempt's plan was rejected.
    :param attempts: The attempts that have waited for the video, the newest last. Each extends the deadline once.
    :param redos: How many earlier videos of the row a reviewer had made again.
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
    duration: int | None = None
    aspect_ratio: str | None = None
    reason: str | None = None
    webhook: bool = False
    has_private_text: bool = False
    plan_rejected: bool = False
    attempts: tuple[str, ...] = ()
    redos: int = 0

    @property
    def is_in_progress(self) -> bool:
        """Whether the submission has a billed video that is not saved yet."""
        return self.video_id is not None and self.state in (RowStatus.SUBMITTED, RowStatus.INTERRUPTED)

    def with_attempt(self, run_id: str, try_number: int) -> RowSubmission:
        """Return the submission with an attempt added to ``attempts``."""
        return replace(self, attempts=(*self.attempts, attempt_name(run_id, try_number))[-_MAX_ATTEMPTS:])


@dataclass(frozen=True)
class Superseded:
    """A billed video that is not saved, because its row changed while the video was in progress.

    :param price_usd: Expected price; None if unknown.
    :param run_id: The Airflow run that found that the row had changed.
    :param generation: Number of the submission among the row's submissions with this fingerprint, from 0.
    :param posted_at: Epoch seconds of the submission; None if unknown.
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
class Review:
    """What a reviewer decided about a saved video.

    :param decision: ``redo`` requests another video for the row. The next run submits it.
    :param comment: What must change; empty without a comment.
    :param reviewed_by: Name of the Airflow user.
    """

    __pydantic_config__: ClassVar = READ_STRICTLY

    decision: Literal["approve", "redo"]
    video_id: str
    comment: str
    reviewed_by: str
    reviewed_at: Timestamp


@dataclass(frozen=True)
class Cost:
    """The cost of one video of a row.

    :param run_id: The Airflow run that submitted the video.
    :param price_usd: The price that the service billed, else the expected price; None if neither is known.
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
    """The recorded state of one row, identified by ``key``.

    :param row: Row number in the feed that was read last.
    :param updated_at: When the state was recorded.
    :param images: Image references: URLs without credentials and signatures, paths or URIs.
    :param saved: The video in the directory. A newer one replaces it.
    :param submission: The submission for the next video; None if ``saved`` is the requested video.
    :param in_feed: False once the row is no longer in the feed.
    :param superseded: Billed videos for earlier versions of the row that were not saved.
    :param costs: Costs of the row's last 32 videos, the newest last.
    :param review: The newest review of a video of the row.
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
    review: Review | None = None

    def __post_init__(self) -> None:
        """Remove the saved video and the video in progress from ``superseded``, because a run re-attached to them."""
        reattached = {self.saved.video_id if self.saved else None}
        if self.submission and self.submission.is_in_progress:
            reattached.add(self.submission.video_id)
        left = tuple(video for video in self.superseded if video.video_id not in reattached)
        object.__setattr__(self, "superseded", left)
        object.__setattr__(self, "costs", self.costs[-_MAX_COSTS:])

    @property
    def state(self) -> RowStatus:
        """The state of the submission; without a submission, the state of the saved video."""
        if self.submission:
            return self.submission.state
        return self.saved.state if self.saved else RowStatus.SAVED

    @property
    def reason(self) -> str | None:
        """Why the row is not saved, or why its saved video is not what was requested; None if all is well."""
        if self.submission:
            return self.submission.reason
        return "; ".join(self.saved.warnings) if self.saved and self.saved.check_failed else None

    @property
    def videos(self) -> tuple[tuple[str, str], ...]:
        """Pairs of client_business_id and video id, one for each known video."""
        known = (self.saved, self.submission, *self.superseded, *self.costs)
        return tuple(
            (item.client_business_id, item.video_id)
            for item in known
            if item and item.video_id and item.client_business_id
        )

    def with_cost(self, run_id: str) -> ManifestEntry:
        """Return the entry with the cost of its submitted video added, unless ``costs`` already contains that cost.

        A video that an earlier run submitted (``generation`` below ``first_generation``) costs this run nothing, so no
        cost is added.
        """
        submission = self.submission
        if submission is None or submission.video_id is None or submission.generation < submission.first_generation:
            return self
        if any(cost.video_id == submission.video_id for cost in self.costs):
            return self
        cost = Cost(submission.video_id, str(submission.client_business_id), run_id, submission.price_usd)
        return replace(self, costs=(*self.costs, cost))

    def with_billed(self, video_id: str, price_usd: str) -> ManifestEntry:
        """Return the entry with the price that the service billed for a video. The price is 0 after a refund."""
        costs = (
            replace(cost, price_usd=price_usd, billed=True) if cost.video_id == video_id else cost
            for cost in self.costs
        )
        return replace(self, costs=tuple(costs))

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as the dict of a manifest line. The fields of the saved video are at its top level."""
        saved = _fields_of(self.saved) if self.saved else dict.fromkeys(_SAVED_FIELDS)
        if media := saved["media"]:
            saved["media"] = media.as_dict()
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
            "submission": _fields_of(self.submission) if self.submission else None,
            "superseded": list(map(_fields_of, self.superseded)),
            "costs": list(map(_fields_of, self.costs)),
            "review": _fields_of(self.review) if self.review else None,
        }

    def as_line(self) -> str:
        """Return the entry as a line of the manifest.

        The service can send a lone surrogate in an error message. It becomes ``?``, because a line that contains a lone
        surrogate could not be read again.
        """
        line = json.dumps(self.as_dict())
        if "\\ud" not in line:
            return line
        return json.dumps(json.loads(json.dumps(self.as_dict(), ensure_ascii=False).encode(errors="replace")))

    @classmethod
    def from_line(cls, text: str) -> ManifestEntry:
        """Parse a line of the manifest.

        :raises ValueError: The line is invalid or has another version.
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
            review=line.review,
        )


@dataclass(frozen=True)
class _Line:
    """The fields of a line of the manifest, without those of a saved video."""

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
    review: Review | None = None


_LINE = TypeAdapter(_Line)
_SAVED_VIDEO = TypeAdapter(SavedVideo)
_SAVED_FIELDS = tuple(field.name for field in fields(SavedVideo))


def _fields_of(record: object) -> dict[str, Any]:
    # `asdict` also copies each value, which takes most of the time in which a large manifest is written.
    return dict(vars(record))


def time_now() -> str:
    """Return the current time in the format of entries."""
    return pendulum.from_timestamp(clock.time()).to_iso8601_string()


def attempt_name(run_id: str, try_number: int) -> str:
    """Return the name of an attempt in ``RowSubmission.attempts``."""
    return f"{run_id}#{try_number}"
