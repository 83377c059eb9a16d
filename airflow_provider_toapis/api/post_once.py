"""POST a video. If the response is lost, look the video up to learn whether the service accepted the POST.

This is a part of the flow in :mod:`~airflow_provider_toapis.api.submission`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

import pendulum

from airflow_provider_toapis.api.clock import backoff
from airflow_provider_toapis.api.defaults import RETRY_TIMEOUT
from airflow_provider_toapis.api.flows import (
    Flow,
    HttpRequest,
    RecordSubmission,
    Sleep,
    Slot,
    delay_after,
    find_video,
    parse_response,
)
from airflow_provider_toapis.api.responses import TaskStatus, VideoTask, parse_video_task
from airflow_provider_toapis.api.submit_spec import Submission, SubmitSpec
from airflow_provider_toapis.api.video_request import VideoRequest
from airflow_provider_toapis.exceptions import (
    ToAPIsConnectionError,
    ToAPIsError,
    ToAPIsModelNotOfferedError,
    ToAPIsNotFoundError,
    ToAPIsRateLimitError,
    ToAPIsRequestError,
    ToAPIsServerError,
    ToAPIsWaitInterruptedError,
    keep_retryable,
)

log = logging.getLogger(__name__)

#: Seconds after a POST during which a look-up may not find its video yet. The actual delay is not documented.
LOOK_UP_LAG = 180.0
#: Maximum seconds of a POST.
POST_LIMIT = 120.0
#: Seconds for which a look-up that found nothing is valid. After that, another attempt may have submitted the video.
FRESH_SECONDS = 5.0
#: Seconds before each look-up that checks whether a new video is found by its client_business_id.
LOOKUP_DELAYS = (0.0, 1.0, 3.0)


@dataclass(frozen=True)
class Terms:
    """Arguments and state of the whole flow.

    The arguments are those of :func:`~airflow_provider_toapis.api.submission.submit_once`.

    :param looked_up: Time of the last look-up of each key, by ``clock``.
    :param has_fallback: Whether another model is tried if the service does not offer the model.
    :param other_keys: Keys of the same video for the other models.
    """

    spec: SubmitSpec
    now: Callable[[], pendulum.DateTime]
    clock: Callable[[], float]
    found_by_key: set[str]
    looked_up: dict[str, float] = field(default_factory=dict)
    has_fallback: bool = False
    other_keys: Sequence[str] = ()

    @property
    def is_found_by_key(self) -> bool:
        """Whether the service is known to find videos of this model by their idempotency key."""
        return self.spec.request.model in self.found_by_key or bool(
            self.spec.earlier and self.spec.earlier.found_by_key
        )

    def find(self, business_id: str, *, strict: bool) -> Flow[VideoTask | None]:
        """Look up the video of a generation by its idempotency key."""
        self.looked_up[business_id] = self.clock()
        task = yield from find_video(
            business_id, strict=strict, id_kind="key", rate_limit_timeout=self.spec.retry_timeout
        )
        if task is not None:
            self.found_by_key.add(self.spec.request.model)
        return task


class ModelRejectedError(Exception):
    """The service rejected a POST because it does not offer the model, and another model can be tried.

    :param rejection: The error to raise if no other model is left.
    """

    def __init__(self, rejection: ToAPIsError) -> None:
        super().__init__(str(rejection))
        self.rejection = rejection


class OtherModelFoundError(Exception):
    """A video of another model was found right before a POST, which was not sent.

    :param key: Its idempotency key.
    """

    def __init__(self, key: str, task: VideoTask) -> None:
        super().__init__(key)
        self.key = key
        self.task = task


class Post:
    """The POST of one generation, sent until its outcome is known."""

    def __init__(self, terms: Terms, business_id: str, generation: int) -> None:
        self._terms = terms
        self._business_id = business_id
        self._generation = generation
        self._unknown_posts = terms.spec.earlier.unknown_posts if terms.spec.earlier else 0
        #: Whether an earlier POST, of this flow or another attempt, created or may have created a video.
        self._is_doubtful = terms.spec.earlier is not None

    def submit(
        self,
        body: Mapping[str, Any],
        *,
        webhook: bool,
        falls_back: Callable[[ToAPIsError], bool] = lambda _: False,
    ) -> Flow[Submission]:
        """POST until the outcome is known.

        :param falls_back: Called with a rejection. Returns whether the caller sends a POST with another body next. If
            so, the rejection is raised unchanged.
        :raises ToAPIsWaitInterruptedError: The POST was rejected, but an earlier one was or may have been accepted.
        """
        request = self._terms.spec.request
        post = HttpRequest("POST", request.path, json=body, private=request.private)
        began = self._terms.clock()
        while True:
            try:
                task, reattached = yield from self._until_sent(post)
            except ToAPIsError as error:
                if not _may_have_submitted(error):
                    yield from self._rejected(error, falls_back)
                lost = error
            else:
                if not reattached:
                    task = yield from self._accepted(task)
                return self._submission(task, reattached=reattached, webhook=webhook)
            found = yield from self._find_lost(lost)
            if found is not None:
                return self._submission(found, reattached=False, webhook=webhook)
            self._require_permission(lost, self._terms.clock() - began)

    def _submission(self, task: VideoTask, *, reattached: bool, webhook: bool) -> Submission:
        request = self._terms.spec.request
        return Submission(task, self._business_id, self._generation, reattached, webhook, request)

    def _until_sent(self, post: HttpRequest) -> Flow[tuple[VideoTask, bool]]:
        """Send the POST, and retry it only after a failure that certainly created no task.

        Such failures are rate limits and connections that were not established. Return the task, and whether another
        attempt submitted the task after this attempt's last look-up of it.

        :raises ToAPIsServerError: The outcome of a POST is unknown.
        :raises ToAPIsConnectionError: The response to a POST was lost, or no connection could be established.
        """
        time_left = {ToAPIsRateLimitError: self._terms.spec.retry_timeout, ToAPIsConnectionError: RETRY_TIMEOUT}
        for attempt in count():
            yield Slot()
            found = yield from self._meanwhile()
            if found is not None:
                yield RecordSubmission(
                    self._business_id, found.id, generation=self._generation, task=found, found_by_key=True
                )
                return found, True
            yield from self._claim()
            yield from self._require_no_other_model()
            try:
                return parse_response((yield post), post, self._parsed), False
            except (ToAPIsRateLimitError, ToAPIsConnectionError) as error:
                if isinstance(error, ToAPIsConnectionError) and not _was_not_sent(error):
                    raise
                delay = delay_after(error, attempt)
                time_left[type(error)] -= delay
                if time_left[type(error)] < 0:
                    raise
                log.info("%s Submitting again in %.0f s.", error, delay)
            # Nothing was created. Withdraw the record, so that no unknown outcome remains if the process dies during
            # the pause.
            yield self._withdrawal()
            yield Sleep(delay)
        raise AssertionError("count() does not end")

    def _parsed(self, body: dict[str, Any]) -> VideoTask | None:
        """Parse the response to the POST.

        Return None if it is about another submission, or if it contains an error although its task has not failed.
        """
        task = parse_video_task(body)
        if task is None or task.client_business_id not in (None, self._business_id):
            return None
        is_error = bool(body.get("error")) and task.status is not TaskStatus.FAILED
        return None if is_error else task

    def _meanwhile(self) -> Flow[VideoTask | None]:
        """Look up the key again if the last look-up is too old.

        Another attempt or run can have submitted the video since then.
        """
        if self._terms.clock() - self._terms.looked_up[self._business_id] <= FRESH_SECONDS:
            return None
        strict = self._is_doubtful
        with keep_retryable(ToAPIsWaitInterruptedError.for_unknown_submission, when=lambda: strict):
            return (yield from self._terms.find(self._business_id, strict=strict))

    def _claim(self) -> Flow[None]:
        granted = yield RecordSubmission(
            self._business_id,
            video_id=None,
            generation=self._generation,
            posted_at=self._terms.now().timestamp(),
        )
        if granted is False:
            raise ToAPIsWaitInterruptedError(
                f"Another process is submitting the video with client_business_id {self._business_id} right now. It is"
                " billed once; this attempt submits nothing. A retry re-attaches to the video."
            )

    def _require_no_other_model(self) -> Flow[None]:
        """Look up the keys of the other models, because another process can have submitted with one of them.

        :raises OtherModelFoundError: There is such a video.
        :raises ToAPIsWaitInterruptedError: A look-up failed. It is not mistaken for a POST without a response.
        """
        for key in self._terms.other_keys:
            with keep_retryable(
                ToAPIsWaitInterruptedError.for_unknown_submission, errors=(ToAPIsServerError, ToAPIsConnectionError)
            ):
                found = yield from self._terms.find(key, strict=self._is_doubtful)
            if found is not None:
                yield self._withdrawal()
                raise OtherModelFoundError(key, found)

    def _withdrawal(self) -> RecordSubmission:
        return RecordSubmission(self._business_id, video_id=None, rejected=True, generation=self._generation)

    def _rejected(self, error: ToAPIsError, falls_back: Callable[[ToAPIsError], bool]) -> Flow[None]:
        """Withdraw the record of a POST that created nothing, and raise its error."""
        rejection = _rejection(error, self._terms.spec.request)
        earlier = self._terms.spec.earlier
        if self._terms.has_fallback and isinstance(rejection, ToAPIsModelNotOfferedError) and self._is_free(rejection):
            yield replace(self._withdrawal(), has_next_model=True)
            raise ModelRejectedError(rejection)
        yield self._withdrawal()
        if falls_back(rejection) or not self._is_doubtful:
            raise rejection from error.__cause__
        if earlier is not None and earlier.video_id:
            raise ToAPIsWaitInterruptedError.for_video(earlier.video_id, rejection) from error
        raise ToAPIsWaitInterruptedError.for_unknown_submission(rejection) from error

    def _is_free(self, rejection: ToAPIsError) -> bool:
        """Return whether it is certain that no video with the key of this generation was submitted."""
        return rejection.by_service and self._generation == 0 and not self._unknown_posts

    def _accepted(self, task: VideoTask) -> Flow[VideoTask]:
        known = self._terms.is_found_by_key
        yield RecordSubmission(self._business_id, task.id, generation=self._generation, task=task, found_by_key=known)
        if not known and self._terms.spec.verify_lookup and (yield from self._is_found_by_key(task)):
            yield RecordSubmission(
                self._business_id, task.id, generation=self._generation, task=task, found_by_key=True
            )
        return task

    def _is_found_by_key(self, task: VideoTask) -> Flow[bool]:
        """Return whether a newly submitted video can be looked up by its idempotency key.

        It is not documented that this works for every model.
        """
        for delay in LOOKUP_DELAYS:
            yield Sleep(delay)
            try:
                found = yield from find_video(self._business_id, retry_timeout=0.0, id_kind="key")
            except ToAPIsError:
                return False
            if found is not None:
                self._terms.found_by_key.add(self._terms.spec.request.model)
                return True
        log.warning(
            "Video %s is not found by its client_business_id %s yet. If videos of model %s are never found by"
            " their client_business_id, a lost response or a killed worker can cause a second billed video.",
            task.id,
            self._business_id,
            task.model,
        )
        return False

    def _find_lost(self, lost: ToAPIsError) -> Flow[VideoTask | None]:
        """Look up the video of a POST whose response was lost.

        The look-up is repeated until the video is found, or until enough time has passed to conclude that it does not
        exist.
        """
        self._is_doubtful = True
        log.warning(
            "The response to the submission was lost (%s). Looking up client_business_id %s for up to %.0f s.",
            lost.without_cost,
            self._business_id,
            LOOK_UP_LAG,
        )
        with keep_retryable(ToAPIsWaitInterruptedError.for_unknown_submission):
            found = yield from find_after_lost_response(
                partial(self._terms.find, self._business_id, strict=True), LOOK_UP_LAG
            )
        if found is not None:
            log.info("Video %s exists: the submission had arrived. Re-attached to it.", found.id)
            yield RecordSubmission(
                self._business_id, found.id, generation=self._generation, task=found, found_by_key=True
            )
        elif self._terms.is_found_by_key:
            # The look-up finds videos of this model, so nothing was created.
            yield self._withdrawal()
        else:
            self._unknown_posts += 1
        return found

    def _require_permission(self, lost: ToAPIsError, seconds: float) -> None:
        """Check that another POST is allowed after a POST whose response was lost and whose video was not found.

        :raises ToAPIsServerError: POSTs have failed for longer than the retry timeout.
        """
        license_another_post(self._terms, self._business_id, self._unknown_posts)
        if seconds >= self._terms.spec.retry_timeout:
            raise ToAPIsServerError(
                f"No submission of this video got a response in the last {seconds:.0f} s, and no video with"
                f" client_business_id {self._business_id} was found. It may still appear and be billed. A retry looks"
                f" it up before it submits anything. Cause: {lost.without_cost}",
                code=lost.code,
            ) from lost


def license_another_post(terms: Terms, business_id: str, unknown_posts: int) -> None:
    """Check that another POST with the same key is allowed after a POST with an unknown outcome.

    The video of the earlier POST was not found.

    :raises ToAPIsWaitInterruptedError: The outcome of ``max_generations`` POSTs is already unknown, and it is not known
        whether the service finds videos of this model by their key.
    """
    if terms.is_found_by_key or unknown_posts < terms.spec.max_generations:
        return
    raise ToAPIsWaitInterruptedError(
        f"{unknown_posts} submissions of this video got no response, and no video with client_business_id"
        f" {business_id} is found. They may be billed. Nothing more is submitted. Look for the video in the ToAPIs"
        " console. A retry looks it up again. Clearing the task allows another"
        f" {terms.spec.max_generations} submissions (max_generations)."
    )


def _may_have_submitted(error: ToAPIsError) -> bool:
    return isinstance(error, ToAPIsServerError | ToAPIsConnectionError) and not _was_not_sent(error)


def _rejection(error: ToAPIsError, request: VideoRequest) -> ToAPIsError:
    """Return the error to raise for a rejected POST.

    "Not found" becomes a :class:`ToAPIsRequestError`, because it is not about a video that was looked up.
    """
    if not isinstance(error, ToAPIsNotFoundError):
        return error
    missing = f"video {request.video_id!r}" if request.video_id else "this URL; check the host"
    return ToAPIsRequestError(
        f"{error.without_cost} The service does not find {missing}.",
        cost="Nothing was billed.",
        http_status=error.http_status,
    )


def _was_not_sent(error: ToAPIsError) -> bool:
    return isinstance(error, ToAPIsConnectionError) and not error.sent


def find_after_lost_response(
    find: Callable[[], Flow[VideoTask | None]], seconds: float = LOOK_UP_LAG
) -> Flow[VideoTask | None]:
    """Repeat a look-up until it finds the video; return None if it still finds nothing after ``seconds``."""
    waited = 0.0
    for attempt in count():
        found = yield from find()
        if found is not None or waited >= seconds:
            return found
        delay = min(backoff(attempt), seconds - waited)
        yield Sleep(delay)
        waited += delay
    raise AssertionError("count() does not end")
