"""The one that asks: all videos that wait in an event loop for the same connection share it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from contextvars import Context
from dataclasses import dataclass
from types import TracebackType
from weakref import WeakKeyDictionary

from airflow_provider_toapis import metrics
from airflow_provider_toapis.api.client import MAX_CONNECTIONS, AsyncToAPIsClient
from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.defaults import QUERY_RATE
from airflow_provider_toapis.api.poll_schedule import FallbackSchedule, ModelHistory, Schedule
from airflow_provider_toapis.api.polling import Decision, KeepWaiting, VideoWait, WaitResult
from airflow_provider_toapis.api.rate_limit import RateLimiter
from airflow_provider_toapis.api.responses import VideoTask
from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsConnectionError,
    ToAPIsError,
    ToAPIsQuotaError,
    ToAPIsRateLimitError,
)
from airflow_provider_toapis.hooks.toapis import ToAPIsHook

log = logging.getLogger(__name__)

#: Seconds by which a busy triggerer, and the way to the service, may delay one poll more than another.
TRAVEL_SPREAD = 0.06

#: Seconds after the deadline of a wait for its last poll to be answered.
LAST_POLL_SECONDS = 10.0

Answer = VideoTask | ToAPIsError

#: Seconds between two look-ups of a connection that could not be read, or whose requests fail.
REREAD_SECONDS = 5.0
#: Seconds after which a connection that works is looked up again: its host, proxy or rates may have been corrected.
REREAD_ANYWAY_SECONDS = 300.0
#: Seconds that polls wait for a look-up. One that takes longer goes on in the background.
LOOK_UP_SECONDS = 10.0

#: Look-ups that hang when their poller closes; asyncio itself keeps only weak references.
_left_behind: set[asyncio.Task[AsyncToAPIsClient | ToAPIsError]] = set()


class SharedClient:
    """Gives the client for a connection.

    :param conn_id: Airflow connection.
    :param on_settings: Gets the connection's settings each time they change.
    :param on_headers: Gets the headers of each answer, names in lower case.
    """

    def __init__(
        self,
        conn_id: str,
        *,
        on_settings: Callable[[ClientSettings], None],
        on_headers: Callable[[Mapping[str, str]], None],
    ) -> None:
        self._hook = ToAPIsHook(conn_id)
        self._on_settings = on_settings
        self._on_headers = on_headers
        self._open_clients = AsyncExitStack()
        self._settings: ClientSettings | None = None
        self._client: AsyncToAPIsClient | None = None
        self._current: AsyncToAPIsClient | ToAPIsError | None = None
        self._look_up: asyncio.Task[AsyncToAPIsClient | ToAPIsError] | None = None
        self._read_at = -math.inf
        self._read_for_rejection_at = -math.inf
        self._is_doubtful = True
        self._is_rejected = False
        self._is_closed = False

    async def current(self) -> AsyncToAPIsClient | ToAPIsError:
        """Return the client, or why the connection cannot be read or used."""
        if self._is_due():
            self._read_at = clock.monotonic()
            is_for_other_failures = self._is_doubtful and self._current is not None and not self._is_rejected
            if not is_for_other_failures:
                self._read_for_rejection_at = self._read_at
            self._look_up = asyncio.create_task(self._read_connection())
            if self._is_doubtful:
                # Never canceled: Airflow's channel to its supervisor does not survive that.
                await asyncio.wait([self._look_up], timeout=LOOK_UP_SECONDS)
        if self._look_up is not None and self._look_up.done():
            self._use(self._look_up.result())
            self._look_up = None
        if self._current is None:
            self._use(self._unreadable(f"no answer within {LOOK_UP_SECONDS:.0f} s"))
        return self._current or self._unreadable("no answer yet")

    def failed(self, client: AsyncToAPIsClient, error: ToAPIsError) -> None:
        """Let the connection be read again, unless it was since: key, host or proxy may have been corrected."""
        if client is self._current:
            self._is_doubtful = True
            self._is_rejected |= isinstance(error, ToAPIsAuthError | ToAPIsQuotaError)

    async def close(self) -> None:
        """Close every client that was opened; one with an old key may have been in use until now."""
        self._is_closed = True
        if self._look_up is not None and not self._look_up.done():
            _left_behind.add(self._look_up)
            self._look_up.add_done_callback(_left_behind.discard)
        await self._open_clients.aclose()

    def _is_due(self) -> bool:
        """Whether to look the connection up; one that hangs is given up after a while.

        A rejected key does not wait for the pause after other failures: every poll until then is rejected too.
        """
        if self._look_up is not None or not self._is_doubtful:
            return clock.monotonic() >= self._read_at + REREAD_ANYWAY_SECONDS
        read_at = self._read_for_rejection_at if self._is_rejected else self._read_at
        return clock.monotonic() >= read_at + REREAD_SECONDS

    def _use(self, found: AsyncToAPIsClient | ToAPIsError) -> None:
        if not isinstance(found, ToAPIsError):
            self._current, self._is_doubtful, self._is_rejected = found, False, False
            return
        self._is_doubtful = True
        has_client = self._current is not None and not isinstance(self._current, ToAPIsError)
        if has_client and not self._is_rejected:
            # Trouble of Airflow's is no reason to stop polling with a client that works.
            return
        if has_client or self._current is None:
            log.warning("%s No video is asked for until it can be read.", found)
        self._current = found

    async def _read_connection(self) -> AsyncToAPIsClient | ToAPIsError:
        try:
            settings = await self._hook.async_settings()
            if self._is_closed:
                return self._unreadable("its poller has ended")
            if self._client is None or settings != self._settings:
                client = AsyncToAPIsClient(settings, on_headers=self._on_headers)
                self._client = await self._open_clients.enter_async_context(client)
                self._settings = settings
                self._on_settings(settings)
        except ToAPIsError as error:
            return error
        except Exception as error:  # noqa: BLE001 - secrets backends and Airflow's own channel raise what they like
            # Airflow, not the service, is in trouble: no reason to give a paid video up.
            return self._unreadable(type(error).__name__)
        return self._client

    def _unreadable(self, reason: str) -> ToAPIsConnectionError:
        return ToAPIsConnectionError(
            f"Connection {self._hook.toapis_conn_id!r} could not be read ({reason}).", sent=False
        )




Response = VideoTask | ToAPIsError


@dataclass(frozen=True, slots=True)
class _Poll:
    video_id: str
    response: asyncio.Future[Response]

    def cancels(self, request: asyncio.Task[None]) -> None:
        """Cancel the request when its waiter has gone: it may hang, and others need its connection."""
        self.response.add_done_callback(lambda response: request.cancel() if response.cancelled() else None)

    def settle(self, response: Response) -> None:
        """Hand the answer over, if still somebody waits for it."""
        if not self.response.done():
            self.response.set_result(response)


class VideoPoller:
    """Asks for many videos through one client and at one rate.

    Each waiter sleeps until its own poll is due, and decides itself what the answer means; the polls that are
    due are asked one by one as the rate allows, in the order in which they became due, so that nobody starves.

    :param conn_id: Airflow connection.
    :param history: What the videos of each model took.
    """

    def __init__(self, conn_id: str, history: ModelHistory) -> None:
        self._conn_id = conn_id
        self._waiters = 0
        self._history = history
        self._budget = RateLimiter(QUERY_RATE, travel_spread=TRAVEL_SPREAD)
        self._client = SharedClient(conn_id, on_settings=self._use_rate, on_headers=self._heed)
        self._due: asyncio.Queue[_Poll] = asyncio.Queue()
        # Airflow files log lines by context variables: with those of the first waiter all requests would be its news.
        self._polling = asyncio.get_running_loop().create_task(self._poll_all_due(), context=Context())
        self._polling.add_done_callback(self._fail_all_who_wait)
        self._open: set[asyncio.Future[Response]] = set()

    def enter(self) -> None:
        """Count a waiter in."""
        self._waiters += 1
        metrics.videos_waiting(self._conn_id, self._waiters)

    def leave(self) -> bool:
        """Count a waiter out; return whether it was the last."""
        self._waiters -= 1
        metrics.videos_waiting(self._conn_id, self._waiters)
        return not self._waiters

    async def wait_for(
        self,
        video_id: str,
        *,
        poll_interval: float,
        end_time: float | None,
        fallback_interval: float | None = None,
        log_level: int = logging.INFO,
    ) -> WaitResult:
        """Return how the wait for a video ended; parameters as for ToAPIsVideoTrigger.

        :param log_level: Level at which news of the video are logged.
        """
        if fallback_interval is None:
            schedule = Schedule(poll_interval, self._history)
        else:
            schedule = FallbackSchedule(fallback_interval, self._history)
        wait = VideoWait(video_id, schedule, end_time=end_time, log_level=log_level)
        decision: Decision = wait.begin(clock.time())
        while isinstance(decision, KeepWaiting):
            await clock.sleep_async(decision.seconds)
            # Here, and not where the pause begins: Airflow files a line by the task that logs it.
            wait.on_pause(self._budget.closed_for(clock.monotonic()), clock.time())
            decision = wait.on_response(await self._response_by(end_time, video_id), clock.time())
        return decision

    async def close(self) -> None:
        """Ask nothing more, and close the client."""
        self._polling.cancel()
        await asyncio.wait([self._polling])
        await self._client.close()

    async def _response_by(self, end_time: float | None, video_id: str) -> Response:
        """Return the response to a poll; soon after the deadline the wait ends, whatever holds the poll up."""
        left = None if end_time is None else max(0.0, end_time - clock.time()) + LAST_POLL_SECONDS
        try:
            async with asyncio.timeout(left):
                return await self._answer(video_id)
        except TimeoutError:
            return ToAPIsConnectionError(f"The last poll of video {video_id} was not answered.", video_id=video_id)

    async def _answer(self, video_id: str) -> Response:
        response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._open.add(response)
        try:
            if self._polling.done():
                self._fail_all_who_wait(self._polling)
            self._due.put_nowait(_Poll(video_id, response))
            return await response
        finally:
            self._open.discard(response)

    def _fail_all_who_wait(self, asking: asyncio.Task[None]) -> None:
        """Let nobody wait for a poller that broke."""
        if not asking.cancelled() and (error := asking.exception()):
            for response in self._open:
                if not response.done():
                    response.set_exception(error)

    async def _poll_all_due(self) -> None:
        in_progress = asyncio.Semaphore(MAX_CONNECTIONS)
        async with asyncio.TaskGroup() as requests:
            while True:
                poll = await self._due.get()
                if poll.response.done():
                    continue  # Its trigger was canceled.
                await in_progress.acquire()
                await self._slot()
                client = await self._client.current()
                if isinstance(client, ToAPIsError):
                    poll.settle(client)
                    in_progress.release()
                    continue
                request = requests.create_task(self._ask(poll, client))
                request.add_done_callback(lambda _: in_progress.release())
                poll.cancels(request)

    async def _slot(self) -> None:
        """Wait for a slot; for another one when the service asked for a pause meanwhile."""
        while True:
            if delay := self._budget.reserve(clock.monotonic()):
                await clock.sleep_async(delay)
            if not self._budget.is_closed(clock.monotonic()):
                return

    async def _ask(self, poll: _Poll, client: AsyncToAPIsClient) -> None:
        metrics.video_polled(self._conn_id)
        try:
            poll.settle(await client.get_video(poll.video_id))
        except ToAPIsError as error:
            self._heed_error(error, client)
            poll.settle(error)
        except Exception as error:  # noqa: BLE001 - it is raised where the poll came from, and nowhere else
            if not poll.response.done():
                poll.response.set_exception(error)

    def _heed_error(self, error: ToAPIsError, client: AsyncToAPIsClient) -> None:
        if not isinstance(error, ToAPIsRateLimitError):
            self._client.failed(client, error)
        elif self._budget.on_rate_limit(error.retry_after, clock.monotonic()):
            log.warning("%s Asking more slowly for a while.", error)

    def _use_rate(self, settings: ClientSettings) -> None:
        self._budget.rate = settings.query_rate

    def _heed(self, headers: Mapping[str, str]) -> None:
        self._budget.on_headers(headers, clock.monotonic())


_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, VideoPoller]] = WeakKeyDictionary()
#: Outlives the pollers, which come and go with their waiters.
_histories: WeakKeyDictionary[asyncio.AbstractEventLoop, defaultdict[str, ModelHistory]] = WeakKeyDictionary()


class shared_poller:  # noqa: N801 - used as a function is
    """The poller of this event loop and connection, for as long as the block lasts; the last one to leave closes it.

    :param conn_id: Airflow connection.
    """

    # Not written as a generator: with ten thousand waiting, the collector of garbage walks over each object of each.
    __slots__ = ("_conn_id", "_poller")

    def __init__(self, conn_id: str) -> None:
        self._conn_id = conn_id

    async def __aenter__(self) -> VideoPoller:
        loop = asyncio.get_running_loop()
        pollers = _pollers.setdefault(loop, {})
        if self._conn_id not in pollers:
            history = _histories.setdefault(loop, defaultdict(ModelHistory))[self._conn_id]
            pollers[self._conn_id] = VideoPoller(self._conn_id, history)
        self._poller = pollers[self._conn_id]
        self._poller.enter()
        return self._poller

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._poller.leave():
            del _pollers[asyncio.get_running_loop()][self._conn_id]
            await self._poller.close()
        if exc_type is asyncio.CancelledError:
            # Without its reason, of which Airflow knows only one: it drops the trigger of a task that a webhook has
            # resumed, and would log "cancelled by user action, invoking on_kill". Our triggers do nothing on a kill.
            raise asyncio.CancelledError from None
