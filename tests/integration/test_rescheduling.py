"""A retry policy that reschedules tasks (Airflow 3.4): only if it is certain that no video was submitted."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_toapis import version_compat
from airflow_provider_toapis.exceptions import (
    ToAPIsBatchError,
    ToAPIsError,
    ToAPIsModelNotOfferedError,
    ToAPIsQuotaError,
    ToAPIsRateLimitError,
    ToAPIsRequestError,
    ToAPIsUnavailableError,
    ToAPIsWaitInterruptedError,
)
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from tests.airflow_task import FakeTaskInstance, attempt
from tests.integration.conftest import PROMPT
from tests.integration.emulator_process import EmulatorProcess
from tests.integration.test_submission_record import RecordedTask


class Action(Enum):
    """The values of Airflow 3.4's ``RetryAction``."""

    DEFAULT = "default"
    RESCHEDULE = "reschedule"


class Policy:
    """Reschedules a task for one error, like a retry policy of Airflow 3.4."""

    def evaluate(self, exception: BaseException, *_: object) -> Any:
        action = Action.RESCHEDULE if isinstance(exception, ToAPIsUnavailableError) else Action.DEFAULT
        return SimpleNamespace(action=action)


@pytest.fixture(autouse=True)
def airflow_3_4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_compat, "AIRFLOW_V_3_4_PLUS", True)


@pytest.fixture
def ti() -> RecordedTask:
    return RecordedTask()


def run(ti: FakeTaskInstance, image: str, *, policy: Any = None, **fields: Any) -> Any:
    def operator() -> Any:
        options: dict[str, Any] = {"task_id": "video", "prompt": PROMPT, "image": image, "deferrable": False}
        made = ToAPIsSubmitVideoOperator(**options | fields)
        made.retry_policy = policy or Policy()  # type: ignore[assignment]
        return made

    return attempt(operator, ti)


def reject(service: EmulatorProcess, name: str) -> None:
    service.add_fault(on="submit", kind="error", name=name, times=-1)


@pytest.mark.parametrize("name", ["insufficient_quota", "no_channel", "rate_limited"])
def test_rejected_submission_is_rescheduled_and_made_later(
    service: EmulatorProcess, ti: RecordedTask, image: str, name: str
) -> None:
    reject(service, name)
    with pytest.raises(ToAPIsUnavailableError) as raised:
        run(ti, image, timeout=30)
    assert raised.value.http_status in (402, 429, 503)
    service.clear_faults()
    # Airflow runs a rescheduled task again with the same try number.
    run(ti, image)
    assert service.ledger()["posted"] == 1


def test_other_rejection_is_not_rescheduled(service: EmulatorProcess, ti: RecordedTask, image: str) -> None:
    reject(service, "invalid_request")
    with pytest.raises(ToAPIsRequestError):
        run(ti, image)


@pytest.mark.parametrize(
    ("name", "error"), [("insufficient_quota", ToAPIsQuotaError), ("no_channel", ToAPIsModelNotOfferedError)]
)
def test_task_without_such_a_policy_fails_at_once(
    service: EmulatorProcess, ti: RecordedTask, image: str, name: str, error: type[ToAPIsError]
) -> None:
    reject(service, name)
    policy = SimpleNamespace(evaluate=lambda *_: SimpleNamespace(action=Action.DEFAULT))
    with pytest.raises(error):
        run(ti, image, policy=policy)


def test_older_airflow_does_not_reschedule(
    service: EmulatorProcess, ti: RecordedTask, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_compat, "AIRFLOW_V_3_4_PLUS", False)
    reject(service, "insufficient_quota")
    with pytest.raises(ToAPIsQuotaError):
        run(ti, image)


@pytest.mark.parametrize("name", ["insufficient_quota", "no_channel", "rate_limited"])
def test_task_whose_submission_has_an_unknown_outcome_is_not_rescheduled(
    service: EmulatorProcess, ti: RecordedTask, image: str, name: str
) -> None:
    service.add_fault(on="submit", kind="drop", after=True)
    service.add_fault(on="status", kind="error", name="task_not_found", times=-1)
    with pytest.raises(ToAPIsWaitInterruptedError):
        run(ti, image, max_generations=1)
    reject(service, name)
    with pytest.raises((ToAPIsWaitInterruptedError, ToAPIsRateLimitError)):
        run(ti.next_attempt(), image, timeout=30)


def test_task_that_waits_for_its_video_is_not_rescheduled(
    service: EmulatorProcess, ti: RecordedTask, image: str
) -> None:
    run(ti, image, wait_for_completion=False)
    service.add_fault(on="status", kind="error", name="insufficient_quota", times=-1)
    with pytest.raises(ToAPIsWaitInterruptedError):
        run(ti.next_attempt(), image, timeout=30)


class TestBatch:
    def run_batch(self, ti: FakeTaskInstance, image: str, path: Path) -> Any:
        rows = [{"key": f"sku-{number}", "prompt": f"It turns {number}", "image": image} for number in range(3)]

        def operator() -> Any:
            made = ToAPIsVideoBatchOperator(
                task_id="videos", requests=rows, output_path=str(path), deferrable=False, max_generations=1
            )
            made.retry_policy = Policy()  # type: ignore[attr-defined,assignment]
            return made

        return attempt(operator, ti)

    @pytest.mark.parametrize("try_number", [1, 2])
    def test_low_balance_is_rescheduled_and_the_rows_are_made_later(
        self, service: EmulatorProcess, image: str, tmp_path: Path, try_number: int
    ) -> None:
        ti = FakeTaskInstance()
        ti.try_number = try_number
        reject(service, "insufficient_quota")
        with pytest.raises(ToAPIsUnavailableError):
            self.run_batch(ti, image, tmp_path)
        service.clear_faults()
        assert self.run_batch(ti, image, tmp_path)["saved"] == 3
        assert service.ledger()["posted"] == 3

    def test_low_balance_is_not_rescheduled_while_the_outcome_of_a_row_is_unknown(
        self, service: EmulatorProcess, image: str, tmp_path: Path
    ) -> None:
        service.add_fault(on="submit", kind="drop", after=True, match="It turns 0")
        service.add_fault(on="submit", kind="error", name="insufficient_quota", times=-1, match="It turns 2")
        service.add_fault(on="status", kind="error", name="task_not_found", times=-1, match="It turns 0")
        with pytest.raises((ToAPIsWaitInterruptedError, ToAPIsBatchError)):
            self.run_batch(FakeTaskInstance(), image, tmp_path)
