"""Provider metadata for Airflow's ProvidersManager."""

from __future__ import annotations

from typing import Any

from airflow_provider_toapis.api.defaults import POLL_INTERVAL, QUERY_RATE, SUBMIT_RATE, WAIT_TIMEOUT

_INTEGRATION = "ToAPIs"
_NULLABLE_TEXT = ["string", "null"]


def get_provider_info() -> dict[str, Any]:
    """Return the metadata of this provider."""
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


#: Section of Airflow's configuration with the defaults of a deployment.
CONFIG_SECTION = "toapis"


def _option(description: str, default: float, example: str) -> dict[str, str]:
    """Return the metadata of an option. All values are strings, because older versions of Airflow require that."""
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": "float",
        "example": example,
        "default": f"{default:g}",
    }


CONFIG_OPTIONS: dict[str, dict[str, str]] = {
    "poll_interval": _option(
        "Default of poll_interval: seconds between two polls of a video, unless its progress or the render times of\n"
        "earlier videos suggest another time. Values below 5 are raised to 5.",
        POLL_INTERVAL,
        example="30",
    ),
    "timeout": _option(
        "Default of timeout: seconds for which one attempt of a task waits for a video. After that, the service\n"
        "continues to render the video, and a retry re-attaches to it.",
        WAIT_TIMEOUT,
        example="3600",
    ),
    "query_rate": _option(
        "Default of a connection's query_rate: maximum polls per second of one triggerer for the connection. The\n"
        "vendor allows each user 50 in total (vip 166, svip 500), so divide that by the number of triggerers.",
        QUERY_RATE,
        example="20",
    ),
    "submit_rate": _option(
        "Default of a connection's submit_rate: maximum submissions per second of one process for the connection. The\n"
        "vendor allows each user 5 in total.",
        SUBMIT_RATE,
        example="2",
    ),
    "media_roots": {
        "description": "Directories and object storage URIs, separated by commas, whose videos and posters the pages\n"
        "in Airflow's UI show. Without them, the pages show a video only while its result URL is valid.",
        "version_added": "0.1.0",
        "type": "string",
        "example": "/data/videos, s3://aws_default@bucket/videos",
        "default": "",
    },
    "check": {
        "description": "Default of check: what happens if a saved video is not what was requested. warn puts warnings\n"
        "into the result, fail fails the task, off does not check the video. Videos are measured only if\n"
        "airflow-provider-toapis[media] is installed.",
        "version_added": "0.1.0",
        "type": "string",
        "example": "fail",
        "default": "warn",
    },
}


def _or_configured(option: str, description: str) -> str:
    return f"{description} Default: [{CONFIG_SECTION}] {option}, else {CONFIG_OPTIONS[option]['default']}."


#: Fields of the connection's extra, in the format of Airflow 3.2 and newer.
CONNECTION_FIELDS: dict[str, dict[str, Any]] = {
    "timeout": {
        "label": "Request timeout",
        "description": "Maximum seconds to connect, and maximum seconds without data from the service. Default: 30.",
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
        "description": "Separates the videos of Airflow deployments that share one ToAPIs account.",
        "schema": {"type": _NULLABLE_TEXT},
    },
    "query_rate": {
        "label": "Query rate",
        "description": _or_configured("query_rate", "Maximum polls per second of one triggerer."),
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
    "submit_rate": {
        "label": "Submit rate",
        "description": _or_configured("submit_rate", "Maximum submissions per second of one process."),
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
    "webhook": {
        "label": "Webhooks",
        "description": "true, false (default) or auto: whether submissions request a webhook. The operator's argument"
        " webhook takes precedence.",
        "schema": {"type": _NULLABLE_TEXT},
    },
    "webhook_secret": {
        "label": "Webhook secret",
        "description": "The secret that the ToAPIs console shows once. During a rotation, enter both secrets, separated"
        " by a comma.",
        "schema": {"type": _NULLABLE_TEXT, "format": "password"},
    },
    "webhook_url": {
        "label": "Webhook URL",
        "description": "Public https URL of this Airflow's API server. Default: [api] base_url.",
        "schema": {"type": _NULLABLE_TEXT},
    },
    "webhook_poll_interval": {
        "label": "Webhook poll interval",
        "description": "Seconds between two polls of a video that a webhook reports when it is finished. Default: 300.",
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
}

#: Labels and placeholders of the form's standard fields, and the fields that the form hides.
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
