"""Never pay twice: orders and look-ups whose answers are lost, and orders that are turned away."""

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
    Answer,
    ScriptedService,
    answer,
    refusal,
    task,
)
from tests.unit.submissions import (
    CREATED_NOTHING,
    DEFINITE_REFUSALS,
    FAILED,
    PROMPT,
    UNANSWERED,
    UNKNOWN_OUTCOMES,
    cases,
    submit,
)

RATE_LIMITS = (UNANSWERED["429"],)


class TestLookUpThatIsNotAnswered:
    @cases(UNANSWERED)
    def test_never_leads_to_an_order(self, case: Answer) -> None:
        service = ScriptedService(look_ups={"id-0": [case]})
        with pytest.raises(ToAPIsError):
            submit(service)
        assert set(service.sent) == {"look up id-0"}
        # A rate limit says when to come again, and is heeded for as long as the timeout.
        assert sum(service.sleeps) <= (1800 if case in RATE_LIMITS else 60)

    def test_is_asked_again_before_the_order(self) -> None:
        service = ScriptedService(look_ups={"id-0": [TIMED_OUT, HTML_PAGE, NOT_FOUND]}, posts=[task()])
        submit(service)
        assert service.steps == [
            "look up id-0",
            "sleep 1",
            "look up id-0",
            "sleep 2",
            "look up id-0",
            "note id-0",
            "post id-0",
        ]


class TestOrderWhoseAnswerIsLost:
    @cases(UNKNOWN_OUTCOMES)
    def test_video_that_is_there_is_adopted_and_not_ordered_again(self, case: Answer) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, task("in_progress", "video_0")]}, posts=[case])
        submission = submit(service)
        assert service.sent == ["look up id-0", "post id-0", "look up id-0"]
        assert submission.task.id == "video_0"
        assert not submission.reattached, "it was paid in this attempt"

    @cases(UNKNOWN_OUTCOMES)
    def test_video_is_looked_for_during_three_minutes_before_it_is_ordered_again_under_the_same_id(
        self, case: Answer
    ) -> None:
        service = ScriptedService(posts=[case, task()])
        submit(service)
        assert service.sent == ["look up id-0", "post id-0", *["look up id-0"] * 16, "post id-0"]
        assert sum(service.sleeps) == 180
        assert service.sleeps == sorted(service.sleeps)
        assert service.bodies[0] == service.bodies[1]

    def test_video_that_appears_late_is_adopted(self) -> None:
        late = [NOT_FOUND] * 6 + [task("queued", "video_0")]
        service = ScriptedService(look_ups={"id-0": late}, posts=[TIMED_OUT])
        assert submit(service).task.id == "video_0"
        assert service.sent.count("post id-0") == 1

    @cases(UNKNOWN_OUTCOMES)
    def test_three_unknown_outcomes_end_the_attempt(self, case: Answer) -> None:
        service = ScriptedService(posts=[case] * 3)
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(service)
        assert service.sent.count("post id-0") == 3
        assert service.steps[-1] == "look up id-0", "the last order, too, is looked for, and stays noted"

    def test_video_of_the_third_order_is_adopted(self) -> None:
        appears = [NOT_FOUND] * 33 + [task("queued", "video_0")]
        service = ScriptedService(look_ups={"id-0": appears}, posts=[HTML_PAGE] * 3)
        assert submit(service).task.id == "video_0"

    @cases(UNANSWERED)
    def test_look_up_that_is_not_answered_ends_the_attempt_without_another_order(self, case: Answer) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, case]}, posts=[TIMED_OUT])
        with pytest.raises(ToAPIsError):
            submit(service)
        assert service.sent.count("post id-0") == 1

    @cases(UNANSWERED)
    def test_look_up_that_is_no_longer_answered_ends_the_attempt_although_earlier_ones_found_nothing(
        self, case: Answer
    ) -> None:
        service = ScriptedService(look_ups={"id-0": [*[NOT_FOUND] * 5, case]}, posts=[TIMED_OUT])
        with pytest.raises(ToAPIsError):
            submit(service)
        assert service.sent.count("post id-0") == 1

    def test_video_that_was_ordered_and_failed_meanwhile_is_returned_and_not_ordered_again(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, FAILED]}, posts=[TIMED_OUT])
        assert submit(service).task.status is TaskStatus.FAILED


class TestOrderThatCreatedNothing:
    @cases(CREATED_NOTHING)
    def test_is_sent_again_without_a_look_up(self, case: Answer) -> None:
        service = ScriptedService(posts=[case, case, task()])
        submit(service)
        once = ["note id-0", "post id-0"]
        assert service.steps == [
            "look up id-0",
            *once,
            "take back id-0",
            "sleep 1",
            *once,
            "take back id-0",
            "sleep 2",
            *once,
        ]

    @pytest.mark.parametrize("status", [429, 503])
    def test_waits_as_long_as_told(self, status: int) -> None:
        service = ScriptedService(posts=[refusal(status, "rate_limit_unavailable", retry_after="42"), task()])
        submit(service)
        assert [step for step in service.steps if step.startswith(("post", "sleep"))] == [
            "post id-0",
            "sleep 42",
            "post id-0",
        ]

    @pytest.mark.parametrize("retry_timeout", [0, 29, 60, 119])
    def test_rate_limit_is_retried_no_longer_than_the_retry_timeout(self, retry_timeout: float) -> None:
        service = ScriptedService(posts=[answer(429, retry_after="30")] * 9)
        with pytest.raises(ToAPIsRateLimitError) as raised:
            submit(service, retry_timeout=retry_timeout)
        assert claims_nothing_was_billed(raised.value)
        assert service.sleeps == [30] * int(retry_timeout // 30)
        assert service.steps[-1] == "take back id-0"

    def test_rate_limit_of_a_look_up_claims_nothing_about_an_earlier_submission(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, answer(429)]}, posts=[TIMED_OUT])
        with pytest.raises(ToAPIsRateLimitError) as raised:
            submit(service, retry_timeout=100)
        assert not claims_nothing_was_billed(raised.value)

    def test_service_that_cannot_be_reached_is_given_up(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, NOT_SENT]}, posts=[NOT_SENT] * 99)
        with pytest.raises(ToAPIsConnectionError):
            submit(service)
        assert sum(service.sleeps) <= 120
        assert service.steps[-1] == "take back id-0"

    def test_unknown_outcome_after_it_is_looked_for(self) -> None:
        service = ScriptedService(
            look_ups={"id-0": [NOT_FOUND, task("queued", "video_0")]}, posts=[answer(429), TIMED_OUT]
        )
        submit(service)
        assert service.sent == ["look up id-0", "post id-0", "post id-0", "look up id-0"]


class TestDefiniteRefusal:
    @cases(DEFINITE_REFUSALS)
    def test_is_raised_at_once(self, case: tuple[Answer, type[ToAPIsError]]) -> None:
        refused, kind = case
        service = ScriptedService(posts=[refused])
        with pytest.raises(kind):
            submit(service)
        assert service.steps == ["look up id-0", "note id-0", "post id-0", "take back id-0"]

    @cases(DEFINITE_REFUSALS)
    def test_after_a_lost_answer_is_worth_a_retry_and_leaves_the_order_noted(
        self, case: tuple[Answer, type[ToAPIsError]]
    ) -> None:
        service = ScriptedService(posts=[TIMED_OUT, case[0]])
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service)
        assert raised.value.video_id is None
        assert not claims_nothing_was_billed(raised.value)
        still_noted = service.steps.count("note id-0") - service.steps.count("take back id-0")
        assert still_noted == 1, "the first order may still appear"

    def test_of_the_look_up_after_a_lost_answer_is_worth_a_retry(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, refusal(401, "unauthorized")]}, posts=[TIMED_OUT])
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service)
        assert (raised.value.video_id, raised.value.code) == (None, "unauthorized")
        assert service.steps[-1] == "look up id-0"

    def test_shows_no_prompt_that_the_vendor_quotes(self) -> None:
        with pytest.raises(ToAPIsRequestError) as raised:
            submit(ScriptedService(posts=[refusal(400, "invalid_request", f"bad prompt: {PROMPT}")]))
        assert "red shoe" not in str(raised.value)

    def test_model_not_offered_names_the_list_of_models(self) -> None:
        with pytest.raises(ToAPIsRequestError, match=r"GET /v1/models\?type=video"):
            submit(ScriptedService(posts=[refusal(503, "model_not_found")]))
