"""Airflow plugin that adds the webhook receiver to API servers.

Every Airflow process loads the plugin, but only an API server imports the receiver.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

from airflow_provider_toapis.hooks.callback_url import RECEIVER_PATH

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ToAPIsPlugin"]

_PREFIX, _, _ROUTE = RECEIVER_PATH.rpartition("/")


class _Apps:
    """Descriptor that creates the FastAPI applications on first access.

    They are not created earlier, because only API servers access them, and other processes need not have FastAPI.
    """

    def __get__(self, plugin: object, owner: type | None = None) -> Sequence[dict[str, Any]]:
        return self._created

    @cached_property
    def _created(self) -> Sequence[dict[str, Any]]:
        from airflow_provider_toapis.webhooks.receiver import webhook_app

        return [{"name": "ToAPIs webhooks", "app": webhook_app(f"/{_ROUTE}"), "url_prefix": _PREFIX}]


class ToAPIsPlugin(AirflowPlugin):
    """Plugin that mounts the receiver at ``POST /toapis/webhooks/{conn_id}``. Airflow 2 ignores the receiver."""

    name = "toapis"
    fastapi_apps = _Apps()  # type: ignore[assignment]
