"""Read client settings from an Airflow connection and from ``[toapis]``, and define the base class of the hook."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook, conf

from airflow_provider_toapis.api.settings import ClientSettings, parse_number, require_positive, require_seconds
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsError, ToAPIsRequestError
from airflow_provider_toapis.get_provider_info import CONFIG_OPTIONS, CONFIG_SECTION, CONNECTION_FIELDS, FIELD_BEHAVIOR
from airflow_provider_toapis.hooks.callback_url import DEFAULT_FALLBACK_INTERVAL, WebhookOptions, callback_for
from airflow_provider_toapis.version_compat import needs_sync_connection_lookup

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_toapis.api.client import AsyncToAPIsClient, ToAPIsClient
    from airflow_provider_toapis.api.clock import StopSignal
    from airflow_provider_toapis.api.settings import ClientSettings
    from airflow_provider_toapis.api.submit_spec import Callback
    from airflow_provider_toapis.hooks.callback_url import WebhookMode, WebhookOptions

Seconds = Literal["poll_interval", "timeout"]
Rate = Literal["query_rate", "submit_rate"]
_RATES: tuple[Rate, ...] = ("query_rate", "submit_rate")
_NUMBERS = ("timeout", *_RATES)
_HTTPS_PORT = 443
#: A port at the end of a host. An IPv6 address contains colons, so it has brackets if a port follows.
_PORT = re.compile(r"(?:^[^:]+|\]):(?P<port>\d+)$", re.ASCII)


def seconds_or_default(option: Seconds, value: timedelta | float | None) -> float:
    """Return an argument in seconds. If it is None, return the value of the option in ``[toapis]``.

    :raises ToAPIsRequestError: The value is not a positive number.
    """
    if value is not None:
        return require_seconds(option, value.total_seconds() if isinstance(value, timedelta) else value)
    return _configured(option, "seconds")


def configured_rate(option: Rate) -> float:
    """Return the rate that an option in ``[toapis]`` sets, in requests per second.

    :raises ToAPIsRequestError: The value is not a positive number.
    """
    return _configured(option, "requests per second")


def _configured(option: Seconds | Rate, unit: str) -> float:
    name, default = f"[{CONFIG_SECTION}] {option}", CONFIG_OPTIONS[option]["default"]
    # Read without interpolation, so that a stray % is reported as an invalid number, not as a configuration error.
    value = conf.get(CONFIG_SECTION, option, fallback=default, raw=True)
    return require_positive(name, parse_number(name, str(value).strip() or default), unit)


def settings_of(conn_id: str, connection: Connection, extra: object) -> ClientSettings:
    """Return the client settings of a connection of type ``toapis`` or ``http``.

    :param extra: The connection's parsed extra. It is a separate argument, because code on an event loop must parse it
        in another way, which does not block.
    :raises ToAPIsAuthError: The API key is missing or malformed.
    :raises ToAPIsRequestError: A field of the connection, or an option in ``[toapis]``, is invalid.
    """
    try:
        if not isinstance(extra, Mapping):
            raise ToAPIsRequestError.for_field("extra", type(extra).__name__, "must be a JSON object")
        numbers = _numbers(extra)
        settings = ClientSettings(
            # A key that was pasted or read from a file can end with a line break.
            api_key=(connection.password or "").strip(),
            base_url=_base_url(connection),
            verify=_verify(extra.get("verify")),
            proxy=extra.get("proxy") or None,
            namespace=str(extra.get("namespace") or ""),
            name=f"connection {conn_id!r}",
            **numbers,
        )
    except ToAPIsError as error:
        error.amend(before=f"Connection {conn_id!r}: ")
        raise
    configured: dict[str, Any] = {name: configured_rate(name) for name in _RATES if name not in numbers}
    return replace(settings, **configured)


def _base_url(connection: Connection) -> str:
    """Return the base URL from a connection's host, port and scheme; an empty string without a host."""
    host = (connection.host or "").strip()
    if not host.endswith("://"):
        host = host.rstrip("/")
    if not host:
        return ""
    scheme, _, rest = host.rpartition("://")
    name, slash, path = rest.partition("/")
    name = _bracketed(name)
    scheme = scheme or _scheme(connection)
    if connection.port:
        name = _with_port(name, connection.port)
    return f"{scheme}://{name}{slash}{path}" if scheme else f"{name}{slash}{path}"


def _bracketed(name: str) -> str:
    """Return an IPv6 address with brackets, because Airflow removes them when it parses a URI.

    Return any other name unchanged.
    """
    try:
        return f"[{IPv6Address(name)}]"
    except ValueError:
        return name


def _scheme(connection: Connection) -> str:
    """Return the scheme to use for a host that contains no scheme. An empty string means https, the default."""
    if connection.schema in ("http", "https"):
        return connection.schema
    # Airflow parses http://:key@host:port into type http and a port. Without a port, the result is https, because the
    # key would otherwise be sent to the service unencrypted.
    return "http" if connection.conn_type == "http" and connection.port not in (None, 0, _HTTPS_PORT) else ""


def _with_port(name: str, port: int) -> str:
    found = _PORT.search(name)
    if found is None:
        return f"{name}:{port}"
    if found["port"] != str(port):
        raise ToAPIsRequestError.for_field("port", port, f"must be {found['port']}, as in the host, or empty")
    return name


def _numbers(extra: Mapping[str, Any]) -> dict[str, float]:
    """Return the numeric settings from the connection's extra.

    Null and empty strings are treated as unset, because the connection form stores empty fields that way.
    """
    return {name: parse_number(name, extra[name]) for name in _NUMBERS if extra.get(name) not in (None, "")}


def _verify(value: object) -> bool | str:
    if value in (None, ""):
        return True
    booleans = {"true": True, "false": False}
    return value if isinstance(value, bool) else booleans.get(str(value).lower(), str(value))


def form_widgets() -> dict[str, Any]:
    """Return the form widgets for the fields of the connection's extra."""
    from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
    from flask_babel import lazy_gettext
    from wtforms import StringField

    return {
        name: StringField(
            lazy_gettext(spec["label"]),
            description=spec["description"],
            widget=BS3PasswordFieldWidget() if spec["schema"].get("format") == "password" else BS3TextFieldWidget(),
        )
        for name, spec in CONNECTION_FIELDS.items()
    }


def field_behavior() -> dict[str, Any]:
    """Return the behavior of the standard fields, with underscores in the keys as older Airflow versions expect."""
    return {key.replace("-", "_"): value for key, value in FIELD_BEHAVIOR.items()}


class ToAPIsBaseHook(BaseHook):
    """Base class of the hook. It reads the connection and opens clients with its settings.

    :param toapis_conn_id: Airflow connection, of type ``toapis`` or ``http`` (default ``toapis_default``).
    """

    conn_name_attr = "toapis_conn_id"
    default_conn_name = "toapis_default"
    conn_type = "toapis"
    hook_name = "ToAPIs"
    #: Stop signal of the operator. Once it is set, nothing more is uploaded or submitted.
    stop: StopSignal | None = None

    def __init__(self, toapis_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.toapis_conn_id = toapis_conn_id

    @contextmanager
    def client(self) -> Iterator[ToAPIsClient]:
        """Read the connection, open a client for it, and close the client at the end."""
        from airflow_provider_toapis.api.client import ToAPIsClient

        with ToAPIsClient(self.settings(), stop=self.stop) as client:
            yield client

    @asynccontextmanager
    async def async_client(self) -> AsyncIterator[AsyncToAPIsClient]:
        """Open a client for an event loop, and close it at the end. The client cannot submit videos."""
        from airflow_provider_toapis.api.client import AsyncToAPIsClient

        async with AsyncToAPIsClient(await self.async_settings()) as client:
            yield client

    def get_conn(self) -> ClientSettings:
        """Return the connection's settings, not a client. Each method of the hook opens and closes its own client."""
        return self.settings()

    def settings(self) -> ClientSettings:
        """Return the client settings of the connection.

        :raises ToAPIsAuthError: The connection has no API key.
        :raises ToAPIsRequestError: A field of the connection is invalid.
        :raises ToAPIsConnectionError: Airflow does not find the connection, or cannot read it right now.
        """
        with self._connection_must_be_found():
            connection = self.get_connection(self.toapis_conn_id)
            return settings_of(self.toapis_conn_id, connection, connection.extra_dejson)

    def webhook_options(self) -> WebhookOptions:
        """Read the webhook fields of the connection.

        :raises ToAPIsRequestError: A field of the connection is invalid.
        :raises ToAPIsConnectionError: Airflow does not find the connection, or cannot read it right now.
        """
        with self._connection_must_be_found():
            return WebhookOptions.from_extra(self.toapis_conn_id, self.get_connection(self.toapis_conn_id).extra_dejson)

    def callback(self, webhook: WebhookMode | None, ti: Any) -> Callback | None:  # noqa: ANN401 - Airflow's task instance
        """Return the callback URL for the videos of a task instance; None without a webhook.

        :param webhook: The operator's argument ``webhook``. If None, the connection's field is used.
        :param ti: The task instance.
        :raises ToAPIsRequestError: A webhook is required, but no URL is known at which the service can reach the
            receiver.
        """
        if webhook is False:
            return None
        options = self.webhook_options()
        return callback_for(ti, self.toapis_conn_id, options.mode if webhook is None else webhook, options)

    def fallback_interval(self, poll_interval: float) -> float:
        """Return the seconds between two polls of a video for which the service sends a webhook.

        If the connection cannot be read, return the default, because the video is already submitted and its task must
        not fail.

        :param poll_interval: Poll interval of videos without a webhook. The returned interval is at least as long.
        """
        try:
            interval = self.webhook_options().fallback_interval
        except ToAPIsError as error:
            self.log.warning("%s Polling every %.0f s.", error.without_cost, DEFAULT_FALLBACK_INTERVAL)
            interval = DEFAULT_FALLBACK_INTERVAL
        return max(poll_interval, interval)

    async def async_settings(self) -> ClientSettings:
        """Read the connection without blocking the event loop. The errors are those of :meth:`settings`."""
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
            # Airflow raises the same error after any error of a secrets backend, its API server or its database.
            raise ToAPIsConnectionError(
                f"Airflow does not find connection toapis_conn_id={self.toapis_conn_id!r}. If it does not exist, add"
                " one of type 'toapis' with the API key as the password. If it exists, reading it failed; a retry"
                " reads it again. The look-up cost nothing.",
                sent=False,
                field="toapis_conn_id",
                value=repr(self.toapis_conn_id),
            ) from None
