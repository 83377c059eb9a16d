"""Submission record, which lists the submissions of a task instance and survives retries.

It is used in addition to the look-up by idempotency key. On Airflow 3.3 and newer, the record is in the task instance's
state store, which survives retries and, on 3.3, also clears. Older versions of Airflow have no such store, and delete
the XComs before each attempt, so on these versions the record lasts only for one attempt.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.responses import parse_decimal
from airflow_provider_toapis.api.submit_spec import PriorSubmission, RequestIdentity
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsError

if TYPE_CHECKING:
    from decimal import Decimal

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_toapis.api.flows import RecordSubmission
    from airflow_provider_toapis.api.responses import VideoTask
    from airflow_provider_toapis.api.submit_spec import IdempotencyKeys, Submission, SubmitSpec

log = logging.getLogger(__name__)
#: Key of the record in the task's state store, and its version.
RECORD_KEY = "toapis_submissions"
VERSION = 1
#: XCom key of the list of all known generations of a task instance.
VIDEOS_KEY = "toapis_video"
#: Maximum number of submissions in the record, because Airflow warns about values above 64 KiB.
_MAX_SUBMISSIONS = 60
#: Maximum number of earlier revisions that are looked up after a clear that deleted the record.
_MAX_LOST_REVISIONS = 40
_HIGHER_REVISIONS = 5


def downloaded_video(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a downloaded video as an entry of the XCom ``toapis_video``.

    Its generation and its cost are None, because the task has not submitted the video.

    :param result: The result of the download.
    """
    known = {name: result[name] for name in ("status", "model", "client_business_id", "output_path")}
    video = RecordedSubmission(request="", request_without_images="", images="", video_id=result["id"], **known)
    return video.as_video() | {"generation": None}


def reason_of(error: Exception) -> str:
    """Return why an attempt failed, for an XCom.

    The text of an unexpected error is left out, because it can contain a secret. NUL characters and lone surrogates are
    replaced, because PostgreSQL rejects them.
    """
    if not isinstance(error, ToAPIsError):
        return f"{type(error).__name__}. The log of the task says more."
    return str(error).encode(errors="replace").decode().replace("\0", "?")


def is_retry(context: Context) -> bool:
    """Return whether an earlier attempt of this task may have submitted something."""
    try_number = context["ti"].try_number
    return isinstance(try_number, int) and try_number > 1


@dataclass(frozen=True)
class RecordedSubmission:
    """What is known about one generation of one request.

    :param request: See :class:`RequestIdentity`, which also explains ``request_without_images`` and ``images``.
    :param revision: Revision of the request. With ``on_clear="regenerate"`` each clear starts a new revision.
    :param generation: Number of the submission of that revision, from 0.
    :param posted_at: Epoch seconds of the newest POST, by the service's clock.
    :param unknown_posts: Number of POSTs with an unknown outcome since the task was last cleared.
    :param had_unknown_posts: Whether a POST from before the last clear has an unknown outcome.
    :param found_by_key: Whether the service is known to find the video by ``client_business_id``.
    :param status: The video's status, as the service last reported it.
    :param model: The video's model, as the service last reported it.
    :param cost_usd: The video's cost in USD, as the service last reported it.
    :param price_usd: The price in USD that was expected when the video was submitted.
    :param output_path: Where the video is saved.
    :param reattached_for: Later revision that uses this video instead of a new one, because the video was still in
        progress when an attempt re-attached to it.
    """

    request: str
    request_without_images: str
    images: str
    client_business_id: str
    revision: int = 0
    generation: int = 0
    video_id: str | None = None
    posted_at: float | None = None
    unknown_posts: int = 0
    had_unknown_posts: bool = False
    found_by_key: bool = False
    status: str | None = None
    model: str | None = None
    cost_usd: float | None = None
    price_usd: float | None = None
    output_path: str | None = None
    reattached_for: int | None = None

    @property
    def is_rejected(self) -> bool:
        """Whether it is certain that none of the generation's POSTs created a video."""
        return self.video_id is None and self.unknown_posts == 0 and self.posted_at is None

    def as_video(self, reason: str | None = None, identity: str | None = None) -> dict[str, Any]:
        """Return this generation as an entry of the XCom ``toapis_video``.

        :param reason: Why the attempt that worked on the generation failed; None if it did not fail.
        :param identity: The operator's ``identity``.
        """
        return {
            "id": self.video_id,
            "status": self.status,
            "model": self.model,
            "generation": self.generation,
            "client_business_id": self.client_business_id,
            "submitted_at": None if self.posted_at is None else datetime.fromtimestamp(self.posted_at, UTC).isoformat(),
            "cost_usd": self.cost_usd,
            "price_usd": self.price_usd,
            "output_path": self.output_path,
            "reason": reason,
            "identity": identity,
        }


@dataclass(frozen=True)
class _Record:
    """The record as it is stored.

    :param max_tries: ``max_tries`` of the task instance when the record was written. A clear changes it.
    :param clears: How often the task was cleared.
    :param finished_try: The last try that ended with success. If a later try exists, the task was cleared after this
        try.
    :param is_complete: Whether the record lists the submissions of all attempts. If False, earlier attempts may have
        submitted videos that are not listed.
    """

    revision: int
    max_tries: int
    clears: int
    is_complete: bool
    finished_try: int | None = None
    submissions: tuple[RecordedSubmission, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON values for the store, with lists instead of tuples."""
        return {"version": VERSION, **asdict(self), "submissions": [asdict(item) for item in self.submissions]}

    @classmethod
    def parse(cls, stored: object) -> Self:
        """Parse a record from the store. Additional fields of a newer release are ignored.

        :raises ValueError: The stored value is not a record of this version.
        """
        from pydantic import TypeAdapter

        if not isinstance(stored, Mapping) or stored.get("version") != VERSION:
            raise ValueError("not a submission record of this version")
        return TypeAdapter(cls).validate_python(stored)


class SubmissionRecord:
    """The submissions of a task instance. An attempt loads them before it does anything else.

    :param context: Airflow's context, for the state store and the task instance.
    :param retries: The task's ``retries``. If the task instance has higher ``max_tries``, the task was cleared.
    :param resumed: Whether the attempt continues after a deferral. If so, its video is known even without the record.
    :raises ToAPIsConnectionError: The state store cannot be read at the start of an attempt.
    """

    def __init__(self, context: Context, retries: int, *, resumed: bool = False) -> None:
        ti = context["ti"]
        self._ti = ti
        self._store: Any = context.get("task_state_store")
        self._try_number = ti.try_number if isinstance(ti.try_number, int) else 1
        self._is_unreadable = False
        self._is_retry_without_record = False
        #: Earlier revisions whose submissions are not recorded, the newest first, because a clear deleted the record.
        self.lost_revisions: Sequence[int] = ()
        stored = self._load(resumed=resumed)
        self._record = self._new_record(retries) if stored is None else self._continued(stored)

    def revision(self, request: str) -> int:
        """Return the current revision of a request. Each clear increases the revision.

        If an attempt re-attached to the video of an earlier revision, because the video was still in progress, return
        that earlier revision until the next clear.
        """
        current = self._record.revision
        reattached = (
            item.revision
            for item in self._record.submissions
            if item.request == request and item.reattached_for == current
        )
        return next(reattached, current)

    @property
    def clears(self) -> int:
        """Number of known clears of the task. Each clear allows one more submission, to replace an expired result."""
        return self._record.clears

    def earlier(self, identity: RequestIdentity, *keys: IdempotencyKeys) -> PriorSubmission | None:
        """Return what is known about the submission of an earlier attempt; None if the record shows that none was made.

        :param keys: The idempotency keys of the request for each model that can be used.

        If no record could be loaded, an earlier attempt may have submitted in three cases: Airflow is older than 3.3, a
        clear deleted the record, or the record cannot be parsed. In all other cases, the earlier attempt ended before
        it submitted, for example because the scheduler died while the task was queued.
        """
        same = [item for item in self._record.submissions if item.request == identity.request and not item.is_rejected]
        if not same and self._is_retry_without_record:
            # The earlier attempt submitted nothing, so one look-up is enough. `posted_at=0.0` prevents further ones.
            # If this method returned None, a 404 from a gateway would count as a 404 from the service.
            return PriorSubmission(posted_at=0.0)
        if not same:
            return None if self._record.is_complete else PriorSubmission()
        newest = same[-1]
        # With on_clear="reuse", a clear does not change the keys, so generations before and after a clear belong to the
        # same series.
        of_models = (
            [item for item in same if item.client_business_id == each.for_generation(item.generation)] for each in keys
        )
        series = next((items for items in of_models if newest in items), None)
        if series is None:
            series = [item for item in same if item.revision == newest.revision]
        expired = sum(item.status == "completed" and item.generation < newest.generation for item in series)
        return PriorSubmission(
            newest.client_business_id,
            newest.video_id,
            posted_at=newest.posted_at,
            failed=max(0, newest.generation - expired),
            unknown_posts=sum(item.unknown_posts for item in series),
            found_by_key=any(item.found_by_key for item in (same if len(keys) == 1 else series)),
            is_newest=self._record.is_complete,
            is_current_revision=newest.revision == self.revision(identity.request),
        )

    @property
    def may_have_submitted(self) -> bool:
        """Whether this or an earlier attempt of the task instance may have submitted a video."""
        return not self._record.is_complete or any(not item.is_rejected for item in self._record.submissions)

    def possible_keys(self, spec: SubmitSpec) -> list[str]:
        """Return the idempotency keys of all generations that may exist. For each model, the newest is first."""
        return [key for candidate in spec.candidates() for key in self._possible_keys(candidate)]

    def _possible_keys(self, spec: SubmitSpec) -> Iterator[str]:
        recorded = (
            item.generation
            for item in self._record.submissions
            if item.client_business_id == spec.keys.for_generation(item.generation)
        )
        newest = max(spec.max_generations + self.clears - 1, *recorded, 0)
        return map(spec.keys.for_generation, range(newest, -1, -1))

    def submitted_with_same_images(self, identity: RequestIdentity) -> RecordedSubmission | None:
        """Return the newest video for the same request and image references; None if no such video is recorded.

        Called when the images cannot be read, so that their content cannot be compared.
        """
        same = [
            item
            for item in self._record.submissions
            if item.request_without_images == identity.request_without_images
            and item.images == identity.images
            and item.video_id
        ]
        return same[-1] if same else None

    def remember(self, submission: RecordSubmission, identity: RequestIdentity) -> None:
        """Record a submission before it is sent, after its response, and after its rejection.

        :raises ToAPIsConnectionError: The record cannot be written before the POST.
        """
        before = self._find(submission.client_business_id)
        entry = before or RecordedSubmission(
            **asdict(identity),
            client_business_id=submission.client_business_id,
            revision=self.revision(identity.request),
            generation=submission.generation,
        )
        if submission.rejected:
            left = max(0, entry.unknown_posts - 1)
            is_known = bool(left or entry.video_id or entry.had_unknown_posts)
            entry = replace(entry, unknown_posts=left, posted_at=entry.posted_at if is_known else None)
        elif submission.video_id is None:
            entry = replace(entry, unknown_posts=entry.unknown_posts + 1, posted_at=submission.posted_at)
        else:
            found = entry.found_by_key or submission.found_by_key
            entry = replace(entry, video_id=submission.video_id, unknown_posts=0, found_by_key=found)
            entry = _with_task(entry, submission.task) if submission.task else entry
        self._put(entry)
        self._write(required=submission.is_intent)

    def attach(self, submission: Submission, identity: RequestIdentity) -> None:
        """Record that this attempt re-attaches to a video. The video's revision is used until the next clear."""
        key, task = submission.client_business_id, submission.task
        revision = self.revision(identity.request)
        entry = self._find(key) or RecordedSubmission(
            **asdict(identity),
            client_business_id=key,
            revision=revision if submission.earlier_revision is None else submission.earlier_revision,
            generation=submission.generation,
        )
        reattached_for = entry.reattached_for if entry.revision == revision else revision
        self._put(_with_task(replace(entry, video_id=task.id, unknown_posts=0, reattached_for=reattached_for), task))
        self._write()

    def set_price(self, video_id: str, price: Decimal | None) -> None:
        """Note the expected price of a submitted video. It is written with the next change of the record."""
        for item in self._record.submissions:
            if item.video_id == video_id and price is not None:
                self._put(replace(item, price_usd=float(price)))
                return

    def update(self, task: VideoTask) -> None:
        """Record the current state of a video."""
        for item in self._record.submissions:
            if item.video_id == task.id:
                self._put(_with_task(item, task))
                self._write()
                return

    def finish(self, result: Mapping[str, Any], identity: RequestIdentity | None = None) -> None:
        """Record that an attempt has ended with a video."""
        key = str(result["client_business_id"])
        entry = next((item for item in self._record.submissions if item.video_id == result["id"]), None)
        if entry is None and identity is not None:
            entry = RecordedSubmission(
                **asdict(identity), client_business_id=key, video_id=result["id"], posted_at=clock.time()
            )
        if entry is not None:
            cost = _number((result.get("billing") or {}).get("cost_usd"))
            self._put(
                replace(
                    entry,
                    status=result["status"],
                    model=result["model"],
                    cost_usd=entry.cost_usd if cost is None else cost,
                    output_path=result["output_path"],
                )
            )
        self._record = replace(self._record, finished_try=self._try_number)
        self._write()

    def videos(self, failure: str | None = None, identity: str | None = None) -> list[dict[str, Any]]:
        """Return all known generations that have a video, for the XCom ``toapis_video``.

        :param failure: Why this attempt failed. It becomes the ``reason`` of the newest generation.
        :param identity: The operator's ``identity``.
        """
        known = [item for item in self._record.submissions if item.video_id]
        return [item.as_video(failure if item is known[-1] else None, identity) for item in known]

    def _load(self, *, resumed: bool) -> _Record | None:
        if self._store is None:
            return self._from_xcom()
        try:
            stored = self._store.get(RECORD_KEY)
        except Exception as error:
            if resumed:
                log.warning("Cannot read the submission record of this task (%s).", type(error).__name__)
                # The unknown content of the store must not be overwritten.
                self._store = None
                return self._from_xcom()
            raise ToAPIsConnectionError(
                f"Cannot read the submission record of this task ({type(error).__name__}). What earlier"
                " attempts submitted is unknown, so this attempt submits nothing. A retry reads the record again.",
                sent=False,
            ) from error
        if stored is None:
            return None
        try:
            return _Record.parse(stored)
        except ValueError as error:
            log.warning(
                "Cannot parse the submission record (%s). Earlier submissions are looked up by client_business_id.",
                type(error).__name__,
            )
            self._is_unreadable = True
            return None

    def _from_xcom(self) -> _Record | None:
        """Return the record that this attempt pushed to XCom before it was deferred."""
        known = self._ti.xcom_pull(task_ids=self._ti.task_id, key=VIDEOS_KEY, map_indexes=self._ti.map_index)
        if not isinstance(known, list):
            return None
        names = {field.name for field in fields(RecordedSubmission)}
        submissions = tuple(
            RecordedSubmission(
                request="",
                request_without_images="",
                images="",
                video_id=item["id"],
                posted_at=_epoch_seconds(item.get("submitted_at")),
                **{name: value for name, value in item.items() if name in names},
            )
            for item in known
        )
        return _Record(self._ti.max_tries, self._ti.max_tries, 0, is_complete=False, submissions=submissions)

    def _new_record(self, retries: int) -> _Record:
        # A clear raises `max_tries` above `retries`. Another number can also mean that `retries` was changed.
        is_retry, tries = self._try_number > 1, self._ti.max_tries
        cleared = is_retry and tries > retries
        may_be_cleared = is_retry and tries != retries
        may_be_lost = is_retry and (self._store is None or may_be_cleared)
        self._is_retry_without_record = self._try_number > 1 and not may_be_lost and not self._is_unreadable
        if may_be_cleared:
            # A revision is the `max_tries` of its time. It can be higher than today's if `retries` was lowered.
            higher = range(tries + _HIGHER_REVISIONS, tries, -1)
            self.lost_revisions = (*range(tries - 1, -1, -1)[:_MAX_LOST_REVISIONS], *higher)
        return _Record(
            revision=self._ti.max_tries,
            max_tries=self._ti.max_tries,
            clears=self._try_number - 1 if cleared else 0,
            is_complete=not (may_be_lost or self._is_unreadable),
        )

    def _continued(self, record: _Record) -> _Record:
        finished = record.finished_try is not None and self._try_number > record.finished_try
        if record.max_tries == self._ti.max_tries and not finished:
            return record
        return replace(
            record,
            revision=max(self._ti.max_tries, record.revision + 1),
            max_tries=self._ti.max_tries,
            clears=record.clears + 1,
            finished_try=None,
            submissions=tuple(
                replace(item, unknown_posts=0, had_unknown_posts=item.had_unknown_posts or item.unknown_posts > 0)
                for item in record.submissions
            ),
        )

    def _find(self, client_business_id: str) -> RecordedSubmission | None:
        same = (item for item in self._record.submissions if item.client_business_id == client_business_id)
        return next(same, None)

    def _put(self, entry: RecordedSubmission) -> None:
        """Replace an entry by its newest state and move it to the end."""
        others = [item for item in self._record.submissions if item.client_business_id != entry.client_business_id]
        entries = [*others, entry]
        self._record = replace(
            self._record,
            submissions=tuple(entries[-_MAX_SUBMISSIONS:]),
            is_complete=self._record.is_complete and len(entries) <= _MAX_SUBMISSIONS,
        )

    def _write(self, *, required: bool = False) -> None:
        if self._store is None:
            return
        try:
            self._store.set(RECORD_KEY, self._record.as_json())
        except Exception as error:
            if required:
                raise ToAPIsConnectionError(
                    f"Cannot write the submission record of this task ({type(error).__name__}). This attempt submits"
                    " nothing, because without the record a retry could submit the video a second time.",
                    sent=False,
                ) from error
            log.warning(
                "Cannot write the submission record of this task (%s). The next attempt looks the video up by its"
                " client_business_id.",
                type(error).__name__,
            )


def _with_task(entry: RecordedSubmission, task: VideoTask) -> RecordedSubmission:
    cost = entry.cost_usd if task.cost_usd is None else float(task.cost_usd)
    created_at = task.created_at.timestamp() if task.created_at else clock.time()
    return replace(
        entry,
        status=str(task.status),
        model=task.model or entry.model,
        cost_usd=cost,
        posted_at=created_at if entry.posted_at is None else entry.posted_at,
    )


def _epoch_seconds(timestamp: object) -> float | None:
    return datetime.fromisoformat(timestamp).timestamp() if isinstance(timestamp, str) else None


def _number(value: object) -> float | None:
    number = parse_decimal(value)
    return None if number is None else float(number)
