"""The conversation with the service, without I/O.

A conversation is a generator (:data:`Flow`) that says what to do next and is told what came of it;
:mod:`~airflow_provider_toapis.api.client` drives it, with httpx in a worker or on an event loop. It yields
:class:`HttpRequest` ("send this") and gets back an :class:`~airflow_provider_toapis.api.error_responses.HttpResponse`
or a :class:`~airflow_provider_toapis.exceptions.ToAPIsConnectionError`; it yields :class:`TryUrl` and gets back the
same. It yields :class:`Sleep` or :class:`Slot` and gets back None, or :class:`RecordSubmission` and gets back what its
receiver says.

Here is what may safely be asked again. An order may not: :mod:`~airflow_provider_toapis.api.submission`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, TypeVar, cast
from urllib.parse import quote, urlencode

from airflow_provider_toapis.api.clock import backoff
from airflow_provider_toapis.api.defaults import RETRY_TIMEOUT
from airflow_provider_toapis.api.error_responses import HttpResponse, error_for, says_unknown_task
from airflow_provider_toapis.api.price_list import parse_prices
from airflow_provider_toapis.api.responses import OfferedPrice, VideoTask, parse_video_task
from airflow_provider_toapis.api.texts import require_text
from airflow_provider_toapis.api.video_request import FileUpload
from airflow_provider_toapis.exceptions import (
    ToAPIsConnectionError,
    ToAPIsError,
    ToAPIsNotFoundError,
    ToAPIsRateLimitError,
    ToAPIsRequestError,
    ToAPIsServerError,
)

log = logging.getLogger(__name__)

#: How often what another service answered is asked again: a page of maintenance ends, a wrong host does not.
ANOTHER_SERVICE_REPEATS = 2
#: The most that the service gives at once (documented).
PRICES_PER_PAGE = 100


@dataclass(frozen=True)
class HttpRequest:
    """ "Send this."

    :param path: Path and query below the base URL; parts that come from outside are URL-encoded.
    :param private: Texts that no message may quote from the answer; None for any.
    """

    method: str
    path: str
    json: Mapping[str, Any] | None = None
    file: FileUpload | None = None
    private: tuple[str, ...] | None = ()

    @property
    def is_submission(self) -> bool:
        """Whether it may be paid for; an upload is not."""
        return self.method == "POST" and self.file is None

    @property
    def asked(self) -> str:
        """What messages call this request."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Sleep:
    """ "Wait this long." In seconds."""

    seconds: float


@dataclass(frozen=True)
class Slot:
    """ "Wait until the account's rate allows the next submission." """


@dataclass(frozen=True)
class TryUrl:
    """ "Ask the host of this result URL whether there is a file." Answered with its response, body unread."""

    url: str


@dataclass(frozen=True)
class RecordSubmission:
    """ "Note this where the next attempt finds it."

    Before a POST (no ``video_id``, not ``rejected``) the receiver may answer False: another process has claimed the
    submission, and this one must not POST.

    :param video_id: None before the order is sent: it may then exist or not.
    :param rejected: The order came to nothing, and what was noted before it holds again.
    :param generation: Which submission of the request it is, from 0.
    :param posted_at: Epoch seconds, by the service's clock, at which the POST is sent.
    :param task: What the service says of the video.
    :param found_by_key: The service finds videos of this model by their client_business_id; False where that is not
        known.
    """

    client_business_id: str
    video_id: str | None
    rejected: bool = False
    generation: int = 0
    posted_at: float | None = None
    task: VideoTask | None = None
    found_by_key: bool = False

    @property
    def is_intent(self) -> bool:
        """Whether a POST follows at once."""
        return self.video_id is None and not self.rejected


#: Errors that say nothing about what was asked.
_TRANSIENT = (ToAPIsRateLimitError, ToAPIsServerError, ToAPIsConnectionError)
Outcome = HttpResponse | ToAPIsConnectionError | bool | None
T = TypeVar("T")
Step = HttpRequest | Sleep | Slot | TryUrl | RecordSubmission
Flow = Generator[Step, Outcome, T]


def video_path(video_id: str) -> str:
    """Return where the status of a video stands; ``video_id`` may be its client_business_id too.

    :raises ToAPIsRequestError: Empty, or not a text.
    """
    if not isinstance(video_id, str) or not video_id.strip():
        raise ToAPIsRequestError.for_field("video_id", video_id, "must be the id of a video")
    require_text("video_id", video_id)
    return f"/v1/videos/generations/{quote(video_id, safe='')}"


def status_request(video_id: str) -> HttpRequest:
    """Return the request for a video. The vendor's words about it may quote a prompt that nobody knows here."""
    return HttpRequest("GET", video_path(video_id), private=None)


def upload_request(kind: str, file: FileUpload) -> HttpRequest:
    """Return the upload of an ``image``, ``video`` or ``audio``."""
    return HttpRequest("POST", f"/v1/uploads/{kind}s", file=file)


def call(
    request: HttpRequest,
    parse: Callable[[dict[str, Any]], T | None],
    retry_timeout: float = RETRY_TIMEOUT,
    *,
    rate_limit_timeout: float | None = None,
    tells_nothing: Callable[[ToAPIsError], bool] | Literal[False] = False,
) -> Flow[T]:
    """Ask until answered, then parse. Only for requests that may be repeated: GETs, and uploads, which are free.

    :param parse: Reads the JSON answer; None means that it is not what was asked for.
    :param retry_timeout: Seconds of waiting before the last error is raised; 0 asks once.
    :param rate_limit_timeout: The same for rate limits, which say when to come again. Default: ``retry_timeout``.
    :param tells_nothing: Which further errors say nothing about the request, so that it is sent again.
    :raises ToAPIsError: What the last answer meant. Only rate limits, servers and connections are asked again.
    """
    left = {True: retry_timeout if rate_limit_timeout is None else rate_limit_timeout, False: retry_timeout}
    # Where an earlier submission may exist, this host has once been the service.
    repeats = math.inf if tells_nothing else ANOTHER_SERVICE_REPEATS
    for attempt in count():
        outcome = yield request
        try:
            return parse_response(outcome, request, parse)
        except ToAPIsError as error:
            if not isinstance(error, _TRANSIENT) and not (tells_nothing and tells_nothing(error)):
                raise
            delay = delay_after(error, attempt)
            is_rate_limit = isinstance(error, ToAPIsRateLimitError)
            left[is_rate_limit] -= delay
            repeats -= not error.by_service
            is_lasting = isinstance(error, ToAPIsConnectionError) and error.lasting
            if left[is_rate_limit] < 0 or repeats < 0 or is_lasting:
                raise
            log.log(logging.DEBUG if attempt else logging.INFO, "%s Asking again in %.0f s.", error, delay)
        yield Sleep(delay)
    raise AssertionError("count() does not end")


def look_up(
    video_id: str,
    retry_timeout: float = RETRY_TIMEOUT,
    *,
    rate_limit_timeout: float | None = None,
    strict: bool = False,
    given: Literal["id", "key", "either"] = "either",
    known_as: str | None = None,
) -> Flow[VideoTask]:
    """Ask once, with patience, for a video by its id or its client_business_id.

    A response about another video, with another id or another client_business_id, is no answer.

    :param retry_timeout: See :func:`call`; so ``rate_limit_timeout``.
    :param strict: An earlier submission may exist: only the service's own words that it does not know the task count.
    :param given: What ``video_id`` is: the service's own id, a client_business_id, or one that is not known to be
        either.
    :param known_as: The client_business_id of a video that is looked up by its own id, where it is known.
    :raises ToAPIsNotFoundError: The service does not know it.
    :raises ToAPIsServerError: The look-up was answered with something else.
    :raises ToAPIsError: The look-up could not be answered.
    """

    def parse(body: dict[str, Any]) -> VideoTask | None:
        task = parse_video_task(body, None if given == "key" else video_id)
        if task and not _is_about(task, video_id, given, known_as):
            raise ToAPIsServerError(f"The look-up of {video_id} was answered with another video, {task.id}.")
        return task

    try:
        return (
            yield from call(
                status_request(video_id),
                parse,
                retry_timeout,
                rate_limit_timeout=rate_limit_timeout,
                tells_nothing=strict and _is_foreign,
            )
        )
    except ToAPIsNotFoundError as error:
        if not strict or error.by_service:
            raise
        raise ToAPIsServerError(
            f"{error} These are not the words of ToAPIs but of something before it (a gateway, a proxy). They say"
            " nothing about the video.",
            http_status=error.http_status,
            code=error.code,
        ) from None


def find_video(video_id: str, retry_timeout: float = RETRY_TIMEOUT, **options: Any) -> Flow[VideoTask | None]:  # noqa: ANN401
    """Look a video up as :func:`look_up` does; None means that the service definitely does not know it.

    :param options: See :func:`look_up`.
    :raises ToAPIsError: The look-up could not be answered: worth a retry, never a license to post.
    """
    try:
        return (yield from look_up(video_id, retry_timeout, **options))
    except ToAPIsNotFoundError:
        return None


def _is_about(task: VideoTask, asked: str, given: str, known_as: str | None) -> bool:
    if task.client_business_id is not None:
        return task.client_business_id in (asked, known_as) or (known_as is None and task.id == asked)
    # Not every response repeats the key.
    return task.id == asked or given != "id"


def _is_foreign(error: ToAPIsError) -> bool:
    return isinstance(error, ToAPIsNotFoundError) and not error.by_service


def all_prices(model: str | None = None, retry_timeout: float = RETRY_TIMEOUT) -> Flow[tuple[OfferedPrice, ...]]:
    """Ask for the price list of the key's group, page by page.

    :param retry_timeout: Seconds that errors may hold each page up; 0 asks once.
    """
    prices: tuple[OfferedPrice, ...] = ()
    query = {"type": "video", "limit": str(PRICES_PER_PAGE)} | ({"model": model} if model else {})
    seen: set[str] = set()
    while True:
        page = yield from call(HttpRequest("GET", f"/v1/pricing?{urlencode(query)}"), lambda body: body, retry_timeout)
        prices += parse_prices(page)
        after = page.get("next_after")
        # The last page names none, or "" (both are documented). One that was read already leads round in a circle.
        if not page.get("has_more") or not isinstance(after, str) or not after or after in seen:
            return prices
        seen.add(after)
        query["after"] = after


def parse_response(outcome: Outcome, request: HttpRequest, parse: Callable[[dict[str, Any]], T | None]) -> T:
    """Return what a request was answered with.

    :raises ToAPIsError: What an answer of another kind means, or that there was none.
    :raises ToAPIsNotFoundError: A success that says, all the same, that an id is not known.
    :raises ToAPIsServerError: A success, but about something else.
    """
    if isinstance(outcome, ToAPIsConnectionError):
        raise outcome
    if not isinstance(outcome, HttpResponse):
        raise TypeError(f"A driver answered a request with {type(outcome).__name__}")
    if not outcome.is_success:
        raise error_for(outcome, request.asked, request.private, is_submission=request.is_submission)
    body = outcome.json_object()
    parsed = parse(body) if body is not None else None
    if parsed is None:
        if request.method == "GET" and says_unknown_task(outcome):
            # Some answer with 200 and only the code tells (a task id is missing, so this is no task).
            raise ToAPIsNotFoundError(f"{request.asked}: the service does not know this id.")
        error = ToAPIsServerError(
            f"{request.asked} was answered with {outcome.status_code}, but not with what was asked for. Another service"
            f" may answer in the place of ToAPIs: check the connection's host and proxy{outcome.via}.",
            http_status=outcome.status_code,
        )
        error.by_service = outcome.may_be_own_trouble
        raise error
    if isinstance(parsed, VideoTask):
        return cast("T", parsed.with_absolute_urls(outcome.base_url))
    return parsed


def delay_after(error: ToAPIsError, attempt: int) -> float:
    """Return the seconds to wait after an error, which may say itself how many; ``attempt`` counts from 0."""
    return max(backoff(attempt), error.retry_after or 0.0)
