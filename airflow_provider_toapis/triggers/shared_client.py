"""The client of a connection that many share: opened once, replaced when the connection says something new."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from airflow_provider_toapis.api.client import AsyncToAPIsClient
from airflow_provider_toapis.api.errors import ToAPIsConnectionError, ToAPIsError
from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.hooks.toapis import ToAPIsHook

log = logging.getLogger(__name__)

#: A connection that was refused, or could not be read, is not read again within so many seconds.
REREAD_SECONDS = 5.0


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
        self._read_at = -math.inf
        self._is_doubtful = False

    async def current(self) -> AsyncToAPIsClient | ToAPIsError:
        """Return the client, or why the connection cannot be read or used."""
        if self._current is None or (self._is_doubtful and time.monotonic() >= self._read_at + REREAD_SECONDS):
            self._read_at = time.monotonic()
            before, self._current = self._current, await self._read_connection()
            self._is_doubtful = isinstance(self._current, ToAPIsError)
            if self._is_doubtful and not isinstance(before, ToAPIsError):
                log.warning("%s No video is asked for until it can be read.", self._current)
        return self._current

    def refused(self, client: AsyncToAPIsClient) -> None:
        """Let the connection be read again, unless it was since: its key may have been rotated."""
        self._is_doubtful |= client is self._current

    async def close(self) -> None:
        """Close every client that was opened; one with an old key may have been in use until now."""
        await self._open_clients.aclose()

    async def _read_connection(self) -> AsyncToAPIsClient | ToAPIsError:
        try:
            settings = await self._hook.async_settings()
            if self._client is None or settings != self._settings:
                client = AsyncToAPIsClient(settings, on_headers=self._on_headers)
                self._client = await self._open_clients.enter_async_context(client)
                self._settings = settings
                self._on_settings(settings)
        except ToAPIsError as error:
            return error
        except Exception as error:  # noqa: BLE001 - secrets backends and Airflow's own channel raise what they like
            # Airflow, not the service, is in trouble: no reason to give a paid video up.
            return ToAPIsConnectionError(
                f"Connection {self._hook.toapis_conn_id!r} could not be read ({type(error).__name__}).", sent=False
            )
        return self._client
