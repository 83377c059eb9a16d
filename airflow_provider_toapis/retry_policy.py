"""Retry policy for Airflow 3.3 and newer: ``retry_policy=toapis_retry_policy()`` on a task.

Permanent errors need no rule, because they derive from ``AirflowFailException``, which Airflow does not retry. On
Airflow 3.4 and newer, some of them are replaced with a ``ToAPIsUnavailableError``, and the policy reschedules the task.
The policy is optional: without it, the task's ``retry_delay`` sets how long a retry waits.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING, Any

try:
    from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
except ImportError as error:
    raise ImportError("toapis_retry_policy() requires Airflow 3.3+; remove retry_policy= on older versions.") from error

from airflow_provider_toapis.exceptions import (
    ToAPIsConnectionError,
    ToAPIsDownloadError,
    ToAPIsError,
    ToAPIsRateLimitError,
    ToAPIsServerError,
    ToAPIsTimeoutError,
    ToAPIsUnavailableError,
    ToAPIsWaitInterruptedError,
)

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.definitions.retry_policy import RetryDecision

__all__ = ["toapis_retry_policy"]

_MINUTE = timedelta(minutes=1)


def toapis_retry_policy(*, reschedule_timeout: timedelta = timedelta(hours=6)) -> ExceptionRetryPolicy:
    """Return a policy that sets the delay before a retry.

    If the service sent ``Retry-After``, this is the delay. Otherwise, the delay depends on the error. The policy cannot
    add retries: set ``retries`` on the task.

    On Airflow 3.4 and newer, a task whose submission the service does not accept right now (rate limit, low balance,
    model not offered) is rescheduled every five minutes, or after ``Retry-After`` but at least a minute. This uses up
    no retry. A task whose video is or may be
    submitted is never rescheduled.

    :param reschedule_timeout: How long after its first reschedule a task is rescheduled. After that, the error uses up
        a retry (default: 6 hours). Airflow 3.3 ignores it.
    """
    return _ToAPIsRetryPolicy(
        rules=[
            *_reschedules(reschedule_timeout),
            _retry(ToAPIsTimeoutError, timedelta(seconds=1), "the video is still rendering: re-attach and wait again"),
            _retry(ToAPIsDownloadError, _MINUTE, "the video is finished: download it again"),
            _retry(
                ToAPIsWaitInterruptedError,
                5 * _MINUTE,
                "the video cannot be reached: wait for a fix, such as a new key",
            ),
            _retry(ToAPIsRateLimitError, _MINUTE, "the service limits the rate"),
            _retry(ToAPIsServerError, _MINUTE, "the service failed"),
            _retry(ToAPIsConnectionError, _MINUTE, "the service cannot be reached"),
        ]
    )


class _ToAPIsRetryPolicy(ExceptionRetryPolicy):
    """Retry rules. ``Retry-After`` of the service overrides their delay. Airflow stores and shows the rules."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        decision = super().evaluate(exception, try_number, max_tries, context)
        retry_after = exception.retry_after if isinstance(exception, ToAPIsError) else None
        if decision.action in (RetryAction.DEFAULT, RetryAction.FAIL) or retry_after is None:
            return decision
        delay = timedelta(seconds=retry_after)
        if decision.action is not RetryAction.RETRY:
            # Airflow 3.4.0b2 fails a task that runs again before its executor has reported the end of the earlier run.
            delay = max(delay, _MINUTE)
        return dataclasses.replace(decision, retry_delay=delay)


def _reschedules(timeout: timedelta) -> list[RetryRule]:
    """Return the rule that reschedules a task; an empty list on Airflow 3.3, which has no such rules."""
    action = getattr(RetryAction, "RESCHEDULE", None)
    if action is None:
        return []
    bound: dict[str, Any] = {"reschedule_timeout": timeout}
    reason = "the service accepts no submission right now"
    return [RetryRule(ToAPIsUnavailableError, action=action, retry_delay=5 * _MINUTE, reason=reason, **bound)]


def _retry(exception: type[ToAPIsError], delay: timedelta, reason: str) -> RetryRule:
    return RetryRule(exception=exception, action=RetryAction.RETRY, retry_delay=delay, reason=reason)
