"""The client of a connection that many share: opened once, replaced when the connection says something new."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from airflow_provider_toapis.api.client import AsyncToAPIsClient
from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.exceptions import ToAPIsAuthError, ToAPIsConnectionError, ToAPIsError, ToAPIsQuotaError
from airflow_provider_toapis.hooks.toapis import ToAPIsHook

log = logging.getLogger(__name__)

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
