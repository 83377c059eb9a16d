"""What one attempt of a task leaves for the next: a second line of defence beside the look-up at the service.

Airflow 3.3 and newer give a task a store of its own that survives retries and clears. Older ones have nothing of the
kind (XComs are cleared with each attempt); there, every attempt but the first is taken to have ordered a moment ago.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow_provider_toapis.api.requests import EarlierOrder

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_toapis.api.protocol import Remember

#: The note's key in the task's state store.
STATE_KEY = "toapis_order"
#: Seconds after which a look-up that finds nothing is believed, although an order was about to be sent.
YOUNG = 600.0


class OrderMemory:
    """The note about the newest order of one task instance.

    :param fingerprint: What is asked for; a note about anything else is not about this video.
    """

    def __init__(self, context: Context, fingerprint: str) -> None:
        self._store: Any = context.get("task_state_store")
        self._fingerprint = fingerprint
        self._is_retry = isinstance(try_number := context["ti"].try_number, int) and try_number > 1

    def earlier_order(self) -> EarlierOrder | None:
        """Return what is known of an earlier attempt's order; None where there was none, as far as is known."""
        if self._store is None:
            return EarlierOrder() if self._is_retry else None
        note = self._store.get(STATE_KEY)
        if not isinstance(note, dict) or note.get("fingerprint") != self._fingerprint:
            return None
        if note["video_id"] is None and time.time() - note["noted_at"] > YOUNG:
            return None
        return EarlierOrder(client_business_id=note["client_business_id"], video_id=note["video_id"])

    def remember(self, order: Remember) -> None:
        """Note an order, before it is sent and once it is answered."""
        if self._store is not None:
            self._store.set(
                STATE_KEY,
                {
                    "client_business_id": order.client_business_id,
                    "video_id": order.video_id,
                    "fingerprint": self._fingerprint,
                    "noted_at": time.time(),
                },
            )
