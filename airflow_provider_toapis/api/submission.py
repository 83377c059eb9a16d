"""Submit a video once. A submission is billed and cannot be canceled.

:func:`submit_once` is a flow as described in :mod:`~airflow_provider_toapis.api.flows`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import pendulum

from airflow_provider_toapis.api.error_responses import WEBHOOK_NOT_CONFIGURED, HttpResponse, is_caused_by_input
from airflow_provider_toapis.api.flows import (
    Flow,
    RecordSubmission,
    Sleep,
    TryUrl,
    call,
    find_video,
    upload_request,
)
from airflow_provider_toapis.api.post_once import (
    LOOK_UP_LAG,
    POST_LIMIT,
    ModelRejectedError,
    OtherModelFoundError,
    Post,
    Terms,
    find_after_lost_response,
    license_another_post,
)
from airflow_provider_toapis.api.responses import RESULT_LIFETIME, TaskStatus, VideoTask, parse_uploaded_file
from airflow_provider_toapis.api.submit_spec import IdempotencyKeys, PriorSubmission, Submission, SubmitSpec
from airflow_provider_toapis.api.video_request import VideoRequest
from airflow_provider_toapis.exceptions import (
    ToAPIsError,
    ToAPIsFinalFailureError,
    ToAPIsRequestError,
    ToAPIsServerError,
    ToAPIsWaitInterruptedError,
    keep_retryable,
)
from airflow_provider_toapis.redaction import redacted

log = logging.getLogger(__name__)

#: Number of further generations whose keys are compared with a recorded key. They are needed because
#: ``max_generations`` can have been lowered since the recorded submission.
_MOST_GENERATIONS = 100
#: Seconds before each request of a result URL whose host returns 403, which can be temporary (seen in other clients).
URL_TRIES = (0.0, 20.0, 40.0)
_FORBIDDEN = 403
_GONE = (404, 410)


def submit_once(
    spec: SubmitSpec,
    *,
    now: Callable[[], pendulum.DateTime],
    clock: Callable[[], float],
    found_by_key: set[str] | None = None,
) -> Flow[Submission]:
    """Re-attach to the video of an earlier attempt, or submit it. Never submit a video that may already exist.

    Each generation of the video has its own idempotency key. An attempt skips the generations that are known to be lost
    (failed, or expired and deleted) and re-attaches to the first generation that is not lost. If that generation does
    not exist yet, the attempt submits it.

    If the service does not offer the model, and nothing was or may have been submitted, the next fallback model is
    tried. Once a video was submitted, its model is used for all later generations.

    :param now: The service's clock, for expiry times and the times of POSTs.
    :param clock: A monotonic clock in seconds, for the age of look-ups.
    :param found_by_key: Models whose videos are known to be found by client_business_id. The flow adds models to it.
    :raises ToAPIsFinalFailureError: All allowed generations are used up.
    :raises ToAPIsServerError: The outcome of the POST is unknown. The next attempt looks up the video first.
    :raises ToAPIsWaitInterruptedError: A video exists or may exist, but it cannot be looked up, or it is not found and
        another POST is not allowed.
    """
    first = Terms(spec, now, clock, set() if found_by_key is None else found_by_key)
    candidates = [replace(first, spec=candidate) for candidate in spec.candidates()]
    earlier = spec.earlier
    if earlier is None:
        return (yield from _walk_first_offered(candidates))
    if earlier.client_business_id is None:
        return (yield from _walk_unrecorded(candidates, earlier))
    return (yield from _walk_recorded(candidates, earlier))


def _walk_recorded(candidates: Sequence[Terms], earlier: PriorSubmission) -> Flow[Submission]:
    """Continue with the recorded submission, or replace it if it belongs to an earlier revision and is final."""
    for terms in candidates:
        start = _first_generation(terms)
        if start is not None:
            return (yield from _walk(terms, start))
    if earlier.is_current_revision:
        # The model is not in fallback_models any more. Its video is used, and its generations go on under its key.
        keys = IdempotencyKeys(chosen=str(earlier.client_business_id))
        removed = replace(candidates[0].spec, keys=keys, fallbacks=())
        return (yield from _walk(replace(candidates[0], spec=removed), 0))
    in_progress = yield from _earlier_generation_in_progress(earlier)
    if in_progress is not None:
        return in_progress
    # The record is about the previous revision. A video of this revision can exist too, so look it up by its key.
    is_of_model = len(candidates) == 1
    previous = replace(earlier, video_id=None, unknown_posts=0, found_by_key=earlier.found_by_key and is_of_model)
    candidates = _after(candidates, previous)
    if not previous.is_known:
        return (yield from _walk_unrecorded(candidates, previous))
    return (yield from _walk_first_offered(candidates))


def _walk_first_offered(candidates: Sequence[Terms]) -> Flow[Submission]:
    """Walk the generations of the first model that the service offers.

    Another process can have submitted with another model meanwhile. Its video is used.
    """
    by_key = {terms.spec.keys.for_generation(0): terms for terms in candidates}
    for key, terms in by_key.items():
        is_last = terms is candidates[-1]
        others = [other for other in by_key if other != key]
        try:
            return (yield from _walk(replace(terms, has_fallback=not is_last, other_keys=others), 0))
        except ModelRejectedError as rejected:
            label = f"{terms.spec.label}: " if terms.spec.label else ""
            log.warning("%sFalling back to the next model of fallback_models. %s", label, rejected.rejection)
        except OtherModelFoundError as other:
            return (yield from _walk(by_key[other.key], 0, other.task))
    raise AssertionError("the last model has no fallback")


def _walk_unrecorded(candidates: Sequence[Terms], earlier: PriorSubmission) -> Flow[Submission]:
    """Look up the videos of all models and revisions, because it is not known which of them was submitted.

    If there is none, the first model is submitted. Another model is submitted only if it is certain that no earlier
    attempt submitted anything.
    """
    spec = candidates[0].spec
    if len(candidates) == 1 and not spec.earlier_keys:
        return (yield from _walk(candidates[0], 0))
    looked_up = _after(candidates, replace(earlier, client_business_id=None, posted_at=0.0))
    found = yield from _find_unrecorded(looked_up, earlier)
    if found is None and not earlier.is_known:
        # Repeat the look-up of the first model. Meanwhile, so much time passes that the others need not be repeated.
        found = yield from _find_unrecorded([candidates[0], *looked_up[1:]], earlier)
    if found is not None:
        return found
    return (yield from _walk_first_offered(looked_up if earlier.is_known else looked_up[:1]))


def _find_unrecorded(candidates: Sequence[Terms], earlier: PriorSubmission) -> Flow[Submission | None]:
    """Return the video of any model, or the video of an earlier revision if it is still in progress.

    :param earlier: What is known about later generations of a video that is found.
    """
    for terms in candidates:
        found = yield from _find_earlier(terms, terms.spec.keys.for_generation(0))
        if found is not None:
            return (yield from _walk(replace(terms, spec=replace(terms.spec, earlier=earlier)), 0, found))
    for revision, of_models in candidates[0].spec.earlier_keys.items():
        for keys in of_models:
            in_progress = yield from _earlier_revision_in_progress(candidates[0], keys)
            if in_progress is not None:
                return replace(in_progress, earlier_revision=revision)
    return None


def _after(candidates: Iterable[Terms], earlier: PriorSubmission) -> list[Terms]:
    return [replace(terms, spec=replace(terms.spec, earlier=earlier)) for terms in candidates]


def _earlier_revision_in_progress(terms: Terms, keys: IdempotencyKeys) -> Flow[Submission | None]:
    """Return the video of an earlier revision, which is not recorded, if it is still in progress."""
    for generation in range(terms.spec.max_generations):
        business_id = keys.for_generation(generation)
        with keep_retryable(ToAPIsWaitInterruptedError.for_unknown_submission):
            task = yield from terms.find(business_id, strict=True)
        if task is None:
            return None
        if not task.is_final:
            return Submission(task, business_id, generation, reattached=True)
    return None


def _walk(terms: Terms, start: int, found: VideoTask | None = None) -> Flow[Submission]:
    """Return the first generation that is not lost. Submit it if it does not exist.

    :param found: The video of generation ``start``, if it was just looked up.
    """
    failed = terms.spec.earlier.failed if terms.spec.earlier and start else 0
    expired = start - failed
    lost: VideoTask | None = None
    for generation in count(start):
        business_id = terms.spec.keys.for_generation(generation)
        is_used_up = failed + max(0, expired - terms.spec.free_replacements) >= terms.spec.max_generations
        # If a second look-up did not find a video that has just been found, it would be submitted again.
        task = found
        if task is None and lost is not None and is_used_up:
            # This generation can have been submitted when max_generations was higher.
            task = yield from terms.find(business_id, strict=True)
        elif task is None:
            task = yield from _find_earlier(terms, business_id)
        if task is None and lost is not None and is_used_up:
            raise _used_up(terms, lost)
        if task is None:
            return (yield from _submit(terms, business_id, generation))
        if terms.spec.earlier is None and not terms.spec.key_includes_model:
            _reject_other_model(task, terms.spec.request)
        why = yield from _is_lost(task, terms)
        found = None if why else (yield from _find_replacement(task, terms, generation))
        if not why and found is None:
            return Submission(task, business_id, generation, reattached=True, request=terms.spec.request)
        yield RecordSubmission(business_id, task.id, generation=generation, task=task)
        lost = task
        failed += why == "failed"
        expired += why != "failed"
    raise AssertionError("count() does not end")


def _used_up(terms: Terms, lost: VideoTask) -> ToAPIsFinalFailureError:
    return ToAPIsFinalFailureError(
        f"All {terms.spec.max_generations} generations allowed for this video (max_generations) failed or expired."
        " Nothing more was billed. Change the request, raise max_generations, or clear the task with"
        " on_clear='regenerate'.",
        task=lost,
    )


def _first_generation(terms: Terms) -> int | None:
    """Return the first generation to look up; None if the recorded submission belongs to another revision.

    All generations before a recorded one are known to be lost.
    """
    business_id = terms.spec.earlier.client_business_id if terms.spec.earlier else None
    if business_id is None:
        return 0
    generations = range(terms.spec.max_generations + terms.spec.free_replacements + _MOST_GENERATIONS)
    return next((number for number in generations if terms.spec.keys.for_generation(number) == business_id), None)


def _earlier_generation_in_progress(earlier: PriorSubmission) -> Flow[Submission | None]:
    """Return the video of the previous revision (``on_clear="regenerate"``) if it is still in progress."""
    business_id = str(earlier.client_business_id)
    with keep_retryable(_interrupted(earlier)):
        if earlier.video_id:
            task = yield from find_video(earlier.video_id, strict=True, id_kind="id", known_as=business_id)
        else:
            task = yield from find_after_lost_response(lambda: find_video(business_id, strict=True, id_kind="key"))
    if task is None or task.is_final:
        return None
    return Submission(task=task, client_business_id=business_id, generation=0, reattached=True)


def _find_earlier(terms: Terms, business_id: str) -> Flow[VideoTask | None]:
    """Look up the video of a generation. Repeat the look-up if an earlier attempt may have submitted the video.

    Return None if the generation can be submitted.
    """
    earlier = terms.spec.earlier
    if earlier is None:
        return (yield from terms.find(business_id, strict=False))
    if earlier.client_business_id == business_id and earlier.video_id:
        with keep_retryable(_interrupted(earlier), errors=(ToAPIsError,)):
            return (yield from _find_recorded(terms, business_id, earlier))
    with keep_retryable(_interrupted(earlier)):
        task = yield from terms.find(business_id, strict=True)
        is_recorded = earlier.client_business_id in (None, business_id)
        if task is not None or (earlier.is_newest and not is_recorded):
            return task
        posted_at = earlier.posted_at if is_recorded else None
        seconds = _until_found(posted_at, terms.now().timestamp())
        if seconds:
            log.info(
                "An earlier attempt may have submitted the video with client_business_id %s. Looking it up until it is"
                " found, or until it certainly does not exist.",
                business_id,
            )
        task = yield from find_after_lost_response(partial(terms.find, business_id, strict=True), seconds)
    if task is None:
        license_another_post(terms, business_id, earlier.unknown_posts)
    return task


def _until_found(posted_at: float | None, now: float) -> float:
    """Return for how many seconds to repeat the look-up of a video whose POST was sent at ``posted_at``.

    A video that is not found by then is assumed not to exist.
    """
    if posted_at is None:
        return LOOK_UP_LAG
    latest = LOOK_UP_LAG + POST_LIMIT
    return max(0.0, min(latest, posted_at + latest - now))


def _find_recorded(terms: Terms, business_id: str, earlier: PriorSubmission) -> Flow[VideoTask | None]:
    """Look up the video whose id is recorded; return None if a new video can be submitted in its place.

    :raises ToAPIsWaitInterruptedError: The video is not found although it is less than 24 hours old. The service stores
        videos for at least that long.
    """
    video_id = str(earlier.video_id)

    def find() -> Flow[VideoTask | None]:
        failure: ToAPIsError | None = None
        task: VideoTask | None = None
        try:
            task = yield from find_video(
                video_id, strict=True, id_kind="id", known_as=business_id, rate_limit_timeout=terms.spec.retry_timeout
            )
        except ToAPIsServerError as error:
            # The response may be about another video. The look-up by key can still succeed.
            failure = error
        task = task or (yield from terms.find(business_id, strict=True))
        if task is None and failure is not None:
            raise failure
        return task

    task = yield from find()
    if task is None and earlier.posted_at is None:
        task = yield from find_after_lost_response(find)
    if task is not None:
        return task
    if earlier.posted_at is not None and terms.now().timestamp() < earlier.posted_at + RESULT_LIFETIME:
        raise ToAPIsWaitInterruptedError(
            f"The service does not find video {video_id}, which was submitted less than 24 hours ago and is billed. A"
            " retry looks it up again before it submits anything.",
            video_id=video_id,
        )
    log.warning("The service no longer finds video %s. Submitting a new one, which will be billed.", video_id)
    return None


def _interrupted(earlier: PriorSubmission) -> Callable[[ToAPIsError], ToAPIsWaitInterruptedError]:
    if earlier.video_id is None:
        return ToAPIsWaitInterruptedError.for_unknown_submission
    return partial(ToAPIsWaitInterruptedError.for_video, earlier.video_id)


def _find_replacement(task: VideoTask, terms: Terms, generation: int) -> Flow[VideoTask | None]:
    """Return the video of the next generation, which replaces ``task``; None if there is no such video.

    Only a completed video can have a replacement, and only after its expiry time. An earlier attempt found that no
    result URL of ``task`` worked, and submitted the replacement. It is used even if a URL of ``task`` works again.
    """
    if task.status is not TaskStatus.COMPLETED or not task.is_expired(terms.now()):
        return None
    key = terms.spec.keys.for_generation(generation + 1)
    return (yield from terms.find(key, strict=terms.spec.earlier is not None))


def _is_lost(task: VideoTask, terms: Terms) -> Flow[str]:
    """Return why a new generation is needed: ``failed`` or ``expired``; an empty string if ``task`` is not lost.

    Log the price of an expired video, because the video that replaces it is billed too.
    """
    code = task.error.code if task.error else None
    if task.status is TaskStatus.FAILED:
        if is_caused_by_input(task.error) or not task.is_documented_status:
            return ""
        log.info("Video %s failed earlier%s.", task.id, f" ({redacted(code)})" if code else "")
        return "failed"
    if task.status is not TaskStatus.COMPLETED or not task.is_expired(terms.now()):
        return ""
    for url in task.urls:
        if not (yield from _is_dead(url)):
            log.info("Video %s should have expired, but its result is still available.", task.id)
            return ""
    price = terms.spec.request.price_usd
    log.warning(
        "The result of video %s expired at %s, and no saved copy was found. Submitting a new one, which will be billed"
        " (price of the expired one: %s; catalog price of the new one: %s).",
        task.id,
        task.expires_at or "an unknown time",
        f"{task.cost_usd} USD" if task.cost_usd is not None else "not reported",
        f"{price} USD" if price is not None else "not known",
    )
    return "expired"


def _is_dead(url: str) -> Flow[bool]:
    """Return whether a result URL that should have expired is gone: its host returns 404, 410 or repeatedly 403."""
    for delay in URL_TRIES:
        if delay:
            yield Sleep(delay)
        response = yield TryUrl(url)
        status = response.status_code if isinstance(response, HttpResponse) else None
        if status != _FORBIDDEN:
            return status in _GONE
    return True


def _reject_other_model(task: VideoTask, request: VideoRequest) -> None:
    if task.model and not request.is_model(task.model):
        raise ToAPIsRequestError(
            f"Video {task.id} with client_business_id {task.client_business_id or 'of this task'} was made by model"
            f" {task.model!r}, not by {request.model!r}. Nothing was submitted. Use another client_business_id.",
            video_id=task.id,
        )


def _submit(terms: Terms, business_id: str, generation: int) -> Flow[Submission]:
    """Upload images if needed, then POST."""
    request = terms.spec.request
    callback = None if request.names_callback else terms.spec.callback()
    earlier = terms.spec.earlier
    with keep_retryable(_interrupted(earlier or PriorSubmission()), when=lambda: earlier is not None):
        body = {**(yield from _body(request, terms.spec.label)), "client_business_id": business_id}
    post = Post(terms, business_id, generation)
    if callback is not None:
        required = callback.required

        def falls_back(rejected: ToAPIsError) -> bool:
            return not required and isinstance(rejected, ToAPIsRequestError) and _is_about_callback(rejected)

        with_callback = request.with_callback(body, callback.url)
        try:
            return (yield from post.submit(with_callback, webhook=True, falls_back=falls_back))
        except ToAPIsRequestError as rejected:
            if not falls_back(rejected):
                raise
            log.warning("No webhook will report this video. It is polled as usual. %s", rejected)
    return (yield from post.submit(body, webhook=False))


def _is_about_callback(rejected: ToAPIsRequestError) -> bool:
    # The error code for a callback URL on another host is not documented, so search the message too. In both cases,
    # nothing was created.
    return rejected.code == WEBHOOK_NOT_CONFIGURED or "callback_url" in str(rejected)


def _body(request: VideoRequest, label: str) -> Flow[dict[str, Any]]:
    uploaded: dict[str, str] = {}
    for image in request.images:
        if image.upload is not None and image.identity not in uploaded:
            response = yield from call(upload_request("image", image.upload), parse_uploaded_file)
            log.info("Uploaded image %s for %s.", image.upload.name, repr(label) if label else "this video")
            uploaded[image.identity] = response.url
    return request.wire_body([uploaded.get(image.identity) or str(image.url) for image in request.images])
