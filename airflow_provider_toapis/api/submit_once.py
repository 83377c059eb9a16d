"""Order a video, which is paid for and cannot be cancelled, and never order it twice.

:func:`submit_once` is a conversation as :mod:`~airflow_provider_toapis.api.protocol` describes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import pendulum

from airflow_provider_toapis.api.defaults import PATIENCE
from airflow_provider_toapis.api.error_mapping import WEBHOOK_NOT_CONFIGURED, is_content_policy
from airflow_provider_toapis.api.errors import (
    ToAPIsConnectionError,
    ToAPIsError,
    ToAPIsFinalFailureError,
    ToAPIsNotFoundError,
    ToAPIsRateLimitError,
    ToAPIsRequestError,
    ToAPIsServerError,
    ToAPIsWaitInterruptedError,
)
from airflow_provider_toapis.api.models import TaskStatus, VideoTask, parse_uploaded_file, parse_video_task
from airflow_provider_toapis.api.paid import not_for_good
from airflow_provider_toapis.api.protocol import (
    Flow,
    HttpRequest,
    Remember,
    Sleep,
    backoff,
    call,
    delay_after,
    find_video,
    parsed_answer,
    upload_request,
)
from airflow_provider_toapis.api.redaction import redacted
from airflow_provider_toapis.api.requests import BusinessIds, Callback, EarlierOrder, Submission, VideoRequest

log = logging.getLogger(__name__)

#: Seconds to look for a video whose POST was not answered: how soon an id can be looked up is not documented.
LOST_ANSWER_PATIENCE = 60.0
#: Seconds before each look-up whether a new video can be found by its client_business_id.
INDEX_CHECKS = (0.0, 1.0, 3.0)
#: POSTs with an unknown outcome after which an attempt gives up. The next attempt looks up first, like every one.
MAX_UNKNOWN_OUTCOMES = 3


def submit_once(
    request: VideoRequest,
    business_ids: BusinessIds,
    *,
    max_generations: int,
    patience: float,
    now: Callable[[], pendulum.DateTime],
    earlier: EarlierOrder | None = None,
    callback: Callback | None = None,
    ids_name_model: bool = False,
    check_index: bool = True,
) -> Flow[Submission]:
    """Adopt the video of an earlier attempt, or order it; never order what may already be there.

    Generation n of the wanted video has an id of its own, so each attempt walks from n = 0 past the videos that are
    known to be lost (failed, or finished and expired) to the first that is wanted or missing.

    :param request: What to make.
    :param business_ids: The id of each generation.
    :param max_generations: How many may be paid for.
    :param patience: Seconds that rate limits may hold the POST up (they created nothing).
    :param now: The clock that tells whether a result has expired.
    :param earlier: What is known of an earlier attempt's order for the same request: a second line of defence, for a
        look-up that lags behind, or a model that cannot be looked up by client_business_id at all.
    :param callback: Where the service is to tell that the video is final. One of the author's own wins.
    :param ids_name_model: The model is part of the ids: a video that is found under them is the right one, whatever the
        service calls its model today. Otherwise a video of another model is refused.
    :param check_index: Ask whether the new video can be found by its client_business_id, and warn where it cannot.
    :raises ToAPIsFinalFailureError: All generations that are allowed were used up.
    :raises ToAPIsServerError: The outcome of the POST stayed unknown. The next attempt looks up first.
    """
    all_ids = [business_ids(generation) for generation in range(max_generations)]
    under_way = yield from _earlier_take_under_way(earlier, all_ids)
    if under_way is not None:
        return under_way
    for generation in range(_first_generation(earlier, all_ids), max_generations):
        business_id = all_ids[generation]
        task = yield from _find_earlier(business_id, earlier)
        if task is None:
            used = None if request.names_callback else callback
            task, webhook = yield from _order(request, business_id, used, patience, check_index=check_index)
            return Submission(task, business_id, generation, adopted=False, webhook=webhook)
        if not ids_name_model:
            _refuse_other_model(task, request)
        if not _is_lost(task, request, now()):
            return Submission(task=task, client_business_id=business_id, generation=generation, adopted=True)
    raise ToAPIsFinalFailureError(
        f"All {max_generations} generations allowed for this video (max_generations) failed or expired. Nothing"
        " new was paid. Change the request, raise max_generations, or clear the task with on_clear='regenerate'.",
        task=task,
    )


def _earlier_take_under_way(earlier: EarlierOrder | None, own_ids: Sequence[str]) -> Flow[Submission | None]:
    """Return the take before this one (``on_clear="regenerate"``) while it is still being made: it is the newer one."""
    business_id = earlier.client_business_id if earlier else None
    if earlier is None or business_id is None or business_id in own_ids:
        return None
    with not_for_good(_interrupted(earlier)):
        task = yield from (find_video(earlier.video_id) if earlier.video_id else _find_after_lost_answer(business_id))
    if task is None or task.is_final:
        return None
    return Submission(task=task, client_business_id=business_id, generation=0, adopted=True)


def _first_generation(earlier: EarlierOrder | None, own_ids: Sequence[str]) -> int:
    """Return where to begin: an earlier attempt that ordered generation n knew all those before it to be lost."""
    business_id = earlier.client_business_id if earlier else None
    return own_ids.index(business_id) if business_id in own_ids else 0


def _find_earlier(business_id: str, earlier: EarlierOrder | None) -> Flow[VideoTask | None]:
    """Look a generation up, the more thoroughly the more likely it is there; None means that it may be ordered."""
    if earlier is None:
        return (yield from find_video(business_id))
    with not_for_good(_interrupted(earlier)):
        task = yield from find_video(business_id)
        if task is not None or earlier.client_business_id not in (None, business_id):
            return task
        log.info("An earlier attempt may have ordered %s a moment ago: looking for up to a minute.", business_id)
        task = yield from _find_after_lost_answer(earlier.video_id or business_id)
    if task is None and earlier.video_id:
        log.warning("Video %s was ordered earlier, but the service denies it. A new one is paid.", earlier.video_id)
    return task


def _interrupted(earlier: EarlierOrder) -> Callable[[ToAPIsError], ToAPIsWaitInterruptedError]:
    if earlier.video_id is None:
        return ToAPIsWaitInterruptedError.for_earlier_order
    return partial(ToAPIsWaitInterruptedError.for_video, earlier.video_id)


def _is_lost(task: VideoTask, request: VideoRequest, now: pendulum.DateTime) -> bool:
    """Whether only a new generation can bring this video; says so, with its price, because that is paid again."""
    code = task.error.code if task.error else None
    if task.status is TaskStatus.FAILED:
        if is_content_policy(task.error):
            return False
        log.info("Video %s failed earlier%s.", task.id, f" ({redacted(code)})" if code else "")
        return True
    if task.status is TaskStatus.COMPLETED and task.is_expired(now):
        log.warning(
            "Video %s was made, but its result expired at %s and no kept copy was found. A new one will be paid"
            " (price of the expired one: %s; catalogue price of the new one: %s).",
            task.id,
            task.expires_at,
            f"{task.cost_usd} USD" if task.cost_usd is not None else "not reported",
            f"{request.price_usd} USD" if request.price_usd is not None else "not known",
        )
        return True
    return False


def _refuse_other_model(task: VideoTask, request: VideoRequest) -> None:
    if task.model and not request.is_model(task.model):
        raise ToAPIsRequestError(
            f"Video {task.id} with client_business_id {task.client_business_id or 'of this task'} was made by model"
            f" {task.model!r}, not by {request.model!r}. Nothing new was paid. Use another client_business_id.",
            video_id=task.id,
        )


def _order(
    request: VideoRequest, business_id: str, callback: Callback | None, patience: float, *, check_index: bool
) -> Flow[tuple[VideoTask, bool]]:
    """Upload what must be uploaded, then POST; return the task, and whether a webhook is to tell of it."""
    body = {**(yield from _body(request)), "client_business_id": business_id}
    if callback is not None:
        told = request.with_callback(body, callback.url)
        try:
            return (yield from _post(request, told, business_id, patience, check_index=check_index)), True
        except ToAPIsRequestError as refused:
            if callback.required or not _is_about_callback(refused):
                raise
            log.warning("No webhook will tell of this video; it is asked for as usual. %s", refused)
    return (yield from _post(request, body, business_id, patience, check_index=check_index)), False


def _is_about_callback(refused: ToAPIsRequestError) -> bool:
    # Under which code an address on another host is refused is not documented. Either way nothing was created.
    return refused.code == WEBHOOK_NOT_CONFIGURED or "callback_url" in str(refused)


def _post(
    request: VideoRequest, body: Mapping[str, Any], business_id: str, patience: float, *, check_index: bool
) -> Flow[VideoTask]:
    """POST until the outcome is known.

    :raises ToAPIsWaitInterruptedError: Refused, but an earlier POST that was not answered may have been accepted.
    """
    post = HttpRequest("POST", request.path, json=body, private=request.private)
    yield Remember(business_id, video_id=None)
    for outcome_number in range(1, MAX_UNKNOWN_OUTCOMES + 1):
        try:
            task = yield from _post_until_sent(post, patience)
        except ToAPIsError as error:
            if not _may_have_ordered(error):
                refusal = _refusal(error, request)
                if outcome_number > 1:
                    raise ToAPIsWaitInterruptedError.for_earlier_order(refusal) from error
                yield Remember(business_id, video_id=None, refused=True)
                raise refusal from error.__cause__
            log.warning(
                "The answer to the order was lost (%s of %s: %s). Looking for its video by client_business_id %s.",
                outcome_number,
                MAX_UNKNOWN_OUTCOMES,
                error,
                business_id,
            )
            last_error = error
        else:
            yield Remember(business_id, task.id)
            if check_index:
                yield from _warn_unless_indexed(task, business_id)
            return task
        with not_for_good(ToAPIsWaitInterruptedError.for_earlier_order):
            found = yield from _find_after_lost_answer(business_id)
        if found is not None:
            log.info("Video %s exists: the order had arrived. It is adopted.", found.id)
            yield Remember(business_id, found.id)
            return found
    raise ToAPIsServerError(
        f"{MAX_UNKNOWN_OUTCOMES} orders in a row were not answered, and no video with client_business_id {business_id}"
        " was found. It may still appear, and then is paid; a retry looks for it before it orders anything."
        f" {last_error}",
        code=last_error.code,
    ) from last_error


def _may_have_ordered(error: ToAPIsError) -> bool:
    return isinstance(error, ToAPIsServerError | ToAPIsConnectionError) and not _was_not_sent(error)


def _refusal(error: ToAPIsError, request: VideoRequest) -> ToAPIsError:
    """Return the error of an order that came to nothing: what is not found is not the video of a look-up."""
    if not isinstance(error, ToAPIsNotFoundError):
        return error
    unknown = f"no video {request.video_id!r}" if request.video_id else "no such address: check the host"
    return ToAPIsRequestError(f"{error} The service knows {unknown}. Nothing was paid.")


def _was_not_sent(error: ToAPIsError) -> bool:
    return isinstance(error, ToAPIsConnectionError) and not error.sent


def _warn_unless_indexed(task: VideoTask, business_id: str) -> Flow[None]:
    """Ask for a new video by its client_business_id: whether every model can be found so is not documented."""
    for delay in INDEX_CHECKS:
        yield Sleep(delay)
        try:
            if (yield from find_video(business_id, patience=0.0)) is not None:
                return
        except ToAPIsError:
            return
    log.warning(
        "Video %s cannot be found by its client_business_id %s yet. If model %s is never found so, a lost answer or a"
        " killed worker may cost a second video.",
        task.id,
        business_id,
        task.model,
    )


def _post_until_sent(request: HttpRequest, patience: float) -> Flow[VideoTask]:
    """POST; post again after answers and failures that created nothing (rate limits, no connection).

    :raises ToAPIsServerError: Or a connection error: the outcome is unknown.
    """
    patience_left = {ToAPIsRateLimitError: patience, ToAPIsConnectionError: PATIENCE}
    for attempt in count():
        try:
            return parsed_answer((yield request), request, parse_video_task)
        except (ToAPIsRateLimitError, ToAPIsConnectionError) as error:
            if isinstance(error, ToAPIsConnectionError) and not _was_not_sent(error):
                raise
            delay = delay_after(error, attempt)
            patience_left[type(error)] -= delay
            if patience_left[type(error)] < 0:
                raise
            log.info("%s Ordering again in %.0f s.", error, delay)
        yield Sleep(delay)
    raise AssertionError("count() does not end")


def _find_after_lost_answer(business_id: str) -> Flow[VideoTask | None]:
    """Look for up to a minute; None only when the last look-up definitely found nothing."""
    waited = 0.0
    for attempt in count():
        found = yield from find_video(business_id, patience=LOST_ANSWER_PATIENCE)
        if found is not None or waited >= LOST_ANSWER_PATIENCE:
            return found
        delay = min(backoff(attempt), LOST_ANSWER_PATIENCE - waited)
        yield Sleep(delay)
        waited += delay
    raise AssertionError("count() does not end")


def _body(request: VideoRequest) -> Flow[dict[str, Any]]:
    uploaded: dict[str, str] = {}
    for image in request.images:
        if image.upload is not None and image.identity not in uploaded:
            answer = yield from call(upload_request("image", image.upload), parse_uploaded_file)
            log.info("Uploaded %s for this video.", image.upload.name)
            uploaded[image.identity] = answer.url
    return request.wire_body([uploaded.get(image.identity) or str(image.url) for image in request.images])
