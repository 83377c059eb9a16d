"""Never pay twice: what is looked up, what is adopted, what is ordered, and what is never sent again."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pendulum
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_toapis.api.errors import (
    ToAPIsAuthError,
    ToAPIsConnectionError,
    ToAPIsContentPolicyError,
    ToAPIsError,
    ToAPIsFinalFailureError,
    ToAPIsNotFoundError,
    ToAPIsQuotaError,
    ToAPIsRateLimitError,
    ToAPIsRequestError,
    ToAPIsServerError,
)
from airflow_provider_toapis.api.models import TaskStatus
from airflow_provider_toapis.api.protocol import HttpRequest, Remember, submit_once
from airflow_provider_toapis.api.requests import EarlierOrder, FileUpload, ReferenceImage, Submission, VideoRequest
from tests.unit.scripted_service import (
    HTML_PAGE,
    LOOK_UP,
    MODEL,
    NOT_FOUND,
    NOT_SENT,
    TIMED_OUT,
    UPLOADED,
    Answer,
    ScriptedService,
    answer,
    drive,
    refusal,
    task,
)

NOW = pendulum.datetime(2026, 10, 1, 12)
PROMPT = "a red shoe turns slowly on a table"
LINK = "https://example.com/shoe.jpg"
WANTED = VideoRequest(model=MODEL, prompt=PROMPT, images=(ReferenceImage.at(LINK),), duration=10)
FROM_A_FILE = VideoRequest(
    model=MODEL,
    prompt=PROMPT,
    images=(ReferenceImage("sha256:aa", upload=FileUpload("shoe.jpg", "image/jpeg", BytesIO)),),
)

FAILED = task("failed", "video_0", error={"code": "generation_failed", "message": "no GPU"})
REFUSED = task("failed", "video_0", error={"code": "content_policy_violation", "message": "no"})
EXPIRED = task(
    "completed",
    "video_0",
    expires_at=NOW.int_timestamp,
    result={"data": [{"url": "https://files.toapis.com/videos/0.mp4"}]},
    billing={"status": "settled", "cost_usd": "0.15"},
)

#: The order may have arrived, and may have been paid.
UNKNOWN_OUTCOMES: dict[str, Answer] = {
    "timed out after sending": TIMED_OUT,
    "500": refusal(500, "internal_error"),
    "500 in words that mean a refusal elsewhere": refusal(500, "task_not_exist"),
    "502 with an HTML page": HTML_PAGE,
    "504": answer(504),
    "524": answer(524, b"<html>"),
    "503 that is neither limiter nor model": answer(503, b"<html>"),
    "408": answer(408),
    "redirect": answer(302, location="https://elsewhere"),
    "200 without an id": answer(200, {"status": "queued"}),
    "200 that says no success": answer(200, {"success": False, "message": "busy", "request_id": "r1"}),
    "200 with an HTML page": answer(200, b"<html>"),
    "200 cut short": answer(200, b'{"id": "video_1"'),
    "204": answer(204),
}
#: The order arrived nowhere or was turned away before it had an effect.
CREATED_NOTHING: dict[str, Answer] = {
    "429": refusal(429, "rate_limit_exceeded"),
    "503 of the limiter": refusal(503, "rate_limit_unavailable"),
    "not connected": NOT_SENT,
}
#: The service answered that it will not make this video.
DEFINITE_REFUSALS: dict[str, tuple[Answer, type[ToAPIsError]]] = {
    "400": (refusal(400, "invalid_request"), ToAPIsRequestError),
    "400 without money": (refusal(400, "quota_not_enough"), ToAPIsQuotaError),
    "400 content": (refusal(400, "InputImageSensitiveContentDetected"), ToAPIsContentPolicyError),
    "400 webhook": (refusal(400, "webhook_not_configured"), ToAPIsRequestError),
    "401": (refusal(401, "unauthorized"), ToAPIsAuthError),
    "402": (refusal(402, "insufficient_quota"), ToAPIsQuotaError),
    "403": (answer(403), ToAPIsAuthError),
    "404": (answer(404), ToAPIsNotFoundError),
    "413": (answer(413), ToAPIsRequestError),
    "422": (refusal(422, "content_policy_violation"), ToAPIsContentPolicyError),
    "503 model": (refusal(503, "model_not_found"), ToAPIsRequestError),
    "503 channel": (refusal(503, "", "no available channel for this model"), ToAPIsRequestError),
}
#: Look-ups that say nothing about whether the video is there.
UNANSWERED: dict[str, Answer] = {
    "timed out": TIMED_OUT,
    "not connected": NOT_SENT,
    "500": answer(500),
    "502 with an HTML page": HTML_PAGE,
    "429": answer(429),
    "503": answer(503),
    "200 without an id": answer(200, {}),
    "200 with an HTML page": answer(200, b"<html>"),
    "400": refusal(400, "invalid_request"),
    "401": answer(401),
    "403": answer(403),
}


def cases(table: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", table.values(), ids=table.keys())


def submit(
    service: Any,
    request: VideoRequest = WANTED,
    *,
    max_generations: int = 3,
    patience: float = 1800,
    earlier: EarlierOrder | None = None,
) -> Submission:
    return drive(
        submit_once(
            request,
            lambda generation: f"id-{generation}",
            max_generations=max_generations,
            patience=patience,
            now=lambda: NOW,
            earlier=earlier,
        ),
        service,
    )


class TestFirstAttempt:
    def test_looks_up_before_it_posts_and_posts_once(self) -> None:
        service = ScriptedService(posts=[task(video_id="video_1")])
        submission = submit(service)
        assert service.steps == ["look up id-0", "note id-0", "post id-0"]
        assert submission.task.id == "video_1"
        assert submission == Submission(submission.task, "id-0", generation=0, adopted=False)

    def test_what_is_posted(self) -> None:
        service = ScriptedService(posts=[task()])
        submit(service)
        assert service.requests[1] == HttpRequest(
            "POST",
            "/v1/videos/generations",
            json={"model": MODEL, "prompt": PROMPT, "images": [LINK], "seconds": "10", "client_business_id": "id-0"},
            private=(PROMPT,),
        )

    def test_remix_is_posted_to_the_source_video(self) -> None:
        service = ScriptedService(posts=[answer(200, {"id": "video_remix_1", "status": "queued"})])
        remix = VideoRequest(model="grok-video-1.0", prompt="at night", operation="remix", video_id="video_9")
        submit(service, remix)
        assert service.requests[1].path == "/v1/videos/video_9/remix"
        assert service.bodies == [{"model": "grok-video-1.0", "prompt": "at night", "client_business_id": "id-0"}]

    @pytest.mark.parametrize("status", [200, 201, 202])
    def test_any_success_with_an_id_will_do(self, status: int) -> None:
        service = ScriptedService(posts=[answer(status, {"task_id": "tsk_vid_01"})])
        assert submit(service).task.id == "tsk_vid_01"

    @pytest.mark.parametrize("word", ["", "pending", "in_progress", "warming_up"])
    def test_any_status_will_do(self, word: str) -> None:
        assert not submit(ScriptedService(posts=[task(word)])).task.is_final


class TestAdoption:
    @pytest.mark.parametrize("status", ["queued", "pending", "in_progress", "warming_up", "completed", "succeeded"])
    def test_video_of_an_earlier_attempt_is_adopted_without_an_order(self, status: str) -> None:
        service = ScriptedService(look_ups={"id-0": [task(status, "video_0")]})
        submission = submit(service)
        assert service.steps == ["look up id-0"]
        assert (submission.task.id, submission.adopted, submission.generation) == ("video_0", True, 0)

    def test_result_that_has_not_expired_yet_is_adopted(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task("completed", expires_at=NOW.int_timestamp + 1)]})
        assert submit(service).adopted

    def test_result_that_names_no_expiry_is_adopted(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task("completed", completed_at=1)]})
        assert submit(service).adopted

    def test_video_of_another_model_is_an_error_that_names_both(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task("completed", "video_0", model="sora-2")]})
        with pytest.raises(ToAPIsRequestError, match=rf"video_0.*'sora-2', not by '{re.escape(MODEL)}'") as raised:
            submit(service)
        assert raised.value.video_id == "video_0"
        assert service.steps == ["look up id-0"]

    @pytest.mark.parametrize("model", [None, "", MODEL.upper()])
    def test_video_whose_model_is_not_told_or_spelt_otherwise_is_adopted(self, model: str | None) -> None:
        assert submit(ScriptedService(look_ups={"id-0": [task("queued", model=model)]})).adopted


class TestGenerations:
    def test_failed_video_is_ordered_anew_under_the_next_id(self) -> None:
        service = ScriptedService(look_ups={"id-0": [FAILED]}, posts=[task()])
        submission = submit(service)
        assert service.steps == ["look up id-0", "look up id-1", "note id-1", "post id-1"]
        assert (submission.client_business_id, submission.generation, submission.adopted) == ("id-1", 1, False)

    def test_later_generation_is_adopted_too(self) -> None:
        service = ScriptedService(look_ups={"id-0": [FAILED], "id-1": [task("in_progress", "video_7")]})
        submission = submit(service)
        assert service.steps == ["look up id-0", "look up id-1"]
        assert (submission.task.id, submission.generation, submission.adopted) == ("video_7", 1, True)

    def test_expired_video_is_ordered_anew_and_the_log_says_what_it_cost(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = ScriptedService(look_ups={"id-0": [EXPIRED]}, posts=[task()])
        with caplog.at_level(logging.WARNING):
            assert submit(service).generation == 1
        assert service.steps == ["look up id-0", "look up id-1", "note id-1", "post id-1"]
        assert "video_0 was made, but its result expired" in caplog.text
        assert "price of the expired one: 0.15 USD; catalogue price of the new one: 0.10 USD" in caplog.text

    @pytest.mark.parametrize("max_generations", [1, 2, 3])
    @pytest.mark.parametrize("lost", [FAILED, EXPIRED], ids=["failed", "expired"])
    def test_no_more_are_paid_than_allowed(self, max_generations: int, lost: Answer) -> None:
        service = ScriptedService(look_ups={f"id-{n}": [lost] for n in range(9)})
        with pytest.raises(
            ToAPIsFinalFailureError, match=rf"All {max_generations} generations .*max_generations"
        ) as raised:
            submit(service, max_generations=max_generations)
        assert service.steps == [f"look up id-{n}" for n in range(max_generations)]
        assert raised.value.video_id == "video_0"

    def test_last_generation_allowed_is_ordered(self) -> None:
        service = ScriptedService(look_ups={"id-0": [FAILED], "id-1": [EXPIRED]}, posts=[task()])
        assert submit(service, max_generations=3).generation == 2

    def test_refused_content_is_not_ordered_again(self) -> None:
        service = ScriptedService(look_ups={"id-0": [REFUSED]})
        submission = submit(service)
        assert service.steps == ["look up id-0"]
        assert submission.task.status is TaskStatus.FAILED
        assert submission.adopted

    def test_unanswered_look_up_of_a_later_generation_orders_nothing(self) -> None:
        service = ScriptedService(look_ups={"id-0": [FAILED], "id-1": [answer(500)]})
        with pytest.raises(ToAPIsServerError):
            submit(service)

    def test_failed_video_of_another_model_is_an_error(self) -> None:
        other = task("failed", model="sora-2")
        with pytest.raises(ToAPIsRequestError):
            submit(ScriptedService(look_ups={"id-0": [other]}))

    def test_log_shows_no_secret_that_stands_in_the_vendors_code(self, caplog: pytest.LogCaptureFixture) -> None:
        odd = task("failed", error={"code": "GET https://bucket/a.jpg?X-Amz-Signature=0123456789 failed"})
        with caplog.at_level(logging.DEBUG):
            submit(ScriptedService(look_ups={"id-0": [odd]}, posts=[task()]))
        assert "0123456789" not in caplog.text


class TestLookUpThatIsNotAnswered:
    @cases(UNANSWERED)
    def test_never_leads_to_an_order(self, case: Answer) -> None:
        service = ScriptedService(look_ups={"id-0": [case]})
        with pytest.raises(ToAPIsError):
            submit(service)
        assert set(service.sent) == {"look up id-0"}
        assert sum(service.sleeps) <= 60

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
        assert not submission.adopted, "it was paid in this attempt"

    @cases(UNKNOWN_OUTCOMES)
    def test_video_is_looked_for_during_a_minute_before_it_is_ordered_again_under_the_same_id(
        self, case: Answer
    ) -> None:
        service = ScriptedService(posts=[case, task()])
        submit(service)
        assert service.sent == ["look up id-0", "post id-0", *["look up id-0"] * 8, "post id-0"]
        assert sum(service.sleeps) == 60
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
        with pytest.raises(ToAPIsServerError, match="It may still appear, and then is paid; a retry looks for it"):
            submit(service)
        assert service.sent.count("post id-0") == 3
        assert service.sent[-1] == "look up id-0", "the last order, too, is looked for"

    def test_video_of_the_third_order_is_adopted(self) -> None:
        appears = [NOT_FOUND] * 17 + [task("queued", "video_0")]
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
        assert service.steps == [
            "look up id-0",
            "note id-0",
            "post id-0",
            "sleep 1",
            "post id-0",
            "sleep 2",
            "post id-0",
        ]

    @pytest.mark.parametrize("status", [429, 503])
    def test_waits_as_long_as_told(self, status: int) -> None:
        service = ScriptedService(posts=[refusal(status, "rate_limit_unavailable", retry_after="42"), task()])
        submit(service)
        assert service.steps == ["look up id-0", "note id-0", "post id-0", "sleep 42", "post id-0"]

    @pytest.mark.parametrize("patience", [0, 29, 60, 119])
    def test_rate_limit_holds_the_order_up_no_longer_than_there_is_patience(self, patience: float) -> None:
        service = ScriptedService(posts=[answer(429, retry_after="30")] * 9)
        with pytest.raises(ToAPIsRateLimitError, match="Nothing was created and nothing was paid"):
            submit(service, patience=patience)
        assert service.sleeps == [30] * int(patience // 30)

    def test_service_that_cannot_be_reached_is_given_up(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, NOT_SENT]}, posts=[NOT_SENT] * 99)
        with pytest.raises(ToAPIsConnectionError):
            submit(service)
        assert sum(service.sleeps) <= 120

    def test_unknown_outcome_after_it_is_looked_for(self) -> None:
        service = ScriptedService(
            look_ups={"id-0": [NOT_FOUND, task("queued", "video_0")]}, posts=[answer(429), TIMED_OUT]
        )
        submit(service)
        assert service.steps == ["look up id-0", "note id-0", "post id-0", "sleep 1", "post id-0", "look up id-0"]


class TestDefiniteRefusal:
    @cases(DEFINITE_REFUSALS)
    def test_is_raised_at_once(self, case: tuple[Answer, type[ToAPIsError]]) -> None:
        refused, kind = case
        service = ScriptedService(posts=[refused])
        with pytest.raises(kind):
            submit(service)
        assert service.steps == ["look up id-0", "note id-0", "post id-0"]

    def test_shows_no_prompt_that_the_vendor_quotes(self) -> None:
        with pytest.raises(ToAPIsRequestError) as raised:
            submit(ScriptedService(posts=[refusal(400, "invalid_request", f"bad prompt: {PROMPT}")]))
        assert "red shoe" not in str(raised.value)

    def test_model_not_offered_names_the_list_of_models(self) -> None:
        with pytest.raises(ToAPIsRequestError, match=r"GET /v1/models\?type=video"):
            submit(ScriptedService(posts=[refusal(503, "model_not_found")]))


class TestUploads:
    def test_stand_between_look_up_and_order(self) -> None:
        service = ScriptedService(uploads=[UPLOADED], posts=[task()])
        submit(service, FROM_A_FILE)
        assert service.sent == ["look up id-0", "upload shoe.jpg", "post id-0"]
        assert service.bodies[0]["images"] == ["https://files.toapis.com/uploads/shoe.jpg"]

    def test_nothing_is_uploaded_for_a_video_that_is_there(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task()]})
        submit(service, FROM_A_FILE)
        assert service.steps == ["look up id-0"]

    @pytest.mark.parametrize("lost", [TIMED_OUT, answer(429)], ids=["unknown", "created nothing"])
    def test_order_sent_again_uses_the_same_upload(self, lost: Answer) -> None:
        service = ScriptedService(uploads=[UPLOADED], posts=[lost, task()])
        submit(service, FROM_A_FILE)
        assert service.steps.count("upload shoe.jpg") == 1
        assert service.bodies[0] == service.bodies[1]

    def test_upload_that_broke_off_is_sent_again_for_it_costs_nothing(self) -> None:
        service = ScriptedService(uploads=[TIMED_OUT, answer(500), UPLOADED], posts=[task()])
        submit(service, FROM_A_FILE)
        assert service.sent == ["look up id-0", *["upload shoe.jpg"] * 3, "post id-0"]

    @pytest.mark.parametrize(
        "refused",
        [answer(400, {"success": False, "message": "Unsupported image type."}), answer(401), answer(413)],
        ids=str,
    )
    def test_refused_upload_orders_nothing(self, refused: Answer) -> None:
        service = ScriptedService(uploads=[refused])
        with pytest.raises(ToAPIsError):
            submit(service, FROM_A_FILE)

    def test_upload_that_never_succeeds_orders_nothing(self) -> None:
        service = ScriptedService(uploads=[answer(200, {"success": False, "message": "storage is full"})] * 99)
        with pytest.raises(ToAPIsServerError):
            submit(service, FROM_A_FILE)


class TestNotes:
    """What an attempt leaves for the next one, and what the next one makes of it."""

    def test_order_is_noted_before_it_is_sent_and_its_video_after_it(self) -> None:
        service = ScriptedService(posts=[task(video_id="video_1")])
        submit(service)
        assert service.notes == [("id-0", None), ("id-0", "video_1")]
        assert service.steps.index("note id-0") < service.steps.index("post id-0")

    def test_video_whose_answer_was_lost_is_noted_once_it_is_found(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, task(video_id="video_0")]}, posts=[TIMED_OUT])
        submit(service)
        assert service.notes == [("id-0", None), ("id-0", "video_0")]

    def test_nothing_is_noted_of_a_video_that_was_there(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task()]})
        submit(service)
        assert service.notes == []

    @pytest.mark.parametrize("earlier", [EarlierOrder("id-0"), EarlierOrder()], ids=["noted", "only an attempt"])
    def test_order_without_an_answer_is_looked_for_during_a_minute_before_another(self, earlier: EarlierOrder) -> None:
        service = ScriptedService(posts=[task()])
        submit(service, earlier=earlier)
        assert set(service.sent[:-1]) == {"look up id-0"}
        assert sum(service.sleeps) >= 60

    def test_order_without_an_answer_that_appears_is_adopted(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND] * 5 + [task(video_id="video_0")]})
        submission = submit(service, earlier=EarlierOrder("id-0"))
        assert (submission.task.id, submission.adopted) == ("video_0", True)

    def test_video_that_cannot_be_looked_up_by_our_id_is_found_by_its_own(self) -> None:
        service = ScriptedService(look_ups={"video_0": [task("in_progress", "video_0")]})
        submission = submit(service, earlier=EarlierOrder("id-0", "video_0"))
        assert service.sent == ["look up id-0", "look up video_0"]
        assert (submission.task.id, submission.adopted) == ("video_0", True)

    def test_later_generation_that_cannot_be_looked_up_by_our_id_is_found_by_its_own(self) -> None:
        service = ScriptedService(look_ups={"video_7": [task("in_progress", "video_7")]})
        submission = submit(service, earlier=EarlierOrder("id-1", "video_7"))
        assert (submission.task.id, submission.generation, submission.adopted) == ("video_7", 1, True)

    def test_order_of_a_later_generation_without_an_answer_is_looked_for_before_any_other(self) -> None:
        service = ScriptedService(look_ups={"id-1": [NOT_FOUND] * 5 + [task(video_id="video_7")]})
        submission = submit(service, earlier=EarlierOrder("id-1"))
        assert (submission.task.id, submission.generation, submission.adopted) == ("video_7", 1, True)

    def test_known_video_that_cannot_be_found_yet_is_looked_for_during_a_minute(self) -> None:
        service = ScriptedService(look_ups={"video_0": [NOT_FOUND] * 5 + [task(video_id="video_0")]})
        assert submit(service, earlier=EarlierOrder("id-0", "video_0")).adopted

    def test_known_video_that_the_service_has_forgotten_is_ordered_anew(self) -> None:
        service = ScriptedService(posts=[task()])
        assert not submit(service, earlier=EarlierOrder("id-0", "video_0")).adopted
        assert sum(service.sleeps) == 60

    @cases(UNANSWERED)
    def test_known_video_that_cannot_be_asked_for_leads_to_no_order(self, case: Answer) -> None:
        service = ScriptedService(look_ups={"video_0": [case]})
        with pytest.raises(ToAPIsError):
            submit(service, earlier=EarlierOrder("id-0", "video_0"))

    def test_known_video_that_failed_is_ordered_anew_under_the_next_id(self) -> None:
        service = ScriptedService(look_ups={"video_0": [FAILED]}, posts=[task()])
        assert submit(service, earlier=EarlierOrder("id-0", "video_0")).generation == 1

    @pytest.mark.parametrize("status", ["queued", "in_progress"])
    def test_take_before_this_one_is_adopted_while_it_is_being_made(self, status: str) -> None:
        service = ScriptedService(look_ups={"video_9": [task(status, "video_9")]})
        submission = submit(service, earlier=EarlierOrder("before-clear", "video_9"))
        assert (submission.task.id, submission.client_business_id) == ("video_9", "before-clear")
        assert submission.adopted

    @pytest.mark.parametrize("finished", [task("completed", "video_9"), FAILED, NOT_FOUND], ids=str)
    def test_take_before_this_one_that_is_no_longer_made_is_replaced(self, finished: Answer) -> None:
        service = ScriptedService(look_ups={"video_9": [finished]}, posts=[task(video_id="video_10")])
        assert submit(service, earlier=EarlierOrder("before-clear", "video_9")).task.id == "video_10"

    @cases(UNANSWERED)
    def test_take_before_this_one_that_cannot_be_asked_for_leads_to_no_order(self, case: Answer) -> None:
        with pytest.raises(ToAPIsError):
            submit(ScriptedService(look_ups={"video_9": [case]}), earlier=EarlierOrder("before-clear", "video_9"))


class TestWhetherTheModelCanBeLookedUp:
    WARNING = "Video video_1 cannot be found by its client_business_id id-0"

    @pytest.mark.parametrize("answers", [[task()], [NOT_FOUND, task()], [NOT_FOUND, NOT_FOUND, task()]], ids=len)
    def test_video_found_by_our_id_is_nothing_to_talk_about(
        self, answers: list[Answer], caplog: pytest.LogCaptureFixture
    ) -> None:
        submit(ScriptedService(posts=[task()], after_order=answers))
        assert self.WARNING not in caplog.text

    def test_video_never_found_by_our_id_is_warned_of_and_returned(self, caplog: pytest.LogCaptureFixture) -> None:
        service = ScriptedService(posts=[task()], after_order=[NOT_FOUND])
        assert submit(service).task.id == "video_1"
        assert self.WARNING in caplog.text

    @cases(UNANSWERED)
    def test_look_up_that_is_not_answered_says_nothing_and_costs_no_video(
        self, case: Answer, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = ScriptedService(posts=[task()], after_order=[case])
        assert submit(service).task.id == "video_1"
        assert self.WARNING not in caplog.text
        assert sum(service.sleeps) < 10


LOOK_UP_ANSWERS: dict[str, Answer] = {
    **UNANSWERED,
    "not found": NOT_FOUND,
    "gone": answer(410),
    "not exist": refusal(400, "task_not_exist"),
    "queued": task(),
    "failed": FAILED,
    "expired": EXPIRED,
}
POST_ANSWERS: dict[str, Answer] = {
    **UNKNOWN_OUTCOMES,
    **CREATED_NOTHING,
    **{name: refused for name, (refused, _) in DEFINITE_REFUSALS.items()},
    "created": task(),
}
LICENCES_TO_POST = {"not found", "gone", "not exist", *CREATED_NOTHING}


@dataclass
class Watchman:
    """Answers at random, and stops the test at an order that nothing allowed."""

    draw: Callable[[st.SearchStrategy[str]], str]
    last_news: dict[str, str] = field(default_factory=dict)
    unknown_outcomes: int = 0
    steps: int = 0

    def answer(self, request: HttpRequest) -> Answer:
        self.steps += 1
        assert self.steps < 2000, "it does not end"
        if request.method == "GET":
            business_id = request.path.removeprefix(LOOK_UP)
            news = self.draw(st.sampled_from(sorted(LOOK_UP_ANSWERS)))
            self.last_news[business_id] = news
            return LOOK_UP_ANSWERS[news]
        assert request.json is not None
        business_id = request.json["client_business_id"]
        assert self.last_news.get(business_id) in LICENCES_TO_POST
        news = self.draw(st.sampled_from(sorted(POST_ANSWERS)))
        self.last_news[business_id] = news
        self.unknown_outcomes += news in UNKNOWN_OUTCOMES
        assert self.unknown_outcomes <= 3
        return POST_ANSWERS[news]

    def sleep(self, seconds: float) -> None:
        assert seconds <= 300

    def remember(self, note: Remember) -> None:
        """The notes are not this test's concern."""


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_order_is_sent_unless_the_last_news_was_that_there_is_none(data: st.DataObject) -> None:
    try:
        submission = submit(Watchman(data.draw), patience=100)
    except ToAPIsError:
        return
    assert submission.task.id


@dataclass
class HonestService:
    """Makes a video for every order that reaches it, even for an id it knows, and shows it ``lag`` seconds later."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    lag: float
    clock: float = 0.0
    made: list[tuple[str, float]] = field(default_factory=list)
    noted: EarlierOrder | None = None

    def answer(self, request: HttpRequest) -> Answer:
        if request.method == "GET":
            return self._look_up(request.path.removeprefix(LOOK_UP))
        assert request.json is not None
        fate = self.draw(st.sampled_from(["made", "made and lost", "lost", "turned away"]))
        if fate.startswith("made"):
            self.made.append((request.json["client_business_id"], self.clock))
        if fate == "turned away":
            return self.draw(st.sampled_from(list(CREATED_NOTHING.values())))  # type: ignore[no-any-return]
        return task() if fate == "made" else self.draw(st.sampled_from(list(UNKNOWN_OUTCOMES.values())))

    def _look_up(self, business_id: str) -> Answer:
        if self.draw(st.integers(0, 3)) == 0:
            return self.draw(st.sampled_from(list(UNANSWERED.values())))  # type: ignore[no-any-return]
        sought = "id-0" if business_id == "video_1" else business_id
        shown = [made for made, at in self.made if made == sought and self.clock >= at + self.lag]
        return task("in_progress") if shown else NOT_FOUND

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def remember(self, note: Remember) -> None:
        self.noted = EarlierOrder(note.client_business_id, note.video_id)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.floats(min_value=0, max_value=60), st.booleans())
def test_attempts_one_after_the_other_pay_once_whatever_is_lost(
    data: st.DataObject,
    lag: float,
    remembering: bool,
) -> None:
    service = HonestService(data.draw, lag)
    for _ in range(3):
        with suppress(ToAPIsError):
            submit(service, patience=100, earlier=service.noted if remembering else None)
        # Without a note it takes Airflow's retry_delay for a look-up that lags behind to catch up.
        service.sleep(0 if remembering else 60)
    assert len(service.made) <= 1
