"""What a connection says about webhooks, and the address at which the service is to tell of a video."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

from airflow.providers.common.compat.sdk import conf

from airflow_provider_toapis.api.settings import parse_number, require_seconds
from airflow_provider_toapis.api.video_request import Callback
from airflow_provider_toapis.exceptions import ToAPIsError, ToAPIsRequestError
from airflow_provider_toapis.version_compat import AIRFLOW_V_3_PLUS

if TYPE_CHECKING:
    from airflow_provider_toapis.api.video_request import Callback

log = logging.getLogger(__name__)

WebhookMode = Literal["auto"] | bool

#: Seconds between two polls for a video of which a webhook is to tell.
DEFAULT_FALLBACK_INTERVAL = 300.0
#: Below the address of the API server; ``plugin.py`` serves it.
RECEIVER_PATH = "/toapis/webhooks"
#: Connection ids that may stand in the address, as Airflow's own ids are, without what a path takes for something else.
CONN_ID = re.compile(r"[A-Za-z0-9_.-]{0,249}[A-Za-z0-9_]")

_INTERVAL = "webhook_poll_interval"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MODES: Mapping[str, WebhookMode] = {"true": True, "false": False, "auto": "auto"}
#: The one in use and, during a rotation, the one before.
_MAX_SECRETS = 2


@dataclass(frozen=True)
class WebhookOptions:
    """The fields of a connection's extra that are about webhooks.

    :param mode: ``webhook``: whether orders ask for one where their task does not say it (default False).
    :param url: ``webhook_url``: public address of the receiver where it is not below ``[api] base_url``.
    :param fallback_interval: ``webhook_poll_interval``: seconds between two polls for a video of which a webhook is
        to tell (default 300).
    :param secrets: ``webhook_secret``: one secret, or two of them while they are rotated. Never shown by ``repr``.
    """

    mode: WebhookMode = False
    url: str | None = None
    fallback_interval: float = DEFAULT_FALLBACK_INTERVAL
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, conn_id: str, extra: object) -> WebhookOptions:
        """Read a connection's extra.

        :raises ToAPIsRequestError: A field of it cannot be used.
        """
        if not isinstance(extra, Mapping):
            return cls()
        given: Mapping[str, Any] = {name: value for name, value in extra.items() if value not in (None, "")}
        try:
            return cls(
                mode=webhook_mode(given.get("webhook", False)) or False,
                url=str(given["webhook_url"]).strip() if "webhook_url" in given else None,
                fallback_interval=require_seconds(
                    _INTERVAL, parse_number(_INTERVAL, given.get(_INTERVAL, DEFAULT_FALLBACK_INTERVAL))
                ),
                secrets=_secrets(given.get("webhook_secret", ())),
            )
        except ToAPIsError as error:
            error.amend(before=f"Connection {conn_id!r}: ")
            raise


@dataclass(frozen=True)
class TaskCoordinates:
    """Where a task instance stands: what the address of its webhooks says besides.

    The service does not sign it, so it only says where to look first.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @classmethod
    def of(cls, ti: Any) -> TaskCoordinates:  # noqa: ANN401 - Airflow's task instance
        """Return the place of a task instance."""
        return cls(str(ti.dag_id), str(ti.run_id), str(ti.task_id), int(ti.map_index))

    @property
    def query(self) -> str:
        """Return it as a query."""
        names = {"dag_id": self.dag_id, "run_id": self.run_id, "task_id": self.task_id, "map_index": self.map_index}
        return urlencode(names)

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> TaskCoordinates | None:
        """Read a query; None where it is incomplete, or says what no database can be asked for."""
        try:
            coordinates = cls(query["dag_id"], query["run_id"], query["task_id"], int(query.get("map_index", "-1")[:9]))
        except (KeyError, ValueError):
            return None
        # Names of Airflow's are printable; anything else would end up in a log or in a database as it is.
        return (
            coordinates
            if all(map(str.isprintable, (coordinates.dag_id, coordinates.run_id, coordinates.task_id)))
            else None
        )


def webhook_mode(value: object) -> WebhookMode | None:
    """Return whether a webhook is asked for, ``auto`` for where there can be one, None where nothing is said.

    :raises ToAPIsRequestError: Another word.
    """
    if value is None:
        return None
    text = str(value).strip().lower()
    if text not in _MODES:
        raise ToAPIsRequestError.for_field("webhook", value, "must be True, False or 'auto'")
    return _MODES[text]


def callback_for(ti: Any, conn_id: str, mode: WebhookMode, options: WebhookOptions) -> Callback | None:  # noqa: ANN401
    """Return where the service is to tell of the videos of a task instance; None without a webhook.

    :param mode: With ``auto`` a webhook that cannot be had is a warning.
    :raises ToAPIsRequestError: With ``True``: there is no address that the service can reach.
    """
    if mode is False:
        return None
    try:
        return Callback(url=_callback_url(TaskCoordinates.of(ti), conn_id, options), required=mode is True)
    except ToAPIsRequestError as error:
        if mode is True:
            raise
        log.warning("No webhook; asking for the video as usual. %s", error)
        return None


def _callback_url(coordinates: TaskCoordinates, conn_id: str, options: WebhookOptions) -> str:
    if not AIRFLOW_V_3_PLUS:
        raise ToAPIsRequestError.for_field("webhook", True, "webhooks require the API server of Airflow 3")
    if not CONN_ID.fullmatch(conn_id):
        raise ToAPIsRequestError.for_field(
            "toapis_conn_id", conn_id, "must consist of A-Z, a-z, 0-9, _, . and - for webhooks"
        )
    name, address = ("webhook_url", options.url) if options.url else ("[api] base_url", _base_url())
    url = _parsed(address)
    is_safe = url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK)
    if not is_safe or not url.hostname or "@" in url.netloc or url.fragment:
        raise ToAPIsRequestError.for_field(
            name, address, "webhooks need the public https address of the API server; set the connection's webhook_url"
        )
    path = url.path.rstrip("/")
    if not options.url or not path:
        path = f"{path}{RECEIVER_PATH}/{conn_id}"
    return urlunsplit((url.scheme, url.netloc, path, "&".join(filter(None, (url.query, coordinates.query))), ""))


def _parsed(address: str | None) -> SplitResult:
    try:
        return urlsplit(address or "")
    except ValueError:
        return urlsplit("")


def _base_url() -> str | None:
    return cast("str | None", conf.get("api", "base_url", fallback=None))


def _secrets(value: object) -> tuple[str, ...]:
    """Return one secret or two, given as a list or as a text with a comma between them."""
    given = re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else value
    secrets = tuple(given) if isinstance(given, Iterable) else (given,)
    if len(secrets) > _MAX_SECRETS or not all(isinstance(secret, str) and secret.strip() for secret in secrets):
        raise ToAPIsRequestError.for_field("webhook_secret", "***", "must be one secret, or two separated by a comma")
    return tuple(secret.strip() for secret in secrets)
