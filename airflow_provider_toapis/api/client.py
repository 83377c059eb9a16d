"""HTTP clients: run the flows of :mod:`~airflow_provider_toapis.api.flows` with httpx.

:class:`ToAPIsClient` is synchronous, for a worker or a notebook. It submits, polls, uploads and downloads.
:class:`AsyncToAPIsClient` only looks up videos, because submissions and file transfers do not run on an event loop.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Literal, Self, TypeVar

import httpx
import pendulum

from airflow_provider_toapis.api.clock import StopSignal, clock
from airflow_provider_toapis.api.connecting import (
    api_options,
    connection_error,
    create_client,
    file_client,
    http_options,
)
from airflow_provider_toapis.api.defaults import RETRY_TIMEOUT
from airflow_provider_toapis.api.download import MAX_BYTES, ByteStream, Destination, StoredFile, download
from airflow_provider_toapis.api.error_responses import HttpResponse, date_of
from airflow_provider_toapis.api.etag import image_etag
from airflow_provider_toapis.api.flows import (
    Flow,
    HttpRequest,
    Outcome,
    RecordSubmission,
    Sleep,
    Slot,
    Step,
    TryUrl,
    all_prices,
    call,
    look_up,
    upload_request,
)
from airflow_provider_toapis.api.limits import LimitExceededError
from airflow_provider_toapis.api.model_catalog import suggest_model
from airflow_provider_toapis.api.poll_schedule import MAX_INTERVAL
from airflow_provider_toapis.api.pricing import OfferedPrice
from airflow_provider_toapis.api.rate_limit import ThreadSafeRateLimiter, found_by_key, poll_limiter, submit_limiter
from airflow_provider_toapis.api.responses import (
    Balance,
    OfferedModel,
    UploadedFile,
    VideoTask,
    parse_balance,
    parse_models,
    parse_uploaded_file,
)
from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.api.submission import submit_once
from airflow_provider_toapis.api.submit_spec import Submission, SubmitSpec
from airflow_provider_toapis.api.transport import LoopTransport, head, host_of, limited, open_stream, send
from airflow_provider_toapis.api.video_request import FileUpload
from airflow_provider_toapis.exceptions import ToAPIsConnectionError
from airflow_provider_toapis.redaction import silent_http

T = TypeVar("T")
#: Maximum random fraction by which each wait is extended, so that many tasks do not retry at the same time.
SLEEP_JITTER = 0.2
#: Maximum concurrent requests of one client.
MAX_CONNECTIONS = 100
#: Seconds that an idle connection stays open: longer than between two polls, even if few videos wait, because a TLS
#: handshake takes more CPU time than a poll. Networks of cloud providers forget connections that are idle for four
#: minutes (documented). If the server closes a connection earlier, httpx notices it.
KEEPALIVE_SECONDS = MAX_INTERVAL + 10.0
#: Seconds of responses at ``query_rate`` for which enough connections stay open. httpx checks every idle connection
#: twice per request, so that a poll with 100 idle connections takes ten times as much CPU time as with one.
POOL_SECONDS = 0.5
#: A difference of up to this many seconds between the worker's clock and the service's is not corrected.
CLOCK_TOLERANCE = 5.0


class ToAPIsClient:
    """Synchronous client. It submits, polls, uploads and downloads.

    :param settings: Account and base URL.
    :param stop: Stop signal. Once it is set, nothing more is uploaded or submitted.
    """

    def __init__(
        self,
        settings: ClientSettings,
        stop: StopSignal | None = None,
    ) -> None:
        self._settings = settings
        self._stop = stop or StopSignal()
        self._clock_offset = 0.0
        self._submit_limiter = submit_limiter(settings)
        self._poll_limiter = poll_limiter(settings)
        self._http = limited(create_client(httpx.Client, settings, **http_options(settings), **api_options(settings)))
        self._open = ExitStack()
        self._open.enter_context(self._http)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()

    def submit_once(
        self, spec: SubmitSpec, remember: Callable[[RecordSubmission], bool | None] = lambda _: None
    ) -> Submission:
        """Re-attach to a video or submit it; see :func:`~airflow_provider_toapis.api.submission.submit_once`.

        :param spec: The request to submit, and what is known about earlier submissions.
        :param remember: Called before each POST and after its response to record the submission for the next attempt.
            If it returns False, another process has claimed the submission, and no POST is sent.
        """
        with suggest_model(spec.request.model):
            flow = submit_once(
                spec, now=self._service_time, clock=clock.monotonic, found_by_key=found_by_key(self._settings)
            )
            return self._drive(flow, remember)

    def get_video(
        self,
        video_id: str,
        retry_timeout: float = RETRY_TIMEOUT,
        *,
        rate_limit_timeout: float | None = None,
        is_id: bool = False,
        is_key: bool = False,
        known_as: str | None = None,
    ) -> VideoTask:
        """Look up a video by its id or its client_business_id, at most ``query_rate`` times per second.

        :param video_id: The id or the client_business_id.
        :param retry_timeout: Seconds for which the request is retried after rate limits, server errors and connection
            errors (default 60).
        :param rate_limit_timeout: Seconds for which the request is retried after rate limits. Default:
            ``retry_timeout``.
        :param is_id: Whether ``video_id`` is the service's own id. If so, a response with another id is an error.
        :param is_key: Whether ``video_id`` is a client_business_id. If so, a response without an id is an error.
        :param known_as: The client_business_id of the video, if known.
        :raises ToAPIsNotFoundError: The service does not find the video.
        """
        self._wait_for_slot(self._poll_limiter)
        id_kind: Literal["id", "key", "either"] = "id" if is_id else "key" if is_key else "either"
        return self._drive(
            look_up(video_id, retry_timeout, rate_limit_timeout=rate_limit_timeout, id_kind=id_kind, known_as=known_as)
        )

    def upload(self, kind: str, file: FileUpload) -> UploadedFile:
        """Upload a file. Uploads are free.

        :param kind: ``image``, ``video`` or ``audio``.
        :param file: The file to upload.
        """
        return self._drive(call(upload_request(kind, file), parse_uploaded_file))

    def image_etag(self, url: str) -> str:
        """Return the ETag of the image at ``url``. See :func:`~airflow_provider_toapis.api.etag.image_etag`."""
        return image_etag(url, self._head, self._sleep)

    def get_balance(self, retry_timeout: float = RETRY_TIMEOUT) -> Balance:
        """Return the balance of the API key. The request is free.

        :param retry_timeout: Seconds for which the request is retried after rate limits, server errors and connection
            errors (default 60).
        """
        return self._drive(_balance(retry_timeout))

    def list_models(self, kind: str = "video") -> Sequence[OfferedModel]:
        """Return the models that the API key can use. The request is free.

        :param kind: ``video`` (default), ``image``, ``audio``, ``text`` or ``all``.
        """
        return self._drive(_models(kind))

    def get_pricing(self, model: str | None = None, retry_timeout: float = RETRY_TIMEOUT) -> Sequence[OfferedPrice]:
        """Return the price list of the API key's group.

        :param model: Return the prices of this model only. Default: all models.
        :param retry_timeout: Seconds for which the request of each page is retried after errors (default 60).
        """
        return self._drive(all_prices(model, retry_timeout))

    def download(
        self,
        task: VideoTask,
        destination: Destination,
        *,
        refresh: Callable[[], VideoTask],
        max_bytes: int = MAX_BYTES,
    ) -> StoredFile:
        """Stream a finished video into a file.

        The parameters are those of :func:`~airflow_provider_toapis.api.download.download`.
        """
        with file_client(self._settings) as http, silent_http():

            @contextmanager
            def opened_stream(url: str, headers: Mapping[str, str]) -> Iterator[ByteStream]:
                with (
                    _connection_errors("The request for the result file", self._settings),
                    open_stream(http, url, headers) as stream,
                ):
                    yield stream

            return download(
                task,
                destination,
                open_stream=opened_stream,
                refresh=refresh,
                sleep=self._sleep,
                now=self._service_time,
                max_bytes=max_bytes,
            )

    @cached_property
    def _files(self) -> httpx.Client:
        return self._open.enter_context(file_client(self._settings))

    def _head(self, url: str) -> HttpResponse | ToAPIsConnectionError:
        try:
            with silent_http(), _connection_errors("The request for the image's ETag", self._settings):
                return head(self._files, url)
        except ToAPIsConnectionError as error:
            return error

    def _try_url(self, url: str) -> HttpResponse | ToAPIsConnectionError:
        try:
            # Not a HEAD request, because hosts reject HEAD for URLs that are signed for GET.
            with (
                silent_http(),
                _connection_errors("The request for the result URL", self._settings),
                open_stream(self._files, url, {"Range": "bytes=0-0"}) as stream,
            ):
                return HttpResponse(stream.status_code)
        except ToAPIsConnectionError as error:
            return error

    def _sleep(self, seconds: float) -> None:
        clock.sleep(seconds, self._stop.check)

    def _service_time(self) -> pendulum.DateTime:
        """Return the current time by the service's clock, because a worker's clock can be wrong.

        The difference between the clocks is taken from the service's last response.
        """
        return pendulum.from_timestamp(clock.time() + self._clock_offset)

    def _read_clock(self, response: HttpResponse) -> None:
        service_time = date_of(response)
        if service_time is not None:
            offset = service_time - clock.time()
            # Ignore a small difference: the `Date` header contains whole seconds, and the network delays it.
            self._clock_offset = offset if abs(offset) > CLOCK_TOLERANCE else 0.0

    def _drive(self, flow: Flow[T], remember: Callable[[RecordSubmission], bool | None] = lambda _: None) -> T:
        outcome: Outcome = None
        try:
            while True:
                outcome = self._perform(flow.send(outcome), remember)
        except StopIteration as done:
            result: T = done.value
            return result

    def _perform(self, step: Step, remember: Callable[[RecordSubmission], bool | None]) -> Outcome:
        if isinstance(step, HttpRequest):
            if step.method == "POST":
                self._stop.check()
            return self._send_submission(step) if step.is_submission else self._send(step)
        if isinstance(step, Sleep):
            self._sleep(_with_jitter(step.seconds))
        elif isinstance(step, Slot):
            self._wait_for_slot(self._submit_limiter)
        elif isinstance(step, TryUrl):
            return self._try_url(step.url)
        else:
            if step.is_intent:
                # Check the stop signal before the POST is recorded, so that no POST is recorded that is not sent.
                self._stop.check()
            return remember(step)
        return None

    def _wait_for_slot(self, limiter: ThreadSafeRateLimiter) -> None:
        if delay := limiter.reserve(clock.monotonic()):
            self._sleep(delay)

    def _send_submission(self, request: HttpRequest) -> HttpResponse | ToAPIsConnectionError:
        response = self._send(request)
        if isinstance(response, HttpResponse):
            self._submit_limiter.on_response(response, clock.monotonic())
        return response

    def _send(self, request: HttpRequest) -> HttpResponse | ToAPIsConnectionError:
        try:
            with silent_http(), _connection_errors(_label(self._http, request), self._settings):
                response = send(self._http, request, self._settings.via)
        except ToAPIsConnectionError as error:
            return error
        self._read_clock(response)
        return response


class AsyncToAPIsClient:
    """Asynchronous client. It looks up videos and cannot submit them.

    :param settings: Account and base URL.
    :param on_headers: Called with the headers of each response, with their names in lower case.
    """

    def __init__(
        self, settings: ClientSettings, *, on_headers: Callable[[Mapping[str, str]], None] = lambda _: None
    ) -> None:
        self._on_headers = on_headers
        self._settings = settings
        self._http = create_client(
            httpx.AsyncClient,
            settings,
            **http_options(settings),
            **api_options(settings),
            limits=poll_limits(settings.query_rate),
        )
        self._transport = LoopTransport(self._http, settings.via)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.aclose()

    async def get_video(self, video_id: str, retry_timeout: float = 0.0) -> VideoTask:
        """Look up a video by its id or its client_business_id.

        :param video_id: The id or the client_business_id.
        :param retry_timeout: Seconds for which the request is retried after rate limits, server errors and connection
            errors (default 0: one request).
        :raises ToAPIsNotFoundError: The service does not find the video.
        """
        return await self._drive(look_up(video_id, retry_timeout))

    async def _drive(self, flow: Flow[T]) -> T:
        outcome: Outcome = None
        try:
            while True:
                step = flow.send(outcome)
                outcome = None
                if isinstance(step, HttpRequest):
                    outcome = await self._send(step)
                elif isinstance(step, Sleep):
                    await clock.sleep_async(_with_jitter(step.seconds))
        except StopIteration as done:
            result: T = done.value
            return result

    async def _send(self, request: HttpRequest) -> HttpResponse | ToAPIsConnectionError:
        try:
            with silent_http(), _connection_errors(_label(self._http, request), self._settings):
                response = await self._transport.send(request)
        except ToAPIsConnectionError as error:
            return error
        self._on_headers(response.headers)
        return response


def poll_limits(query_rate: float) -> httpx.Limits:
    """Return how many connections a client for polls opens and keeps open."""
    return httpx.Limits(
        max_connections=MAX_CONNECTIONS,
        max_keepalive_connections=min(MAX_CONNECTIONS, math.ceil(query_rate * POOL_SECONDS)),
        keepalive_expiry=KEEPALIVE_SECONDS,
    )


def _balance(retry_timeout: float = RETRY_TIMEOUT) -> Flow[Balance]:
    return call(HttpRequest("GET", "/v1/balance"), parse_balance, retry_timeout)


def _models(kind: str) -> Flow[tuple[OfferedModel, ...]]:
    # If the request names no type, the service lists text models only.
    return call(HttpRequest("GET", f"/v1/models?{httpx.QueryParams({'type': kind})}"), parse_models)


@contextmanager
def _connection_errors(request_label: str, settings: ClientSettings) -> Iterator[None]:
    try:
        yield
    except LimitExceededError as error:
        raise ToAPIsConnectionError(f"{request_label} {error}.") from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        # ValueError: a host name that cannot be encoded, in a URL, a redirect or a proxy environment variable. httpx's
        # error is not part of the exception chain, because its text can contain a URL.
        raise connection_error(request_label, error, settings.via) from None


def _label(http: httpx.Client | httpx.AsyncClient, request: HttpRequest) -> str:
    return f"{request.label} at {host_of(http.base_url)}"


def _with_jitter(seconds: float) -> float:
    return seconds * (1 + SLEEP_JITTER * random.random())  # noqa: S311
