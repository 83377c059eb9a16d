"""submit_once: lost responses, inconclusive look-ups and rejected submissions."""

from __future__ import annotations

import pytest

from airflow_provider_toapis.api.responses import TaskStatus
from airflow_provider_toapis.exceptions import (
    ToAPIsConnectionError,
    ToAPIsError,
    ToAPIsRateLimitError,
    ToAPIsRequestError,
    ToAPIsWaitInterruptedError,
)
from tests.errors import claims_nothing_was_billed
from tests.unit.scripted_service import (
    HTML_PAGE,
    NOT_FOUND,
    NOT_SENT,
    TIMED_OUT,
    Response,
    ScriptedService,
    rejection,
    response,
    task,
)
from tests.unit.submissions import (
    FAILED,
    INCONCLUSIVE_LOOKUPS,
    NOTHING_CREATED,
    PERMANENT_REJECTIONS,
    PROMPT,
    UNKNOWN_OUTCOMES,
    cases,
    submit,
)

RATE_LIMITS = (INCONCLUSIVE_LOOKUPS["429"],)


class TestInconclusiveLookup:
    @cases(INCONCLUSIVE_LOOKUPS)
    def test_inconclusive_lookup_never_leads_to_a_submission(self, case: Response) -> None:
        service = ScriptedService(look_ups={"id-0": [case]})
        with pytest.raises(ToAPIsError):
            submit(service)
        assert set(service.sent) == {"look up id-0"}
        # A rate limit is retried until the timeout.
        assert sum(service.sleeps) <= (1800 if case in RATE_LIMITS else 60)

    def test_inconclusive_lookup_is_retried_before_the_submission(self) -> None:
        service = ScriptedService(look_ups={"id-0": [TIMED_OUT, HTML_PAGE, NOT_FOUND]}, posts=[task()])
        submit(service)
        assert service.steps == [
            "look up id-0",
            "sleep 1",
            "look up id-0",
            "sleep 2",
            "look up id-0",
            "record id-0",
            "post id-0",
        ]


class TestLostResponse:
    @cases(UNKNOWN_OUTCOMES)
    def test_attempt_reattaches_to_existing_video_after_a_lost_response(self, case: Response) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, task("in_progress", "video_0")]}, posts=[case])
        submission = submit(service)
        assert service.sent == ["look up id-0", "post id-0", "look up id-0"]
        assert submission.task.id == "video_0"
        assert not submission.reattached, "this attempt submitted it"

    @cases(UNKNOWN_OUTCOMES)
    def test_lost_submission_is_looked_up_for_three_minutes_then_sent_again(self, case: Response) -> None:
        service = ScriptedService(posts=[case, task()])
        submit(service)
        assert service.sent == ["look up id-0", "post id-0", *["look up id-0"] * 16, "post id-0"]
        assert sum(service.sleeps) == 180
        assert service.sleeps == sorted(service.sleeps)
        assert service.bodies[0] == service.bodies[1]

    def test_attempt_reattaches_to_late_video_after_a_lost_response(self) -> None:
        late = [NOT_FOUND] * 6 + [task("queued", "video_0")]
        service = ScriptedService(look_ups={"id-0": late}, posts=[TIMED_OUT])
        assert submit(service).task.id == "video_0"
        assert service.sent.count("post id-0") == 1

    @cases(UNKNOWN_OUTCOMES)
    def test_three_unknown_outcomes_end_the_attempt(self, case: Response) -> None:
        service = ScriptedService(posts=[case] * 3)
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(service)
        assert service.sent.count("post id-0") == 3
        assert service.steps[-1] == "look up id-0", "the last submission is looked up too, and stays recorded"

    def test_attempt_reattaches_to_the_video_of_the_third_submission(self) -> None:
        appears = [NOT_FOUND] * 33 + [task("queued", "video_0")]
        service = ScriptedService(look_ups={"id-0": appears}, posts=[HTML_PAGE] * 3)
        assert submit(service).task.id == "video_0"

    @cases(INCONCLUSIVE_LOOKUPS)
    def test_inconclusive_lookup_after_a_lost_response_ends_the_attempt(self, case: Response) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, case]}, posts=[TIMED_OUT])
        with pytest.raises(ToAPIsError):
            submit(service)
        assert service.sent.count("post id-0") == 1

    @cases(INCONCLUSIVE_LOOKUPS)
    def test_inconclusive_lookup_after_not_found_lookups_ends_the_attempt(self, case: Response) -> None:
        service = ScriptedService(look_ups={"id-0": [*[NOT_FOUND] * 5, case]}, posts=[TIMED_OUT])
        with pytest.raises(ToAPIsError):
            submit(service)
        assert service.sent.count("post id-0") == 1

    def test_failed_video_of_a_lost_submission_is_returned(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, FAILED]}, posts=[TIMED_OUT])
        assert submit(service).task.status is TaskStatus.FAILED


class TestNothingCreated:
    @cases(NOTHING_CREATED)
    def test_submission_that_created_nothing_is_sent_again_without_lookup(self, case: Response) -> None:
        service = ScriptedService(posts=[case, case, task()])
        submit(service)
        once = ["record id-0", "post id-0"]
        assert service.steps == [
            "look up id-0",
            *once,
            "withdraw id-0",
            "sleep 1",
            *once,
            "withdraw id-0",
            "sleep 2",
            *once,
        ]

    @pytest.mark.parametrize("status", [429, 503])
    def test_retry_after_is_waited_for(self, status: int) -> None:
        service = ScriptedService(posts=[rejection(status, "rate_limit_unavailable", retry_after="42"), task()])
        submit(service)
        assert [step for step in service.steps if step.startswith(("post", "sleep"))] == [
            "post id-0",
            "sleep 42",
            "post id-0",
        ]

    @pytest.mark.parametrize("retry_timeout", [0, 29, 60, 119])
    def test_rate_limit_is_retried_no_longer_than_the_retry_timeout(self, retry_timeout: float) -> None:
        service = ScriptedService(posts=[response(429, retry_after="30")] * 9)
        with pytest.raises(ToAPIsRateLimitError) as raised:
            submit(service, retry_timeout=retry_timeout)
        assert claims_nothing_was_billed(raised.value)
        assert service.sleeps == [30] * int(retry_timeout // 30)
        assert service.steps[-1] == "withdraw id-0"

    def test_rate_limit_of_a_look_up_claims_nothing_about_an_earlier_submission(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, response(429)]}, posts=[TIMED_OUT])
        with pytest.raises(ToAPIsRateLimitError) as raised:
            submit(service, retry_timeout=100)
        assert not claims_nothing_was_billed(raised.value)

    def test_unreachable_service_ends_the_attempt(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, NOT_SENT]}, posts=[NOT_SENT] * 99)
        with pytest.raises(ToAPIsConnectionError):
            submit(service)
        assert sum(service.sleeps) <= 120
        assert service.steps[-1] == "withdraw id-0"

    def test_unknown_outcome_after_a_rate_limit_is_looked_up(self) -> None:
        service = ScriptedService(
            look_ups={"id-0": [NOT_FOUND, task("queued", "video_0")]}, posts=[response(429), TIMED_OUT]
        )
        submit(service)
        assert service.sent == ["look up id-0", "post id-0", "post id-0", "look up id-0"]


class TestPermanentRejection:
    @cases(PERMANENT_REJECTIONS)
    def test_permanent_rejection_is_raised_at_once(self, case: tuple[Response, type[ToAPIsError]]) -> None:
        rejected, error_class = case
        service = ScriptedService(posts=[rejected])
        with pytest.raises(error_class):
            submit(service)
        assert service.steps == ["look up id-0", "record id-0", "post id-0", "withdraw id-0"]

    @cases(PERMANENT_REJECTIONS)
    def test_rejection_after_a_lost_response_is_retryable_and_keeps_the_record(
        self, case: tuple[Response, type[ToAPIsError]]
    ) -> None:
        service = ScriptedService(posts=[TIMED_OUT, case[0]])
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service)
        assert raised.value.video_id is None
        assert not claims_nothing_was_billed(raised.value)
        still_recorded = service.steps.count("record id-0") - service.steps.count("withdraw id-0")
        assert still_recorded == 1, "the first submission can still appear"

    def test_rejected_lookup_after_a_lost_response_is_retryable(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, rejection(401, "unauthorized")]}, posts=[TIMED_OUT])
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service)
        assert (raised.value.video_id, raised.value.code) == (None, "unauthorized")
        assert service.steps[-1] == "look up id-0"

    def test_rejection_shows_no_prompt_quoted_by_the_service(self) -> None:
        with pytest.raises(ToAPIsRequestError) as raised:
            submit(ScriptedService(posts=[rejection(400, "invalid_request", f"bad prompt: {PROMPT}")]))
        assert "red shoe" not in str(raised.value)

    def test_model_not_offered_names_the_list_of_models(self) -> None:
        with pytest.raises(ToAPIsRequestError, match=r"GET /v1/models\?type=video"):
            submit(ScriptedService(posts=[rejection(503, "model_not_found")]))
