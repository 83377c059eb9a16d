"""What Airflow's ProvidersManager reads."""

from __future__ import annotations

from typing import Any

from airflow_provider_toapis.api.defaults import POLL_INTERVAL, QUERY_RATE, SUBMIT_RATE, WAIT_TIMEOUT

_INTEGRATION = "ToAPIs"
_NULLABLE_TEXT = ["string", "null"]


def get_provider_info() -> dict[str, Any]:
    """Return this package's entry in Airflow's list of providers."""
    return {
        "package-name": "airflow-provider-toapis",
        "name": "ToAPIs",
        "description": "`ToAPIs <https://toapis.com>`__, the gateway for AI video generation.",
        "integrations": [
            {"integration-name": _INTEGRATION, "external-doc-url": "https://docs.toapis.com", "tags": ["service"]}
        ],
        "operators": [_modules("operators.video", "operators.files", "operators.batch")],
        "sensors": [_modules("sensors.video")],
        "hooks": [_modules("hooks.toapis")],
        "triggers": [_modules("triggers.video")],
        "task-decorators": [
            {
                "name": "toapis_video",
                "class-name": "airflow_provider_toapis.decorators.video.toapis_video_task",
            },
            {
                "name": "toapis_video_batch",
                "class-name": "airflow_provider_toapis.decorators.batch.toapis_video_batch_task",
            },
        ],
        "extra-links": [
            "airflow_provider_toapis.links.video.ToAPIsVideoLink",
            "airflow_provider_toapis.links.video.ToAPIsConsoleLink",
            "airflow_provider_toapis.links.video.ToAPIsBatchReportLink",
        ],
        "config": {CONFIG_SECTION: {"description": "Defaults of the ToAPIs provider.", "options": CONFIG_OPTIONS}},
        "plugins": [{"name": "toapis", "plugin-class": "airflow_provider_toapis.plugin.ToAPIsPlugin"}],
        "connection-types": [
            {
                "connection-type": "toapis",
                "hook-class-name": "airflow_provider_toapis.hooks.toapis.ToAPIsHook",
                "hook-name": "ToAPIs",
                "conn-fields": CONNECTION_FIELDS,
                "ui-field-behaviour": FIELD_BEHAVIOR,
            }
        ],
    }


#: The section of Airflow's configuration in which a deployment says its own defaults.
CONFIG_SECTION = "toapis"


def _option(description: str, default: float, example: str) -> dict[str, str]:
    """Return the description of an option; as text, because older versions of Airflow take nothing else."""
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": "float",
        "example": example,
        "default": f"{default:g}",
    }


CONFIG_OPTIONS: dict[str, dict[str, str]] = {
    "poll_interval": _option(
        "Seconds between two polls for one video where neither its progress nor earlier videos of the model tell\n"
        "more, for tasks that do not say. Less than 5 is raised to 5.",
        POLL_INTERVAL,
        example="30",
    ),
    "timeout": _option(
        "Seconds that one attempt of a task waits for a video, for tasks that do not say. The video lives on, and a\n"
        "retry adopts it.",
        WAIT_TIMEOUT,
        example="3600",
    ),
    "query_rate": _option(
        "Polls per second that one triggerer may send for one connection, for connections that do not say. The\n"
        "vendor allows a user 50 in all (vip 166, svip 500): divide them by the number of triggerers.",
        QUERY_RATE,
        example="20",
    ),
    "submit_rate": _option(
        "Orders per second that one process may send for one connection, for connections that do not say. The vendor\n"
        "allows a user 5 in all.",
        SUBMIT_RATE,
        example="2",
    ),
}


def _or_configured(option: str, description: str) -> str:
    return f"{description} Default: [{CONFIG_SECTION}] {option}, else {CONFIG_OPTIONS[option]['default']}."


#: The fields of the connection's extra, as Airflow 3.2 and newer render them.
CONNECTION_FIELDS: dict[str, dict[str, Any]] = {
    "timeout": {
        "label": "Request timeout",
        "description": "Seconds that one request may take to connect, and then between bytes. Default: 30.",
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
    "verify": {
        "label": "Verify certificates",
        "description": "true (default), false, or the path of a CA bundle.",
        "schema": {"type": _NULLABLE_TEXT},
    },
    "proxy": {
        "label": "Proxy",
        "description": "URL of a proxy for all requests to the service.",
        "schema": {"type": _NULLABLE_TEXT, "format": "password"},
    },
    "namespace": {
        "label": "Namespace",
        "description": "Keeps the videos of Airflow deployments apart that share one ToAPIs account.",
        "schema": {"type": _NULLABLE_TEXT},
    },
    "query_rate": {
        "label": "Query rate",
        "description": _or_configured("query_rate", "Polls per second of one triggerer."),
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
    "submit_rate": {
        "label": "Submit rate",
        "description": _or_configured("submit_rate", "Orders per second of one process."),
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
    "webhook": {
        "label": "Webhooks",
        "description": "true, false (default) or auto: whether orders ask for a webhook where their task does not say.",
        "schema": {"type": _NULLABLE_TEXT},
    },
    "webhook_secret": {
        "label": "Webhook secret",
        "description": "The secret that the ToAPIs console shows once; two with a comma between them in a rotation.",
        "schema": {"type": _NULLABLE_TEXT, "format": "password"},
    },
    "webhook_url": {
        "label": "Webhook URL",
        "description": "Public https address of this Airflow's API server. Default: [api] base_url.",
        "schema": {"type": _NULLABLE_TEXT},
    },
    "webhook_poll_interval": {
        "label": "Webhook poll interval",
        "description": "Seconds between two polls for a video of which a webhook is to tell. Default: 300.",
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
}

#: What the form calls its standard fields, and which it leaves out.
FIELD_BEHAVIOR: dict[str, Any] = {
    "hidden-fields": ["login", "schema"],
    "relabeling": {"password": "API key"},
    "placeholders": {"host": "https://toapis.com (default)", "password": "sk-..."},
}


def _modules(*names: str) -> dict[str, Any]:
    return {
        "integration-name": _INTEGRATION,
        "python-modules": [f"airflow_provider_toapis.{name}" for name in names],
    }
