"""Never pay twice: what is looked up, what is adopted, and what is ordered."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from airflow_provider_toapis.api.error_responses import HttpResponse
from airflow_provider_toapis.api.flows import HttpRequest
from airflow_provider_toapis.api.responses import TaskStatus
from airflow_provider_toapis.api.submission import submit_once
from airflow_provider_toapis.api.submit_spec import Callback, PriorSubmission, Submission, SubmitSpec
from airflow_provider_toapis.api.video_request import VideoRequest
from airflow_provider_toapis.exceptions import (
    ToAPIsError,
    ToAPIsFinalFailureError,
    ToAPIsRequestError,
    ToAPIsServerError,
    ToAPIsWaitInterruptedError,
)
from tests.errors import claims_nothing_was_billed
from tests.unit.scripted_service import (
    MODEL,
    NOT_FOUND,
    TIMED_OUT,
    UPLOADED,
    Answer,
    ScriptedService,
    answer,
    drive,
    refusal,
    task,
)
from tests.unit.submissions import (
    EXPIRED,
    FAILED,
    FROM_A_FILE,
    LINK,
    NOW,
    PROMPT,
    REFUSED,
    UNANSWERED,
    WANTED,
    NumberedKeys,
    cases,
    submit,
)


class TestFirstAttempt:
    def test_looks_up_before_it_posts_and_posts_once(self) -> None:
        service = ScriptedService(posts=[task(video_id="video_1")])
        submission = submit(service)
        assert service.steps == ["look up id-0", "note id-0", "post id-0"]
        assert submission.task.id == "video_1"
        assert submission == Submission(submission.task, "id-0", generation=0, reattached=False)

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
        assert (submission.task.id, submission.reattached, submission.generation) == ("video_0", True, 0)

    def test_result_that_has_not_expired_yet_is_adopted(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task("completed", expires_at=NOW.int_timestamp + 1)]})
        assert submit(service).reattached

    def test_result_that_names_no_time_is_adopted(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task("completed")]})
        assert submit(service).reattached

    def test_video_of_another_model_is_an_error_that_names_both(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task("completed", "video_0", model="sora-2")]})
        with pytest.raises(ToAPIsRequestError) as raised:
            submit(service)
        assert raised.value.video_id == "video_0"
        for model in ("sora-2", MODEL):
            assert repr(model) in str(raised.value)
        assert service.steps == ["look up id-0"]

    def test_video_under_an_id_that_names_the_model_is_adopted_whatever_the_service_calls_its_model(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task("queued", model="grok-video-1.5")]})
        assert submit(service, ids_name_model=True).reattached

    @pytest.mark.parametrize("model", [None, "", MODEL.upper()])
    def test_video_whose_model_is_not_told_or_spelt_otherwise_is_adopted(self, model: str | None) -> None:
        assert submit(ScriptedService(look_ups={"id-0": [task("queued", model=model)]})).reattached


class TestGenerations:
    def test_failed_video_is_ordered_anew_under_the_next_id(self) -> None:
        service = ScriptedService(look_ups={"id-0": [FAILED]}, posts=[task()])
        submission = submit(service)
        assert service.steps == ["look up id-0", "look up id-1", "note id-1", "post id-1"]
        assert (submission.client_business_id, submission.generation, submission.reattached) == ("id-1", 1, False)

    def test_later_generation_is_adopted_too(self) -> None:
        service = ScriptedService(look_ups={"id-0": [FAILED], "id-1": [task("in_progress", "video_7")]})
        submission = submit(service)
        assert service.steps == ["look up id-0", "look up id-1"]
        assert (submission.task.id, submission.generation, submission.reattached) == ("video_7", 1, True)

    def test_expired_video_is_ordered_anew_and_the_log_says_what_it_cost(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = ScriptedService(look_ups={"id-0": [EXPIRED]}, links=[answer(404)], posts=[task()])
        with caplog.at_level(logging.WARNING):
            assert submit(service).generation == 1
        assert service.steps == ["look up id-0", "try 0.mp4", "look up id-1", "note id-1", "post id-1"]
        (warning,) = (record for record in caplog.records if record.args and "video_0" in record.args)
        assert isinstance(warning.args, tuple)
        assert warning.args[-2:] == ("0.15 USD", "0.10 USD")

    @pytest.mark.parametrize("max_generations", [1, 2, 3])
    @pytest.mark.parametrize("lost", [FAILED, EXPIRED], ids=["failed", "expired"])
    def test_no_more_are_paid_than_allowed(self, max_generations: int, lost: Answer) -> None:
        service = ScriptedService(look_ups={f"id-{n}": [lost] for n in range(max_generations)}, links=[answer(410)])
        with pytest.raises(ToAPIsFinalFailureError, match=rf"\b{max_generations}\b.*max_generations") as raised:
            submit(service, max_generations=max_generations)
        look_ups = [f"look up id-{n}" for n in range(max_generations + 1)]
        assert [step for step in service.steps if "id" in step] == look_ups
        assert raised.value.video_id == "video_0"

    def test_last_generation_allowed_is_ordered(self) -> None:
        service = ScriptedService(look_ups={"id-0": [FAILED], "id-1": [EXPIRED]}, links=[answer(404)], posts=[task()])
        assert submit(service, max_generations=3).generation == 2

    @pytest.mark.parametrize("replaced", [1, 2, 5])
    def test_expired_results_are_replaced_once_per_clear_beyond_the_generations_allowed(self, replaced: int) -> None:
        lost = {f"id-{n}": [EXPIRED] for n in range(replaced)}
        service = ScriptedService(look_ups=lost, links=[answer(404)], posts=[task()])
        assert submit(service, max_generations=1, free_replacements=replaced).generation == replaced
        service = ScriptedService(look_ups=lost, links=[answer(404)])
        with pytest.raises(ToAPIsFinalFailureError):
            submit(service, max_generations=1, free_replacements=replaced - 1)

    def test_generation_beyond_those_allowed_now_is_adopted(self) -> None:
        service = ScriptedService(look_ups={"id-0": [FAILED], "id-1": [task("queued", "video_1")]})
        assert submit(service, max_generations=1).task.id == "video_1"

    def test_failed_generations_are_not_replaced_for_a_clear(self) -> None:
        with pytest.raises(ToAPIsFinalFailureError):
            submit(ScriptedService(look_ups={"id-0": [FAILED]}), max_generations=1, free_replacements=9)

    @pytest.mark.parametrize(
        "tried",
        [[answer(206)], [answer(200)], [answer(500)], [TIMED_OUT], [answer(403), answer(206)]],
        ids=["206", "200", "500", "no response", "403 once"],
    )
    def test_result_that_should_have_expired_and_has_not_is_adopted(self, tried: list[Answer]) -> None:
        service = ScriptedService(look_ups={"id-0": [EXPIRED]}, links=tried)
        assert submit(service).task.id == "video_0"
        assert sum(service.sleeps) <= 60

    @pytest.mark.parametrize("dead", [answer(404), answer(410), answer(403)], ids=["404", "410", "403 for a minute"])
    @pytest.mark.parametrize(
        "times",
        [
            {"completed_at": NOW.int_timestamp - 86_400},
            {"completed_at": (NOW.int_timestamp - 86_400) * 1000},
            {"expires_at": NOW.to_iso8601_string()},
            {"created_at": NOW.int_timestamp - 86_400},
        ],
        ids=["completed a day ago", "in milliseconds", "ISO 8601", "submitted a day ago"],
    )
    def test_dead_result_is_replaced_however_its_age_is_told(self, times: dict[str, object], dead: Answer) -> None:
        old = task("completed", "video_0", result={"data": [{"url": "https://files.toapis.com/0.mp4"}]}, **times)
        service = ScriptedService(look_ups={"id-0": [old]}, links=[dead], posts=[task()])
        assert submit(service).generation == 1

    @pytest.mark.parametrize(
        "error",
        [
            {"code": "InvalidParameter", "message": "resolution"},
            {"code": "InvalidParameter.TaskTypeConstraint", "message": "no"},
            {"code": "UnsupportedImageFormat", "message": "no"},
            {"code": "generation_failed", "message": "failed to download image from the given address"},
            {"code": "generation_failed", "message": "The input image is too small"},
            {"code": "400", "message": "invalid image_url"},
        ],
        ids=str,
    )
    def test_generation_that_failed_because_of_its_input_is_not_submitted_again(self, error: dict[str, str]) -> None:
        service = ScriptedService(look_ups={"id-0": [task("failed", "video_0", error=error)]})
        assert submit(service).task.status is TaskStatus.FAILED
        assert service.sent == ["look up id-0"]

    @pytest.mark.parametrize("message", ["no GPU", "upstream timeout", "internal error while rendering the image"])
    def test_generation_that_failed_for_another_reason_is_submitted_again(self, message: str) -> None:
        failed = task("failed", "video_0", error={"code": "generation_failed", "message": message})
        assert submit(ScriptedService(look_ups={"id-0": [failed]}, posts=[task()])).generation == 1

    def test_refused_content_is_not_ordered_again(self) -> None:
        service = ScriptedService(look_ups={"id-0": [REFUSED]})
        submission = submit(service)
        assert service.steps == ["look up id-0"]
        assert submission.task.status is TaskStatus.FAILED
        assert submission.reattached

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


class TestUploads:
    def test_stand_between_look_up_and_order(self) -> None:
        service = ScriptedService(uploads=[UPLOADED], posts=[task()])
        submit(service, FROM_A_FILE)
        assert service.sent == ["look up id-0", "upload shoe.jpg", "post id-0"]
        assert service.bodies[0]["images"] == ["https://files.toapis.com/uploads/shoe.jpg"]

    def test_file_that_is_given_twice_is_uploaded_once(self) -> None:
        service = ScriptedService(uploads=[UPLOADED], posts=[task()])
        submit(service, replace(FROM_A_FILE, model="gemini-omni-flash", images=FROM_A_FILE.images * 2, duration=None))
        assert service.bodies[0]["image_urls"] == ["https://files.toapis.com/uploads/shoe.jpg"] * 2

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
        assert service.notes[:2] == [("id-0", None), ("id-0", "video_1")]
        assert service.steps.index("note id-0") < service.steps.index("post id-0")

    def test_video_whose_answer_was_lost_is_noted_once_it_is_found(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, task(video_id="video_0")]}, posts=[TIMED_OUT])
        submit(service)
        assert service.notes == [("id-0", None), ("id-0", "video_0")]

    def test_nothing_is_noted_of_a_video_that_was_there(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task()]})
        submit(service)
        assert service.notes == []

    @pytest.mark.parametrize("earlier", [PriorSubmission("id-0"), PriorSubmission()], ids=["noted", "only an attempt"])
    @pytest.mark.parametrize(
        "refused",
        [refusal(401, "unauthorized"), refusal(402, "insufficient_quota"), refusal(400, "invalid_request")],
    )
    def test_refused_look_up_after_an_attempt_that_may_have_ordered_is_worth_a_retry(
        self, earlier: PriorSubmission, refused: HttpResponse
    ) -> None:
        service = ScriptedService(look_ups={"id-0": [refused]})
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service, earlier=earlier)
        assert raised.value.video_id is None
        assert service.sent == ["look up id-0"]

    @pytest.mark.parametrize(
        "earlier", [PriorSubmission("id-0", "video_0"), PriorSubmission("id of another take", "video_0")]
    )
    def test_refused_look_up_of_a_video_that_is_known_is_worth_a_retry(self, earlier: PriorSubmission) -> None:
        service = ScriptedService(look_ups={"video_0": [refusal(401, "unauthorized")]})
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service, earlier=earlier)
        assert (raised.value.video_id, raised.value.http_status) == ("video_0", 401)
        assert service.sent[-1] == "look up video_0"

    @pytest.mark.parametrize("earlier", [PriorSubmission("id-0"), PriorSubmission()], ids=["noted", "only an attempt"])
    def test_order_without_an_answer_is_looked_for_until_it_must_be_found_before_another(
        self, earlier: PriorSubmission
    ) -> None:
        service = ScriptedService(posts=[task()])
        submit(service, earlier=earlier)
        assert set(service.sent[:-1]) == {"look up id-0"}
        assert sum(service.sleeps) == 180

    @pytest.mark.parametrize(("ago", "waited"), [(0, 300), (200, 100), (300, 0), (90_000, 0), (-90_000, 300)])
    def test_order_without_an_answer_is_looked_for_as_long_as_its_video_may_lag_behind(
        self, ago: float, waited: float
    ) -> None:
        service = ScriptedService(posts=[task()])
        submit(service, earlier=PriorSubmission("id-0", posted_at=NOW.timestamp() - ago))
        assert sum(service.sleeps) == waited

    def test_recorded_video_is_adopted_whatever_max_generations_says_now(self) -> None:
        service = ScriptedService(look_ups={"video_7": [task("completed", "video_7")]})
        submission = submit(service, max_generations=1, earlier=PriorSubmission("id-2", "video_7"))
        assert (submission.task.id, submission.generation) == ("video_7", 2)

    def test_recorded_video_is_adopted_whatever_the_service_calls_its_model(self) -> None:
        service = ScriptedService(look_ups={"video_0": [task("completed", "video_0", model="grok-imagine-video-1.5")]})
        assert submit(service, earlier=PriorSubmission("id-0", "video_0")).reattached

    def test_chosen_id_of_a_retry_is_adopted_under_another_model_name(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task("queued", "video_0", model="grok-imagine-video-1.5")]})
        assert submit(service, earlier=PriorSubmission()).reattached

    @pytest.mark.parametrize("hours", [0, 23.9])
    def test_recorded_video_that_is_not_found_within_a_day_is_worth_a_retry(self, hours: float) -> None:
        earlier = PriorSubmission("id-0", "video_0", posted_at=NOW.timestamp() - hours * 3600)
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(ScriptedService(), earlier=earlier)
        assert raised.value.video_id == "video_0"

    def test_recorded_video_that_is_not_found_after_a_day_is_replaced(self) -> None:
        earlier = PriorSubmission("id-0", "video_0", posted_at=NOW.timestamp() - 86_401)
        assert not submit(ScriptedService(posts=[task()]), earlier=earlier).reattached

    @pytest.mark.parametrize("status", [401, 402, 403, 404, 422])
    def test_rejected_submission_beside_a_recorded_video_is_an_interrupted_wait(self, status: int) -> None:
        service = ScriptedService(look_ups={"video_0": [FAILED]}, posts=[answer(status, {"error": {"code": status}})])
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service, earlier=PriorSubmission("id-0", "video_0"))
        assert raised.value.video_id == "video_0"
        assert not claims_nothing_was_billed(raised.value)

    def test_order_without_an_answer_that_appears_is_adopted(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND] * 5 + [task(video_id="video_0")]})
        submission = submit(service, earlier=PriorSubmission("id-0"))
        assert (submission.task.id, submission.reattached) == ("video_0", True)

    def test_video_that_cannot_be_looked_up_by_our_id_is_found_by_its_own(self) -> None:
        service = ScriptedService(look_ups={"video_0": [task("in_progress", "video_0")]})
        submission = submit(service, earlier=PriorSubmission("id-0", "video_0"))
        assert service.sent == ["look up video_0"]
        assert (submission.task.id, submission.reattached) == ("video_0", True)

    def test_later_generation_that_cannot_be_looked_up_by_our_id_is_found_by_its_own(self) -> None:
        service = ScriptedService(look_ups={"video_7": [task("in_progress", "video_7")]})
        submission = submit(service, earlier=PriorSubmission("id-1", "video_7"))
        assert (submission.task.id, submission.generation, submission.reattached) == ("video_7", 1, True)

    def test_order_of_a_later_generation_without_an_answer_is_looked_for_before_any_other(self) -> None:
        service = ScriptedService(look_ups={"id-1": [NOT_FOUND] * 5 + [task(video_id="video_7")]})
        submission = submit(service, earlier=PriorSubmission("id-1"))
        assert (submission.task.id, submission.generation, submission.reattached) == ("video_7", 1, True)

    def test_known_video_that_cannot_be_found_yet_is_looked_for(self) -> None:
        service = ScriptedService(look_ups={"video_0": [NOT_FOUND] * 5 + [task(video_id="video_0")]})
        assert submit(service, earlier=PriorSubmission("id-0", "video_0")).reattached

    def test_known_video_that_the_service_has_forgotten_is_ordered_anew(self) -> None:
        service = ScriptedService(posts=[task()])
        assert not submit(service, earlier=PriorSubmission("id-0", "video_0")).reattached
        assert sum(service.sleeps) == 180

    @cases(UNANSWERED)
    def test_known_video_that_cannot_be_asked_for_leads_to_no_order(self, case: Answer) -> None:
        service = ScriptedService(look_ups={"video_0": [case]})
        with pytest.raises(ToAPIsError):
            submit(service, earlier=PriorSubmission("id-0", "video_0"))

    def test_known_video_that_failed_is_ordered_anew_under_the_next_id(self) -> None:
        service = ScriptedService(look_ups={"video_0": [FAILED]}, posts=[task()])
        assert submit(service, earlier=PriorSubmission("id-0", "video_0")).generation == 1

    @pytest.mark.parametrize("status", ["queued", "in_progress"])
    def test_take_before_this_one_is_adopted_while_it_is_being_made(self, status: str) -> None:
        service = ScriptedService(look_ups={"video_9": [task(status, "video_9")]})
        submission = submit(service, earlier=PriorSubmission("before-clear", "video_9"))
        assert (submission.task.id, submission.client_business_id) == ("video_9", "before-clear")
        assert submission.reattached

    @pytest.mark.parametrize("finished", [task("completed", "video_9"), task("failed", "video_9"), NOT_FOUND], ids=str)
    def test_take_before_this_one_that_is_no_longer_made_is_replaced(self, finished: Answer) -> None:
        service = ScriptedService(look_ups={"video_9": [finished]}, posts=[task(video_id="video_10")])
        assert submit(service, earlier=PriorSubmission("before-clear", "video_9")).task.id == "video_10"

    def test_order_of_the_take_before_whose_answer_never_came_is_looked_for_and_adopted(self) -> None:
        appears = [NOT_FOUND] * 5 + [task("queued", "video_9")]
        submission = submit(
            ScriptedService(look_ups={"before-clear": appears}), earlier=PriorSubmission("before-clear")
        )
        assert (submission.task.id, submission.client_business_id) == ("video_9", "before-clear")

    def test_order_of_the_take_before_that_never_arrived_is_replaced(self) -> None:
        service = ScriptedService(posts=[task(video_id="video_10")])
        assert submit(service, earlier=PriorSubmission("before-clear")).task.id == "video_10"

    @cases(UNANSWERED)
    def test_take_before_this_one_that_cannot_be_asked_for_leads_to_no_order(self, case: Answer) -> None:
        with pytest.raises(ToAPIsError):
            submit(ScriptedService(look_ups={"video_9": [case]}), earlier=PriorSubmission("before-clear", "video_9"))


class TestWhetherTheModelCanBeLookedUp:
    WARNING = "Video video_1 is not found by its client_business_id id-0"

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


class TestForeignAnswers:
    """A gateway's 404, and a response about another video, say nothing about an earlier submission."""

    NO_ROUTE = answer(404, {"message": "no Route matched with those values"})

    @pytest.mark.parametrize(
        "earlier", [PriorSubmission("id-0"), PriorSubmission(), PriorSubmission("id-0", "video_0")]
    )
    @pytest.mark.parametrize("status", [404, 410])
    @pytest.mark.parametrize("body", [b"", {"message": "no Route matched with those values"}, {}, b"<html>", [1]])
    def test_not_found_of_a_gateway_is_worth_a_retry_after_an_earlier_submission(
        self, earlier: PriorSubmission, status: int, body: object
    ) -> None:
        foreign = answer(status, body)
        service = ScriptedService(look_ups={"id-0": [foreign], "video_0": [foreign]})
        with pytest.raises(ToAPIsError) as raised:
            submit(service, earlier=earlier)
        assert isinstance(raised.value, ToAPIsServerError | ToAPIsWaitInterruptedError)

    def test_not_found_of_a_gateway_lets_a_first_attempt_submit(self) -> None:
        assert submit(ScriptedService(look_ups={"id-0": [self.NO_ROUTE]}, posts=[task()])).generation == 0

    @pytest.mark.parametrize(
        "found_nothing",
        [
            NOT_FOUND,
            refusal(400, "task_not_exist"),
            answer(400, {"message": "task_not_exist"}),
            answer(404, {"error": {"code": 404, "message": "Task not found", "type": "not_found_error"}}),
            answer(404, {"code": "task_not_found"}),
            answer(404, {"error": {"message": "gone"}}),
            answer(200, {"code": "task_not_exist", "data": None, "request_id": "req_1"}),
        ],
        ids=str,
    )
    def test_not_found_in_the_services_own_words_lets_a_retry_submit(self, found_nothing: Answer) -> None:
        service = ScriptedService(look_ups={"id-0": [found_nothing]}, posts=[task()])
        assert not submit(service, earlier=PriorSubmission("id-0", posted_at=1.0)).reattached

    def test_request_id_is_no_video(self) -> None:
        service = ScriptedService(posts=[answer(200, {"request_id": "req_1"}), task(video_id="video_1")])
        assert submit(service).task.id == "video_1"

    @pytest.mark.parametrize(
        "other",
        [
            task("completed", "video_9", client_business_id="id-9"),
            answer(200, {"status": "completed", "client_business_id": "id-9"}),
        ],
        ids=["another id and key", "another key, no id"],
    )
    @pytest.mark.parametrize("earlier", [None, PriorSubmission()])
    def test_response_about_another_key_is_no_answer(self, other: Answer, earlier: PriorSubmission | None) -> None:
        with pytest.raises(ToAPIsError) as raised:
            submit(ScriptedService(look_ups={"id-0": [other]}), earlier=earlier)
        assert isinstance(raised.value, ToAPIsServerError | ToAPIsWaitInterruptedError)

    def test_response_about_another_video_is_no_answer(self) -> None:
        service = ScriptedService(look_ups={"video_0": [task("completed", "video_9")]})
        with pytest.raises(ToAPIsError):
            submit(service, earlier=PriorSubmission("id-0", "video_0"))


class TestPauses:
    """A look-up that found nothing says nothing any more after a pause: something else may have submitted."""

    def test_submission_is_looked_up_again_after_a_long_rate_limit(self) -> None:
        service = ScriptedService(
            look_ups={"id-0": [NOT_FOUND, task("queued", "video_7")]}, posts=[answer(429, retry_after="300")]
        )
        submission = submit(service)
        assert (submission.task.id, submission.reattached) == ("video_7", True)
        assert service.sent == ["look up id-0", "post id-0", "look up id-0"]

    def test_submission_is_looked_up_again_after_it_waited_for_its_slot(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, task("queued", "video_7")]}, slots=[6])
        assert submit(service).reattached
        assert service.notes == [("id-0", "video_7")]

    def test_short_wait_needs_no_second_look(self) -> None:
        service = ScriptedService(posts=[task()], slots=[4])
        submit(service)
        assert service.sent == ["look up id-0", "post id-0"]

    def test_submission_is_claimed_again_after_a_long_pause(self) -> None:
        service = ScriptedService(posts=[answer(429, retry_after="30"), task()])
        submit(service)
        assert service.steps == [
            "look up id-0",
            "note id-0",
            "post id-0",
            "take back id-0",
            "sleep 30",
            "look up id-0",
            "note id-0",
            "post id-0",
        ]

    def test_submission_that_another_process_has_claimed_is_not_sent(self) -> None:
        service = ScriptedService(claims=[False])
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(service)
        assert service.sent == ["look up id-0"]

    def test_first_look_up_waits_as_long_as_a_rate_limit_says(self) -> None:
        service = ScriptedService(look_ups={"id-0": [answer(429, retry_after="90"), NOT_FOUND]}, posts=[task()])
        submit(service)
        assert sum(service.sleeps) == 90


class TestUnknownOutcomes:
    """POSTs that may have created a video are counted where no look-up can tell."""

    def test_first_one_uses_up_the_only_generation_allowed(self) -> None:
        service = ScriptedService(posts=[TIMED_OUT])
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service, max_generations=1)
        assert service.sent.count("post id-0") == 1
        assert not claims_nothing_was_billed(raised.value)

    @pytest.mark.parametrize("counted", [1, 2])
    def test_those_of_earlier_attempts_count(self, counted: int) -> None:
        service = ScriptedService()
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(
                service, max_generations=counted, earlier=PriorSubmission("id-0", posted_at=1.0, unknown_posts=counted)
            )
        assert set(service.sent) == {"look up id-0"}

    def test_model_that_is_found_by_key_is_submitted_again(self) -> None:
        service = ScriptedService(posts=[TIMED_OUT, TIMED_OUT, task()])
        assert submit(service, max_generations=1, found_by_key={MODEL}).generation == 0

    def test_record_says_that_a_model_is_found_by_key(self) -> None:
        earlier = PriorSubmission("id-0", posted_at=1.0, unknown_posts=3, found_by_key=True)
        assert submit(ScriptedService(posts=[task()]), max_generations=1, earlier=earlier).generation == 0

    def test_long_outage_ends_in_an_error_that_is_worth_a_retry(self) -> None:
        service = ScriptedService(posts=[answer(500)] * 99)
        with pytest.raises(ToAPIsServerError):
            submit(service, max_generations=1, retry_timeout=1800, found_by_key={MODEL})
        assert service.steps[-1] == "take back id-0"
        assert service.sent.count("post id-0") == 10

    def test_look_up_may_lag_behind_by_three_minutes(self) -> None:
        late = [NOT_FOUND] * 14 + [task("queued", "video_0")]
        service = ScriptedService(look_ups={"id-0": late}, posts=[TIMED_OUT])
        assert submit(service).task.id == "video_0"
        assert sum(service.sleeps) >= 150


class TestDoubtOfEarlierAttempts:
    """What an earlier attempt may have submitted is doubt from the first step on."""

    @pytest.mark.parametrize("earlier", [PriorSubmission("id-0", posted_at=1.0, unknown_posts=1), PriorSubmission()])
    @pytest.mark.parametrize("status", [400, 401, 402, 404, 422])
    def test_rejected_submission_is_worth_a_retry(self, earlier: PriorSubmission, status: int) -> None:
        service = ScriptedService(posts=[answer(status, {"error": {"code": "no", "message": "no"}})])
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service, earlier=earlier)
        assert not claims_nothing_was_billed(raised.value)

    def test_rejected_upload_is_worth_a_retry(self) -> None:
        service = ScriptedService(uploads=[answer(402, {"error": {"code": "insufficient_quota"}})])
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(service, FROM_A_FILE, earlier=PriorSubmission())

    def test_rate_limit_that_lasts_claims_nothing(self) -> None:
        service = ScriptedService(posts=[answer(429, retry_after="100")] * 2)
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service, retry_timeout=60, earlier=PriorSubmission("id-0", posted_at=1.0))
        assert not claims_nothing_was_billed(raised.value)

    def test_submission_without_a_webhook_follows_a_rejected_one_at_every_generation(self) -> None:
        not_configured = refusal(400, "webhook_not_configured")
        service = ScriptedService(look_ups={"video_0": [FAILED]}, posts=[not_configured, task(video_id="video_1")])
        welcome = Callback("https://airflow.example/toapis/webhooks/c", required=False)
        assert submit(service, callback=welcome, earlier=PriorSubmission("id-0", "video_0")).generation == 1

    @pytest.mark.parametrize(
        "other",
        [
            task(video_id="video_9", client_business_id="id-9"),
            answer(200, {"id": "req_1", "error": {"code": "rate_limit"}}),
            answer(200, {"id": "video_\ud83d", "status": "queued"}),
        ],
        ids=["another key", "an error", "an id that is no text"],
    )
    def test_response_that_is_not_about_this_submission_is_looked_up(self, other: Answer) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, task(video_id="video_1")]}, posts=[other])
        assert submit(service).task.id == "video_1"

    def test_recorded_video_that_is_answered_with_another_one_is_found_by_its_key(self) -> None:
        service = ScriptedService(
            look_ups={
                "video_9": [task("completed", "video_9", client_business_id="id-9")],
                "id-0": [task("queued", "video_1")],
            }
        )
        assert submit(service, earlier=PriorSubmission("id-0", "video_9", posted_at=1.0)).task.id == "video_1"

    def test_generation_after_the_recorded_one_is_looked_for_where_the_record_is_incomplete(self) -> None:
        failed = task("failed", "video_0", error={"code": "generation_failed", "message": "no GPU"})
        late = [NOT_FOUND] * 5 + [task("queued", "video_1")]
        service = ScriptedService(look_ups={"video_0": [failed], "id-0": [failed], "id-1": late})
        earlier = PriorSubmission("id-0", "video_0", posted_at=1.0, is_newest=False)
        submission = submit(service, earlier=earlier)
        assert (submission.task.id, submission.reattached) == ("video_1", True)

    def test_pause_is_measured_by_a_clock_that_no_response_sets(self) -> None:
        service = ScriptedService(
            look_ups={"id-0": [NOT_FOUND, task("queued", "video_7")]}, posts=[answer(429, retry_after="30")]
        )
        submission = drive(
            submit_once(
                SubmitSpec(WANTED, NumberedKeys(), retry_timeout=100),
                now=lambda: NOW,
                clock=lambda: service.clock,
            ),
            service,
        )
        assert submission.reattached

    def test_second_result_url_that_lives_keeps_the_video(self) -> None:
        urls = [{"url": f"https://files.toapis.com/{n}.mp4"} for n in range(2)]
        old = task("completed", "video_0", expires_at=NOW.int_timestamp, result={"data": urls})
        service = ScriptedService(look_ups={"id-0": [old]}, links=[answer(404), answer(206)])
        assert submit(service).reattached


class TestCallback:
    REQUIRED = Callback("https://airflow.example/toapis/webhooks/c?dag_id=d", required=True)
    WELCOME = replace(REQUIRED, required=False)
    NOT_CONFIGURED = refusal(400, "webhook_not_configured", "Webhook is not configured for this token")

    def test_it_is_posted_with_the_order(self) -> None:
        service = ScriptedService(posts=[task()])
        assert submit(service, callback=self.REQUIRED).webhook
        assert service.bodies[0]["callback_url"] == self.REQUIRED.url

    @pytest.mark.parametrize("model", ["MiniMax-Hailuo-02", "viduq3-pro"])
    def test_some_models_want_it_in_their_metadata(self, model: str) -> None:
        service = ScriptedService(posts=[answer(200, {"id": "video_1", "status": "queued"})])
        request = VideoRequest(model=model, prompt=PROMPT, parameters={"metadata": {"prompt_optimizer": True}})
        assert submit(service, request, callback=self.REQUIRED).webhook
        assert service.bodies[0]["metadata"] == {"prompt_optimizer": True, "callback_url": self.REQUIRED.url}

    @pytest.mark.parametrize("own", [{"callback_url": "https://mine"}, {"metadata": {"callback_url": "https://mine"}}])
    def test_address_of_the_authors_own_wins(self, own: dict[str, object]) -> None:
        service = ScriptedService(posts=[task()])
        assert not submit(service, replace(WANTED, parameters=own), callback=self.REQUIRED).webhook
        assert self.REQUIRED.url not in str(service.bodies)

    def test_it_is_no_part_of_the_videos_identity(self) -> None:
        assert "callback" not in str(WANTED.wire_body([LINK]))

    def test_account_without_webhooks_gets_no_order_where_one_is_required(self) -> None:
        service = ScriptedService(posts=[self.NOT_CONFIGURED])
        with pytest.raises(ToAPIsRequestError) as refused:
            submit(service, callback=self.REQUIRED)
        assert refused.value.code == "webhook_not_configured"
        assert claims_nothing_was_billed(refused.value)

    @pytest.mark.parametrize(
        "refused", [NOT_CONFIGURED, refusal(400, "invalid_request", "callback_url must have the token's host")]
    )
    def test_account_without_webhooks_gets_the_order_without_otherwise(
        self, refused: HttpResponse, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = ScriptedService(posts=[refused, task(video_id="video_1")], uploads=[UPLOADED])
        submission = submit(service, FROM_A_FILE, callback=self.WELCOME)
        assert (submission.task.id, submission.webhook) == ("video_1", False)
        assert ["callback_url" in body for body in service.bodies] == [True, False]
        # Uploaded once.
        assert service.sent == ["look up id-0", "upload shoe.jpg", "post id-0", "post id-0"]
        reasons = [(record.levelname, record.args[0]) for record in caplog.records if isinstance(record.args, tuple)]
        assert [level for level, reason in reasons if isinstance(reason, ToAPIsRequestError)] == ["WARNING"]

    def test_any_other_refusal_is_one(self) -> None:
        service = ScriptedService(posts=[refusal(400, "invalid_request", "seconds must be 10")])
        with pytest.raises(ToAPIsRequestError) as rejected:
            submit(service, callback=self.WELCOME)
        assert rejected.value.code == "invalid_request"

    def test_lost_answer_is_looked_up_and_the_webhook_counted_on(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, task(video_id="video_1")]}, posts=[TIMED_OUT])
        submission = submit(service, callback=self.WELCOME)
        assert (submission.task.id, submission.webhook) == ("video_1", True)
        assert len(service.bodies) == 1

    def test_lost_answer_before_the_order_without_one_leaves_the_order_noted(self) -> None:
        no_money = refusal(402, "insufficient_quota")
        service = ScriptedService(posts=[TIMED_OUT, self.NOT_CONFIGURED, no_money])
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(service, callback=self.WELCOME)
        still_noted = service.steps.count("note id-0") - service.steps.count("take back id-0")
        assert still_noted == 1, "the first order may still appear"

    def test_adopted_video_is_not_known_to_have_one(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task()]})
        assert not submit(service, callback=self.REQUIRED).webhook
