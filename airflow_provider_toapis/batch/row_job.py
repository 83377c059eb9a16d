"""Submit, look up and save the video of one row. An error becomes the row's new state, so that other rows continue.

If a submission fails with an error that would affect all rows (a rejected API key, a low balance), the error is
returned as ``abort_error``, and the pass submits nothing more.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import pendulum

from airflow_provider_toapis import metrics
from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.error_responses import (
    WEBHOOK_NOT_CONFIGURED,
    missing_url_message,
    task_failed,
    timeout_message,
)
from airflow_provider_toapis.api.polling import REJECTED_FOR_SECONDS, wait_outcome
from airflow_provider_toapis.api.submit_spec import IdempotencyKeys, PriorSubmission, SubmitSpec
from airflow_provider_toapis.api.video_request import private_texts
from airflow_provider_toapis.batch.claims import Subject
from airflow_provider_toapis.batch.feed import Row, file_name
from airflow_provider_toapis.batch.manifest_entry import (
    ManifestEntry,
    RowStatus,
    RowSubmission,
    time_now,
)
from airflow_provider_toapis.batch.plan import POSTPONED
from airflow_provider_toapis.batch.reviews import RowReview
from airflow_provider_toapis.batch.transitions import (
    Outcome,
    _interrupted,
    _lost,
    _on_look_up_error,
    _posted_at,
    _saved_video,
    _state_after,
    _submission_of,
    _with_submission,
    saved_after,
)
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsConnectionError,
    ToAPIsDownloadError,
    ToAPIsError,
    ToAPIsFinalFailureError,
    ToAPIsNotFoundError,
    ToAPIsQuotaError,
    ToAPIsRateLimitError,
    ToAPIsServerError,
    ToAPIsWaitInterruptedError,
)
from airflow_provider_toapis.media_check import Expected, MediaOptions, deviations, inspect_video

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_provider_toapis.api.client import ToAPIsClient
    from airflow_provider_toapis.api.flows import RecordSubmission
    from airflow_provider_toapis.api.responses import VideoTask
    from airflow_provider_toapis.api.submit_spec import Callback
    from airflow_provider_toapis.batch.claims import Claims
    from airflow_provider_toapis.batch.directory import Directory
    from airflow_provider_toapis.batch.manifest_entry import SavedVideo
    from airflow_provider_toapis.batch.row_request import RowRequest, RowRequests

log = logging.getLogger(__name__)
_TRANSIENT_ERRORS = (ToAPIsConnectionError, ToAPIsNotFoundError, ToAPIsRateLimitError, ToAPIsServerError)


@dataclass(frozen=True)
class RowJobOptions:
    """How the videos of a batch are submitted and saved.

    :param identity: Identifies the task. Idempotency keys are derived from it and from the key and fingerprint of a
        row.
    :param timeout: Seconds for which this attempt waits for one video.
    :param callback: The callback URL for webhooks; None without webhooks.
    :param media: How saved videos are checked.
    """

    identity: tuple[str, ...]
    max_generations: int
    max_bytes: int
    timeout: float
    callback: Callback | None = None
    media: MediaOptions = field(default_factory=MediaOptions)


class RowJob:
    """Submits, looks up and saves the videos of single rows. Thread-safe.

    :param new_client: Reads the connection again and opens another client. Called if a look-up fails because of the API
        key or the balance.
    """

    def __init__(
        self,
        client: ToAPIsClient,
        directory: Directory,
        claims: Claims,
        row_requests: RowRequests,
        options: RowJobOptions,
        *,
        new_client: Callable[[], ToAPIsClient],
    ) -> None:
        self._client = client
        self._new_client = new_client
        self._renewing = threading.Lock()
        self._directory = directory
        self._claims = claims
        self._row_requests = row_requests
        self._options = options
        self._models: set[str] = set()
        self._claimed_elsewhere: set[str] = set()
        self._held: list[str] = []
        self._callback = options.callback
        self._is_rejected = False

    def submit(self, entry: ManifestEntry, row: Row) -> Outcome:
        """Re-attach to the video of an earlier attempt, or submit the row."""
        first_generation = _submission_of(entry).first_generation
        own_keys: list[str] = []
        found: list[RecordSubmission] = []
        try:
            row_request = self._row_requests.check(row, RowReview(_submission_of(entry).redos))
            if row_request.fingerprint != _submission_of(entry).fingerprint:
                return Outcome(_with_submission(entry, state=RowStatus.POSTPONED, reason=POSTPONED))
            keys = [replace(each, first_generation=first_generation) for each in self._keys(row_request)]
            # Another model is submitted only after the one before it was rejected, so its claims take precedence.
            numbers = range(self._options.max_generations)
            own_keys = [each.for_generation(number) for each in reversed(keys) for number in numbers]
            spec = SubmitSpec(
                row_request.request,
                keys[0],
                max_generations=self._options.max_generations,
                retry_timeout=self._options.timeout,
                earlier=self._earlier(entry, own_keys),
                callback=lambda: self._callback,
                key_includes_model=True,
                verify_lookup=self._is_first_of_model(row_request.request.model),
                label=entry.key,
                fallbacks=list(zip(row_request.fallbacks, keys[1:], strict=True)),
            )
            submission = self._client.submit_once(spec, partial(self._claim_submission, entry, found))
        except ToAPIsError as error:
            if self._claimed_elsewhere.intersection(own_keys):
                self._claimed_elsewhere.difference_update(own_keys)
                log.info("%s: another process is submitting this row right now.", entry.key)
                return Outcome(entry, claimed_elsewhere=True)
            return self._on_submit_error(self._with_found_costs(entry, found), error)
        entry = self._with_found_costs(entry, found)
        request = submission.request or row_request.request
        if submission.reattached:
            log.info(
                "%s: re-attached to video %s, submitted by an earlier attempt. Nothing more is billed.",
                entry.key,
                submission.task.id,
            )
        else:
            metrics.video_submitted(request.model)
            if not submission.webhook and not request.names_callback:
                # The account has no webhooks. Further submissions omit the callback URL, because the service would
                # reject each submission that contains it.
                self._callback = None
        submitted = _with_submission(
            replace(entry, prompt=request.prompt, images=row_request.images, model=request.model),
            state=RowStatus.SUBMITTED,
            generation=first_generation + submission.generation,
            client_business_id=submission.client_business_id,
            video_id=submission.task.id,
            posted_at=_posted_at(submission, _submission_of(entry)),
            has_private_text=bool(private_texts(row.parameters)),
            duration=request.requested_seconds,
            aspect_ratio=request.requested_aspect_ratio,
            deadline=clock.time() + self._options.timeout,
            # An earlier attempt can have submitted the re-attached video with a callback URL.
            webhook=submission.webhook or (submission.reattached and _submission_of(entry).webhook),
        )
        pending = _submission_of(entry)
        submitted = replace(
            submitted, submission=_submission_of(submitted).with_attempt(pending.run_id, pending.try_number)
        )
        billed_run = self._claims.run_of(submission.client_business_id) if submission.reattached else None
        submitted = submitted.with_cost(billed_run or pending.run_id)
        return self._resolve(submitted, submission.task) if submission.task.is_final else Outcome(submitted)

    def release_claims(self) -> None:
        """Withdraw the claims of rejected models. Called when the videos of the next models are recorded."""
        for key in self._held:
            self._claims.withdraw(key)
        self._held.clear()

    def collect(self, entry: ManifestEntry) -> Outcome:
        """Look up a video whose generation may have ended. Save the video if it is complete."""
        submission = _submission_of(entry)
        try:
            task = self._look_up(submission)
        except ToAPIsError as error:
            return _on_look_up_error(entry, error)
        return self._resolve(entry, task)

    def _look_up(self, submission: RowSubmission) -> VideoTask:
        """Look a video up. If the account is rejected, read the connection again and repeat the look-up once.

        An account is rejected for its API key or its balance. After one repeated look-up was also rejected, later
        rejections raise their error at once.
        """
        client = self._client

        def look_up(client: ToAPIsClient) -> VideoTask:
            return client.get_video(str(submission.video_id), is_id=True, known_as=submission.client_business_id)

        try:
            return look_up(client)
        except (ToAPIsAuthError, ToAPIsQuotaError):
            if self._is_rejected:
                raise
        clock.sleep(REJECTED_FOR_SECONDS)
        try:
            return look_up(self._renew_client(client))
        except (ToAPIsAuthError, ToAPIsQuotaError):
            self._is_rejected = True
            raise

    def _renew_client(self, rejected: ToAPIsClient) -> ToAPIsClient:
        """Return a client for the current connection. All threads whose client was rejected get the same new client."""
        with self._renewing:
            if self._client is rejected:
                self._client = self._new_client()
            return self._client

    def _resolve(self, entry: ManifestEntry, task: VideoTask) -> Outcome:
        submission = _submission_of(entry)
        # With `error`, the wait also ends if the video is completed without a result URL. No URL will be added later.
        outcome = wait_outcome(task, "error", submission.deadline, clock.time())
        if outcome is None:
            return Outcome(entry)
        if task.is_final:
            metrics.video_finished(task)
        if task.cost_usd is not None:
            entry = entry.with_billed(task.id, f"{task.cost_usd:f}")
        if outcome == "success":
            return self._save(entry, task)
        if outcome == "failed":
            failure = task_failed(task, self._options.max_generations, self._sensitive_texts(entry, task))
            return Outcome(_with_submission(entry, state=_state_after(failure), reason=str(failure).replace("\n", " ")))
        if outcome == "error" and task.is_expired(pendulum.from_timestamp(clock.time())):
            reason = f"The result of video {task.id} expired at {task.expires_at} before it was saved."
            return _lost(entry, f"{reason} The video is billed and lost. The next attempt submits a new one.")
        what = (
            missing_url_message(task.id)
            if outcome == "error"
            else timeout_message(task.id, last_status=task.raw_status)
        )
        return Outcome(
            _with_submission(entry, state=RowStatus.INTERRUPTED, reason=f"{what} The next attempt re-attaches to it.")
        )

    def _sensitive_texts(self, entry: ManifestEntry, task: VideoTask) -> tuple[str, ...]:
        """Return the texts that a failure reason must not quote.

        The service can quote the row's parameters, whose text is not recorded. If they contained text, the service's
        whole error message is one of the returned texts.
        """
        known = self._row_requests.sensitive_texts(entry.prompt)
        return (*known, task.error.message) if task.error and _submission_of(entry).has_private_text else known

    def _save(self, entry: ManifestEntry, task: VideoTask) -> Outcome:
        submission = _submission_of(entry)
        destination = self._directory.destination(f"{file_name(entry.key)}.{task.format}")
        try:
            stored = self._client.download(
                task,
                destination,
                refresh=lambda: self._client.get_video(task.id, is_id=True, known_as=submission.client_business_id),
                max_bytes=self._options.max_bytes,
            )
        except _TRANSIENT_ERRORS as error:
            # The look-up of a new result URL failed, or the storage failed. Saving is retried until the deadline.
            return _on_look_up_error(entry, error)
        except ToAPIsError as error:
            is_lost = isinstance(error, ToAPIsDownloadError) and error.is_lost
            return _lost(entry, str(error)) if is_lost else _interrupted(entry, error)
        options = self._options.media
        saved = saved_after(entry.saved, _saved_video(submission, task, stored, check_pending=not options.is_off))
        return Outcome(replace(entry, updated_at=time_now(), saved=saved, submission=None))

    def check(self, key: str, model: str, saved: SavedVideo) -> SavedVideo:
        """Check a saved video and return its record with the result. The video is already recorded, without a result.

        :param key: Key of the row.
        """
        options = self._options.media
        if options.is_off:
            return replace(saved, check_pending=False)
        report = inspect_video(
            self._directory.path_of(saved.file),
            Expected(saved.duration, saved.aspect_ratio),
            options,
            video_id=saved.video_id,
            size=saved.size,
            model=model,
        )
        for warning in report.warnings:
            log.warning("%s: video %s: %s.", key, saved.video_id, warning)
        return replace(
            saved,
            check_pending=False,
            media=report.media,
            warnings=(*saved.warnings, *report.warnings),
            poster_path=report.poster_path.rpartition("/")[2] if report.poster_path else None,
            check_failed=options.check == "fail" and bool(deviations(report.warnings)),
        )

    def _on_submit_error(self, entry: ManifestEntry, error: ToAPIsError) -> Outcome:
        has_no_webhooks = self._callback is not None and error.code == WEBHOOK_NOT_CONFIGURED
        if isinstance(error, ToAPIsAuthError | ToAPIsQuotaError) or has_no_webhooks:
            return Outcome(entry, abort_error=error)
        if isinstance(error, ToAPIsWaitInterruptedError):
            if error.video_id is not None and isinstance(error.__cause__, ToAPIsAuthError | ToAPIsQuotaError):
                return Outcome(entry, abort_error=error)
            # If the error does not name the recorded video, that video is removed from the entry, so that the next
            # attempt submits the row and does not wait for that video.
            known = _submission_of(entry).video_id if error.video_id == _submission_of(entry).video_id else None
            return Outcome(_with_submission(entry, state=RowStatus.INTERRUPTED, reason=str(error), video_id=known))
        submission = _submission_of(entry)
        used_up = isinstance(error, ToAPIsFinalFailureError)
        newest = submission.first_generation + self._options.max_generations - 1 if used_up else submission.generation
        return Outcome(_with_submission(entry, state=_state_after(error), reason=str(error), generation=newest))

    def _keys(self, row_request: RowRequest) -> list[IdempotencyKeys]:
        """Return the idempotency keys of a row for each model that can be used."""
        # The keys do not contain the run, so that the next run re-attaches to videos that this run leaves in progress.
        identity = (*self._options.identity, "key", row_request.key)
        of_models = ((), *(("model", fallback.model) for fallback in row_request.fallbacks))
        return [IdempotencyKeys.derived(row_request.fingerprint, (*identity, *model)) for model in of_models]

    def _claim_submission(
        self, entry: ManifestEntry, found: list[RecordSubmission], submission: RecordSubmission
    ) -> bool | None:
        """Claim a submission before its POST; return False if another process has claimed it.

        This method is also called after the POST or a look-up. If the POST was rejected, the claim is withdrawn. If
        ``submission`` has a video, the video is added to ``found``.

        :param found: List of the videos that were found or submitted.
        """
        key = submission.client_business_id
        if submission.has_next_model:
            # Another process must not submit the row with this model while this one submits it with the next model.
            self._held.append(key)
            return None
        if submission.rejected:
            self._claims.withdraw(key)
            return None
        if submission.video_id is not None:
            if submission.task is not None:
                found.append(submission)
            return None
        pending = _submission_of(entry)
        subject = Subject(
            entry.key,
            pending.run_id,
            pending.fingerprint,
            pending.first_generation + submission.generation,
            pending.price_usd,
            pending.video_id if pending.client_business_id == key else None,
            pending.redos,
        )
        if not self._claims.claim(key, subject):
            self._claimed_elsewhere.add(key)
            return False
        return None

    def _earlier(self, entry: ManifestEntry, own_keys: Sequence[str]) -> PriorSubmission | None:
        """Return the row's earlier submission; None if unknown.

        A claimed submission whose outcome is not recorded takes precedence over the recorded submission.
        """
        submission = _submission_of(entry)
        unresolved = next((key for key in own_keys if key in self._claims.found), None)
        if unresolved is not None:
            return PriorSubmission(unresolved, unknown_posts=self._claims.unknown_posts(unresolved))
        is_own = submission.client_business_id in own_keys
        if not is_own:
            return None
        return PriorSubmission(submission.client_business_id, submission.video_id, posted_at=submission.posted_at)

    def _with_found_costs(self, entry: ManifestEntry, found: Sequence[RecordSubmission]) -> ManifestEntry:
        """Return a row's entry with the costs of the ``found`` videos added, including those of lost videos."""
        submission = _submission_of(entry)
        for video in found:
            if video.task is None:
                continue
            video_submission = replace(
                submission,
                generation=submission.first_generation + video.generation,
                client_business_id=video.client_business_id,
                video_id=video.task.id,
            )
            billed_run = self._claims.run_of(video.client_business_id) or submission.run_id
            entry = replace(entry, costs=replace(entry, submission=video_submission).with_cost(billed_run).costs)
            if video.task.cost_usd is not None:
                entry = entry.with_billed(video.task.id, f"{video.task.cost_usd:f}")
        return entry

    def _is_first_of_model(self, model: str) -> bool:
        """Return whether this is the first submission of the pass for a model.

        Only for this submission, the client checks whether the service finds the new video by its idempotency key.
        """
        is_first = model not in self._models
        self._models.add(model)
        return is_first
