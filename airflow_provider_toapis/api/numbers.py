"""Numbers that an author, a connection or a configuration gives, checked before anything is paid."""

from __future__ import annotations

import math
from contextlib import suppress
from decimal import Decimal

from airflow_provider_toapis.exceptions import ToAPIsRequestError

_TOO_LARGE = 10**40


def given_number(field: str, value: object) -> float:
    """Return a number that may be given as text, as forms and configuration files do.

    :raises ToAPIsRequestError: It is none.
    """
    try:
        return float(str(value))
    except ValueError:
        raise ToAPIsRequestError.for_field(field, value, "a positive number") from None


def require_positive(field: str, value: object, unit: str) -> float:
    """Return ``value`` as a positive, finite number of ``unit``.

    :raises ToAPIsRequestError: It is not one. NaN would make every comparison with it false.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ToAPIsRequestError.for_field(field, value, f"a positive number of {unit}")
    return float(value)


def require_seconds(field: str, value: object) -> float:
    """Return ``value`` as a positive, finite number of seconds.

    :raises ToAPIsRequestError: It is not one.
    """
    return require_positive(field, value, "seconds")


def require_whole_number(field: str, value: object) -> int:
    """Return ``value`` as a whole number from 1 on.

    :raises ToAPIsRequestError: It is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ToAPIsRequestError.for_field(field, value, "a whole number from 1 on")
    return value


def whole_number(value: object) -> int | None:
    """Return a number as int where it is whole: spreadsheets and databases write 10 as ``10.0``. Otherwise None.

    None as well for a number of more than 40 digits: Python neither computes nor writes every one of these.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    with suppress(ArithmeticError):  # Decimal("NaN") cannot be compared.
        if -_TOO_LARGE < value < _TOO_LARGE and value == int(value):
            return int(value)
    return None
