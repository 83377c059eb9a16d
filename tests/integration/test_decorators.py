"""``@task.toapis_video`` over real HTTP: each attempt calls the function once, and its video is billed once."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_toapis.decorators.video import toapis_video_task
from airflow_provider_toapis.exceptions import ToAPIsRequestError, ToAPIsTaskFailedError
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from tests.airflow_task import FakeTaskInstance, attempt, deferral
from tests.integration.conftest import API_KEY, PROMPT, Clock, posts
from tests.integration.emulator_process import EmulatorProcess

BOTH_WAIT_MODES = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "in the worker"])


class TaskRunner:
    """Runs attempts of a decorated function, and counts its calls."""

    def __init__(self, image: str) -> None:
        self.image = image
        self.ti = FakeTaskInstance()
        self.calls = 0

    def dag_task(self, returned: Callable[[], Any], **fields: Any) -> Callable[[], Any]:
        def describe() -> Any:
            self.calls += 1
            return returned()

        fields = {"task_id": "video", "deferrable": False} | fields
        decorated: Any = toapis_video_task(describe, **fields)
        return lambda: decorated().operator

    def run_attempt(self, returned: Callable[[], Any], ti: FakeTaskInstance | None = None, **fields: Any) -> Any:
        return attempt(self.dag_task(returned, **fields), ti or self.ti)

    def same_request(self, **request: Any) -> Callable[[], dict[str, Any]]:
        """Return a function that always returns the same request."""
        return lambda: {"prompt": PROMPT, "image": self.image, **request}

    def changing_request(self, **request: Any) -> Callable[[], dict[str, Any]]:
        """Return a function that returns another prompt in each call, like a language model."""
        versions: Iterator[int] = iter(range(100))
        return lambda: {"prompt": f"{PROMPT}, version {next(versions)}", "image": self.image, **request}


@pytest.fixture
def runner(image: str) -> TaskRunner:
    return TaskRunner(image)


def submission_count(service: EmulatorProcess) -> int:
    return int(service.ledger()["posted"])


def test_operator_with_the_same_request_reattaches_to_the_video(service: EmulatorProcess, runner: TaskRunner) -> None:
    request = runner.same_request(duration=15, aspect_ratio="9:16", model="grok-video-1.0", parameters={"seed": 7})
    made = runner.run_attempt(request, wait_for_completion=False)
    assert made["model"] == "grok-video-1.0"
    fields = {"task_id": "video", "wait_for_completion": False, **request()}
    repeated = attempt(lambda: ToAPIsSubmitVideoOperator(**fields), runner.ti.next_attempt())
    assert repeated["id"] == made["id"]
    assert submission_count(service) == 1


@BOTH_WAIT_MODES
def test_each_attempt_calls_the_function_once_and_uses_its_request_until_the_end(
    service: EmulatorProcess, runner: TaskRunner, tmp_path: Path, deferrable: bool
) -> None:
    first_path = tmp_path / "first.mp4"
    requests = iter(
        [runner.same_request(output_path=first_path)(), runner.same_request(output_path=tmp_path / "second.mp4")()]
    )
    made = runner.run_attempt(lambda: next(requests), deferrable=deferrable)
    assert runner.calls == 1
    assert made["output_path"] == str(first_path)
    assert first_path.stat().st_size == made["size"]
    assert len(posts(service)) == 1


@BOTH_WAIT_MODES
def test_retry_with_the_same_request_reattaches(service: EmulatorProcess, runner: TaskRunner, deferrable: bool) -> None:
    runner.run_attempt(runner.same_request(), wait_for_completion=False)
    made = runner.run_attempt(runner.same_request(), runner.ti.next_attempt(), deferrable=deferrable)
    assert made["status"] == "completed"
    assert (runner.calls, submission_count(service)) == (2, 1)


def test_retry_with_a_changed_request_submits_another_video_despite_the_same_identity(
    service: EmulatorProcess, runner: TaskRunner
) -> None:
    returned = runner.changing_request(identity="SKU-1")
    runner.run_attempt(returned)
    runner.run_attempt(returned, runner.ti.next_attempt())
    assert submission_count(service) == 2


@BOTH_WAIT_MODES
def test_client_business_id_reattaches_although_the_request_changed(
    service: EmulatorProcess, runner: TaskRunner, deferrable: bool
) -> None:
    returned = runner.changing_request(client_business_id="sku-1")
    first = runner.run_attempt(returned, deferrable=deferrable)
    again = runner.run_attempt(returned, runner.ti.next_attempt(), deferrable=deferrable)
    assert again["id"] == first["id"]
    assert submission_count(service) == 1


def test_saved_video_is_returned_without_any_request(
    service: EmulatorProcess, runner: TaskRunner, tmp_path: Path
) -> None:
    first = runner.run_attempt(runner.same_request(output_path=str(tmp_path)))
    service.clear_requests()
    again = runner.run_attempt(runner.same_request(output_path=str(tmp_path)), runner.ti.next_attempt())
    assert again["id"] == first["id"]
    assert service.requests() == []


def test_returned_identity_reattaches_after_the_mapped_list_is_reordered(
    service: EmulatorProcess, runner: TaskRunner
) -> None:
    def run(products: list[str]) -> dict[str, str]:
        return {
            product: runner.run_attempt(runner.same_request(identity=product), FakeTaskInstance(map_index=index))["id"]
            for index, product in enumerate(products)
        }

    assert run(["a", "b"]) == run(["b", "a"])
    assert submission_count(service) == 2


@pytest.mark.parametrize("returned", [None, {"promt": PROMPT}, {"prompt": PROMPT, "duration": 7.5}, {"image": 5}])
def test_bad_request_is_rejected_before_any_request(
    service: EmulatorProcess, runner: TaskRunner, returned: object
) -> None:
    with pytest.raises(ToAPIsRequestError):
        runner.run_attempt(lambda: returned, deferrable=True)
    assert service.requests() == []


def test_trigger_timeout_of_airflow_saves_the_video_under_the_returned_path(
    service: EmulatorProcess, runner: TaskRunner, tmp_path: Path
) -> None:
    operator = runner.dag_task(runner.same_request(output_path=str(tmp_path / "a.mp4")), deferrable=True)
    deferral(lambda: operator().execute(runner.ti.context))
    service.finish(runner.ti.xcoms["video_id"])
    operator().resume_execution("__fail__", {"error": "Trigger timeout"}, runner.ti.context)
    assert (tmp_path / "a.mp4").exists()
    assert runner.calls == 1


@BOTH_WAIT_MODES
def test_log_and_errors_contain_no_api_key_prompt_or_signature(
    service: EmulatorProcess,
    runner: TaskRunner,
    tmp_path: Path,
    clock: Clock,
    logged: Callable[[], str],
    *,
    deferrable: bool,
) -> None:
    signed = "X-Amz-Algorithm=A&X-Amz-Credential=C&X-Amz-Signature=0123456789abcdef0123456789"
    request = runner.same_request(image=f"{runner.image}?{signed}", output_path=str(tmp_path))
    runner.run_attempt(request, deferrable=deferrable)
    service.add_fault(on="submit", kind="task_failed", message=f"{PROMPT} {runner.image}?{signed} {API_KEY}")
    with pytest.raises(ToAPIsTaskFailedError) as failed:
        runner.run_attempt(request, FakeTaskInstance(map_index=7), deferrable=deferrable)
    assert "Saved video" in logged()
    for text in (logged(), repr(failed.value), "".join(traceback.format_exception(failed.value))):
        for private in (API_KEY, PROMPT, "X-Amz-Signature", "0123456789abcdef0123456789"):
            assert private not in text
