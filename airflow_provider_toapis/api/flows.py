"""Sequences of requests to the service, written as generators without I/O.

A flow (:data:`Flow`) yields its next step and receives the result of the step. The clients in
:mod:`~airflow_provider_toapis.api.client` run flows with httpx, in a worker or on an event loop. Results of the steps:

- :class:`HttpRequest`, :class:`TryUrl`: an :class:`~airflow_provider_toapis.api.error_responses.HttpResponse`, or a
  :class:`~airflow_provider_toapis.exceptions.ToAPIsConnectionError` if there is no response.
- :class:`Sleep`, :class:`Slot`: None.
- :class:`RecordSubmission`: the return value of the function that records the submission.

The flows in this module can safely be repeated. Submissions cannot: see :mod:`~airflow_provider_toapis.api.submission`.
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
from airflow_provider_toapis.api.error_responses import HttpResponse, error_for, reports_unknown_task
from airflow_provider_toapis.api.pricing import OfferedPrice, parse_prices
from airflow_provider_toapis.api.responses import VideoTask, parse_video_task
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

#: Maximum retries after a response that is not from ToAPIs. The cause can be a maintenance page, which is temporary, or
#: a wrong host, which is not.
ANOTHER_SERVICE_REPEATS = 2
#: Maximum page size of the service (documented).
PRICES_PER_PAGE = 100


@dataclass(frozen=True)
class HttpRequest:
    """Step: send a request.

    :param path: Path and query below the base URL. Ids and other values in it are URL-encoded.
    :param private: Sensitive texts that are redacted where an error message quotes the response. None if any text of
        the response can be sensitive.
    """

    method: str
    path: str
    json: Mapping[str, Any] | None = None
    file: FileUpload | None = None
    private: tuple[str, ...] | None = ()

    @property
    def is_submission(self) -> bool:
        """Whether the request submits a video and can be billed. Uploads are free."""
        return self.method == "POST" and self.file is None

    @property
    def label(self) -> str:
        """The name of this request in messages."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Sleep:
    """Step: wait for ``seconds``."""

    seconds: float


@dataclass(frozen=True)
class Slot:
    """Step: wait until the account's rate limit allows the next submission."""


@dataclass(frozen=True)
class TryUrl:
    """Step: request a result URL from its host. The body of the response is not read."""

    url: str


@dataclass(frozen=True)
class RecordSubmission:
    """Step: record a submission for the next attempt.

    Before a POST, ``video_id`` is None and ``rejected`` is False. If the result of such a step is False, another
    process has claimed the submission, and this process must not send the POST.

    :param video_id: The id of the video. None before the POST.
    :param rejected: Whether the POST created nothing. If so, the record from before the POST is valid again.
    :param has_next_model: Whether the POST was rejected, and another model is tried next.
    :param generation: Number of the generation, from 0.
    :param posted_at: Time of the POST in epoch seconds, by the service's clock.
    :param task: The video as the service returned it.
    :param found_by_key: Whether the service is known to find videos of this model by their client_business_id.
    """

    client_business_id: str
    video_id: str | None
    rejected: bool = False
    has_next_model: bool = False
    generation: int = 0
    posted_at: float | None = None
    task: VideoTask | None = None
    found_by_key: bool = False

    @property
    def is_intent(self) -> bool:
        """Whether a POST follows immediately."""
        return self.video_id is None and not self.rejected


#: Errors that are retried, because they say nothing about the request itself.
_TRANSIENT = (ToAPIsRateLimitError, ToAPIsServerError, ToAPIsConnectionError)
Outcome = HttpResponse | ToAPIsConnectionError | bool | None
T = TypeVar("T")
Step = HttpRequest | Sleep | Slot | TryUrl | RecordSubmission
Flow = Generator[Step, Outcome, T]


def video_path(video_id: str) -> str:
    """Return the path of a video's status; ``video_id`` can also be its client_business_id.

    :raises ToAPIsRequestError: ``video_id`` is empty or not a string.
    """
    if not isinstance(video_id, str) or not video_id.strip():
        raise ToAPIsRequestError.for_field("video_id", video_id, "must be the id of a video")
    require_text("video_id", video_id)
    return f"/v1/videos/generations/{quote(video_id, safe='')}"


def status_request(video_id: str) -> HttpRequest:
    """Return the request for the status of a video.

    Its ``private`` is None, because the response can quote the prompt, which is not known here.
    """
    return HttpRequest("GET", video_path(video_id), private=None)


def upload_request(kind: str, file: FileUpload) -> HttpRequest:
    """Return the request that uploads an ``image``, ``video`` or ``audio``."""
    return HttpRequest("POST", f"/v1/uploads/{kind}s", file=file)


def call(
    request: HttpRequest,
    parse: Callable[[dict[str, Any]], T | None],
    retry_timeout: float = RETRY_TIMEOUT,
    *,
    rate_limit_timeout: float | None = None,
    is_inconclusive: Callable[[ToAPIsError], bool] | Literal[False] = False,
) -> Flow[T]:
    """Send a request until it succeeds, then parse the response.

    Use it only for requests that can safely be repeated: GETs, and uploads, which are free.

    :param parse: Parses the JSON response. Returns None for an unexpected response.
    :param retry_timeout: Seconds for which the request is retried after transient errors; 0 sends it once.
    :param rate_limit_timeout: Seconds for which the request is retried after rate limits. Default: ``retry_timeout``.
    :param is_inconclusive: Called with an error that is not transient. Returns True if the error does not show whether
        the video exists. The request is then retried too. Default: only transient errors are retried.
    :raises ToAPIsError: The last error. The transient errors are rate limits, server errors and connection errors. A
        connection error that a retry is unlikely to fix is not retried.
    """
    left = {True: retry_timeout if rate_limit_timeout is None else rate_limit_timeout, False: retry_timeout}
    # If `is_inconclusive` is set, ToAPIs has already responded to an earlier request, so the host is not wrong.
    repeats = math.inf if is_inconclusive else ANOTHER_SERVICE_REPEATS
    for attempt in count():
        outcome = yield request
        try:
            return parse_response(outcome, request, parse)
        except ToAPIsError as error:
            if not isinstance(error, _TRANSIENT) and not (is_inconclusive and is_inconclusive(error)):
                raise
            delay = delay_after(error, attempt)
            is_rate_limit = isinstance(error, ToAPIsRateLimitError)
            left[is_rate_limit] -= delay
            repeats -= not error.by_service
            is_lasting = isinstance(error, ToAPIsConnectionError) and error.lasting
            if left[is_rate_limit] < 0 or repeats < 0 or is_lasting:
                raise
            log.log(logging.DEBUG if attempt else logging.INFO, "%s Retrying in %.0f s.", error, delay)
        yield Sleep(delay)
    raise AssertionError("count() does not end")


def look_up(
    video_id: str,
    retry_timeout: float = RETRY_TIMEOUT,
    *,
    rate_limit_timeout: float | None = None,
    strict: bool = False,
    id_kind: Literal["id", "key", "either"] = "either",
    known_as: str | None = None,
) -> Flow[VideoTask]:
    """Look up a video by its id or its client_business_id.

    A response about another video, with another id or another client_business_id, is an error.

    :param retry_timeout: See :func:`call`.
    :param rate_limit_timeout: See :func:`call`.
    :param strict: Whether an earlier submission may exist. If so, a "not found" that is not from ToAPIs is retried. If
        the last response is such a "not found" too, ToAPIsServerError is raised.
    :param id_kind: What ``video_id`` is: the service's own id, a client_business_id (``key``), or either of them.
    :param known_as: The client_business_id of a video that is looked up by its own id, if known.
    :raises ToAPIsNotFoundError: The service does not find the video.
    :raises ToAPIsServerError: The response is about another video or not from ToAPIs.
    :raises ToAPIsError: The look-up failed.
    """

    def parse(body: dict[str, Any]) -> VideoTask | None:
        task = parse_video_task(body, None if id_kind == "key" else video_id)
        if task and not _is_about(task, video_id, id_kind, known_as):
            raise ToAPIsServerError(f"The response to the look-up of {video_id} is about another video, {task.id}.")
        return task

    try:
        return (
            yield from call(
                status_request(video_id),
                parse,
                retry_timeout,
                rate_limit_timeout=rate_limit_timeout,
                is_inconclusive=strict and _is_foreign,
            )
        )
    except ToAPIsNotFoundError as error:
        if not strict or error.by_service:
            raise
        raise ToAPIsServerError(
            f"{error} The response is from a gateway or a proxy and not from ToAPIs. It says nothing about the video.",
            http_status=error.http_status,
            code=error.code,
        ) from None


def find_video(video_id: str, retry_timeout: float = RETRY_TIMEOUT, **options: Any) -> Flow[VideoTask | None]:  # noqa: ANN401
    """Look up a video as :func:`look_up` does, but return None if the service does not find it.

    :param options: See :func:`look_up`.
    :raises ToAPIsError: The look-up failed. The video must not be submitted before a look-up succeeds.
    """
    try:
        return (yield from look_up(video_id, retry_timeout, **options))
    except ToAPIsNotFoundError:
        return None


def _is_about(task: VideoTask, video_id: str, id_kind: str, known_as: str | None) -> bool:
    if task.client_business_id is not None:
        return task.client_business_id in (video_id, known_as) or (known_as is None and task.id == video_id)
    # Some responses have no client_business_id.
    return task.id == video_id or id_kind != "id"


def _is_foreign(error: ToAPIsError) -> bool:
    return isinstance(error, ToAPIsNotFoundError) and not error.by_service


def all_prices(model: str | None = None, retry_timeout: float = RETRY_TIMEOUT) -> Flow[tuple[OfferedPrice, ...]]:
    """Return the price list of the API key's group, read page by page.

    :param retry_timeout: Seconds for which the request of each page is retried after errors; 0 sends it once.
    """
    prices: tuple[OfferedPrice, ...] = ()
    query = {"type": "video", "limit": str(PRICES_PER_PAGE)} | ({"model": model} if model else {})
    seen: set[str] = set()
    while True:
        page = yield from call(HttpRequest("GET", f"/v1/pricing?{urlencode(query)}"), lambda body: body, retry_timeout)
        prices += parse_prices(page)
        after = page.get("next_after")
        # The last page has no next_after, or "" (both documented). A repeated value would lead to an endless loop.
        if not page.get("has_more") or not isinstance(after, str) or not after or after in seen:
            return prices
        seen.add(after)
        query["after"] = after


def parse_response(outcome: Outcome, request: HttpRequest, parse: Callable[[dict[str, Any]], T | None]) -> T:
    """Return the parsed response to a request.

    :raises ToAPIsError: The request failed, or got no response.
    :raises ToAPIsNotFoundError: The service does not find the id. Some such responses to a GET have status 200.
    :raises ToAPIsServerError: The response has a 2xx status but an unexpected body.
    """
    if isinstance(outcome, ToAPIsConnectionError):
        raise outcome
    if not isinstance(outcome, HttpResponse):
        raise TypeError(f"Expected a response from the client, got {type(outcome).__name__}")
    if not outcome.is_success:
        raise error_for(outcome, request.label, request.private, is_submission=request.is_submission)
    body = outcome.json_object()
    parsed = parse(body) if body is not None else None
    if parsed is None:
        if request.method == "GET" and reports_unknown_task(outcome):
            # Some responses have status 200 although they contain only an error code and no task.
            raise ToAPIsNotFoundError(f"{request.label}: the service does not find this id.")
        error = ToAPIsServerError(
            f"{request.label} returned {outcome.status_code} with an unexpected body. Another service may respond in"
            f" place of ToAPIs: check the connection's host and proxy{outcome.via}.",
            http_status=outcome.status_code,
        )
        error.by_service = outcome.may_be_service_error
        raise error
    if isinstance(parsed, VideoTask):
        return cast("T", parsed.with_absolute_urls(outcome.base_url))
    return parsed


def delay_after(error: ToAPIsError, attempt: int) -> float:
    """Return the seconds to wait after an error, at least its ``retry_after``. Attempts are counted from 0."""
    return max(backoff(attempt), error.retry_after or 0.0)
