"""A test of a connection that ends in time, whatever the other side does."""

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

#: Seconds that a person waits at most; Airflow gives up after 60.
LIMIT = 10.0
#: Seconds for one step of the test, so that what is wrong with the host is known before the limit.
STEP_TIMEOUT = 4.0


def balance_in_time(settings: ClientSettings, limit: float = LIMIT) -> Balance:
    """Ask once for the balance.

    :param limit: Seconds. Neither a slow look-up of the host's name nor a response that never ends takes longer.
    :raises ToAPIsConnectionError: There is no usable response in time.
    :raises ToAPIsError: Whatever else is wrong with the connection.
    """
    # Airflow tests what stands in the form under an id of its own.
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
            f"The test failed ({type(response).__name__}){settings.via}. Check all fields of the connection."
        )
    return response


def _balance(settings: ClientSettings) -> Balance | Exception:
    try:
        with ToAPIsClient(settings) as client:
            return client.get_balance(retry_timeout=0)
    except Exception as error:  # noqa: BLE001 - nothing may end the thread in silence
        return error
