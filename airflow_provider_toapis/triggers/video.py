"""What waits in the triggerer for a video."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.triggers.deferral import WaitEvent
from airflow_provider_toapis.triggers.poller import shared_poller


class ToAPIsVideoTrigger(BaseTrigger):
    """Watch one video until it is final, and say so.

    It only watches: it submits nothing, downloads nothing and cancels nothing, so that a restart of the triggerer, or
    the same trigger in two triggerers, costs and changes nothing. Its arguments are ids and numbers; the key comes
    from the connection. All that wait for one connection share a client and ask at its ``query_rate``.

    The event is ``{"status": "success" | "failed" | "timeout" | "error", "video_id", "end_time", "message"}``. Airflow
    logs it, so it holds no URL, no prompt and none of the vendor's free text.

    :param video_id: The video to watch.
    :param toapis_conn_id: Airflow connection.
    :param poll_interval: Seconds between two questions where neither progress nor earlier videos of the model tell
        more; less than 5 is raised to 5.
    :param end_time: Deadline in epoch seconds. Wall-clock, not monotonic: the trigger may resume in another process.
        None waits as long as it takes.
    """

    def __init__(
        self,
        video_id: str,
        toapis_conn_id: str = ToAPIsHook.default_conn_name,
        poll_interval: float = 10.0,
        end_time: float | None = None,
    ) -> None:
        super().__init__()
        self.video_id = video_id
        self.toapis_conn_id = toapis_conn_id
        self.poll_interval = poll_interval
        self.end_time = end_time

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, which the metadata database keeps."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "video_id": self.video_id,
                "toapis_conn_id": self.toapis_conn_id,
                "poll_interval": self.poll_interval,
                "end_time": self.end_time,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield one event."""
        async with shared_poller(self.toapis_conn_id) as poller:
            result = await poller.wait_for(self.video_id, poll_interval=self.poll_interval, end_time=self.end_time)
        yield TriggerEvent(WaitEvent.of(result, self.video_id, self.end_time).payload())
