"""Shared status poller, one per event loop and Airflow connection."""

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
from airflow_provider_toapis.api.poll_schedule import FallbackSchedule, PollMemory
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

#: Seconds by which a busy triggerer and the network can delay one poll more than another.
TRAVEL_SPREAD = 0.06
#: Seconds after a wait's deadline during which the last poll can still get a response.
LAST_POLL_SECONDS = 10.0

Response = VideoTask | ToAPIsError

#: Seconds between two look-ups of a connection that cannot be read or whose requests fail.
REREAD_SECONDS = 5.0
#: Seconds after which a connection that works is looked up again, because its host, proxy or rates can change.
REREAD_ANYWAY_SECONDS = 300.0
#: Seconds for which polls wait for a look-up of the connection. A look-up that takes longer continues in the
#: background.
LOOK_UP_SECONDS = 10.0

#: Look-ups that still hang when their poller closes. They are kept here, because asyncio keeps only weak references to
#: tasks.
_left_behind: set[asyncio.Task[AsyncToAPIsClient | ToAPIsError]] = set()


class SharedClient:
    """The client of a connection. It is replaced when the connection changes.

    :param conn_id: Airflow connection.
    :param on_settings: Called with the connection's settings each time they change.
    :param on_headers: Called with the headers of each response. Header names are in lower case.
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
        """Return the client, or the error because of which the connection cannot be read or used."""
        if self._is_due():
            self._read_at = clock.monotonic()
            is_for_other_failures = self._is_doubtful and self._current is not None and not self._is_rejected
            if not is_for_other_failures:
                self._read_for_rejection_at = self._read_at
            self._look_up = asyncio.create_task(self._read_connection())
            if self._is_doubtful:
                # The look-up is not canceled on timeout, because that breaks Airflow's channel to its supervisor.
                await asyncio.wait([self._look_up], timeout=LOOK_UP_SECONDS)
        if self._look_up is not None and self._look_up.done():
            self._use(self._look_up.result())
            self._look_up = None
        if self._current is None:
            self._use(self._unreadable(f"no response within {LOOK_UP_SECONDS:.0f} s"))
        return self._current or self._unreadable("no response yet")

    def failed(self, client: AsyncToAPIsClient, error: ToAPIsError) -> None:
        """Mark the connection for another read after a failure, because its key, host or proxy may have changed."""
        if client is self._current:
            self._is_doubtful = True
            self._is_rejected |= isinstance(error, ToAPIsAuthError | ToAPIsQuotaError)

    async def close(self) -> None:
        """Close every client that was opened, including clients of earlier settings, which may still be in use."""
        self._is_closed = True
        if self._look_up is not None and not self._look_up.done():
            _left_behind.add(self._look_up)
            self._look_up.add_done_callback(_left_behind.discard)
        await self._open_clients.aclose()

    def _is_due(self) -> bool:
        """Return whether to read the connection again. A look-up that hangs is replaced after five minutes.

        Two reads are at least ``REREAD_SECONDS`` apart. If the API key was rejected, reads because of other failures do
        not count for this, because every poll with that key is rejected until the connection is read again.
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
            # Airflow failed, not the service, so polling continues with the working client.
            return
        if has_client or self._current is None:
            log.warning("%s No video is polled until the connection can be read and used.", found)
        self._current = found

    async def _read_connection(self) -> AsyncToAPIsClient | ToAPIsError:
        try:
            settings = await self._hook.async_settings()
            if self._is_closed:
                return self._unreadable("the poller has ended")
            if self._client is None or settings != self._settings:
                client = AsyncToAPIsClient(settings, on_headers=self._on_headers)
                self._client = await self._open_clients.enter_async_context(client)
                self._settings = settings
                self._on_settings(settings)
        except ToAPIsError as error:
            return error
        except Exception as error:  # noqa: BLE001 - secrets backends and Airflow's channel raise any class
            # Airflow failed, not the service, so the waits for billed videos must continue.
            return self._unreadable(type(error).__name__)
        return self._client

    def _unreadable(self, reason: str) -> ToAPIsConnectionError:
        return ToAPIsConnectionError(f"Connection {self._hook.toapis_conn_id!r} cannot be read ({reason}).", sent=False)


@dataclass(frozen=True, slots=True)
class _Poll:
    video_id: str
    response: asyncio.Future[Response]

    def cancels(self, request: asyncio.Task[None]) -> None:
        """Cancel ``request`` when the waiter is gone, so that a request that hangs does not occupy a connection."""
        self.response.add_done_callback(lambda response: request.cancel() if response.cancelled() else None)

    def settle(self, response: Response) -> None:
        """Deliver the response, unless the waiter is gone."""
        if not self.response.done():
            self.response.set_result(response)


class VideoPoller:
    """Polls many videos through one client and at one rate.

    Each waiter sleeps until its own poll is due, and decides what the response means. Due polls are sent in the order
    in which they became due, as fast as the rate allows.

    :param conn_id: Airflow connection.
    :param memory: What earlier waits of this connection have learned.
    """

    def __init__(self, conn_id: str, memory: PollMemory) -> None:
        self._conn_id = conn_id
        self._waiters = 0
        self._memory = memory
        self._budget = RateLimiter(QUERY_RATE, travel_spread=TRAVEL_SPREAD)
        self._client = SharedClient(conn_id, on_settings=self._use_rate, on_headers=self._heed)
        self._due: asyncio.Queue[_Poll] = asyncio.Queue()
        # The asyncio task gets its own context. Otherwise, Airflow would assign the log lines of all requests to the
        # Airflow task of the first waiter.
        self._polling = asyncio.get_running_loop().create_task(self._poll_all_due(), context=Context())
        self._polling.add_done_callback(self._fail_all_who_wait)
        self._open: set[asyncio.Future[Response]] = set()

    def enter(self) -> None:
        """Add a waiter."""
        self._waiters += 1
        metrics.videos_waiting(self._conn_id, self._waiters)

    def leave(self) -> bool:
        """Remove a waiter; return whether it was the last one."""
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
        """Wait for a video and return how the wait ended. See ``ToAPIsVideoTrigger`` for the other parameters.

        :param log_level: Level at which status changes of the video are logged.
        """
        if fallback_interval is None:
            schedule = self._memory.schedule(video_id, poll_interval)
        else:
            schedule = FallbackSchedule(fallback_interval, self._memory.history)
        wait = VideoWait(video_id, schedule, end_time=end_time, log_level=log_level)
        decision: Decision = wait.begin(clock.time())
        next_poll_at = clock.time()
        try:
            while isinstance(decision, KeepWaiting):
                next_poll_at = clock.time() + decision.seconds
                await clock.sleep_async(decision.seconds)
                # A pause that the service requested is logged here, so that Airflow assigns the log line to this
                # waiter's task.
                wait.on_pause(self._budget.closed_for(clock.monotonic()), clock.time())
                decision = wait.on_response(await self._response_by(end_time, video_id), clock.time())
        except asyncio.CancelledError:
            if fallback_interval is None:
                schedule.interrupted(next_poll_at)
                self._memory.add(video_id, poll_interval, schedule)
            raise
        return decision

    async def close(self) -> None:
        """Stop polling and close the client."""
        self._polling.cancel()
        await asyncio.wait([self._polling])
        await self._client.close()

    async def _response_by(self, end_time: float | None, video_id: str) -> Response:
        """Poll and return the response. If no response arrives within ten seconds of the deadline, return an error."""
        left = None if end_time is None else max(0.0, end_time - clock.time()) + LAST_POLL_SECONDS
        try:
            async with asyncio.timeout(left):
                return await self._answer(video_id)
        except TimeoutError:
            return ToAPIsConnectionError(f"The last poll of video {video_id} got no response.", video_id=video_id)

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
        """Fail all waiters if the poller itself failed."""
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
                    continue  # The trigger was canceled.
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
        """Wait until the rate allows a request, and until any pause that the service requests has ended."""
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
        except Exception as error:  # noqa: BLE001 - it is raised only in the waiter of this poll
            if not poll.response.done():
                poll.response.set_exception(error)

    def _heed_error(self, error: ToAPIsError, client: AsyncToAPIsClient) -> None:
        if not isinstance(error, ToAPIsRateLimitError):
            self._client.failed(client, error)
        elif self._budget.on_rate_limit(error.retry_after, clock.monotonic()):
            log.warning("%s Polling more slowly for a while.", error)

    def _use_rate(self, settings: ClientSettings) -> None:
        self._budget.rate = settings.query_rate

    def _heed(self, headers: Mapping[str, str]) -> None:
        self._budget.on_headers(headers, clock.monotonic())


_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, VideoPoller]] = WeakKeyDictionary()
#: A memory outlives its poller, because a poller exists only while a trigger waits.
_memories: WeakKeyDictionary[asyncio.AbstractEventLoop, defaultdict[str, PollMemory]] = WeakKeyDictionary()


class shared_poller:  # noqa: N801 - used like a function
    """Context manager for the poller of this event loop and connection. The last waiter to leave closes it.

    :param conn_id: Airflow connection.
    """

    # This is a class instead of a generator, because with ten thousand waiters every object makes garbage collection
    # slower.
    __slots__ = ("_conn_id", "_poller")

    def __init__(self, conn_id: str) -> None:
        self._conn_id = conn_id

    async def __aenter__(self) -> VideoPoller:
        loop = asyncio.get_running_loop()
        pollers = _pollers.setdefault(loop, {})
        if self._conn_id not in pollers:
            memory = _memories.setdefault(loop, defaultdict(PollMemory))[self._conn_id]
            pollers[self._conn_id] = VideoPoller(self._conn_id, memory)
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
            # Raise the cancellation without its reason. When a webhook has resumed a task, Airflow cancels the task's
            # trigger, and would log "cancelled by user action, invoking on_kill". That would be misleading, because
            # these triggers do nothing on a kill.
            raise asyncio.CancelledError from None
