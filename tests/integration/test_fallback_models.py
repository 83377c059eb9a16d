"""Fallback models over real HTTP: used only after a free rejection, and never while a video may exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_toapis.batch.claims import Claims
from airflow_provider_toapis.exceptions import (
    ToAPIsBatchError,
    ToAPIsModelNotOfferedError,
    ToAPIsRequestError,
    ToAPIsWaitInterruptedError,
)
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from tests.airflow_task import FakeTaskInstance, attempt
from tests.errors import rejects
from tests.integration.conftest import PROMPT, posts
from tests.integration.emulator_process import EmulatorProcess
from tests.integration.test_submission_record import RecordedTask

FIRST, FALLBACK = "grok-video-1.5-preview", "grok-video-1.5"
NOT_OFFERED = {"on": "submit", "kind": "error", "name": "no_channel", "match": FIRST, "times": -1}


@pytest.fixture
def ti() -> RecordedTask:
    return RecordedTask()


def run(ti: FakeTaskInstance, image: str, **fields: Any) -> Any:
    options: dict[str, Any] = {
        "task_id": "video",
        "prompt": PROMPT,
        "image": image,
        "duration": 10,
        "deferrable": False,
        "retries": 2,
        "fallback_models": [FALLBACK],
    }
    return attempt(lambda: ToAPIsSubmitVideoOperator(**(options | fields)), ti)


def billed(service: EmulatorProcess) -> list[str]:
    """Return the model of each billed video."""
    return [line["model"] for line in service.ledger()["billed"]]


class TestSubmit:
    def test_offered_model_needs_no_fallback(self, service: EmulatorProcess, ti: RecordedTask, image: str) -> None:
        assert run(ti, image)["model"] == FIRST
        assert billed(service) == [FIRST]

    def test_fallback_makes_the_video_and_is_in_the_xcoms(
        self, service: EmulatorProcess, ti: RecordedTask, image: str, tmp_path: Path
    ) -> None:
        service.add_fault(**NOT_OFFERED)
        result = run(ti, image, output_path=f"{tmp_path}/videos/")
        assert result["model"] == FALLBACK
        assert Path(result["output_path"]).is_file()
        assert [(video["model"], video["status"]) for video in ti.xcoms["toapis_video"]] == [(FALLBACK, "completed")]
        assert billed(service) == [FALLBACK]

    @pytest.mark.parametrize("kind", [RecordedTask, FakeTaskInstance], ids=["record", "no record"])
    def test_retry_reattaches_to_the_video_of_the_fallback(
        self, service: EmulatorProcess, image: str, kind: type[FakeTaskInstance]
    ) -> None:
        service.add_fault(**NOT_OFFERED)
        ti = kind()
        first = run(ti, image, wait_for_completion=False)
        service.clear_faults()
        assert run(ti.next_attempt(), image)["id"] == first["id"]
        assert billed(service) == [FALLBACK]

    @pytest.mark.parametrize("models", [[], ["grok-video-1.0"]])
    def test_finished_video_of_a_model_that_was_removed_is_kept_after_a_clear(
        self, service: EmulatorProcess, ti: RecordedTask, image: str, models: list[str]
    ) -> None:
        service.add_fault(**NOT_OFFERED)
        first = run(ti, image)
        service.clear_faults()
        assert run(ti.cleared(), image, fallback_models=models)["id"] == first["id"]
        assert billed(service) == [FALLBACK]

    @pytest.mark.parametrize("on_clear", ["reuse", "regenerate"])
    @pytest.mark.parametrize("kind", [RecordedTask, FakeTaskInstance], ids=["record", "no record"])
    def test_clear_reattaches_to_the_video_in_progress_of_the_fallback(
        self, service: EmulatorProcess, image: str, kind: type[FakeTaskInstance], on_clear: str
    ) -> None:
        service.add_fault(**NOT_OFFERED)
        ti = kind()
        first = run(ti, image, wait_for_completion=False, on_clear=on_clear)
        service.clear_faults()
        service.add_fault(on="status", kind="task_status", value="in_progress", times=-1)
        again = run(ti.cleared(), image, wait_for_completion=False, on_clear=on_clear)
        assert again["id"] == first["id"]
        assert billed(service) == [FALLBACK]

    def test_regenerated_video_uses_the_fallback_again(
        self, service: EmulatorProcess, ti: RecordedTask, image: str
    ) -> None:
        service.add_fault(**NOT_OFFERED)
        first = run(ti, image, on_clear="regenerate")
        assert run(ti.cleared(), image, on_clear="regenerate")["id"] != first["id"]
        assert billed(service) == [FALLBACK] * 2

    def test_saved_video_of_the_fallback_is_returned_without_a_request(
        self, service: EmulatorProcess, image: str, tmp_path: Path
    ) -> None:
        service.add_fault(**NOT_OFFERED)
        ti = FakeTaskInstance()
        first = run(ti, image, output_path=f"{tmp_path}/videos/")
        service.clear_requests()
        assert run(ti.next_attempt(), image, output_path=f"{tmp_path}/videos/")["id"] == first["id"]
        assert service.requests() == []

    def test_lost_response_uses_no_fallback(self, service: EmulatorProcess, ti: RecordedTask, image: str) -> None:
        # The submission is accepted, its response is lost, and its video is not found.
        service.add_fault(on="submit", kind="drop", after=True)
        service.add_fault(on="status", kind="error", name="task_not_found", times=-1)
        with pytest.raises(ToAPIsWaitInterruptedError):
            run(ti, image, max_generations=1)
        service.add_fault(**NOT_OFFERED)
        with pytest.raises(ToAPIsWaitInterruptedError):
            run(ti.next_attempt(), image)
        service.clear_faults()
        run(ti.next_attempt(), image)
        assert billed(service) == [FIRST]

    def test_error_of_the_last_model_is_permanent(self, service: EmulatorProcess, ti: RecordedTask, image: str) -> None:
        service.add_fault(on="submit", kind="error", name="no_channel", times=-1)
        with pytest.raises(ToAPIsModelNotOfferedError):
            run(ti, image)
        assert len(posts(service)) == 2
        assert billed(service) == []


class TestRejectedArguments:
    @pytest.mark.parametrize(
        "fields",
        [
            {"fallback_models": FALLBACK},
            {"fallback_models": [f" {FALLBACK}"]},
            {"fallback_models": ["None"]},
            {"fallback_models": ["\ud800"]},
            {"fallback_models": [""]},
            {"fallback_models": [7]},
        ],
    )
    def test_invalid_list_is_rejected_in_the_dag_file(self, fields: dict[str, Any]) -> None:
        with rejects("fallback_models"):
            ToAPIsSubmitVideoOperator(task_id="video", prompt=PROMPT, **fields)
        with rejects("fallback_models"):
            ToAPIsVideoBatchOperator(task_id="videos", requests=[], output_path="videos", **fields)

    def test_model_in_parameters_is_rejected(self, service: EmulatorProcess, ti: RecordedTask, image: str) -> None:
        with rejects("fallback_models"):
            run(ti, image, parameters={"model": FIRST})
        assert posts(service) == []

    def test_first_model_and_repetitions_are_ignored(
        self, service: EmulatorProcess, ti: RecordedTask, image: str
    ) -> None:
        service.add_fault(on="submit", kind="error", name="no_channel", times=-1)
        with pytest.raises(ToAPIsModelNotOfferedError):
            run(ti, image, fallback_models=[FIRST, FALLBACK, FALLBACK])
        assert len(posts(service)) == 2

    def test_invalid_change_after_a_submission_is_retryable(
        self, service: EmulatorProcess, ti: RecordedTask, image: str
    ) -> None:
        def rendered() -> ToAPIsSubmitVideoOperator:
            operator = ToAPIsSubmitVideoOperator(task_id="video", prompt=PROMPT, image=image, duration=10)
            operator.fallback_models = ["sora-2-official"]
            return operator

        run(ti, image, wait_for_completion=False)
        with pytest.raises(ToAPIsWaitInterruptedError):
            attempt(rendered, ti.next_attempt())

    def test_template_and_task_output_are_accepted_in_the_dag_file(self) -> None:
        ToAPIsSubmitVideoOperator(task_id="video", prompt=PROMPT, fallback_models=["{{ params.model }}"])

    def test_chosen_key_is_rejected(self, service: EmulatorProcess, ti: RecordedTask, image: str) -> None:
        with rejects("fallback_models"):
            run(ti, image, client_business_id="order-1")
        assert posts(service) == []

    def test_value_that_a_fallback_does_not_accept_is_rejected_first(
        self, service: EmulatorProcess, ti: RecordedTask, image: str
    ) -> None:
        with pytest.raises(ToAPIsRequestError, match="sora-2-official") as raised:
            run(ti, image, fallback_models=["sora-2-official"])
        assert raised.value.field == "duration"
        assert posts(service) == []


class TestBatch:
    @pytest.fixture
    def rows(self, image: str) -> list[dict[str, Any]]:
        return [{"key": f"sku-{number}", "prompt": f"It turns {number}", "image": image} for number in range(4)]

    def run_batch(self, ti: FakeTaskInstance, rows: list[dict[str, Any]], path: Path, **fields: Any) -> Any:
        options: dict[str, Any] = {
            "requests": rows,
            "output_path": str(path),
            "duration": 10,
            "deferrable": False,
            "max_failures": 0,
        }
        options |= {"fallback_models": [FALLBACK], **fields}
        return attempt(lambda: ToAPIsVideoBatchOperator(task_id="videos", **options), ti)

    def models(self, path: Path) -> dict[str, str]:
        lines = map(json.loads, (path / "manifest.jsonl").read_text().splitlines())
        return {line["key"]: line["model"] for line in lines}

    def test_rows_are_made_with_the_fallback_and_stay_unchanged(
        self, service: EmulatorProcess, rows: list[dict[str, Any]], tmp_path: Path
    ) -> None:
        service.add_fault(**NOT_OFFERED)
        assert self.run_batch(FakeTaskInstance(), rows, tmp_path)["saved"] == 4
        assert billed(service) == [FALLBACK] * 4
        service.clear_faults()
        result = self.run_batch(FakeTaskInstance(run_id="next"), rows, tmp_path)
        assert (result["saved"], result["unchanged"]) == (0, 4)
        assert set(self.models(tmp_path).values()) == {FALLBACK}

    def test_row_with_its_own_model_has_no_fallback(
        self, service: EmulatorProcess, rows: list[dict[str, Any]], tmp_path: Path
    ) -> None:
        service.add_fault(**NOT_OFFERED)
        rows[0]["model"] = FIRST
        result = self.run_batch(FakeTaskInstance(), rows, tmp_path, max_failures=1)
        assert (result["saved"], result["failed"]) == (3, 1)

    def test_plan_counts_the_most_expensive_model(
        self, service: EmulatorProcess, rows: list[dict[str, Any]], tmp_path: Path
    ) -> None:
        def cost(*models: str) -> float:
            fields = {"model": models[0], "fallback_models": models[1:], "dry_run": True}
            return float(self.run_batch(FakeTaskInstance(), rows, tmp_path, **fields)["estimated_cost_usd"])

        expensive = "sora-2-pro"
        assert cost(FIRST, FALLBACK, expensive) == cost(expensive) > cost(FIRST)
        with rejects("max_cost_usd"):
            self.run_batch(FakeTaskInstance(), rows, tmp_path, fallback_models=[expensive], max_cost_usd=cost(FIRST))
        assert posts(service) == []

    def test_fallback_that_rejects_a_row_makes_the_row_invalid(
        self, service: EmulatorProcess, rows: list[dict[str, Any]], tmp_path: Path
    ) -> None:
        rows[1]["duration"] = 15
        plan = self.run_batch(FakeTaskInstance(), rows, tmp_path, dry_run=True, fallback_models=["gemini-omni-flash"])
        assert plan["invalid"] == 1
        assert "sku-1" in plan["errors"][0]
        assert "gemini-omni-flash" in plan["errors"][0]

    def test_lost_response_uses_no_fallback(
        self, service: EmulatorProcess, rows: list[dict[str, Any]], tmp_path: Path
    ) -> None:
        service.add_fault(on="submit", kind="drop", after=True)
        service.add_fault(on="status", kind="error", name="task_not_found", times=-1)
        ti = FakeTaskInstance()
        with pytest.raises(ToAPIsBatchError):
            self.run_batch(ti, rows[:1], tmp_path, max_generations=1)
        service.add_fault(**NOT_OFFERED)
        with pytest.raises(ToAPIsBatchError):
            self.run_batch(ti.next_attempt(), rows[:1], tmp_path)
        service.clear_faults()
        self.run_batch(ti.next_attempt(), rows[:1], tmp_path)
        assert billed(service) == [FIRST]
        assert self.models(tmp_path) == {"sku-0": FIRST}

    def test_video_that_another_run_submits_before_the_claim_is_used(
        self, service: EmulatorProcess, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service.add_fault(**NOT_OFFERED | {"times": 1})
        claim = Claims.claim

        def claim_late(claims: Claims, key: str, subject: Any = None) -> bool:
            monkeypatch.setattr(Claims, "claim", claim)
            self.run_batch(FakeTaskInstance(run_id="first"), rows[:1], tmp_path)
            return claim(claims, key, subject)

        monkeypatch.setattr(Claims, "claim", claim_late)
        self.run_batch(FakeTaskInstance(run_id="second"), rows[:1], tmp_path)
        assert billed(service) == [FALLBACK]

    def test_claim_of_a_rejected_model_is_held_while_the_next_is_submitted(
        self, service: EmulatorProcess, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service.add_fault(**NOT_OFFERED)
        directory = tmp_path / ".manifest" / "claims"
        held: list[int] = []
        claim = Claims.claim

        def counted(claims: Claims, key: str, subject: Any = None) -> bool:
            granted = claim(claims, key, subject)
            held.append(len(list(directory.glob("[!.]*"))))
            return granted

        monkeypatch.setattr(Claims, "claim", counted)
        self.run_batch(FakeTaskInstance(), rows[:1], tmp_path)
        assert held == [1, 2]
        assert not list(directory.glob("[!.]*"))
