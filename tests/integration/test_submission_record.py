"""Retries use the submission record, over real HTTP: no video is submitted twice or lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_toapis.api import rate_limit
from airflow_provider_toapis.exceptions import (
    ToAPIsError,
    ToAPIsFinalFailureError,
    ToAPIsServerError,
    ToAPIsTaskFailedError,
    ToAPIsTimeoutError,
    ToAPIsWaitInterruptedError,
)
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from tests.airflow_task import FakeTaskInstance, attempt, stored_json
from tests.errors import claims_nothing_was_billed
from tests.integration.conftest import PROMPT, Clock, posts
from tests.integration.emulator_process import EmulatorProcess


class StateStore:
    """Simulates the task state store of Airflow 3.3. It can fail after a number of writes."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.writes_left = 10_000

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def set(self, key: str, value: Any) -> None:
        if not self.writes_left:
            raise RuntimeError("the API server is down")
        self.writes_left -= 1
        self.values[key] = stored_json(value)


class RecordedTask(FakeTaskInstance):
    """A task instance with a state store."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.store = StateStore()

    @property
    def context(self) -> Any:
        return {**super().context, "task_state_store": self.store}


@pytest.fixture
def ti() -> RecordedTask:
    rate_limit._found_by_key.cache_clear()
    return RecordedTask()


def run(ti: FakeTaskInstance, image: str, **fields: Any) -> Any:
    options: dict[str, Any] = {"task_id": "video", "prompt": PROMPT, "image": image, "deferrable": False} | fields
    return attempt(lambda: ToAPIsSubmitVideoOperator(**options), ti)


def billed(service: EmulatorProcess) -> int:
    return int(service.ledger()["posted"])


DAY_AND_HOUR = 90_000.0


class TestExpiredResults:
    def test_each_clear_allows_one_replacement_beyond_max_generations(
        self, service: EmulatorProcess, ti: RecordedTask, image: str, clock: Clock
    ) -> None:
        ids = {run(ti, image, max_generations=1)["id"]}
        for _ in range(3):
            clock.sleep(DAY_AND_HOUR)
            ids.add(run(ti.cleared(), image, max_generations=1)["id"])
        assert len(ids) == billed(service) == 4

    def test_rerun_without_a_record_finds_the_replacement_while_the_result_host_fails(
        self, service: EmulatorProcess, ti: RecordedTask, image: str, clock: Clock
    ) -> None:
        run(ti, image, max_generations=1)
        clock.sleep(DAY_AND_HOUR)
        replacement = run(ti.cleared(), image, max_generations=1)
        service.add_fault(on="result", kind="error", name="internal_error", times=1)
        service.clear_requests()
        assert run(RecordedTask(), image, max_generations=1)["id"] == replacement["id"]
        assert billed(service) == 2
        # If a second look-up did not find the replacement, the attempt would submit the request again.
        assert sum(entry["path"].endswith(replacement["client_business_id"]) for entry in service.requests()) == 1


class TestReattachment:
    def test_retry_without_the_image_file_reattaches(
        self, service: EmulatorProcess, ti: RecordedTask, image_file: Path
    ) -> None:
        first = run(ti, str(image_file), wait_for_completion=False)
        image_file.unlink()
        assert run(ti.next_attempt(), str(image_file))["id"] == first["id"]
        assert billed(service) == 1

    def test_client_business_id_without_image_and_with_changed_prompt_interrupts_the_wait(
        self, service: EmulatorProcess, ti: RecordedTask, image_file: Path
    ) -> None:
        run(ti, str(image_file), client_business_id="order-1", wait_for_completion=False)
        image_file.unlink()
        with pytest.raises(ToAPIsWaitInterruptedError):
            run(ti.next_attempt(), str(image_file), client_business_id="order-1", prompt="another prompt")

    def test_state_store_failure_at_the_resumption_does_not_end_the_attempt(
        self, service: EmulatorProcess, ti: RecordedTask, image: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        get, calls = ti.store.get, []

        def get_once(key: str) -> Any:
            calls.append(key)
            if len(calls) > 1:
                raise RuntimeError("the API server is down")
            return get(key)

        monkeypatch.setattr(ti.store, "get", get_once)
        assert run(ti, image, deferrable=True)["status"] == "completed"

    def test_encoded_signature_quoted_by_the_service_is_redacted(
        self, service: EmulatorProcess, ti: RecordedTask
    ) -> None:
        signature = "AbCdEf0123456789AbCdEf0123456789xyz="
        query = f"AWSAccessKeyId=AKIAXXXXXXXXXXXXXXXX&Signature={quote(signature, safe='')}&Expires=1795906760"
        image = f"https://bucket.s3.amazonaws.com/shoe.jpg?{query}"
        message = f"image fetch failed: /proxy?url={quote(image, safe='')}"
        service.add_fault(
            on="submit", kind="status", status=400, body={"error": {"code": "invalid_request", "message": message}}
        )
        with pytest.raises(ToAPIsError) as raised:
            run(ti, image)
        assert "AbCdEf0123456789" not in str(raised.value)

    def test_missing_image_with_a_changed_request_is_an_error_that_can_be_retried(
        self, service: EmulatorProcess, ti: RecordedTask, image_file: Path
    ) -> None:
        run(ti, str(image_file), wait_for_completion=False)
        image_file.unlink()
        with pytest.raises(ToAPIsWaitInterruptedError):
            run(ti.next_attempt(), str(image_file), prompt="another prompt")
        assert billed(service) == 1

    def test_regenerate_after_a_clear_requires_the_image(
        self, service: EmulatorProcess, ti: RecordedTask, image_file: Path
    ) -> None:
        run(ti, str(image_file), on_clear="regenerate")
        image_file.unlink()
        with pytest.raises(ToAPIsWaitInterruptedError):
            run(ti.cleared(), str(image_file), on_clear="regenerate")
        assert billed(service) == 1

    def test_saved_video_is_returned_without_its_image(
        self, service: EmulatorProcess, ti: RecordedTask, image_file: Path, tmp_path: Path
    ) -> None:
        first = run(ti, str(image_file), output_path=f"{tmp_path}/videos/")
        image_file.unlink()
        service.clear_requests()
        assert run(ti.cleared(), str(image_file), output_path=f"{tmp_path}/videos/")["id"] == first["id"]
        assert service.requests() == []

    def test_lowered_max_generations_still_reattaches(
        self, service: EmulatorProcess, ti: RecordedTask, image: str
    ) -> None:
        first = run(ti, image, wait_for_completion=False)
        service.finish(first["id"], "failed")
        second = run(ti.next_attempt(), image, wait_for_completion=False)
        assert run(ti.next_attempt(), image, max_generations=1)["id"] == second["id"]
        assert billed(service) == 2

    def test_client_business_id_reattaches_although_the_service_reports_another_model_name(
        self, service: EmulatorProcess, ti: RecordedTask, image: str
    ) -> None:
        first = run(ti, image, client_business_id="order-1", wait_for_completion=False)
        service.add_fault(on="status", kind="variant", merge={"model": "grok-imagine-video-1.5"}, times=-1)
        assert run(ti.next_attempt(), image, client_business_id="order-1")["id"] == first["id"]
        assert billed(service) == 1

    def test_lowered_retries_do_not_restore_an_earlier_revision(
        self, service: EmulatorProcess, ti: RecordedTask, image: str
    ) -> None:
        seen = []
        for max_tries in (3, 4, 3, 4):
            ti.max_tries = max_tries
            seen.append(run(ti, image, on_clear="regenerate", retries=max_tries - ti.try_number)["id"])
            ti.next_attempt()
        assert len(set(seen)) == 4

    def test_state_store_failure_right_after_the_submission_loses_no_video(
        self, service: EmulatorProcess, ti: RecordedTask, image: str
    ) -> None:
        ti.store.writes_left = 1
        first = run(ti, image)
        ti.store.writes_left = 10_000
        assert run(ti.next_attempt(), image)["id"] == first["id"]
        assert billed(service) == 1

    def test_state_store_failure_before_the_submission_submits_nothing(
        self, service: EmulatorProcess, ti: RecordedTask, image: str
    ) -> None:
        ti.store.writes_left = 0
        with pytest.raises(ToAPIsError) as raised:
            run(ti, image)
        assert not isinstance(raised.value, AirflowFailException)
        assert posts(service) == []


class TestUnknownOutcomes:
    def test_video_never_found_by_key_is_billed_once(
        self, service: EmulatorProcess, ti: RecordedTask, image: str
    ) -> None:
        service.add_fault(on="submit", kind="html", status=524, after=True, times=-1)
        service.add_fault(on="status", kind="error", name="task_not_found", times=-1)
        for _ in range(4):
            with pytest.raises(ToAPIsWaitInterruptedError):
                run(ti, image, max_generations=1)
            ti.next_attempt()
        assert billed(service) == 1
        with pytest.raises(ToAPIsWaitInterruptedError):
            run(ti.cleared(), image, max_generations=1)
        assert len(posts(service)) == 2, "a person has cleared the task"

    def test_retry_after_a_long_outage_submits_once(
        self, service: EmulatorProcess, ti: RecordedTask, image: str
    ) -> None:
        run(ti, image, prompt="another video of this model", wait_for_completion=False)
        service.add_fault(on="submit", kind="status", status=500, times=12)
        with pytest.raises(ToAPIsServerError):
            run(ti.next_attempt(), image, max_generations=1)
        assert run(ti.next_attempt(), image, max_generations=1)["status"] == "completed"
        assert billed(service) == 2

    def test_conflict_response_is_looked_up(self, service: EmulatorProcess, ti: RecordedTask, image: str) -> None:
        service.add_fault(on="submit", kind="status", status=409, body={"error": {"code": "conflict"}}, after=True)
        assert run(ti, image)["status"] == "completed"
        assert billed(service) == 1

    def test_gateway_that_returns_404_to_everything_does_not_lose_a_billed_video(
        self, service: EmulatorProcess, ti: RecordedTask, image: str
    ) -> None:
        first = run(ti, image, wait_for_completion=False)
        service.add_fault(on="any", kind="error", name="no_route", times=-1)
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            run(ti.next_attempt(), image)
        assert raised.value.video_id == first["id"]
        assert not claims_nothing_was_billed(raised.value)
        service.clear_faults()
        assert run(ti.next_attempt(), image)["id"] == first["id"]
        assert billed(service) == 1


class TestKill:
    def test_killed_task_submits_nothing_more(
        self, service: EmulatorProcess, ti: RecordedTask, image: str, clock: Clock
    ) -> None:
        service.add_fault(on="submit", kind="status", status=429, headers={"Retry-After": "60"}, times=-1)
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt=PROMPT, image=image, deferrable=False)
        clock.on_sleep = lambda _: operator.on_kill()
        with pytest.raises(ToAPIsWaitInterruptedError):
            operator.execute(ti.context)
        assert len(posts(service)) == 1
        assert billed(service) == 0

    def test_killed_task_uploads_nothing_more(
        self, service: EmulatorProcess, ti: RecordedTask, image_file: Path
    ) -> None:
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt=PROMPT, image=str(image_file))
        operator.on_kill()
        with pytest.raises(ToAPIsWaitInterruptedError):
            operator.execute(ti.context)
        assert [entry for entry in service.requests() if entry["method"] == "POST"] == []


class TestVideosXCom:
    def test_failure_lists_the_cost_of_each_generation(
        self, service: EmulatorProcess, ti: RecordedTask, image: str
    ) -> None:
        for _ in range(2):
            service.add_fault(on="submit", kind="task_failed")
            with pytest.raises(ToAPIsTaskFailedError):
                run(ti, image, max_generations=2)
            listed = ti.xcoms["toapis_video"]
            ti.next_attempt()
        assert [(video["generation"], video["status"]) for video in listed] == [(0, "failed"), (1, "failed")]
        assert all(isinstance(video["cost_usd"], float) for video in listed)
        with pytest.raises(ToAPIsFinalFailureError):
            run(ti, image, max_generations=2)
        assert [video["id"] for video in ti.xcoms["toapis_video"]] == [video["id"] for video in listed]

    def test_timeout_lists_the_video_in_progress(self, service: EmulatorProcess, ti: RecordedTask, image: str) -> None:
        with pytest.raises(ToAPIsTimeoutError) as raised:
            run(ti, image, timeout=20)
        (listed,) = ti.xcoms["toapis_video"]
        assert listed["id"] == raised.value.video_id

    @pytest.mark.parametrize("deferrable", [True, False])
    @pytest.mark.parametrize("recorded", [True, False], ids=["Airflow 3.3", "before Airflow 3.3"])
    def test_success_lists_the_saved_video_with_its_cost(
        self, service: EmulatorProcess, image: str, tmp_path: Path, deferrable: bool, recorded: bool
    ) -> None:
        ti = RecordedTask() if recorded else FakeTaskInstance()
        result = run(ti, image, output_path=f"{tmp_path}/", deferrable=deferrable)
        (listed,) = ti.xcoms["toapis_video"]
        assert listed.pop("submitted_at") is not None
        assert listed == {
            "id": result["id"],
            "status": "completed",
            "model": result["model"],
            "generation": 0,
            "client_business_id": result["client_business_id"],
            "cost_usd": 0.1,
            "price_usd": 0.1,
            "output_path": result["output_path"],
            "reason": None,
            "identity": None,
        }

    def test_xcom_is_pushed_before_any_wait(
        self, service: EmulatorProcess, ti: RecordedTask, image: str, clock: Clock
    ) -> None:
        seen: list[Any] = []
        clock.on_sleep = lambda _: seen.append(ti.xcoms.get("toapis_video"))
        run(ti, image)
        assert seen[-1] is not None
        assert "prompt" not in seen[-1][0]
