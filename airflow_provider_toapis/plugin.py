"""Airflow plugin that adds the webhook receiver and the pages about videos to API servers.

Every Airflow process loads the plugin, but only an API server imports the receiver and the pages.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

from airflow_provider_toapis.hooks.callback_url import RECEIVER_PATH
from airflow_provider_toapis.links.video import MAP_INDEX, VIDEOS_PATH, videos_base
from airflow_provider_toapis.version_compat import AIRFLOW_V_3_1_PLUS, AIRFLOW_V_3_4_PLUS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ToAPIsPlugin"]

#: Names of operators and decorators whose task instances have the tab "Video".
_OPERATORS = (
    "ToAPIsSubmitVideoOperator",
    "ToAPIsRemixVideoOperator",
    "ToAPIsExtendVideoOperator",
    "ToAPIsDownloadVideoOperator",
    "ToAPIsVideoBatchOperator",
    "@task.toapis_video",
    "@task.toapis_video_batch",
)
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

        webhooks = {"name": "ToAPIs webhooks", "app": webhook_app(f"/{_ROUTE}"), "url_prefix": _PREFIX}
        if not AIRFLOW_V_3_1_PLUS:
            return [webhooks]
        from airflow_provider_toapis.ui.app import videos_app

        # The first prefix that matches is used, and the one of the webhooks is the beginning of the other.
        return [{"name": "ToAPIs videos", "app": videos_app(), "url_prefix": VIDEOS_PATH}, webhooks]


def _views() -> list[dict[str, Any]]:
    """Return the pages that Airflow's UI links to."""
    if not AIRFLOW_V_3_1_PLUS:
        return []
    base = videos_base()
    views: list[dict[str, Any]] = [
        {"name": "Videos", "href": f"{base}/", "destination": "nav", "url_route": "toapis-videos"}
    ]
    if AIRFLOW_V_3_4_PLUS:
        # Earlier versions ignore `applies_to` and would show the tab on every task instance.
        href = f"{base}/{{DAG_ID}}/{{RUN_ID}}/{{TASK_ID}}?map_index={MAP_INDEX}"
        tab = {"name": "Video", "href": href, "destination": "task_instance", "url_route": "toapis-video"}
        views.append({**tab, "applies_to": {"operator_name": list(_OPERATORS)}})
    return views


class ToAPIsPlugin(AirflowPlugin):
    """Plugin that mounts the receiver at ``POST /toapis/webhooks/{conn_id}``, and the pages at ``/toapis/videos/``.

    Airflow 2 ignores the receiver. Airflow 3.0 cannot show the pages.
    """

    name = "toapis"
    fastapi_apps = _Apps()  # type: ignore[assignment]
    external_views = _views()
