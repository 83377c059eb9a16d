"""Assertions about errors that do not depend on the wording of messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from airflow_provider_toapis.exceptions import ToAPIsError, ToAPIsRequestError

_NOTHING_BILLED = re.compile(r"\bnothing (new )?was (paid|billed|created|submitted)", re.IGNORECASE)
_ANY = object()


@contextmanager
def rejects(
    field: str | None, value: object = _ANY, *, error: type[ToAPIsError] = ToAPIsRequestError
) -> Iterator[pytest.ExceptionInfo[Any]]:
    """Assert that the block raises an error about ``field``.

    :param value: The value that the error must show. Default: any value.
    """
    with pytest.raises(error) as raised:
        yield raised
    assert raised.value.field == field
    if value is not _ANY:
        assert raised.value.value == repr(value)


def claims_nothing_was_billed(error: BaseException) -> bool:
    """Whether the message of ``error`` claims that nothing was billed."""
    return _NOTHING_BILLED.search(str(error)) is not None
