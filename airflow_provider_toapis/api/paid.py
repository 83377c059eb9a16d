"""A refusal is final while nothing is paid. Where something is, or may be, a retry has to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from airflow_provider_toapis import exceptions

#: By the service: of the key, or for want of money.
REFUSED_KEY = (exceptions.ToAPIsAuthError, exceptions.ToAPIsQuotaError)
#: By anybody: also what stands in a connection, a folder's place, or a feed; and a connection that is not found, whose
#: own error would not say what is paid.
ANY_REFUSAL = (*REFUSED_KEY, exceptions.ToAPIsRequestError, exceptions.ToAPIsConnectionError)


@contextmanager
def not_for_good(
    interrupted: Callable[[exceptions.ToAPIsError], exceptions.ToAPIsWaitInterruptedError],
    *,
    when: Callable[[], object] = lambda: True,
    refusals: tuple[type[exceptions.ToAPIsError], ...] = ANY_REFUSAL,
) -> Iterator[None]:
    """Raise a refusal as an error that is worth a retry.

    :param interrupted: Makes that error.
    :param when: Asked when a refusal has come: whether something is paid by then.
    :param refusals: Which errors count.
    """
    try:
        yield
    except refusals as error:
        if isinstance(error, exceptions.ToAPIsWaitInterruptedError) or not when():
            raise
        raise interrupted(error) from error
