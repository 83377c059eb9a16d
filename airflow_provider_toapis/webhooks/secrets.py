"""The secrets of connections, looked up rarely however many requests ask."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from airflow.models.connection import Connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from cachetools import LRUCache, TTLCache

from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.hooks.callback_url import CONN_ID, WebhookOptions

log = logging.getLogger(__name__)

#: Seconds for which a connection's secrets are good, and for which there are none.
TTL_SECONDS = 60.0
#: Connections that are remembered: with a secret, and without one or unknown.
MAX_CONNECTIONS = 1000
#: Look-ups per second, and at a time, of ids that had no secret so far. Those that have one are always looked up again.
MAX_UNKNOWN_LOOKUPS = 5
#: Those that the hook takes.
_CONN_TYPES = {"toapis", "http"}


class SecretStore:
    """Gives a connection's webhook secrets.

    Unknown connection ids cause at most ``MAX_UNKNOWN_LOOKUPS`` look-ups per second, and never evict a known one.
    A connection that was not found before shares these look-ups with the unknown ids.

    :param look_up: Reads a connection; an empty answer for one that is unknown or has no secret. Runs in a thread.
    :param clock: Gives seconds.
    """

    def __init__(
        self,
        look_up: Callable[[str], tuple[str, ...]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look_up = look_up or connection_secrets
        self._fresh: TTLCache[str, tuple[str, ...]] = TTLCache(MAX_CONNECTIONS, TTL_SECONDS, clock)
        self._absent: TTLCache[str, None] = TTLCache(MAX_CONNECTIONS, TTL_SECONDS, clock)
        self._known: LRUCache[str, None] = LRUCache(MAX_CONNECTIONS)
        self._new: TTLCache[str, None] = TTLCache(MAX_UNKNOWN_LOOKUPS, 1.0, clock)
        self._in_progress: dict[str, asyncio.Future[tuple[str, ...]]] = {}
        # Some are left for those that are known, however slow the others are.
        self._threads = ThreadPoolExecutor(2 * MAX_UNKNOWN_LOOKUPS, thread_name_prefix="toapis-webhook-secrets")
        # Fits nothing.
        self._dummy_secret = (secrets.token_hex(32),)

    async def of(self, conn_id: str) -> tuple[str, ...]:
        """Return the secrets of a connection, or one that nobody knows where it has none."""
        return await self._found(conn_id) or self._dummy_secret

    async def _found(self, conn_id: str) -> tuple[str, ...]:
        if conn_id in self._fresh:
            return self._fresh[conn_id]
        if conn_id in self._in_progress:
            return await asyncio.shield(self._in_progress[conn_id])
        if not self._may_look_up(conn_id):
            return ()
        looking = asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, conn_id)
        self._in_progress[conn_id] = looking
        looking.add_done_callback(lambda done: self._note(conn_id, done))
        # Whoever waits may give up; what was found is good for the others.
        return await asyncio.shield(looking)

    def _may_look_up(self, conn_id: str) -> bool:
        if conn_id in self._absent or not CONN_ID.fullmatch(conn_id):
            return False
        if conn_id in self._known:
            return True
        if (
            len(self._new) >= MAX_UNKNOWN_LOOKUPS
            or len(self._in_progress.keys() - self._known.keys()) >= MAX_UNKNOWN_LOOKUPS
        ):
            return False
        self._new[conn_id] = None
        return True

    def _note(self, conn_id: str, looking: asyncio.Future[tuple[str, ...]]) -> None:
        del self._in_progress[conn_id]
        if looking.cancelled() or looking.exception():
            # Of the secrets backend; it is asked again.
            return
        if found := looking.result():
            self._fresh[conn_id] = found
            self._known[conn_id] = None
        else:
            self._absent[conn_id] = None


def connection_secrets(conn_id: str) -> tuple[str, ...]:
    """Read the secrets of a connection of the API server's own Airflow; none where it is unknown or is not ours."""
    try:
        connection = Connection.get_connection_from_secrets(conn_id)
    except AirflowNotFoundException:
        return ()
    if connection.conn_type not in _CONN_TYPES:
        return ()
    try:
        return WebhookOptions.of(conn_id, connection.extra_dejson).secrets
    except ToAPIsRequestError as error:
        log.warning("The webhooks of a connection cannot be checked: %s", error)
        return ()
