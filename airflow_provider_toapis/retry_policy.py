"""A ready-made retry policy, for Airflow 3.3 and newer: ``retry_policy=toapis_retry_policy()`` on a task.

Errors that no retry can help are ``AirflowFailException`` and need no rule. Without a policy everything works too; the
task's own ``retry_delay`` then decides how long a retry waits.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING

try:
    from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
except ImportError as error:
    raise ImportError("Retry policies need Airflow 3.3 or newer; leave retry_policy out below.") from error

from airflow_provider_toapis.exceptions import (
    ToAPIsConnectionError,
    ToAPIsDownloadError,
    ToAPIsError,
    ToAPIsRateLimitError,
    ToAPIsServerError,
    ToAPIsTimeoutError,
    ToAPIsWaitInterruptedError,
)

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.definitions.retry_policy import RetryDecision

__all__ = ["toapis_retry_policy"]

_MINUTE = timedelta(minutes=1)


def toapis_retry_policy() -> ExceptionRetryPolicy:
    """Return a policy that waits as the service asks, and otherwise as long as each error deserves.

    A policy cannot add retries: set ``retries`` on the task.
    """
    return _ToAPIsRetryPolicy(
        rules=[
            _retry(ToAPIsTimeoutError, timedelta(seconds=1), "the video is still being made: adopt it and wait on"),
            _retry(ToAPIsDownloadError, _MINUTE, "the video is made: download it again"),
            _retry(
                ToAPIsWaitInterruptedError, 5 * _MINUTE, "the video lives on: somebody may replace the key meanwhile"
            ),
            _retry(ToAPIsRateLimitError, _MINUTE, "the service asks for a pause"),
            _retry(ToAPIsServerError, _MINUTE, "the service is in trouble"),
            _retry(ToAPIsConnectionError, _MINUTE, "the service cannot be reached"),
        ]
    )


class _ToAPIsRetryPolicy(ExceptionRetryPolicy):
    """Rules, but the service's own ``Retry-After`` wins. Stored and shown as the rules."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        decision = super().evaluate(exception, try_number, max_tries, context)
        told = exception.retry_after if isinstance(exception, ToAPIsError) else None
        if decision.action is not RetryAction.RETRY or told is None:
            return decision
        return dataclasses.replace(decision, retry_delay=timedelta(seconds=told))


def _retry(exception: type[ToAPIsError], delay: timedelta, reason: str) -> RetryRule:
    return RetryRule(exception=exception, action=RetryAction.RETRY, retry_delay=delay, reason=reason)
