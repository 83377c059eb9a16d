"""Triggers that wait in the triggerer for one video or for many."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.defaults import POLL_INTERVAL
from airflow_provider_toapis.api.polling import WaitStatus
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.triggers.events import (
    BatchEvent,
    ResumeDecision,
    WaitEvent,
    Window,
    parse_positions,
    positions_text,
)
from airflow_provider_toapis.triggers.poller import VideoPoller, shared_poller

__all__ = ["ToAPIsVideoBatchTrigger", "ToAPIsVideoTrigger"]

log = logging.getLogger(__name__)


class ToAPIsVideoTrigger(BaseTrigger):
    """Poll one video until it is final, then fire one event.

    The trigger submits, downloads and cancels nothing. If the triggerer restarts, or if two triggerers run the same
    trigger, nothing is billed or changed. The arguments are ids and numbers; the API key comes from the connection. All
    triggers of one connection share a client and its ``query_rate``.

    The event is ``{"status": "success" | "failed" | "timeout" | "error", "video_id", "end_time", "message"}``. Airflow
    logs it, so it contains no URL, no prompt and no text that the service wrote.

    :param video_id: The video to poll.
    :param toapis_conn_id: Airflow connection (default ``toapis_default``).
    :param poll_interval: Seconds between two polls, unless the video's progress or earlier videos of the model suggest
        another interval (default 10). Values below 5 are raised to 5.
    :param end_time: Deadline in epoch seconds. It is a time of the wall clock, because the trigger can continue in
        another process. If None, the wait has no deadline.
    :param fallback_interval: Seconds between two polls if the service sends a webhook for the video. If None,
        ``poll_interval`` is used.
    :param min_wait: Minimum seconds of this wait, even if ``end_time`` has passed according to this machine's clock. It
        is set if the previous wait ended before its deadline, because the clocks of worker and triggerer differ.
    """

    def __init__(
        self,
        video_id: str,
        toapis_conn_id: str = ToAPIsHook.default_conn_name,
        poll_interval: float = POLL_INTERVAL,
        end_time: float | None = None,
        fallback_interval: float | None = None,
        *,
        min_wait: float | None = None,
    ) -> None:
        super().__init__()
        self.video_id = video_id
        self.toapis_conn_id = toapis_conn_id
        self.poll_interval = poll_interval
        self.end_time = end_time
        self.fallback_interval = fallback_interval
        self.min_wait = min_wait

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments for the metadata database."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "video_id": self.video_id,
                "toapis_conn_id": self.toapis_conn_id,
                "poll_interval": self.poll_interval,
                "end_time": self.end_time,
                **_given(fallback_interval=self.fallback_interval, min_wait=self.min_wait),
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield one event."""
        async with shared_poller(self.toapis_conn_id) as poller:
            result = await poller.wait_for(
                self.video_id,
                poll_interval=self.poll_interval,
                end_time=_deadline(self.end_time, self.min_wait),
                fallback_interval=self.fallback_interval,
            )
        yield TriggerEvent(WaitEvent.from_result(result, self.video_id, self.end_time).payload())

    def waits_for(self, video_id: str) -> bool:
        """Return whether this trigger waits for ``video_id``."""
        return video_id == self.video_id

    def on_webhook(self, video_id: str, status: WaitStatus, now: float) -> ResumeDecision:  # noqa: ARG002
        """Return the event with which a webhook resumes the task at once.

        Called in the API server, on a copy of the trigger.

        :param video_id: The video that the webhook is about.
        :param status: The status that the webhook reports.
        :param now: Epoch seconds.
        """
        message = f"A webhook reports that video {video_id} is final."
        return ResumeDecision(-math.inf, WaitEvent(status, video_id, self.end_time, message).payload())


class ToAPIsVideoBatchTrigger(BaseTrigger):
    """Poll many videos until enough of them are final to resume the task.

    If all videos are final, the task is resumed at once. Otherwise, it is resumed when the first of these conditions is
    met, but not before ``not_before``:

    - A tenth of the videos, and at least ten, are final.
    - One minute has passed since the first video was final.
    - ``end_time`` has passed.

    Like :class:`ToAPIsVideoTrigger`, this trigger only polls, and shares the connection's poller.

    The event is ``{"status": "success" | "timeout", "final": "0x3ff", "waiting": 490}``. ``final`` contains the
    positions in ``video_ids`` that seem to be final, as bits. ``waiting`` is the number of videos that are not final.

    :param video_ids: The videos to poll.
    :param toapis_conn_id: Airflow connection (default ``toapis_default``).
    :param poll_interval: Seconds between two polls for one video, unless its progress or earlier videos suggest another
        interval (default 10). Values below 5 are raised to 5.
    :param end_time: Epoch seconds at which the task is resumed even if no video is final, but not before
        ``not_before``. This is the earliest deadline of the videos.
    :param not_before: Epoch seconds before which the task is resumed only if all videos are final, because each
        resumption starts a worker process.
    :param fallback_interval: Seconds between two polls for a video for which the service sends a webhook.
    :param webhook_positions: Positions of the videos for which the service sends webhooks, as bits.
    :param final: Positions of the videos that webhooks have reported as final, as bits. The webhook receiver stores
        them in the trigger's row, so that a restarted trigger knows them.
    :param min_wait: See :class:`ToAPIsVideoTrigger`.
    """

    def __init__(
        self,
        video_ids: Sequence[str],
        toapis_conn_id: str = ToAPIsHook.default_conn_name,
        poll_interval: float = POLL_INTERVAL,
        end_time: float | None = None,
        not_before: float | None = None,
        *,
        fallback_interval: float | None = None,
        webhook_positions: str = "",
        final: str = "",
        min_wait: float | None = None,
    ) -> None:
        super().__init__()
        self.video_ids = list(video_ids)
        self.toapis_conn_id = toapis_conn_id
        self.poll_interval = poll_interval
        self.end_time = end_time
        self.not_before = not_before
        self.fallback_interval = fallback_interval
        self.webhook_positions = webhook_positions
        self.final = final
        self.min_wait = min_wait

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments for the metadata database."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "video_ids": self.video_ids,
                "toapis_conn_id": self.toapis_conn_id,
                "poll_interval": self.poll_interval,
                "end_time": self.end_time,
                "not_before": self.not_before,
                **_given(
                    fallback_interval=self.fallback_interval,
                    webhook_positions=self.webhook_positions,
                    final=self.final,
                    min_wait=self.min_wait,
                ),
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield one event."""
        window = self._window(_deadline(self.end_time, self.min_wait))
        async with shared_poller(self.toapis_conn_id) as poller:
            await self._watch(poller, window)
        log.info("%s of %s videos are final.", len(window.final), window.size)
        yield TriggerEvent(BatchEvent.from_window(window, timed_out=window.is_timeout(clock.time())).payload())

    def waits_for(self, video_id: str) -> bool:
        """Return whether this trigger waits for ``video_id``."""
        return video_id in self.video_ids

    def on_webhook(self, video_id: str, status: WaitStatus, now: float) -> ResumeDecision:  # noqa: ARG002
        """Count a video as final; return when to resume the task, and with which event.

        Called in the API server, on a copy of the trigger.

        :param video_id: The video that the webhook is about.
        :param status: The status that the webhook reports.
        :param now: Epoch seconds.
        """
        window = self._window(self.end_time)
        window.on_final(self.video_ids.index(video_id), now)
        self.final = positions_text(window.final)
        return ResumeDecision(window.resume_at(), BatchEvent.from_window(window, timed_out=False).payload())

    def pending_event(self) -> dict[str, object]:
        """Return the event for the videos that webhooks have reported so far."""
        return BatchEvent.from_window(self._window(self.end_time), timed_out=False).payload()

    def _window(self, end_time: float | None) -> Window:
        size = len(self.video_ids)
        known = parse_positions(self.final, size)
        return Window(size, not_before=self.not_before, end_time=end_time, final=known)

    async def _watch(self, poller: VideoPoller, window: Window) -> None:
        final: asyncio.Queue[int] = asyncio.Queue()
        with_webhook = set(parse_positions(self.webhook_positions, window.size))
        for position in window.final:
            final.put_nowait(position)
        waits = [
            asyncio.create_task(self._wait(poller, position, final, by_webhook=position in with_webhook))
            for position in range(window.size)
            if position not in window.final
        ]
        try:
            while (seconds := window.resume_at() - clock.time()) > 0:
                try:
                    # Infinity means that no video is final and that no deadline is set.
                    timeout = None if seconds == math.inf else seconds
                    window.on_final(await asyncio.wait_for(final.get(), timeout), clock.time())
                except TimeoutError:
                    continue
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _wait(self, poller: VideoPoller, position: int, final: asyncio.Queue[int], *, by_webhook: bool) -> None:
        try:
            await poller.wait_for(
                self.video_ids[position],
                poll_interval=self.poll_interval,
                end_time=None,
                fallback_interval=self.fallback_interval if by_webhook else None,
                log_level=logging.DEBUG,
            )
        except Exception as error:  # noqa: BLE001 - an error of one video must not end the wait for the others
            log.warning(
                "Cannot poll video %s (%s). The task is resumed and looks the video up.",
                self.video_ids[position],
                type(error).__name__,
            )
        # Count the video as final even if its wait ended with an error, because the task looks the video up.
        final.put_nowait(position)


def _deadline(end_time: float | None, min_wait: float | None) -> float | None:
    return end_time if end_time is None or min_wait is None else max(end_time, clock.time() + min_wait)


def _given(**arguments: object) -> dict[str, object]:
    """Leave out unused arguments, so that a triggerer with an older version of this provider can load the trigger."""
    return {name: value for name, value in arguments.items() if value}
