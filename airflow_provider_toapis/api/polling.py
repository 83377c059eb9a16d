"""Whether to go on asking for a video, and how a wait for it ended. Pure decisions: time comes from outside.

A worker that waits, a trigger and a sensor share them, so that they cannot drift apart.
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

#: ``completed`` without a link is asked again this often before the wait ends in an error.
MAX_RESPONSES_WITHOUT_URL = 5
#: A known video that the service denies this many times in a row, over this many seconds, is given up.
MAX_NOT_FOUND = 5
NOT_FOUND_SECONDS = 120.0
#: Least seconds between two polls for a video whose wait ended in an error that the task does not have: with a fault of
#: the triggerer's own, such as an old key there, each further wait costs the start of a worker.
AFTER_ERROR_SECONDS = 300.0

_PLAIN_CODE = re.compile(r"[A-Za-z0-9_.-]{1,80}")
#: Seconds from which on a pause that the service asks for is logged for each video.
LOGGED_PAUSE_SECONDS = 30.0
#: Seconds before a key that was refused is read again: rotating it takes a person a moment.
REJECTED_FOR_SECONDS = 10.0


@dataclass(frozen=True)
class WaitResult:
    """How a wait ended.

    :param message: Our wording plus the vendor's error code; never the vendor's free text, a URL or a prompt.
    """

    status: WaitStatus
    message: str


@dataclass(frozen=True, slots=True)
class KeepWaiting:
    """Ask again in ``seconds``; with a ``fresh_connection``, because the key may have been rotated meanwhile."""

    seconds: float
    fresh_connection: bool = False


Decision = WaitResult | KeepWaiting


def wait_outcome(task: VideoTask, hint: WaitStatus, end_time: float | None, now: float) -> WaitStatus | None:
    """Return how a wait really ended; None when it has not.

    :param task: The truth, asked for after the wait.
    :param hint: What the wait said. Only an ``error`` about a missing link is believed, and only while it is missing.
    """
    if task.is_ready:
        return "success"
    if task.status is TaskStatus.FAILED:
        return "failed"
    if task.status is TaskStatus.COMPLETED and hint == "error":
        return "error"
    return "timeout" if end_time is not None and now >= end_time else None


def poll_interval_after(hint: WaitStatus, poll_interval: float) -> float:
    """Return the seconds between two polls for a wait that goes on after one that ended with ``hint``."""
    return max(poll_interval, AFTER_ERROR_SECONDS) if hint == "error" else poll_interval


class VideoWait:
    """The wait for one video: fed with each answer or failure, it says when to ask again or how the wait ended.

    A failed poll never fails a paid video. Only an answer about the video, the deadline, a key that is refused, or a
    service that keeps denying the video ends the wait.

    :param video_id: The video, for messages.
    :param schedule: When to ask again.
    :param end_time: Deadline in epoch seconds. Wall-clock, because the wait may go on in another process. None waits
        as long as it takes.
    :param log_level: Level at which news of the video are logged; lower where one task waits for many.
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
        self._last_word: str | None = None
        self._news = ""

    def begin(self, now: float) -> KeepWaiting:
        """Decide when to ask first, at ``now`` in epoch seconds."""
        return self._until_deadline(self._schedule.first_delay(), now)

    def on_response(self, response: VideoTask | ToAPIsError, now: float) -> Decision:
        """Decide after a poll, answered or not, at ``now`` in epoch seconds."""
        return self.on_task(response, now) if isinstance(response, VideoTask) else self.on_error(response, now)

    def on_task(self, task: VideoTask, now: float) -> Decision:
        """Decide after an answer, at ``now`` in epoch seconds. Logs what changed."""
        self._failures = self._not_found_count = self._rejections = 0
        self._limited_since = math.inf
        self._last_word = task.raw_status
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
        """Decide after a poll that was not answered, at ``now`` in epoch seconds."""
        if _is_rejection(error):
            return self._on_rejection(error)
        self._rejections = 0
        if isinstance(error, ToAPIsNotFoundError):
            self._not_found_count += 1
            self._not_found_since = now if self._not_found_count == 1 else self._not_found_since
            if self._not_found_count >= MAX_NOT_FOUND and now - self._not_found_since >= NOT_FOUND_SECONDS:
                return WaitResult("error", f"The service does not know video {self.video_id} (any more).")
        else:
            self._not_found_count = 0
        if isinstance(error, ToAPIsRateLimitError):
            # It says nothing about the video.
            self._on_rate_limit(error.retry_after or 0.0, now)
            return self._retry_later(self._schedule.delay_without_progress(at_least=error.retry_after or 0.0), now)
        self._limited_since = math.inf
        self._failures += 1
        if self._failures == 1:
            level = self._warning_level if _is_ours_to_mend(error) else self._log_level
            log.log(level, "Video %s could not be asked for and is asked for again: %s", self.video_id, error)
        return self._retry_later(self._schedule.delay_without_progress(self._failures, error.retry_after or 0.0), now)

    def on_pause(self, seconds: float, now: float) -> None:
        """Log a pause of all polls that the service asks for, unless it is short or logged already."""
        if seconds >= LOGGED_PAUSE_SECONDS and now >= self._paused_until:
            log.log(
                self._log_level,
                "Polling of video %s pauses for %.0f s: the service limits the rate (HTTP 429).",
                self.video_id,
                seconds,
            )
            self._paused_until = now + seconds

    def _on_rate_limit(self, pause: float, now: float) -> None:
        """Log a long pause when it begins, and many short ones once they have lasted as long."""
        if self._limited_since == math.inf:
            self._limited_since, self._limit_is_logged = now, False
        self.on_pause(pause, now)
        limited = now - self._limited_since
        if limited >= LOGGED_PAUSE_SECONDS and not self._limit_is_logged and now >= self._paused_until:
            limits = "Video %s could not be polled for %.0f s: the service limits the rate (HTTP 429)."
            log.log(self._log_level, limits, self.video_id, limited)
            self._limit_is_logged = True

    def _on_rejection(self, error: ToAPIsError) -> Decision:
        self._rejections += 1
        if self._rejections == 1:
            rejected = "Asking for video %s was refused. The connection is read again. %s"
            log.log(self._warning_level, rejected, self.video_id, error)
            return KeepWaiting(REJECTED_FOR_SECONDS, fresh_connection=True)
        return WaitResult(
            "error", f"The service refuses to tell the state of video {self.video_id} (HTTP {error.http_status})."
        )

    def _retry_later(self, seconds: float, now: float) -> Decision:
        if now >= self._end_time:
            return WaitResult("timeout", timeout_message(self.video_id, last_word=self._last_word))
        return self._until_deadline(seconds, now)

    def _until_deadline(self, seconds: float, now: float) -> KeepWaiting:
        # The last poll is sent at the deadline, not before it.
        return KeepWaiting(min(seconds, max(self._end_time - now, 0.0)))

    def _log_status_change(self, task: VideoTask) -> None:
        progress = f", {task.progress // 10 * 10} %" if task.progress else ""
        log_level = f"{redacted(task.raw_status or task.status, 40)}{progress}"
        if log_level != self._news:
            log.log(self._log_level, "Video %s: %s", self.video_id, log_level)
            self._news = log_level


def _is_rejection(error: ToAPIsError) -> bool:
    """Whether the service rejected the key. A key that is missing here is a connection to wait for."""
    return isinstance(error, ToAPIsAuthError | ToAPIsQuotaError) and error.http_status is not None


def _is_ours_to_mend(error: ToAPIsError) -> bool:
    """Whether the service had no part in it, or refuses what it is asked."""
    return isinstance(error, ToAPIsRequestError | ToAPIsAuthError) or (
        isinstance(error, ToAPIsConnectionError) and not error.sent
    )


def _code(task: VideoTask) -> str:
    """Return the vendor's code, unless it is a sentence: Airflow logs every trigger event."""
    code = task.error.code if task.error else None
    return f" with code {code}" if code and _PLAIN_CODE.fullmatch(code) else ""
