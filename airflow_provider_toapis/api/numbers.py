"""Numbers that an author gives, checked before anything is paid."""

from __future__ import annotations

import math

from airflow_provider_toapis.api.errors import ToAPIsRequestError


def require_seconds(field: str, value: object) -> float:
    """Return ``value`` as a positive, finite number of seconds.

    :raises ToAPIsRequestError: It is not one. NaN would make every comparison with the deadline false.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ToAPIsRequestError.for_field(field, value, "a positive number of seconds")
    return float(value)


def require_whole_number(field: str, value: object) -> int:
    """Return ``value`` as a whole number from 1 on.

    :raises ToAPIsRequestError: It is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ToAPIsRequestError.for_field(field, value, "a whole number from 1 on")
    return value
