"""From an Airflow connection to a client of the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsError
from airflow_provider_toapis.hooks.callback_url import DEFAULT_FALLBACK_INTERVAL, WebhookOptions, callback_for
from airflow_provider_toapis.hooks.connection import settings_of
from airflow_provider_toapis.version_compat import needs_sync_connection_lookup

if TYPE_CHECKING:
    from airflow_provider_toapis.api.client import AsyncToAPIsClient, ToAPIsClient
    from airflow_provider_toapis.api.clock import StopSignal
    from airflow_provider_toapis.api.settings import ClientSettings
    from airflow_provider_toapis.api.video_request import Callback
    from airflow_provider_toapis.hooks.callback_url import WebhookMode, WebhookOptions


class ToAPIsBaseHook(BaseHook):
    """What a connection says, and the clients that are made of it.

    :param toapis_conn_id: Airflow connection, of type ``toapis`` or ``http`` (default ``toapis_default``).
    """

    conn_name_attr = "toapis_conn_id"
    default_conn_name = "toapis_default"
    conn_type = "toapis"
    hook_name = "ToAPIs"
    #: Set by an operator. After the signal nothing more is uploaded or submitted.
    stop: StopSignal | None = None

    def __init__(self, toapis_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.toapis_conn_id = toapis_conn_id

    @contextmanager
    def client(self) -> Iterator[ToAPIsClient]:
        """Open a client for the current connection and close it at the end."""
        from airflow_provider_toapis.api.client import ToAPIsClient

        with ToAPIsClient(self.settings(), stop=self.stop) as client:
            yield client

    @asynccontextmanager
    async def async_client(self) -> AsyncIterator[AsyncToAPIsClient]:
        """Open a client for an event loop and close it at the end. It cannot submit."""
        from airflow_provider_toapis.api.client import AsyncToAPIsClient

        async with AsyncToAPIsClient(await self.async_settings()) as client:
            yield client

    def get_conn(self) -> ClientSettings:
        """Return the connection's settings. HTTP clients are opened and closed per call."""
        return self.settings()

    def settings(self) -> ClientSettings:
        """Read the connection.

        :raises ToAPIsAuthError: The connection has no API key.
        :raises ToAPIsRequestError: A field of the connection is invalid.
        :raises ToAPIsConnectionError: Airflow does not find the connection. It may still exist.
        """
        with self._connection_must_be_found():
            connection = self.get_connection(self.toapis_conn_id)
            return settings_of(self.toapis_conn_id, connection, connection.extra_dejson)

    def webhook_options(self) -> WebhookOptions:
        """Read the webhook fields of the connection.

        :raises ToAPIsRequestError: A field of the connection is invalid.
        :raises ToAPIsConnectionError: Airflow does not find the connection. It may still exist.
        """
        with self._connection_must_be_found():
            return WebhookOptions.from_extra(self.toapis_conn_id, self.get_connection(self.toapis_conn_id).extra_dejson)

    def callback(self, webhook: WebhookMode | None, ti: Any) -> Callback | None:  # noqa: ANN401 - Airflow's task instance
        """Return the callback URL for the videos of a task instance; None without a webhook.

        :param webhook: The operator's argument; None uses the connection's.
        :param ti: The task instance.
        :raises ToAPIsRequestError: A webhook is required, and no URL is known.
        """
        if webhook is False:
            return None
        options = self.webhook_options()
        return callback_for(ti, self.toapis_conn_id, options.mode if webhook is None else webhook, options)

    def fallback_interval(self, poll_interval: float) -> float:
        """Return the seconds between two polls for a video whose end a webhook reports.

        If the connection cannot be read, the default is used, because the video is already submitted.

        :param poll_interval: Seconds between two polls for other videos; the minimum.
        """
        try:
            interval = self.webhook_options().fallback_interval
        except ToAPIsError as error:
            self.log.warning("%s Polling every %.0f s.", error.without_cost, DEFAULT_FALLBACK_INTERVAL)
            interval = DEFAULT_FALLBACK_INTERVAL
        return max(poll_interval, interval)

    async def async_settings(self) -> ClientSettings:
        """Read the connection on an event loop, without blocking it. Raises what :meth:`settings` raises."""
        if needs_sync_connection_lookup():
            return self.settings()
        from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson

        with self._connection_must_be_found():
            connection = await get_async_connection(self.toapis_conn_id)
            return settings_of(self.toapis_conn_id, connection, await get_async_extra_dejson(connection))

    @contextmanager
    def _connection_must_be_found(self) -> Iterator[None]:
        try:
            yield
        except AirflowNotFoundException:
            # Airflow raises the same after any error of a secrets backend, its API server or its database.
            raise ToAPIsConnectionError(
                f"Airflow does not find connection toapis_conn_id={self.toapis_conn_id!r}. If it does not exist, add"
                " one of type 'toapis' with the API key as the password. If it exists, reading it failed; a retry"
                " reads it again. The look-up cost nothing.",
                sent=False,
                field="toapis_conn_id",
                value=repr(self.toapis_conn_id),
            ) from None
