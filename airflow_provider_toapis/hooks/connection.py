"""Read the client settings from an Airflow connection and from ``[toapis]`` in Airflow's configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import conf

from airflow_provider_toapis.api.settings import ClientSettings, parse_number, require_positive, require_seconds
from airflow_provider_toapis.exceptions import ToAPIsError, ToAPIsRequestError
from airflow_provider_toapis.get_provider_info import CONFIG_OPTIONS, CONFIG_SECTION, CONNECTION_FIELDS, FIELD_BEHAVIOR

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

Seconds = Literal["poll_interval", "timeout"]
Rate = Literal["query_rate", "submit_rate"]
_RATES: tuple[Rate, ...] = ("query_rate", "submit_rate")
_NUMBERS = ("timeout", *_RATES)
_HTTPS_PORT = 443
#: A port at the end of a host. An IPv6 address contains colons, and has brackets if a port follows.
_PORT = re.compile(r"(?:^[^:]+|\]):(?P<port>\d+)$", re.ASCII)


def seconds_or_default(option: Seconds, value: timedelta | float | None) -> float:
    """Return an argument in seconds; for None the value of the option in ``[toapis]``.

    :raises ToAPIsRequestError: The value is not a positive number.
    """
    if value is not None:
        return require_seconds(option, value.total_seconds() if isinstance(value, timedelta) else value)
    return _configured(option, "seconds")


def configured_rate(option: Rate) -> float:
    """Return the requests per second of an option in ``[toapis]``.

    :raises ToAPIsRequestError: The value is not a positive number.
    """
    return _configured(option, "requests per second")


def _configured(option: Seconds | Rate, unit: str) -> float:
    name, default = f"[{CONFIG_SECTION}] {option}", CONFIG_OPTIONS[option]["default"]
    # Raw, so that a stray % is reported as an invalid number and not as an error of the configuration file.
    value = conf.get(CONFIG_SECTION, option, fallback=default, raw=True)
    return require_positive(name, parse_number(name, str(value).strip() or default), unit)


def settings_of(conn_id: str, connection: Connection, extra: object) -> ClientSettings:
    """Return the client settings of a connection of type ``toapis`` or ``http``.

    :param extra: The connection's parsed extra, which an event loop must read without blocking.
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
    """Return the URL of host, port and scheme of a connection; empty without a host."""
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
    """Return an IPv6 address in brackets, which Airflow removes when it parses a URI."""
    try:
        return f"[{IPv6Address(name)}]"
    except ValueError:
        return name


def _scheme(connection: Connection) -> str:
    """Return the scheme of a connection whose host has none; empty for the default, https."""
    if connection.schema in ("http", "https"):
        return connection.schema
    # Airflow parses http://:key@host:port into this. Without a port, the key would go to the service unencrypted.
    return "http" if connection.conn_type == "http" and connection.port not in (None, 0, _HTTPS_PORT) else ""


def _with_port(name: str, port: int) -> str:
    found = _PORT.search(name)
    if found is None:
        return f"{name}:{port}"
    if found["port"] != str(port):
        raise ToAPIsRequestError.for_field("port", port, f"must be {found['port']}, as in the host, or empty")
    return name


def _numbers(extra: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in the extra. Forms store an empty field as null or as empty text."""
    return {name: parse_number(name, extra[name]) for name in _NUMBERS if extra.get(name) not in (None, "")}


def _verify(value: object) -> bool | str:
    if value in (None, ""):
        return True
    booleans = {"true": True, "false": False}
    return value if isinstance(value, bool) else booleans.get(str(value).lower(), str(value))


def form_widgets() -> dict[str, Any]:
    """Return the form widgets for the fields of the extra."""
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
