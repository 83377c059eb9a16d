"""Messages about a failed generation."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_toapis.api.error_responses import failure_message, task_failed
from airflow_provider_toapis.api.responses import TaskError, TaskStatus, VideoTask
from airflow_provider_toapis.exceptions import ToAPIsContentPolicyError, ToAPIsTaskFailedError, ToAPIsTaskRejectedError

SIGNED_URL = "https://bucket/shoe.jpg?X-Amz-Signature=0123456789abcdef"


def failed(error: TaskError | None = None, billing: dict[str, Any] | None = None) -> VideoTask:
    return VideoTask(id="video_abc", status=TaskStatus.FAILED, raw_status="failed", error=error, billing=billing)


class TestText:
    @pytest.mark.parametrize(
        ("error", "prefix"),
        [
            (TaskError("generation_failed", "no GPU."), "Video video_abc failed (generation_failed): no GPU. "),
            (TaskError(None, "no GPU"), "Video video_abc failed: no GPU. "),
            (TaskError("500", ""), "Video video_abc failed (500). "),
            (None, "Video video_abc failed. "),
        ],
    )
    def test_message_names_video_code_and_reason(self, error: TaskError | None, prefix: str) -> None:
        assert failure_message(failed(error)).startswith(prefix)

    @pytest.mark.parametrize(
        ("billing", "cost"),
        [
            ({"status": "refunded", "credits": "0", "cost_usd": "0"}, "reports it as refunded"),
            ({"status": "settled", "cost_usd": "0.15"}, "reports a cost of 0.15 USD (settled)"),
            ({"cost_usd": "0.15"}, "reports a cost of 0.15 USD (no billing status)"),
            ({"status": "pending"}, "does not report whether it is refunded"),
            (None, "does not report whether it is refunded"),
        ],
    )
    def test_message_states_billing_and_promises_no_refund(self, billing: dict[str, Any] | None, cost: str) -> None:
        assert cost in failure_message(failed(billing=billing))

    @pytest.mark.parametrize(
        "error",
        [
            TaskError("c", f"cannot fetch {SIGNED_URL}"),
            TaskError(f"cannot fetch {SIGNED_URL}", ""),
            TaskError("c", "the prompt 'a red shoe turning' is odd"),
            TaskError("c", "key sk-0123456789abcdef is gone"),
        ],
    )
    def test_message_shows_no_secret_quoted_by_the_service(self, error: TaskError) -> None:
        text = failure_message(failed(error), private=("a red shoe turning",))
        assert "0123456789abcdef" not in text
        assert "red shoe" not in text


class TestError:
    def test_task_failed_error_names_retry_and_max_generations(self) -> None:
        task = failed(TaskError("generation_failed", "no GPU"))
        error = task_failed(task, max_generations=3)
        assert type(error) is ToAPIsTaskFailedError
        for expected in ("retry", "max_generations=3"):
            assert expected in str(error)
        assert (error.task, error.code, error.video_id) == (task, "generation_failed", "video_abc")

    def test_rejected_content_raises_task_rejected_error_without_retry(self) -> None:
        error = task_failed(failed(TaskError("content_policy_violation", "")), max_generations=3)
        assert type(error) is ToAPIsTaskRejectedError
        assert isinstance(error, ToAPIsContentPolicyError)
        assert "retry" not in str(error)
