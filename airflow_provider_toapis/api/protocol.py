"""The conversation with the service, without I/O.

A conversation is a generator (:data:`Flow`) that says what to do next and is told what came of it;
:mod:`~airflow_provider_toapis.api.client` drives it, with httpx in a worker or on an event loop. It yields
:class:`HttpRequest` ("send this") and gets back an :class:`~airflow_provider_toapis.api.error_mapping.HttpResponse` or
a :class:`~airflow_provider_toapis.api.errors.ToAPIsConnectionError`, or it yields :class:`Sleep` or :class:`Remember`
and gets back None.

Here is what may safely be asked again. An order may not: :mod:`~airflow_provider_toapis.api.submit_once`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from airflow_provider_toapis.api.defaults import PATIENCE
from airflow_provider_toapis.api.error_mapping import HttpResponse, error_for
from airflow_provider_toapis.api.errors import (
    ToAPIsConnectionError,
    ToAPIsError,
    ToAPIsNotFoundError,
    ToAPIsRateLimitError,
    ToAPIsRequestError,
    ToAPIsServerError,
)
from airflow_provider_toapis.api.models import OfferedPrice, VideoTask, parse_prices, parse_video_task
from airflow_provider_toapis.api.requests import FileUpload

log = logging.getLogger(__name__)

#: Waits between attempts, in seconds; the last one repeats.
BACKOFF = (1.0, 2.0, 4.0, 8.0, 15.0)
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
    def is_order(self) -> bool:
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
class Remember:
    """ "Note this where the next attempt finds it."

    :param video_id: None before the order is sent: it may then exist or not.
    :param refused: The order came to nothing, and what was noted before it holds again.
    """

    client_business_id: str
    video_id: str | None
    refused: bool = False


Outcome = HttpResponse | ToAPIsConnectionError | None
T = TypeVar("T")
Flow = Generator[HttpRequest | Sleep | Remember, Outcome, T]


def video_path(video_id: str) -> str:
    """Return where the status of a video stands; ``video_id`` may be its client_business_id too.

    :raises ToAPIsRequestError: Empty, or not a text.
    """
    if not isinstance(video_id, str) or not video_id.strip():
        raise ToAPIsRequestError.for_field("video_id", video_id, "the id of a video")
    return f"/v1/videos/generations/{quote(video_id, safe='')}"


def status_request(video_id: str) -> HttpRequest:
    """Return the request for a video. The vendor's words about it may quote a prompt that nobody knows here."""
    return HttpRequest("GET", video_path(video_id), private=None)


def upload_request(kind: str, file: FileUpload) -> HttpRequest:
    """Return the upload of an ``image``, ``video`` or ``audio``."""
    return HttpRequest("POST", f"/v1/uploads/{kind}s", file=file)


def call(request: HttpRequest, parse: Callable[[dict[str, Any]], T | None], patience: float = PATIENCE) -> Flow[T]:
    """Ask until answered, then parse. Only for requests that may be repeated: GETs, and uploads, which are free.

    :param parse: Reads the JSON answer; None means that it is not what was asked for.
    :param patience: Seconds of waiting before the last error is raised; 0 asks once.
    :raises ToAPIsError: What the last answer meant. Only rate limits, servers and connections are asked again.
    """
    for attempt in count():
        try:
            return parsed_answer((yield request), request, parse)
        except (ToAPIsRateLimitError, ToAPIsServerError, ToAPIsConnectionError) as error:
            delay = delay_after(error, attempt)
            patience -= delay
            if patience < 0:
                raise
            log.log(logging.DEBUG if attempt else logging.INFO, "%s Asking again in %.0f s.", error, delay)
        yield Sleep(delay)
    raise AssertionError("count() does not end")


def find_video(business_id: str, patience: float = PATIENCE) -> Flow[VideoTask | None]:
    """Look a video up by its client_business_id; None means that the service definitely does not know it.

    :raises ToAPIsError: The look-up could not be answered: worth a retry, never a licence to post.
    """
    try:
        return (yield from call(status_request(business_id), parse_video_task, patience))
    except ToAPIsNotFoundError:
        return None


def all_prices(model: str | None = None) -> Flow[tuple[OfferedPrice, ...]]:
    """Ask for the price list of the key's group, page by page."""
    prices: tuple[OfferedPrice, ...] = ()
    query = {"type": "video", "limit": str(PRICES_PER_PAGE)} | ({"model": model} if model else {})
    while True:
        page = yield from call(HttpRequest("GET", f"/v1/pricing?{urlencode(query)}"), lambda body: body)
        prices += parse_prices(page)
        after = page.get("next_after")
        if not page.get("has_more") or not after or after == query.get("after"):
            return prices
        query["after"] = str(after)


def parsed_answer(outcome: Outcome, request: HttpRequest, parse: Callable[[dict[str, Any]], T | None]) -> T:
    """Return what a request was answered with.

    :raises ToAPIsError: What an answer of another kind means, or that there was none.
    :raises ToAPIsServerError: A success, but about something else.
    """
    if isinstance(outcome, ToAPIsConnectionError):
        raise outcome
    if not isinstance(outcome, HttpResponse):
        raise TypeError(f"A driver answered a request with {type(outcome).__name__}")
    if not outcome.is_success:
        raise error_for(outcome, request.asked, request.private)
    body = outcome.json_object()
    parsed = parse(body) if body is not None else None
    if parsed is None:
        raise ToAPIsServerError(
            f"{request.asked} was answered with {outcome.status_code}, but not with what was asked for.",
            http_status=outcome.status_code,
        )
    return parsed


def delay_after(error: ToAPIsError, attempt: int) -> float:
    """Return the seconds to wait after an error, which may say itself how many; ``attempt`` counts from 0."""
    return max(backoff(attempt), error.retry_after or 0.0)


def backoff(attempt: int) -> float:
    """Return the seconds to wait after an attempt; they are counted from 0."""
    return BACKOFF[min(attempt, len(BACKOFF) - 1)]
