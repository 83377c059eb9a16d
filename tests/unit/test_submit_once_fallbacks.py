"""submit_once with fallback models, and with earlier revisions that are not recorded."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from airflow_provider_toapis.api.submission import submit_once
from airflow_provider_toapis.api.submit_spec import IdempotencyKeys, PriorSubmission, Submission, SubmitSpec
from airflow_provider_toapis.exceptions import (
    ToAPIsContentPolicyError,
    ToAPIsError,
    ToAPIsModelNotOfferedError,
    ToAPIsQuotaError,
    ToAPIsRequestError,
    ToAPIsWaitInterruptedError,
)
from tests.unit.scripted_service import (
    NOT_FOUND,
    TIMED_OUT,
    Response,
    ScriptedService,
    drive,
    rejection,
    response,
    task,
)
from tests.unit.submissions import FAILED, NOW, REQUEST, NumberedKeys, cases

FALLBACK = replace(REQUEST, model="grok-video-1.5", duration=8)
LAST = replace(REQUEST, model="grok-video-1.0")
NOT_OFFERED = {
    "503 model": rejection(503, "model_not_found"),
    "404 model": rejection(404, "model_not_found"),
    "503 channel": rejection(503, "", "no available channel for this model"),
    "400 channel": rejection(400, "", "no available channel for this model"),
}
REJECTED = NOT_OFFERED["503 model"]
READY = task("completed", "video_2")


class Keys(IdempotencyKeys):
    """The keys ``<name>-0``, ``<name>-1`` and so on, where the name is ``chosen``."""

    def for_generation(self, generation: int) -> str:
        return f"{self.chosen}-{generation}"


def submit(
    service: ScriptedService, earlier: PriorSubmission | None = None, revisions: int = 0, fallbacks: int = 2
) -> Submission:
    """Submit with two fallback models, whose keys are ``b-0`` and ``c-0``."""
    spec = SubmitSpec(
        REQUEST,
        NumberedKeys(),
        max_generations=3,
        retry_timeout=1800,
        earlier=earlier,
        key_includes_model=True,
        fallbacks=[(FALLBACK, Keys(chosen="b")), (LAST, Keys(chosen="c"))][:fallbacks],
        earlier_keys={number: [Keys(chosen=f"old{number}")] for number in range(revisions, 0, -1)},
    )
    flow = submit_once(spec, now=lambda: NOW.add(seconds=service.clock), clock=lambda: service.clock)
    return drive(flow, service)


class TestFallback:
    @cases(NOT_OFFERED)
    def test_next_model_is_submitted_with_its_own_key(self, case: Response) -> None:
        service = ScriptedService(posts=[case, task()])
        submission = submit(service)
        assert [(body["model"], body["client_business_id"]) for body in service.bodies] == [
            (REQUEST.model, "id-0"),
            (FALLBACK.model, "b-0"),
        ]
        assert (submission.request, submission.client_business_id) == (FALLBACK, "b-0")
        assert not submission.reattached

    def test_first_submission_is_withdrawn_before_the_next_is_recorded(self) -> None:
        service = ScriptedService(posts=[REJECTED, task()])
        submit(service)
        assert service.steps == [
            "look up id-0",
            "record id-0",
            "look up b-0",
            "look up c-0",
            "post id-0",
            "withdraw id-0",
            "look up b-0",
            "record b-0",
            "look up id-0",
            "look up c-0",
            "post b-0",
        ]

    def test_video_of_a_wrong_rejection_is_used(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, READY]}, posts=[REJECTED])
        assert submit(service).task.id == "video_2"

    @pytest.mark.parametrize("body", [{"message": "no available channel"}, {"detail": "model_not_found"}])
    def test_rejection_of_another_server_uses_no_fallback(self, body: dict[str, str]) -> None:
        service = ScriptedService(posts=[response(503, body)])
        with pytest.raises(ToAPIsError):
            submit(service)

    @pytest.mark.parametrize("failing", ["id-0", "b-0"])
    def test_failed_look_up_is_no_rejection(self, failing: str) -> None:
        service = ScriptedService(look_ups={failing: [NOT_OFFERED["404 model"]]})
        with pytest.raises(ToAPIsRequestError):
            submit(service)
        assert service.bodies == []

    @pytest.mark.parametrize("failure", [response(500), TIMED_OUT], ids=["500", "timed out"])
    def test_failed_look_up_of_another_model_is_no_lost_response(self, failure: Response) -> None:
        service = ScriptedService(look_ups={"b-0": [failure]})
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(service)
        assert service.bodies == []
        assert service.steps.count("look up id-0") == 1
        assert service.steps[-1] == "withdraw id-0"

    def test_video_that_another_process_submitted_with_a_fallback_is_used(self) -> None:
        service = ScriptedService(look_ups={"c-0": [READY]})
        assert submit(service).request == LAST

    def test_change_of_the_model_is_logged_with_the_reason(self, caplog: pytest.LogCaptureFixture) -> None:
        submit(ScriptedService(posts=[REJECTED, REJECTED, task()]))
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 2
        assert all("fallback_models" in text and "model_not_found" in text for text in warnings)

    def test_error_of_the_last_model_is_raised(self) -> None:
        service = ScriptedService(posts=[REJECTED] * 3)
        with pytest.raises(ToAPIsModelNotOfferedError):
            submit(service)
        assert len(service.bodies) == 3

    @pytest.mark.parametrize(
        ("response", "error"),
        [
            (rejection(402, "insufficient_quota"), ToAPIsQuotaError),
            (rejection(422, "content_policy_violation"), ToAPIsContentPolicyError),
        ],
    )
    def test_other_rejections_use_no_fallback(self, response: Response, error: type[Exception]) -> None:
        service = ScriptedService(posts=[response])
        with pytest.raises(error):
            submit(service)

    def test_failed_video_is_replaced_with_its_own_model(self) -> None:
        service = ScriptedService(look_ups={"id-0": [FAILED]}, posts=[task()])
        assert submit(service).request == REQUEST


class TestUnknownOutcome:
    def test_no_fallback_after_a_lost_response_of_this_attempt(self) -> None:
        service = ScriptedService(posts=[TIMED_OUT, REJECTED])
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(service)
        assert [body["model"] for body in service.bodies] == [REQUEST.model] * 2

    @pytest.mark.parametrize(
        "earlier",
        [
            PriorSubmission("id-0", unknown_posts=1, posted_at=NOW.timestamp()),
            PriorSubmission("id-0", "video_1", posted_at=NOW.subtract(days=2).timestamp()),
            PriorSubmission(),
            PriorSubmission("old-0", is_newest=False),
        ],
        ids=["lost response", "expired video", "no record", "incomplete record"],
    )
    def test_no_fallback_after_a_submission_of_an_earlier_attempt(self, earlier: PriorSubmission) -> None:
        service = ScriptedService(posts=[REJECTED])
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(service, earlier)
        assert [body["model"] for body in service.bodies] == [REQUEST.model]

    @pytest.mark.parametrize(
        "earlier", [PriorSubmission(posted_at=0.0), PriorSubmission("old-0", "video_1", posted_at=1.0)]
    )
    def test_fallback_if_the_record_shows_that_nothing_was_submitted(self, earlier: PriorSubmission) -> None:
        service = ScriptedService(look_ups={"video_1": [task("completed")]}, posts=[REJECTED, task()])
        assert submit(service, earlier).request == FALLBACK


class TestReattachment:
    @pytest.mark.parametrize("earlier", [PriorSubmission(), PriorSubmission(posted_at=0.0)])
    def test_video_of_a_fallback_model_is_found_without_a_record(self, earlier: PriorSubmission) -> None:
        service = ScriptedService(look_ups={"c-0": [READY]})
        submission = submit(service, earlier)
        assert (submission.task.id, submission.client_business_id) == ("video_2", "c-0")
        assert (submission.reattached, submission.request) == (True, LAST)
        assert service.bodies == []

    def test_later_generation_of_a_fallback_model_is_found_without_a_record(self) -> None:
        service = ScriptedService(look_ups={"b-0": [FAILED], "b-1": [READY]})
        assert submit(service, PriorSubmission()).client_business_id == "b-1"

    def test_only_the_first_look_up_is_repeated_without_a_record(self) -> None:
        service = ScriptedService(posts=[task()])
        submit(service, PriorSubmission())
        look_ups = [step for step in service.steps if step.startswith("look up")]
        assert look_ups.count("look up id-0") > 3
        assert [look_ups.count(f"look up {key}-0") for key in "bc"] == [4, 4]

    def test_recorded_model_is_used_again(self) -> None:
        earlier = PriorSubmission("b-0", "video_0", posted_at=NOW.timestamp(), is_newest=True)
        service = ScriptedService(look_ups={"video_0": [FAILED]}, posts=[task()])
        submission = submit(service, earlier)
        assert service.bodies[0]["client_business_id"] == submission.client_business_id == "b-1"

    def test_later_generation_that_appears_late_is_found(self) -> None:
        look_ups = {"b-0": [FAILED], "b-1": [*[NOT_FOUND] * 4, READY]}
        service = ScriptedService(look_ups=look_ups)
        assert submit(service, PriorSubmission()).client_business_id == "b-1"

    @pytest.mark.parametrize("status", ["queued", "completed"])
    def test_video_of_a_model_that_was_removed_from_the_list_is_kept(self, status: str) -> None:
        earlier = PriorSubmission("d-0", "video_0", posted_at=NOW.timestamp(), is_current_revision=True)
        service = ScriptedService(look_ups={"video_0": [task(status, "video_0")]})
        assert submit(service, earlier).task.id == "video_0"

    def test_unknown_outcome_of_a_removed_model_allows_no_other_model(self) -> None:
        earlier = PriorSubmission("d-0", posted_at=NOW.timestamp(), unknown_posts=3, is_current_revision=True)
        service = ScriptedService()
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(service, earlier)

    def test_recorded_model_that_is_no_longer_offered_has_no_fallback(self) -> None:
        earlier = PriorSubmission("b-0", "video_0", posted_at=NOW.timestamp())
        service = ScriptedService(look_ups={"video_0": [FAILED]}, posts=[REJECTED])
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(service, earlier)


class TestEarlierRevisions:
    def test_video_in_progress_of_an_earlier_revision_is_used(self) -> None:
        service = ScriptedService(look_ups={"old1-0": [task("queued", "video_1")]})
        submission = submit(service, PriorSubmission(), revisions=2, fallbacks=0)
        assert (submission.task.id, submission.earlier_revision) == ("video_1", 1)
        assert submission.reattached
        assert service.bodies == []

    def test_later_generation_in_progress_of_an_earlier_revision_is_used(self) -> None:
        service = ScriptedService(look_ups={"old2-0": [FAILED], "old2-1": [task("queued", "video_1")]})
        submission = submit(service, PriorSubmission(), revisions=2, fallbacks=0)
        assert (submission.client_business_id, submission.generation) == ("old2-1", 1)

    @pytest.mark.parametrize("final", [READY, FAILED])
    def test_final_video_of_an_earlier_revision_is_replaced(self, final: Response) -> None:
        service = ScriptedService(look_ups={"old1-0": [final]}, posts=[task()])
        assert submit(service, PriorSubmission(), revisions=1, fallbacks=0).client_business_id == "id-0"

    def test_inconclusive_look_up_of_an_earlier_revision_submits_nothing(self) -> None:
        service = ScriptedService(look_ups={"old1-0": [rejection(401, "unauthorized")]})
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(service, PriorSubmission(), revisions=1, fallbacks=0)
        assert service.bodies == []

    def test_video_of_this_revision_is_used_first(self) -> None:
        service = ScriptedService(look_ups={"id-0": [READY], "old1-0": [task("queued", "video_1")]})
        assert submit(service, PriorSubmission(), revisions=1).task.id == "video_2"

    def test_recorded_submission_needs_no_look_up_of_earlier_revisions(self) -> None:
        earlier = PriorSubmission("id-0", "video_1", posted_at=NOW.timestamp())
        service = ScriptedService(look_ups={"video_1": [task("queued")]})
        submit(service, earlier, revisions=1)
        assert service.steps == ["look up video_1"]
