"""What a deployment says once for all tasks and connections: the section ``[toapis]`` of Airflow's configuration.

An argument of a task, or a field of a connection, goes before it; the built-in default of the provider's info after it.
A value that cannot be used is told where it is first needed, and only there: when a task that gives no value of its own
is constructed, or when a connection without one is read. In a worker both come before anything is ordered; a triggerer
whose own configuration is wrong goes on reading it until the deadline of each wait.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from airflow.providers.common.compat.sdk import conf

from airflow_provider_toapis.api.numbers import given_number, require_positive, require_seconds
from airflow_provider_toapis.get_provider_info import CONFIG_OPTIONS, CONFIG_SECTION

Seconds = Literal["poll_interval", "timeout"]
Rate = Literal["query_rate", "submit_rate"]


def given_or_configured_seconds(option: Seconds, given: timedelta | float | None) -> float:
    """Return the seconds that an author gives; for None those that are configured.

    :raises ToAPIsRequestError: They cannot be used.
    """
    if given is not None:
        return require_seconds(option, given.total_seconds() if isinstance(given, timedelta) else given)
    return _configured(option, "seconds")


def configured_rate(option: Rate) -> float:
    """Return the requests per second that are configured.

    :raises ToAPIsRequestError: They cannot be used.
    """
    return _configured(option, "requests per second")


def _configured(option: Seconds | Rate, unit: str) -> float:
    name, default = f"[{CONFIG_SECTION}] {option}", CONFIG_OPTIONS[option]["default"]
    # Raw: a stray % is a bad number, and not a fault of the file.
    value = conf.get(CONFIG_SECTION, option, fallback=default, raw=True)
    return require_positive(name, given_number(name, str(value).strip() or default), unit)
