"""What one attempt of a task leaves for the next: a second line of defence beside the look-up at the service.

Airflow 3.3 and newer give a task a store of its own that survives retries and, on 3.3, clears. Older ones have nothing
of the kind (XComs are cleared with each attempt).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_toapis.api.protocol import Remember
    from airflow_provider_toapis.api.requests import EarlierOrder


def is_retry(context: Context) -> bool:
    """Whether an earlier attempt of this task may have ordered something."""
    try_number = context["ti"].try_number
    return isinstance(try_number, int) and try_number > 1


class OrderMemory:
    """The note about the newest order for one wanted video of a task instance.

    :param wanted: Names the video, whichever take of it. A person may edit a task and take the edit back: what was
        ordered for the one wish says nothing about the other, and is not forgotten over it.
    :param retries: How often the task may be tried again without a person's doing.
    """

    def __init__(self, context: Context, wanted: str, retries: int) -> None:
        ti = context["ti"]
        self._store: Any = context.get("task_state_store")
        self._key = f"toapis_order_{wanted}"
        self._note: Any = None if self._store is None else self._store.get(self._key)
        self._note_before: Any = None
        self._max_tries = ti.max_tries
        # More tries than the task has of itself: a person has cleared it.
        self._note_may_be_lost = is_retry(context) and (self._store is None or ti.max_tries > retries)

    @property
    def take(self) -> int:
        """Which take this attempt wants where a clear asks for a new one.

        ``max_tries`` stays put over retries and grows when a person clears the task. An attempt that adopted the take
        before, because it was still being made, has settled on that one for all further attempts until the next clear.
        """
        settled = self._note is not None and self._note["max_tries"] == self._max_tries
        return int(self._note["take"] if settled else self._max_tries)

    def earlier_order(self) -> EarlierOrder | None:
        """Return what is known of an earlier attempt's order; None where there was none.

        An attempt without a note may have ordered all the same: before Airflow 3.3, and where a clear empties the
        store. Any other one ended before it ordered; it may have waited in the queue of a scheduler that died.
        """
        from airflow_provider_toapis.api.requests import EarlierOrder

        if self._note is None:
            return EarlierOrder() if self._note_may_be_lost else None
        if self._note.get("refused"):
            return None
        return EarlierOrder(self._note["client_business_id"], self._note["video_id"])

    def remember(self, order: Remember) -> None:
        """Note an order, before it is sent and once it is answered; one that came to nothing is taken back."""
        if order.refused:
            self._take_back()
            return
        if order.video_id is None:
            self._note_before = self._note
        self.note(order.client_business_id, order.video_id)

    def note(self, client_business_id: str, video_id: str | None) -> None:
        """Note an order, or a video that is adopted."""
        is_same = self._note is not None and self._note["client_business_id"] == client_business_id
        self._write(
            {
                "client_business_id": client_business_id,
                "video_id": video_id,
                "take": self._note["take"] if is_same else self.take,
                "max_tries": self._max_tries,
            }
        )

    def _take_back(self) -> None:
        """Write again what was noted before; a first order is not removed, which would look like an emptied store."""
        is_first = self._note_before is None and not self._note_may_be_lost
        if self._note is not None and is_first:
            self._write({**self._note, "refused": True})
        elif self._note_before is not None:
            self._write(self._note_before)

    def _write(self, note: Any) -> None:  # noqa: ANN401 - JSON
        if self._store is not None:
            self._note = note
            self._store.set(self._key, note)
