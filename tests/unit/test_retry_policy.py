from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("airflow.sdk.definitions.retry_policy", reason="needs Airflow 3.3: it has retry policies")

from airflow.sdk import ExceptionRetryPolicy, RetryAction

from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsConnectionError,
    ToAPIsDownloadError,
    ToAPIsError,
    ToAPIsRateLimitError,
    ToAPIsServerError,
    ToAPIsTaskFailedError,
    ToAPIsTimeoutError,
    ToAPIsUnavailableError,
    ToAPIsWaitInterruptedError,
)
from airflow_provider_toapis.retry_policy import toapis_retry_policy


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (ToAPIsTimeoutError("the video lives on"), 1),
        (ToAPIsRateLimitError("too many"), 60),
        (ToAPIsServerError("500"), 60),
        (ToAPIsConnectionError("no response"), 60),
        (ToAPIsDownloadError("broken"), 60),
        (ToAPIsWaitInterruptedError("rejected"), 300),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_each_error_has_its_retry_delay(error: ToAPIsError, seconds: int) -> None:
    decision = toapis_retry_policy().evaluate(error, try_number=1, max_tries=3)
    assert decision.action is RetryAction.RETRY
    assert decision.retry_delay == timedelta(seconds=seconds)


@pytest.mark.parametrize("retry_after", [0.0, 7.5, 240.0])
def test_retry_after_overrides_the_delay(retry_after: float) -> None:
    decision = toapis_retry_policy().evaluate(ToAPIsRateLimitError("too many", retry_after=retry_after), 1, 3)
    assert decision.action is RetryAction.RETRY
    assert decision.retry_delay == timedelta(seconds=retry_after)


@pytest.mark.parametrize(
    "error", [ValueError("not ours"), ToAPIsTaskFailedError("the generation failed"), ToAPIsAuthError("bad key")]
)
def test_other_errors_use_the_default_of_the_task(error: Exception) -> None:
    assert toapis_retry_policy().evaluate(error, 1, 3).action is RetryAction.DEFAULT


def test_policy_round_trips_through_dag_serialization() -> None:
    policy = toapis_retry_policy()
    stored = ExceptionRetryPolicy.deserialize(policy.serialize())
    assert stored.serialize() == policy.serialize()


@pytest.mark.skipif(not hasattr(RetryAction, "RESCHEDULE"), reason="needs Airflow 3.4")
@pytest.mark.parametrize(("retry_after", "seconds"), [(None, 300), (1.0, 60), (90.0, 90)])
def test_unavailable_service_reschedules_the_task(retry_after: float | None, seconds: int) -> None:
    policy = toapis_retry_policy(reschedule_timeout=timedelta(hours=2))
    decision: Any = policy.evaluate(ToAPIsUnavailableError("wait", retry_after=retry_after), 1, 3)
    assert decision.action.value == "reschedule"
    assert decision.retry_delay == timedelta(seconds=seconds)
    assert decision.reschedule_timeout == timedelta(hours=2)


@pytest.mark.skipif(hasattr(RetryAction, "RESCHEDULE"), reason="needs Airflow 3.3")
def test_unavailable_service_uses_the_default_of_the_task_before_airflow_3_4() -> None:
    assert toapis_retry_policy().evaluate(ToAPIsUnavailableError("wait"), 1, 3).action is RetryAction.DEFAULT
