"""Read the webhook fields of a connection, and build the callback URL of a video."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

from airflow.providers.common.compat.sdk import conf

from airflow_provider_toapis.api.settings import parse_number, require_seconds
from airflow_provider_toapis.api.submit_spec import Callback
from airflow_provider_toapis.exceptions import ToAPIsError, ToAPIsRequestError
from airflow_provider_toapis.version_compat import AIRFLOW_V_3_PLUS

if TYPE_CHECKING:
    from airflow_provider_toapis.api.submit_spec import Callback

log = logging.getLogger(__name__)

WebhookMode = Literal["auto"] | bool

#: Seconds between two polls of a video for which the service sends a webhook.
DEFAULT_FALLBACK_INTERVAL = 300.0
#: Path of the receiver on the API server. ``plugin.py`` mounts it.
RECEIVER_PATH = "/toapis/webhooks"
#: Connection ids that can be part of the callback URL: Airflow's own format, without characters that have a special
#: meaning in a path.
CONN_ID = re.compile(r"[A-Za-z0-9_.-]{0,249}[A-Za-z0-9_]")

_INTERVAL = "webhook_poll_interval"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MODES: Mapping[str, WebhookMode] = {"true": True, "false": False, "auto": "auto"}
#: Maximum number of webhook secrets: the current one and, during a rotation, the previous one.
_MAX_SECRETS = 2


@dataclass(frozen=True)
class WebhookOptions:
    """The webhook fields of a connection's extra.

    :param mode: Field ``webhook``: whether submissions request a webhook (default False). An operator's own argument
        ``webhook`` takes precedence.
    :param url: Field ``webhook_url``: public URL of the receiver. If None, the receiver is below ``[api] base_url``.
    :param fallback_interval: Field ``webhook_poll_interval``: seconds between two polls of a video for which the
        service sends a webhook (default 300).
    :param secrets: Field ``webhook_secret``: one secret, or two during a rotation. Not part of ``repr``.
    """

    mode: WebhookMode = False
    url: str | None = None
    fallback_interval: float = DEFAULT_FALLBACK_INTERVAL
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def from_extra(cls, conn_id: str, extra: object) -> WebhookOptions:
        """Read the webhook fields of a connection's extra.

        :raises ToAPIsRequestError: A field is invalid.
        """
        if not isinstance(extra, Mapping):
            return cls()
        fields: Mapping[str, Any] = {name: value for name, value in extra.items() if value not in (None, "")}
        try:
            return cls(
                mode=webhook_mode(fields.get("webhook", False)) or False,
                url=str(fields["webhook_url"]).strip() if "webhook_url" in fields else None,
                fallback_interval=require_seconds(
                    _INTERVAL, parse_number(_INTERVAL, fields.get(_INTERVAL, DEFAULT_FALLBACK_INTERVAL))
                ),
                secrets=_secrets(fields.get("webhook_secret", ())),
            )
        except ToAPIsError as error:
            error.amend(before=f"Connection {conn_id!r}: ")
            raise


@dataclass(frozen=True)
class TaskCoordinates:
    """Coordinates of a task instance. The callback URL of its videos contains them as the query.

    The webhook signature does not cover the query, so the coordinates are used only to decide where to look for the
    task first.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @classmethod
    def from_ti(cls, ti: Any) -> TaskCoordinates:  # noqa: ANN401 - Airflow's task instance
        """Return the coordinates of a task instance."""
        return cls(str(ti.dag_id), str(ti.run_id), str(ti.task_id), int(ti.map_index))

    @property
    def query(self) -> str:
        """The coordinates as a query string."""
        names = {"dag_id": self.dag_id, "run_id": self.run_id, "task_id": self.task_id, "map_index": self.map_index}
        return urlencode(names)

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> TaskCoordinates | None:
        """Parse a query; None if it is incomplete or malformed, or contains characters that are not printable."""
        try:
            coordinates = cls(query["dag_id"], query["run_id"], query["task_id"], int(query.get("map_index", "-1")[:9]))
        except (KeyError, ValueError):
            return None
        # Airflow's ids are printable. Other characters must not reach a log or the database.
        return (
            coordinates
            if all(map(str.isprintable, (coordinates.dag_id, coordinates.run_id, coordinates.task_id)))
            else None
        )


def webhook_mode(value: object) -> WebhookMode | None:
    """Return the mode for a value of ``webhook``; None for None.

    :raises ToAPIsRequestError: The value is not True, False, ``auto``, or one of the strings ``true`` and ``false``.
    """
    if value is None:
        return None
    text = str(value).strip().lower()
    if text not in _MODES:
        raise ToAPIsRequestError.for_field("webhook", value, "must be True, False or 'auto'")
    return _MODES[text]


def callback_for(ti: Any, conn_id: str, mode: WebhookMode, options: WebhookOptions) -> Callback | None:  # noqa: ANN401
    """Return the callback URL for the videos of a task instance; None without a webhook.

    :param mode: With ``auto``, a warning is logged if no callback URL is known. With ``True``, that is an error.
    :raises ToAPIsRequestError: The mode is ``True``, and no URL is known at which the service can reach the receiver.
    """
    if mode is False:
        return None
    try:
        return Callback(url=_callback_url(TaskCoordinates.from_ti(ti), conn_id, options), required=mode is True)
    except ToAPIsRequestError as error:
        if mode is True:
            raise
        log.warning("Submitting the video without a webhook. It is polled as usual. %s", error.without_cost)
        return None


def _callback_url(coordinates: TaskCoordinates, conn_id: str, options: WebhookOptions) -> str:
    if not AIRFLOW_V_3_PLUS:
        raise ToAPIsRequestError.for_field("webhook", True, "webhooks require the API server of Airflow 3")
    if not CONN_ID.fullmatch(conn_id):
        raise ToAPIsRequestError.for_field(
            "toapis_conn_id", conn_id, "must consist of A-Z, a-z, 0-9, _, . and - for webhooks"
        )
    name, address = ("webhook_url", options.url) if options.url else ("[api] base_url", _base_url())
    url = _split_url(address)
    is_safe = url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK)
    if not is_safe or not url.hostname or "@" in url.netloc or url.fragment:
        raise ToAPIsRequestError.for_field(
            name, address, "webhooks require the public https URL of the API server. Set the connection's webhook_url"
        )
    path = url.path.rstrip("/")
    if not options.url or not path:
        path = f"{path}{RECEIVER_PATH}/{conn_id}"
    return urlunsplit((url.scheme, url.netloc, path, "&".join(filter(None, (url.query, coordinates.query))), ""))


def _split_url(address: str | None) -> SplitResult:
    try:
        return urlsplit(address or "")
    except ValueError:
        return urlsplit("")


def _base_url() -> str | None:
    return cast("str | None", conf.get("api", "base_url", fallback=None))


def _secrets(value: object) -> tuple[str, ...]:
    """Return one or two secrets from a list, or from a string in which a comma separates them."""
    items = re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else value
    secrets = tuple(items) if isinstance(items, Iterable) else (items,)
    if len(secrets) > _MAX_SECRETS or not all(isinstance(secret, str) and secret.strip() for secret in secrets):
        raise ToAPIsRequestError.for_field("webhook_secret", "***", "must be one secret, or two separated by a comma")
    return tuple(secret.strip() for secret in secrets)
