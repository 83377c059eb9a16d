"""Decide whether to continue polling a video, and how a wait ended. The current time is an argument.

Workers, triggers and sensors share these decisions.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from typing import Literal

from airflow_provider_toapis.api.error_responses import missing_url_message, timeout_message
from airflow_provider_toapis.api.poll_schedule import Schedule
from airflow_provider_toapis.api.responses import TaskStatus, VideoTask
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsConnectionError,
    ToAPIsError,
    ToAPIsNotFoundError,
    ToAPIsQuotaError,
    ToAPIsRateLimitError,
    ToAPIsRequestError,
)
from airflow_provider_toapis.redaction import redacted

log = logging.getLogger(__name__)

WaitStatus = Literal["success", "failed", "timeout", "error"]

#: The wait ends with an error after this many responses with the status ``completed`` but without a result URL.
MAX_RESPONSES_WITHOUT_URL = 5
#: The wait ends with an error after this many "not found" responses in a row, over at least this many seconds.
MAX_NOT_FOUND = 5
NOT_FOUND_SECONDS = 120.0
#: Minimum poll interval after polls failed in the triggerer but not in the worker, for example because only the
#: triggerer has cached an old API key. It is long, because each such failure starts a worker process.
AFTER_ERROR_SECONDS = 300.0

_PLAIN_CODE = re.compile(r"[A-Za-z0-9_.-]{1,80}")
#: A pause that the service requests is logged for each video if it is at least this many seconds.
LOGGED_PAUSE_SECONDS = 30.0
#: Seconds to wait before a rejected API key is read again, because a key that is being rotated takes a moment to
#: change.
REJECTED_FOR_SECONDS = 10.0


@dataclass(frozen=True)
class WaitResult:
    """How a wait ended.

    :param message: Text of this provider, with the service's error code. It contains no free text of the service, no
        URL and no prompt.
    """

    status: WaitStatus
    message: str


@dataclass(frozen=True, slots=True)
class KeepWaiting:
    """Decision to poll again in ``seconds``.

    :param fresh_connection: Whether to read the connection again before the poll, because the API key can have been
        rotated (default False).
    """

    seconds: float
    fresh_connection: bool = False


Decision = WaitResult | KeepWaiting


def wait_outcome(task: VideoTask, event_status: WaitStatus, end_time: float | None, now: float) -> WaitStatus | None:
    """Return how a wait ended; None if the video is still in progress before the deadline.

    :param task: The video as looked up after the wait. It is authoritative.
    :param event_status: The status of the wait's event. It is advisory and has an effect in one case only: ``error``
        ends the wait for a completed video without a result URL.
    """
    if task.is_ready:
        return "success"
    if task.status is TaskStatus.FAILED:
        return "failed"
    if task.status is TaskStatus.COMPLETED and event_status == "error":
        return "error"
    return "timeout" if end_time is not None and now >= end_time else None


def poll_interval_after(event_status: WaitStatus, poll_interval: float) -> float:
    """Return the poll interval for a wait that continues after an event with ``event_status``."""
    return max(poll_interval, AFTER_ERROR_SECONDS) if event_status == "error" else poll_interval


class VideoWait:
    """The wait for one video. After each response or error, it decides when to poll again or how the wait ended.

    A single failed poll never ends the wait for a billed video. The wait ends with a final status or at the deadline.
    It ends with an error if the API key is rejected twice in a row, if the video is repeatedly not found, or if a
    completed video repeatedly has no result URL.

    :param video_id: The id of the video, for messages.
    :param schedule: Decides when to poll again.
    :param end_time: Deadline in epoch seconds, by the wall clock, because the wait can continue in another process. If
        None, the wait has no deadline.
    :param log_level: Level at which status changes are logged; lower if one task waits for many videos.
    """

    def __init__(
        self, video_id: str, schedule: Schedule, *, end_time: float | None, log_level: int = logging.INFO
    ) -> None:
        self.video_id = video_id
        self._log_level = log_level
        self._warning_level = logging.WARNING if log_level >= logging.INFO else log_level
        self._schedule = schedule
        self._end_time = math.inf if end_time is None else end_time
        self._failures = 0
        self._rejections = 0
        self._responses_without_url = 0
        self._not_found_count = 0
        self._not_found_since = math.inf
        self._paused_until = -math.inf
        self._limited_since = math.inf
        self._limit_is_logged = False
        self._last_status: str | None = None
        self._logged_status = ""

    def begin(self, now: float) -> KeepWaiting:
        """Decide when to poll first. ``now`` is in epoch seconds."""
        return self._until_deadline(self._schedule.first_delay(now), now)

    def on_response(self, response: VideoTask | ToAPIsError, now: float) -> Decision:
        """Decide what follows the response or error of a poll. ``now`` is in epoch seconds."""
        return self.on_task(response, now) if isinstance(response, VideoTask) else self.on_error(response, now)

    def on_task(self, task: VideoTask, now: float) -> Decision:
        """Decide what follows a response, and log a changed status. ``now`` is in epoch seconds."""
        self._failures = self._not_found_count = self._rejections = 0
        self._limited_since = math.inf
        self._last_status = task.raw_status
        self._log_status_change(task)
        if task.status is TaskStatus.FAILED:
            return WaitResult("failed", f"Video {self.video_id} failed{_code(task)}.")
        if task.status is TaskStatus.COMPLETED:
            if task.is_ready:
                self._schedule.finished(task)
                return WaitResult("success", f"Video {self.video_id} is ready.")
            self._responses_without_url += 1
            if self._responses_without_url >= MAX_RESPONSES_WITHOUT_URL:
                return WaitResult("error", missing_url_message(self.video_id))
            return self._retry_later(self._schedule.delay_without_progress(), now)
        return self._retry_later(self._schedule.after_response(task, now), now)

    def on_error(self, error: ToAPIsError, now: float) -> Decision:
        """Decide what follows a failed poll. ``now`` is in epoch seconds."""
        if _is_rejection(error):
            return self._on_rejection(error)
        self._rejections = 0
        if isinstance(error, ToAPIsNotFoundError):
            self._not_found_count += 1
            self._not_found_since = now if self._not_found_count == 1 else self._not_found_since
            if self._not_found_count >= MAX_NOT_FOUND and now - self._not_found_since >= NOT_FOUND_SECONDS:
                return WaitResult("error", f"The service no longer finds video {self.video_id}.")
        else:
            self._not_found_count = 0
        if isinstance(error, ToAPIsRateLimitError):
            # A rate limit says nothing about the video.
            self._on_rate_limit(error.retry_after or 0.0, now)
            return self._retry_later(self._schedule.delay_without_progress(at_least=error.retry_after or 0.0), now)
        self._limited_since = math.inf
        self._failures += 1
        if self._failures == 1:
            level = self._warning_level if _is_on_our_side(error) else self._log_level
            log.log(level, "Polling video %s failed, will retry: %s", self.video_id, error)
        return self._retry_later(self._schedule.delay_without_progress(self._failures, error.retry_after or 0.0), now)

    def on_pause(self, seconds: float, now: float) -> None:
        """Log that the service requests a pause of all polls, unless the pause is short or already logged."""
        if seconds >= LOGGED_PAUSE_SECONDS and now >= self._paused_until:
            log.log(
                self._log_level,
                "Polling of video %s pauses for %.0f s: the service limits the rate (HTTP 429).",
                self.video_id,
                seconds,
            )
            self._paused_until = now + seconds

    def _on_rate_limit(self, pause: float, now: float) -> None:
        """Log a pause of at least ``LOGGED_PAUSE_SECONDS`` when it begins.

        If each pause is shorter, log once the service has limited the rate for that time.
        """
        if self._limited_since == math.inf:
            self._limited_since, self._limit_is_logged = now, False
        self.on_pause(pause, now)
        limited = now - self._limited_since
        if limited >= LOGGED_PAUSE_SECONDS and not self._limit_is_logged and now >= self._paused_until:
            message = "Video %s could not be polled for %.0f s: the service limits the rate (HTTP 429)."
            log.log(self._log_level, message, self.video_id, limited)
            self._limit_is_logged = True

    def _on_rejection(self, error: ToAPIsError) -> Decision:
        self._rejections += 1
        if self._rejections == 1:
            message = "The service rejected a poll of video %s. The connection is read again. %s"
            log.log(self._warning_level, message, self.video_id, error)
            return KeepWaiting(REJECTED_FOR_SECONDS, fresh_connection=True)
        return WaitResult("error", f"The service rejected polls of video {self.video_id} (HTTP {error.http_status}).")

    def _retry_later(self, seconds: float, now: float) -> Decision:
        if now >= self._end_time:
            return WaitResult("timeout", timeout_message(self.video_id, last_status=self._last_status))
        return self._until_deadline(seconds, now)

    def _until_deadline(self, seconds: float, now: float) -> KeepWaiting:
        # The last poll is sent at the deadline, not before it.
        return KeepWaiting(min(seconds, max(self._end_time - now, 0.0)))

    def _log_status_change(self, task: VideoTask) -> None:
        progress = f", {task.progress // 10 * 10} %" if task.progress else ""
        status = f"{redacted(task.raw_status or task.status, 40)}{progress}"
        if status != self._logged_status:
            log.log(self._log_level, "Video %s: %s", self.video_id, status)
            self._logged_status = status


def _is_rejection(error: ToAPIsError) -> bool:
    """Return whether the service rejected the API key, or reported that the balance is too low.

    A missing key causes an error without an HTTP status. The wait continues after such an error.
    """
    return isinstance(error, ToAPIsAuthError | ToAPIsQuotaError) and error.http_status is not None


def _is_on_our_side(error: ToAPIsError) -> bool:
    """Return whether a poll failed because its request or the API key is invalid, or because it was not sent."""
    return isinstance(error, ToAPIsRequestError | ToAPIsAuthError) or (
        isinstance(error, ToAPIsConnectionError) and not error.sent
    )


def _code(task: VideoTask) -> str:
    """Return the service's error code for a message; an empty string without one.

    A code that is a sentence is left out, because it could quote the prompt, and Airflow logs every trigger event.
    """
    code = task.error.code if task.error else None
    return f" with code {code}" if code and _PLAIN_CODE.fullmatch(code) else ""
