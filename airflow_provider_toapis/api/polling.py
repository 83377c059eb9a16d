"""When to ask for a video again, and when to stop asking. Pure decisions: the clock and the dice come from outside.

A worker that waits, a trigger and a sensor share them, so that they cannot drift apart.
"""

from __future__ import annotations

import logging
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from airflow_provider_toapis.api.errors import (
    ToAPIsAuthError,
    ToAPIsError,
    ToAPIsNotFoundError,
    ToAPIsQuotaError,
    ToAPIsRequestError,
)
from airflow_provider_toapis.api.models import TaskStatus, VideoTask
from airflow_provider_toapis.api.redaction import redacted

log = logging.getLogger(__name__)

WaitStatus = Literal["success", "failed", "timeout", "error"]

#: The vendor asks not to poll faster than every 5 to 10 seconds; no video is asked for more often than this.
SHORTEST_INTERVAL = 5.0
#: A service in trouble is asked less and less often, down to once in this many seconds.
LONGEST_INTERVAL = 120.0
#: Videos that were submitted together are not asked for together: each wait is off by up to this fraction.
JITTER = 0.1
#: ``completed`` without a link is asked again this often before the wait ends in an error.
MAX_ANSWERS_WITHOUT_URL = 5
#: A known video that the service denies this many times in a row, over this many seconds, is given up.
MAX_DENIALS = 5
DENIED_FOR_SECONDS = 120.0

_PLAIN_CODE = re.compile(r"[A-Za-z0-9_.-]{1,80}")


@dataclass(frozen=True)
class WaitResult:
    """How a wait ended.

    :param message: Our wording plus the vendor's error code; never the vendor's free text, a URL or a prompt.
    """

    status: WaitStatus
    message: str


@dataclass(frozen=True)
class KeepWaiting:
    """Ask again in ``seconds``; with a ``fresh_connection``, because the key may have been rotated meanwhile."""

    seconds: float
    fresh_connection: bool = False


Decision = WaitResult | KeepWaiting


def verdict_after_wait(task: VideoTask, hint: WaitStatus, end_time: float | None, now: float) -> WaitStatus | None:
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


def require_seconds(field: str, value: object) -> float:
    """Return ``value`` as a positive, finite number of seconds.

    :raises ToAPIsRequestError: It is not one. NaN would make every comparison with the deadline false.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ToAPIsRequestError.for_field(field, value, "a positive number of seconds")
    return float(value)


class VideoWait:
    """The wait for one video: fed with each answer or failure, it says when to ask again or how the wait ended.

    A failed poll never fails a paid video. Only an answer about the video, the deadline, a key that is refused, or a
    service that keeps denying the video ends the wait.

    :param video_id: The video, for messages.
    :param poll_interval: Seconds between two questions; less than 5 is raised to 5.
    :param end_time: Deadline in epoch seconds. Wall-clock, because the wait may go on in another process. None waits
        as long as it takes.
    :param jitter: Gives a number between 0 and 1.
    """

    def __init__(
        self,
        video_id: str,
        *,
        poll_interval: float,
        end_time: float | None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.video_id = video_id
        self._interval = max(SHORTEST_INTERVAL, poll_interval)
        self._end_time = math.inf if end_time is None else end_time
        self._jitter = jitter
        self._failures = 0
        self._refusals = 0
        self._answers_without_url = 0
        self._denials = 0
        self._denied_since = math.inf
        self._news = ""

    def on_task(self, task: VideoTask, now: float) -> Decision:
        """Decide after an answer, at ``now`` in epoch seconds. Logs what changed."""
        self._failures = self._denials = self._refusals = 0
        self._log_news(task)
        if task.status is TaskStatus.FAILED:
            return WaitResult("failed", f"Video {self.video_id} failed{_code(task)}.")
        if task.status is TaskStatus.COMPLETED:
            if task.is_ready:
                return WaitResult("success", f"Video {self.video_id} is ready.")
            self._answers_without_url += 1
            if self._answers_without_url >= MAX_ANSWERS_WITHOUT_URL:
                return WaitResult("error", f"Video {self.video_id} is reported as completed, but without a link to it.")
        return self._ask_again(now)

    def on_error(self, error: ToAPIsError, now: float) -> Decision:
        """Decide after a question that was not answered, at ``now`` in epoch seconds."""
        if isinstance(error, ToAPIsAuthError | ToAPIsQuotaError):
            self._refusals += 1
            if self._refusals == 1:
                return KeepWaiting(0.0, fresh_connection=True)
            code = f" (HTTP {error.http_status})" if error.http_status else ""
            return WaitResult("error", f"The service refuses to tell the state of video {self.video_id}{code}.")
        if isinstance(error, ToAPIsNotFoundError):
            self._denials += 1
            self._denied_since = now if self._denials == 1 else self._denied_since
            if self._denials >= MAX_DENIALS and now - self._denied_since >= DENIED_FOR_SECONDS:
                return WaitResult("error", f"The service does not know video {self.video_id} (any more).")
        else:
            self._denials = 0
        if isinstance(error, ToAPIsRequestError):
            log.warning("Asking for video %s was refused; asking again.", self.video_id)
        self._failures += 1
        if self._failures == 1:
            log.info("Video %s could not be asked for and is asked for again: %s", self.video_id, error)
        return self._ask_again(now, at_least=error.retry_after or 0.0)

    def _ask_again(self, now: float, at_least: float = 0.0) -> Decision:
        if now >= self._end_time:
            return WaitResult("timeout", f"Video {self.video_id} was not ready in time. It is still being made.")
        backed_off = min(LONGEST_INTERVAL, self._interval * 2 ** min(self._failures, 10))
        interval = max(self._interval, backed_off)
        jittered = interval * (1 + JITTER * (2 * self._jitter() - 1))
        delay = max(SHORTEST_INTERVAL, at_least, jittered)
        # The last question is asked at the deadline, not before it.
        return KeepWaiting(min(delay, max(self._end_time - now, 0.0)))

    def _log_news(self, task: VideoTask) -> None:
        progress = f", {task.progress // 10 * 10} %" if task.progress else ""
        news = f"{redacted(task.raw_status or task.status, 40)}{progress}"
        if news != self._news:
            log.info("Video %s: %s", self.video_id, news)
            self._news = news


def _code(task: VideoTask) -> str:
    """Return the vendor's code, unless it is a sentence: Airflow logs every trigger event."""
    code = task.error.code if task.error else None
    return f" with code {code}" if code and _PLAIN_CODE.fullmatch(code) else ""
