"""Look up the webhook secrets of connections, with a cache and a limited rate of look-ups."""

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

#: Seconds for which the result of a look-up is cached, with or without secrets.
TTL_SECONDS = 60.0
#: Maximum number of cached connections with a secret, and maximum number of cached ids that are unknown or have no
#: secret.
MAX_CONNECTIONS = 1000
#: Maximum look-ups per second, and maximum concurrent look-ups, of ids without a known secret. Other look-ups are not
#: limited.
MAX_UNKNOWN_LOOKUPS = 5
#: Connection types that the hook accepts.
_CONN_TYPES = {"toapis", "http"}


class SecretStore:
    """Cache of the webhook secrets of connections.

    Unknown connection ids trigger at most ``MAX_UNKNOWN_LOOKUPS`` look-ups per second and never evict a known
    connection. A connection whose secrets have not been found yet is limited like an unknown id.

    :param look_up: Returns the secrets of a connection; an empty tuple if it is unknown or has none. Called in a
        thread.
    :param clock: Returns monotonic seconds.
    """

    def __init__(
        self,
        look_up: Callable[[str], tuple[str, ...]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look_up = look_up or connection_secrets
        self._secrets: TTLCache[str, tuple[str, ...]] = TTLCache(MAX_CONNECTIONS, TTL_SECONDS, clock)
        self._absent: TTLCache[str, None] = TTLCache(MAX_CONNECTIONS, TTL_SECONDS, clock)
        self._known: LRUCache[str, None] = LRUCache(MAX_CONNECTIONS)
        self._unknown_lookups: TTLCache[str, None] = TTLCache(MAX_UNKNOWN_LOOKUPS, 1.0, clock)
        self._in_progress: dict[str, asyncio.Future[tuple[str, ...]]] = {}
        # Twice as many threads as concurrent look-ups of unknown ids, so that threads are left for known connections.
        self._threads = ThreadPoolExecutor(2 * MAX_UNKNOWN_LOOKUPS, thread_name_prefix="toapis-webhook-secrets")
        # A random secret with which no signature is valid.
        self._dummy_secret = (secrets.token_hex(32),)

    async def get(self, conn_id: str) -> tuple[str, ...]:
        """Return the secrets of a connection. If it has none, return a random secret, so that no signature is valid."""
        return await self._load(conn_id) or self._dummy_secret

    async def _load(self, conn_id: str) -> tuple[str, ...]:
        if conn_id in self._secrets:
            return self._secrets[conn_id]
        if conn_id in self._in_progress:
            return await asyncio.shield(self._in_progress[conn_id])
        if not self._may_look_up(conn_id):
            return ()
        look_up = asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, conn_id)
        self._in_progress[conn_id] = look_up
        look_up.add_done_callback(lambda done: self._store(conn_id, done))
        # A canceled request must not cancel the look-up, because other requests can wait for it.
        return await asyncio.shield(look_up)

    def _may_look_up(self, conn_id: str) -> bool:
        if conn_id in self._absent or not CONN_ID.fullmatch(conn_id):
            return False
        if conn_id in self._known:
            return True
        if (
            len(self._unknown_lookups) >= MAX_UNKNOWN_LOOKUPS
            or len(self._in_progress.keys() - self._known.keys()) >= MAX_UNKNOWN_LOOKUPS
        ):
            return False
        self._unknown_lookups[conn_id] = None
        return True

    def _store(self, conn_id: str, look_up: asyncio.Future[tuple[str, ...]]) -> None:
        del self._in_progress[conn_id]
        if look_up.cancelled() or look_up.exception():
            # An error of the secrets backend is not cached.
            return
        if found := look_up.result():
            self._secrets[conn_id] = found
            self._known[conn_id] = None
        else:
            self._absent[conn_id] = None


def connection_secrets(conn_id: str) -> tuple[str, ...]:
    """Return the webhook secrets of a connection; an empty tuple if it is unknown, of another type or has none."""
    try:
        connection = Connection.get_connection_from_secrets(conn_id)
    except AirflowNotFoundException:
        return ()
    if connection.conn_type not in _CONN_TYPES:
        return ()
    try:
        return WebhookOptions.from_extra(conn_id, connection.extra_dejson).secrets
    except ToAPIsRequestError as error:
        log.warning("Webhooks of a connection are rejected, because its extra is invalid: %s", error.without_cost)
        return ()
