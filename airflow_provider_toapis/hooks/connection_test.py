"""Test a connection within a time limit."""

from __future__ import annotations

from dataclasses import replace
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from airflow_provider_toapis.api.client import ToAPIsClient
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsError

if TYPE_CHECKING:
    from airflow_provider_toapis.api.responses import Balance
    from airflow_provider_toapis.api.settings import ClientSettings

#: Maximum seconds of the test. Airflow aborts it after 60.
LIMIT = 10.0
#: Maximum seconds to connect, and maximum seconds without data, so that a problem with the host is reported before the
#: limit.
STEP_TIMEOUT = 4.0


def balance_in_time(settings: ClientSettings, limit: float = LIMIT) -> Balance:
    """Request the balance once, without retries, and return it.

    :param limit: Maximum seconds (default 10), including DNS and reading the response.
    :raises ToAPIsConnectionError: No usable response arrived within the limit.
    :raises ToAPIsError: A field of the connection is invalid, or the service rejected the request.
    """
    # Do not name the connection, because Airflow tests the values of the form under a temporary connection id.
    settings = replace(settings, name="this connection", timeout=min(settings.timeout, STEP_TIMEOUT))
    responses: SimpleQueue[Balance | Exception] = SimpleQueue()
    Thread(target=lambda: responses.put(_balance(settings)), daemon=True).start()
    try:
        response = responses.get(timeout=limit)
    except Empty:
        raise ToAPIsConnectionError(
            f"No usable response within {limit:.0f} s{settings.via}. Check host, port and proxy."
        ) from None
    if isinstance(response, ToAPIsError):
        raise response
    if isinstance(response, Exception):
        raise ToAPIsConnectionError(
            f"The connection test failed ({type(response).__name__}){settings.via}. Check all fields of the connection."
        )
    return response


def _balance(settings: ClientSettings) -> Balance | Exception:
    try:
        with ToAPIsClient(settings) as client:
            return client.get_balance(retry_timeout=0)
    except Exception as error:  # noqa: BLE001 - the caller reports every error of the thread
        return error
