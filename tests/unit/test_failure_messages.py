"""What the person on call reads about a failed generation."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_toapis.api.error_responses import failure_message, task_failed
from airflow_provider_toapis.api.responses import TaskError, TaskStatus, VideoTask
from airflow_provider_toapis.exceptions import ToAPIsContentPolicyError, ToAPIsTaskFailedError, ToAPIsTaskRejectedError

SIGNED = "https://bucket/shoe.jpg?X-Amz-Signature=0123456789abcdef"


def failed(error: TaskError | None = None, billing: dict[str, Any] | None = None) -> VideoTask:
    return VideoTask(id="video_abc", status=TaskStatus.FAILED, raw_status="failed", error=error, billing=billing)


class TestText:
    @pytest.mark.parametrize(
        ("error", "beginning"),
        [
            (TaskError("generation_failed", "no GPU."), "Video video_abc failed (generation_failed): no GPU. "),
            (TaskError(None, "no GPU"), "Video video_abc failed: no GPU. "),
            (TaskError("500", ""), "Video video_abc failed (500). "),
            (None, "Video video_abc failed. "),
        ],
    )
    def test_names_the_video_the_code_and_the_reason(self, error: TaskError | None, beginning: str) -> None:
        assert failure_message(failed(error)).startswith(beginning)

    @pytest.mark.parametrize(
        ("billing", "money"),
        [
            ({"status": "refunded", "credits": "0", "cost_usd": "0"}, "reports it as refunded"),
            ({"status": "settled", "cost_usd": "0.15"}, "reports a cost of 0.15 USD (settled)"),
            ({"cost_usd": "0.15"}, "reports a cost of 0.15 USD (no billing status)"),
            ({"status": "pending"}, "does not report whether it is refunded"),
            (None, "does not report whether it is refunded"),
        ],
    )
    def test_says_what_it_means_for_money_and_promises_no_refund(
        self, billing: dict[str, Any] | None, money: str
    ) -> None:
        assert money in failure_message(failed(billing=billing))

    @pytest.mark.parametrize(
        "error",
        [
            TaskError("c", f"cannot fetch {SIGNED}"),
            TaskError(f"cannot fetch {SIGNED}", ""),
            TaskError("c", "the prompt 'a red shoe turning' is odd"),
            TaskError("c", "key sk-0123456789abcdef is gone"),
        ],
    )
    def test_shows_no_secret_that_the_vendor_quotes(self, error: TaskError) -> None:
        text = failure_message(failed(error), private=("a red shoe turning",))
        assert "0123456789abcdef" not in text
        assert "red shoe" not in text


class TestError:
    def test_ordinary_failure_says_that_a_retry_pays_again_and_how_often(self) -> None:
        task = failed(TaskError("generation_failed", "no GPU"))
        error = task_failed(task, max_generations=3)
        assert type(error) is ToAPIsTaskFailedError
        for named in ("retry", "max_generations=3"):
            assert named in str(error)
        assert (error.task, error.code, error.video_id) == (task, "generation_failed", "video_abc")

    def test_refused_content_is_an_error_of_its_own_which_promises_no_retry(self) -> None:
        error = task_failed(failed(TaskError("content_policy_violation", "")), max_generations=3)
        assert type(error) is ToAPIsTaskRejectedError
        assert isinstance(error, ToAPIsContentPolicyError)
        assert "retry" not in str(error)
