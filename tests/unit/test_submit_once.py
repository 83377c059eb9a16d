"""submit_once: look-ups, re-attachment and submissions, so that no video is billed twice."""

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
    Response,
    ScriptedService,
    drive,
    rejection,
    response,
    task,
)
from tests.unit.submissions import (
    EXPIRED,
    FAILED,
    FILE_REQUEST,
    IMAGE_URL,
    INCONCLUSIVE_LOOKUPS,
    NOW,
    PROMPT,
    REJECTED,
    REQUEST,
    NumberedKeys,
    cases,
    submit,
)


class TestFirstAttempt:
    def test_first_attempt_looks_up_before_it_submits_once(self) -> None:
        service = ScriptedService(posts=[task(video_id="video_1")])
        submission = submit(service)
        assert service.steps == ["look up id-0", "record id-0", "post id-0"]
        assert submission.task.id == "video_1"
        assert submission == Submission(submission.task, "id-0", generation=0, reattached=False, request=REQUEST)

    def test_submission_has_this_request(self) -> None:
        service = ScriptedService(posts=[task()])
        submit(service)
        assert service.requests[1] == HttpRequest(
            "POST",
            "/v1/videos/generations",
            json={
                "model": MODEL,
                "prompt": PROMPT,
                "images": [IMAGE_URL],
                "seconds": "10",
                "client_business_id": "id-0",
            },
            private=(PROMPT,),
        )

    def test_remix_is_submitted_to_the_source_video(self) -> None:
        service = ScriptedService(posts=[response(200, {"id": "video_remix_1", "status": "queued"})])
        remix = VideoRequest(model="grok-video-1.0", prompt="at night", operation="remix", video_id="video_9")
        submit(service, remix)
        assert service.requests[1].path == "/v1/videos/video_9/remix"
        assert service.bodies == [{"model": "grok-video-1.0", "prompt": "at night", "client_business_id": "id-0"}]

    @pytest.mark.parametrize("status", [200, 201, 202])
    def test_any_success_status_with_an_id_is_accepted(self, status: int) -> None:
        service = ScriptedService(posts=[response(status, {"task_id": "tsk_vid_01"})])
        assert submit(service).task.id == "tsk_vid_01"

    @pytest.mark.parametrize("status", ["", "pending", "in_progress", "warming_up"])
    def test_any_task_status_is_accepted(self, status: str) -> None:
        assert not submit(ScriptedService(posts=[task(status)])).task.is_final


class TestReattachment:
    @pytest.mark.parametrize("status", ["queued", "pending", "in_progress", "warming_up", "completed", "succeeded"])
    def test_attempt_reattaches_to_video_of_earlier_attempt_without_submission(self, status: str) -> None:
        service = ScriptedService(look_ups={"id-0": [task(status, "video_0")]})
        submission = submit(service)
        assert service.steps == ["look up id-0"]
        assert (submission.task.id, submission.reattached, submission.generation) == ("video_0", True, 0)

    def test_attempt_reattaches_to_result_that_has_not_expired(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task("completed", expires_at=NOW.int_timestamp + 1)]})
        assert submit(service).reattached

    def test_attempt_reattaches_to_result_without_expiry(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task("completed")]})
        assert submit(service).reattached

    def test_video_of_another_model_is_rejected_with_both_models(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task("completed", "video_0", model="sora-2")]})
        with pytest.raises(ToAPIsRequestError) as raised:
            submit(service)
        assert raised.value.video_id == "video_0"
        for model in ("sora-2", MODEL):
            assert repr(model) in str(raised.value)
        assert service.steps == ["look up id-0"]

    def test_attempt_reattaches_to_any_model_name_if_the_key_includes_the_model(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task("queued", model="grok-video-1.5")]})
        assert submit(service, key_includes_model=True).reattached

    @pytest.mark.parametrize("model", [None, "", MODEL.upper()])
    def test_attempt_reattaches_to_video_with_missing_or_differently_spelled_model(self, model: str | None) -> None:
        assert submit(ScriptedService(look_ups={"id-0": [task("queued", model=model)]})).reattached


class TestGenerations:
    def test_failed_video_is_submitted_again_under_the_next_key(self) -> None:
        service = ScriptedService(look_ups={"id-0": [FAILED]}, posts=[task()])
        submission = submit(service)
        assert service.steps == ["look up id-0", "look up id-1", "record id-1", "post id-1"]
        assert (submission.client_business_id, submission.generation, submission.reattached) == ("id-1", 1, False)

    def test_attempt_reattaches_to_later_generation(self) -> None:
        service = ScriptedService(look_ups={"id-0": [FAILED], "id-1": [task("in_progress", "video_7")]})
        submission = submit(service)
        assert service.steps == ["look up id-0", "look up id-1"]
        assert (submission.task.id, submission.generation, submission.reattached) == ("video_7", 1, True)

    def test_expired_video_is_submitted_again_and_its_cost_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        service = ScriptedService(look_ups={"id-0": [EXPIRED]}, url_responses=[response(404)], posts=[task()])
        with caplog.at_level(logging.WARNING):
            assert submit(service).generation == 1
        assert service.steps == ["look up id-0", "try 0.mp4", "look up id-1", "record id-1", "post id-1"]
        (warning,) = (record for record in caplog.records if record.args and "video_0" in record.args)
        assert isinstance(warning.args, tuple)
        assert warning.args[-2:] == ("0.15 USD", "0.10 USD")

    @pytest.mark.parametrize("max_generations", [1, 2, 3])
    @pytest.mark.parametrize("lost_video", [FAILED, EXPIRED], ids=["failed", "expired"])
    def test_max_generations_limits_billed_videos(self, max_generations: int, lost_video: Response) -> None:
        service = ScriptedService(
            look_ups={f"id-{n}": [lost_video] for n in range(max_generations)}, url_responses=[response(410)]
        )
        with pytest.raises(ToAPIsFinalFailureError, match=rf"\b{max_generations}\b.*max_generations") as raised:
            submit(service, max_generations=max_generations)
        look_ups = [f"look up id-{n}" for n in range(max_generations + 1)]
        assert [step for step in service.steps if "id" in step] == look_ups
        assert raised.value.video_id == "video_0"

    def test_last_allowed_generation_is_submitted(self) -> None:
        service = ScriptedService(
            look_ups={"id-0": [FAILED], "id-1": [EXPIRED]}, url_responses=[response(404)], posts=[task()]
        )
        assert submit(service, max_generations=3).generation == 2

    @pytest.mark.parametrize("replacements", [1, 2, 5])
    def test_expired_results_are_replaced_beyond_max_generations_once_per_clear(self, replacements: int) -> None:
        lost_video = {f"id-{n}": [EXPIRED] for n in range(replacements)}
        service = ScriptedService(look_ups=lost_video, url_responses=[response(404)], posts=[task()])
        assert submit(service, max_generations=1, free_replacements=replacements).generation == replacements
        service = ScriptedService(look_ups=lost_video, url_responses=[response(404)])
        with pytest.raises(ToAPIsFinalFailureError):
            submit(service, max_generations=1, free_replacements=replacements - 1)

    def test_attempt_reattaches_to_generation_beyond_max_generations(self) -> None:
        service = ScriptedService(look_ups={"id-0": [FAILED], "id-1": [task("queued", "video_1")]})
        assert submit(service, max_generations=1).task.id == "video_1"

    def test_failed_generations_are_not_free_replacements_of_a_clear(self) -> None:
        with pytest.raises(ToAPIsFinalFailureError):
            submit(ScriptedService(look_ups={"id-0": [FAILED]}), max_generations=1, free_replacements=9)

    @pytest.mark.parametrize(
        "url_checks",
        [[response(206)], [response(200)], [response(500)], [TIMED_OUT], [response(403), response(206)]],
        ids=["206", "200", "500", "no response", "403 once"],
    )
    def test_attempt_reattaches_to_expired_result_with_a_working_url(self, url_checks: list[Response]) -> None:
        service = ScriptedService(look_ups={"id-0": [EXPIRED]}, url_responses=url_checks)
        assert submit(service).task.id == "video_0"
        assert sum(service.sleeps) <= 60

    @pytest.mark.parametrize(
        "expired_response", [response(404), response(410), response(403)], ids=["404", "410", "403 for a minute"]
    )
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
    def test_expired_result_is_replaced_for_every_time_format(
        self, times: dict[str, object], expired_response: Response
    ) -> None:
        old = task("completed", "video_0", result={"data": [{"url": "https://files.toapis.com/0.mp4"}]}, **times)
        service = ScriptedService(look_ups={"id-0": [old]}, url_responses=[expired_response], posts=[task()])
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
    def test_generation_failed_by_its_input_is_not_submitted_again(self, error: dict[str, str]) -> None:
        service = ScriptedService(look_ups={"id-0": [task("failed", "video_0", error=error)]})
        assert submit(service).task.status is TaskStatus.FAILED
        assert service.sent == ["look up id-0"]

    @pytest.mark.parametrize("message", ["no GPU", "upstream timeout", "internal error while rendering the image"])
    def test_generation_failed_for_another_reason_is_submitted_again(self, message: str) -> None:
        failed = task("failed", "video_0", error={"code": "generation_failed", "message": message})
        assert submit(ScriptedService(look_ups={"id-0": [failed]}, posts=[task()])).generation == 1

    def test_rejected_content_is_not_submitted_again(self) -> None:
        service = ScriptedService(look_ups={"id-0": [REJECTED]})
        submission = submit(service)
        assert service.steps == ["look up id-0"]
        assert submission.task.status is TaskStatus.FAILED
        assert submission.reattached

    def test_inconclusive_lookup_of_a_later_generation_submits_nothing(self) -> None:
        service = ScriptedService(look_ups={"id-0": [FAILED], "id-1": [response(500)]})
        with pytest.raises(ToAPIsServerError):
            submit(service)

    def test_failed_video_of_another_model_is_rejected(self) -> None:
        other = task("failed", model="sora-2")
        with pytest.raises(ToAPIsRequestError):
            submit(ScriptedService(look_ups={"id-0": [other]}))

    def test_log_shows_no_secret_of_an_error_code(self, caplog: pytest.LogCaptureFixture) -> None:
        failed_task = task("failed", error={"code": "GET https://bucket/a.jpg?X-Amz-Signature=0123456789 failed"})
        with caplog.at_level(logging.DEBUG):
            submit(ScriptedService(look_ups={"id-0": [failed_task]}, posts=[task()]))
        assert "0123456789" not in caplog.text


class TestUploads:
    def test_upload_happens_between_lookup_and_submission(self) -> None:
        service = ScriptedService(uploads=[UPLOADED], posts=[task()])
        submit(service, FILE_REQUEST)
        assert service.sent == ["look up id-0", "upload shoe.jpg", "post id-0"]
        assert service.bodies[0]["images"] == ["https://files.toapis.com/uploads/shoe.jpg"]

    def test_duplicate_file_is_uploaded_once(self) -> None:
        service = ScriptedService(uploads=[UPLOADED], posts=[task()])
        submit(service, replace(FILE_REQUEST, model="gemini-omni-flash", images=FILE_REQUEST.images * 2, duration=None))
        assert service.bodies[0]["image_urls"] == ["https://files.toapis.com/uploads/shoe.jpg"] * 2

    def test_nothing_is_uploaded_for_an_existing_video(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task()]})
        submit(service, FILE_REQUEST)
        assert service.steps == ["look up id-0"]

    @pytest.mark.parametrize("lost_video", [TIMED_OUT, response(429)], ids=["unknown", "created nothing"])
    def test_repeated_submission_uses_the_same_upload(self, lost_video: Response) -> None:
        service = ScriptedService(uploads=[UPLOADED], posts=[lost_video, task()])
        submit(service, FILE_REQUEST)
        assert service.steps.count("upload shoe.jpg") == 1
        assert service.bodies[0] == service.bodies[1]

    def test_failed_upload_is_retried(self) -> None:
        service = ScriptedService(uploads=[TIMED_OUT, response(500), UPLOADED], posts=[task()])
        submit(service, FILE_REQUEST)
        assert service.sent == ["look up id-0", *["upload shoe.jpg"] * 3, "post id-0"]

    @pytest.mark.parametrize(
        "rejected",
        [response(400, {"success": False, "message": "Unsupported image type."}), response(401), response(413)],
        ids=str,
    )
    def test_rejected_upload_submits_nothing(self, rejected: Response) -> None:
        service = ScriptedService(uploads=[rejected])
        with pytest.raises(ToAPIsError):
            submit(service, FILE_REQUEST)

    def test_permanently_failing_upload_submits_nothing(self) -> None:
        service = ScriptedService(uploads=[response(200, {"success": False, "message": "storage is full"})] * 99)
        with pytest.raises(ToAPIsServerError):
            submit(service, FILE_REQUEST)


class TestSubmissionRecord:
    """The record that an attempt leaves, and how the next attempt uses it."""

    def test_submission_is_recorded_before_it_is_sent_and_its_video_after_it(self) -> None:
        service = ScriptedService(posts=[task(video_id="video_1")])
        submit(service)
        assert service.records[:2] == [("id-0", None), ("id-0", "video_1")]
        assert service.steps.index("record id-0") < service.steps.index("post id-0")

    def test_video_is_recorded_when_found_after_a_lost_response(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, task(video_id="video_0")]}, posts=[TIMED_OUT])
        submit(service)
        assert service.records == [("id-0", None), ("id-0", "video_0")]

    def test_nothing_is_recorded_for_an_existing_video(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task()]})
        submit(service)
        assert service.records == []

    @pytest.mark.parametrize(
        "earlier", [PriorSubmission("id-0"), PriorSubmission()], ids=["recorded", "only an attempt"]
    )
    @pytest.mark.parametrize(
        "rejected",
        [rejection(401, "unauthorized"), rejection(402, "insufficient_quota"), rejection(400, "invalid_request")],
    )
    def test_rejected_lookup_after_a_possible_submission_is_retryable(
        self, earlier: PriorSubmission, rejected: HttpResponse
    ) -> None:
        service = ScriptedService(look_ups={"id-0": [rejected]})
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service, earlier=earlier)
        assert raised.value.video_id is None
        assert service.sent == ["look up id-0"]

    @pytest.mark.parametrize(
        "earlier", [PriorSubmission("id-0", "video_0"), PriorSubmission("key of another revision", "video_0")]
    )
    def test_rejected_lookup_of_a_recorded_video_is_retryable(self, earlier: PriorSubmission) -> None:
        service = ScriptedService(look_ups={"video_0": [rejection(401, "unauthorized")]})
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service, earlier=earlier)
        assert (raised.value.video_id, raised.value.http_status) == ("video_0", 401)
        assert service.sent[-1] == "look up video_0"

    @pytest.mark.parametrize(
        "earlier", [PriorSubmission("id-0"), PriorSubmission()], ids=["recorded", "only an attempt"]
    )
    def test_submission_without_response_is_looked_up_for_three_minutes(self, earlier: PriorSubmission) -> None:
        service = ScriptedService(posts=[task()])
        submit(service, earlier=earlier)
        assert set(service.sent[:-1]) == {"look up id-0"}
        assert sum(service.sleeps) == 180

    @pytest.mark.parametrize(("age", "expected_wait"), [(0, 300), (200, 100), (300, 0), (90_000, 0), (-90_000, 300)])
    def test_submission_without_response_is_looked_up_until_300_s_after_it(
        self, age: float, expected_wait: float
    ) -> None:
        service = ScriptedService(posts=[task()])
        submit(service, earlier=PriorSubmission("id-0", posted_at=NOW.timestamp() - age))
        assert sum(service.sleeps) == expected_wait

    def test_attempt_reattaches_to_recorded_video_beyond_max_generations(self) -> None:
        service = ScriptedService(look_ups={"video_7": [task("completed", "video_7")]})
        submission = submit(service, max_generations=1, earlier=PriorSubmission("id-2", "video_7"))
        assert (submission.task.id, submission.generation) == ("video_7", 2)

    def test_attempt_reattaches_to_recorded_video_with_any_model_name(self) -> None:
        service = ScriptedService(look_ups={"video_0": [task("completed", "video_0", model="grok-imagine-video-1.5")]})
        assert submit(service, earlier=PriorSubmission("id-0", "video_0")).reattached

    def test_retry_reattaches_to_chosen_key_under_another_model_name(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task("queued", "video_0", model="grok-imagine-video-1.5")]})
        assert submit(service, earlier=PriorSubmission()).reattached

    @pytest.mark.parametrize("hours", [0, 23.9])
    def test_recorded_video_not_found_within_a_day_is_retryable(self, hours: float) -> None:
        earlier = PriorSubmission("id-0", "video_0", posted_at=NOW.timestamp() - hours * 3600)
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(ScriptedService(), earlier=earlier)
        assert raised.value.video_id == "video_0"

    def test_recorded_video_not_found_after_a_day_is_replaced(self) -> None:
        earlier = PriorSubmission("id-0", "video_0", posted_at=NOW.timestamp() - 86_401)
        assert not submit(ScriptedService(posts=[task()]), earlier=earlier).reattached

    @pytest.mark.parametrize("status", [401, 402, 403, 404, 422])
    def test_rejected_submission_after_a_recorded_video_interrupts_the_wait(self, status: int) -> None:
        service = ScriptedService(look_ups={"video_0": [FAILED]}, posts=[response(status, {"error": {"code": status}})])
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service, earlier=PriorSubmission("id-0", "video_0"))
        assert raised.value.video_id == "video_0"
        assert not claims_nothing_was_billed(raised.value)

    def test_attempt_reattaches_to_late_video_of_a_submission_without_response(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND] * 5 + [task(video_id="video_0")]})
        submission = submit(service, earlier=PriorSubmission("id-0"))
        assert (submission.task.id, submission.reattached) == ("video_0", True)

    def test_recorded_video_is_found_by_its_own_id(self) -> None:
        service = ScriptedService(look_ups={"video_0": [task("in_progress", "video_0")]})
        submission = submit(service, earlier=PriorSubmission("id-0", "video_0"))
        assert service.sent == ["look up video_0"]
        assert (submission.task.id, submission.reattached) == ("video_0", True)

    def test_later_generation_is_found_by_its_own_id(self) -> None:
        service = ScriptedService(look_ups={"video_7": [task("in_progress", "video_7")]})
        submission = submit(service, earlier=PriorSubmission("id-1", "video_7"))
        assert (submission.task.id, submission.generation, submission.reattached) == ("video_7", 1, True)

    def test_later_generation_without_response_is_looked_up_first(self) -> None:
        service = ScriptedService(look_ups={"id-1": [NOT_FOUND] * 5 + [task(video_id="video_7")]})
        submission = submit(service, earlier=PriorSubmission("id-1"))
        assert (submission.task.id, submission.generation, submission.reattached) == ("video_7", 1, True)

    def test_recorded_video_not_found_yet_is_looked_up_again(self) -> None:
        service = ScriptedService(look_ups={"video_0": [NOT_FOUND] * 5 + [task(video_id="video_0")]})
        assert submit(service, earlier=PriorSubmission("id-0", "video_0")).reattached

    def test_recorded_video_never_found_is_submitted_again(self) -> None:
        service = ScriptedService(posts=[task()])
        assert not submit(service, earlier=PriorSubmission("id-0", "video_0")).reattached
        assert sum(service.sleeps) == 180

    @cases(INCONCLUSIVE_LOOKUPS)
    def test_inconclusive_lookup_of_a_recorded_video_submits_nothing(self, case: Response) -> None:
        service = ScriptedService(look_ups={"video_0": [case]})
        with pytest.raises(ToAPIsError):
            submit(service, earlier=PriorSubmission("id-0", "video_0"))

    def test_failed_recorded_video_is_submitted_again_under_the_next_key(self) -> None:
        service = ScriptedService(look_ups={"video_0": [FAILED]}, posts=[task()])
        assert submit(service, earlier=PriorSubmission("id-0", "video_0")).generation == 1

    @pytest.mark.parametrize("status", ["queued", "in_progress"])
    def test_attempt_reattaches_to_unfinished_video_of_the_previous_revision(self, status: str) -> None:
        service = ScriptedService(look_ups={"video_9": [task(status, "video_9")]})
        submission = submit(service, earlier=PriorSubmission("before-clear", "video_9"))
        assert (submission.task.id, submission.client_business_id) == ("video_9", "before-clear")
        assert submission.reattached

    @pytest.mark.parametrize("finished", [task("completed", "video_9"), task("failed", "video_9"), NOT_FOUND], ids=str)
    def test_finished_video_of_the_previous_revision_is_replaced(self, finished: Response) -> None:
        service = ScriptedService(look_ups={"video_9": [finished]}, posts=[task(video_id="video_10")])
        assert submit(service, earlier=PriorSubmission("before-clear", "video_9")).task.id == "video_10"

    def test_attempt_reattaches_to_late_video_of_the_previous_revision(self) -> None:
        appears = [NOT_FOUND] * 5 + [task("queued", "video_9")]
        submission = submit(
            ScriptedService(look_ups={"before-clear": appears}), earlier=PriorSubmission("before-clear")
        )
        assert (submission.task.id, submission.client_business_id) == ("video_9", "before-clear")

    def test_lost_submission_of_the_previous_revision_is_replaced(self) -> None:
        service = ScriptedService(posts=[task(video_id="video_10")])
        assert submit(service, earlier=PriorSubmission("before-clear")).task.id == "video_10"

    @cases(INCONCLUSIVE_LOOKUPS)
    def test_inconclusive_lookup_of_the_previous_revision_submits_nothing(self, case: Response) -> None:
        with pytest.raises(ToAPIsError):
            submit(ScriptedService(look_ups={"video_9": [case]}), earlier=PriorSubmission("before-clear", "video_9"))


class TestLookupByKey:
    WARNING = "Video video_1 is not found by its client_business_id id-0"

    @pytest.mark.parametrize("responses", [[task()], [NOT_FOUND, task()], [NOT_FOUND, NOT_FOUND, task()]], ids=len)
    def test_video_found_by_its_key_logs_no_warning(
        self, responses: list[Response], caplog: pytest.LogCaptureFixture
    ) -> None:
        submit(ScriptedService(posts=[task()], after_submission=responses))
        assert self.WARNING not in caplog.text

    def test_video_never_found_by_its_key_logs_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        service = ScriptedService(posts=[task()], after_submission=[NOT_FOUND])
        assert submit(service).task.id == "video_1"
        assert self.WARNING in caplog.text

    @cases(INCONCLUSIVE_LOOKUPS)
    def test_inconclusive_lookup_after_submission_logs_no_warning(
        self, case: Response, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = ScriptedService(posts=[task()], after_submission=[case])
        assert submit(service).task.id == "video_1"
        assert self.WARNING not in caplog.text
        assert sum(service.sleeps) < 10


class TestForeignResponses:
    """A gateway's 404 and a response about another video are no evidence about an earlier submission."""

    NO_ROUTE = response(404, {"message": "no Route matched with those values"})

    @pytest.mark.parametrize(
        "earlier", [PriorSubmission("id-0"), PriorSubmission(), PriorSubmission("id-0", "video_0")]
    )
    @pytest.mark.parametrize("status", [404, 410])
    @pytest.mark.parametrize("body", [b"", {"message": "no Route matched with those values"}, {}, b"<html>", [1]])
    def test_not_found_of_a_gateway_is_retryable_after_an_earlier_submission(
        self, earlier: PriorSubmission, status: int, body: object
    ) -> None:
        foreign = response(status, body)
        service = ScriptedService(look_ups={"id-0": [foreign], "video_0": [foreign]})
        with pytest.raises(ToAPIsError) as raised:
            submit(service, earlier=earlier)
        assert isinstance(raised.value, ToAPIsServerError | ToAPIsWaitInterruptedError)

    def test_not_found_of_a_gateway_lets_a_first_attempt_submit(self) -> None:
        assert submit(ScriptedService(look_ups={"id-0": [self.NO_ROUTE]}, posts=[task()])).generation == 0

    @pytest.mark.parametrize(
        "not_found",
        [
            NOT_FOUND,
            rejection(400, "task_not_exist"),
            response(400, {"message": "task_not_exist"}),
            response(404, {"error": {"code": 404, "message": "Task not found", "type": "not_found_error"}}),
            response(404, {"code": "task_not_found"}),
            response(404, {"error": {"message": "gone"}}),
            response(200, {"code": "task_not_exist", "data": None, "request_id": "req_1"}),
        ],
        ids=str,
    )
    def test_not_found_of_the_service_lets_a_retry_submit(self, not_found: Response) -> None:
        service = ScriptedService(look_ups={"id-0": [not_found]}, posts=[task()])
        assert not submit(service, earlier=PriorSubmission("id-0", posted_at=1.0)).reattached

    def test_request_id_is_not_a_video_id(self) -> None:
        service = ScriptedService(posts=[response(200, {"request_id": "req_1"}), task(video_id="video_1")])
        assert submit(service).task.id == "video_1"

    @pytest.mark.parametrize(
        "other",
        [
            task("completed", "video_9", client_business_id="id-9"),
            response(200, {"status": "completed", "client_business_id": "id-9"}),
        ],
        ids=["another id and key", "another key, no id"],
    )
    @pytest.mark.parametrize("earlier", [None, PriorSubmission()])
    def test_response_about_another_key_is_not_accepted(self, other: Response, earlier: PriorSubmission | None) -> None:
        with pytest.raises(ToAPIsError) as raised:
            submit(ScriptedService(look_ups={"id-0": [other]}), earlier=earlier)
        assert isinstance(raised.value, ToAPIsServerError | ToAPIsWaitInterruptedError)

    def test_response_about_another_video_is_not_accepted(self) -> None:
        service = ScriptedService(look_ups={"video_0": [task("completed", "video_9")]})
        with pytest.raises(ToAPIsError):
            submit(service, earlier=PriorSubmission("id-0", "video_0"))


class TestPauses:
    """A look-up is repeated after a pause, because another process can have submitted meanwhile."""

    def test_submission_is_looked_up_again_after_a_long_rate_limit(self) -> None:
        service = ScriptedService(
            look_ups={"id-0": [NOT_FOUND, task("queued", "video_7")]}, posts=[response(429, retry_after="300")]
        )
        submission = submit(service)
        assert (submission.task.id, submission.reattached) == ("video_7", True)
        assert service.sent == ["look up id-0", "post id-0", "look up id-0"]

    def test_submission_is_looked_up_again_after_a_wait_for_its_slot(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, task("queued", "video_7")]}, slots=[6])
        assert submit(service).reattached
        assert service.records == [("id-0", "video_7")]

    def test_short_wait_needs_no_second_lookup(self) -> None:
        service = ScriptedService(posts=[task()], slots=[4])
        submit(service)
        assert service.sent == ["look up id-0", "post id-0"]

    def test_submission_is_claimed_again_after_a_long_pause(self) -> None:
        service = ScriptedService(posts=[response(429, retry_after="30"), task()])
        submit(service)
        assert service.steps == [
            "look up id-0",
            "record id-0",
            "post id-0",
            "withdraw id-0",
            "sleep 30",
            "look up id-0",
            "record id-0",
            "post id-0",
        ]

    def test_submission_claimed_by_another_process_is_not_sent(self) -> None:
        service = ScriptedService(claims=[False])
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(service)
        assert service.sent == ["look up id-0"]

    def test_first_lookup_waits_for_retry_after(self) -> None:
        service = ScriptedService(look_ups={"id-0": [response(429, retry_after="90"), NOT_FOUND]}, posts=[task()])
        submit(service)
        assert sum(service.sleeps) == 90


class TestUnknownOutcomes:
    """Submissions of unknown outcome are counted if no look-up can resolve them."""

    def test_unknown_outcome_uses_up_the_only_generation(self) -> None:
        service = ScriptedService(posts=[TIMED_OUT])
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service, max_generations=1)
        assert service.sent.count("post id-0") == 1
        assert not claims_nothing_was_billed(raised.value)

    @pytest.mark.parametrize("count", [1, 2])
    def test_unknown_outcomes_of_earlier_attempts_count(self, count: int) -> None:
        service = ScriptedService()
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(service, max_generations=count, earlier=PriorSubmission("id-0", posted_at=1.0, unknown_posts=count))
        assert set(service.sent) == {"look up id-0"}

    def test_request_is_submitted_again_if_its_model_is_found_by_key(self) -> None:
        service = ScriptedService(posts=[TIMED_OUT, TIMED_OUT, task()])
        assert submit(service, max_generations=1, found_by_key={MODEL}).generation == 0

    def test_record_states_that_the_model_is_found_by_key(self) -> None:
        earlier = PriorSubmission("id-0", posted_at=1.0, unknown_posts=3, found_by_key=True)
        assert submit(ScriptedService(posts=[task()]), max_generations=1, earlier=earlier).generation == 0

    def test_long_outage_raises_a_retryable_error(self) -> None:
        service = ScriptedService(posts=[response(500)] * 99)
        with pytest.raises(ToAPIsServerError):
            submit(service, max_generations=1, retry_timeout=1800, found_by_key={MODEL})
        assert service.steps[-1] == "withdraw id-0"
        assert service.sent.count("post id-0") == 10

    def test_lookup_finds_a_video_that_appears_within_three_minutes(self) -> None:
        late = [NOT_FOUND] * 14 + [task("queued", "video_0")]
        service = ScriptedService(look_ups={"id-0": late}, posts=[TIMED_OUT])
        assert submit(service).task.id == "video_0"
        assert sum(service.sleeps) >= 150


class TestPossibleEarlierSubmission:
    """A possible submission of an earlier attempt makes every rejection retryable."""

    @pytest.mark.parametrize("earlier", [PriorSubmission("id-0", posted_at=1.0, unknown_posts=1), PriorSubmission()])
    @pytest.mark.parametrize("status", [400, 401, 402, 404, 422])
    def test_rejected_submission_is_retryable(self, earlier: PriorSubmission, status: int) -> None:
        service = ScriptedService(posts=[response(status, {"error": {"code": "no", "message": "no"}})])
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service, earlier=earlier)
        assert not claims_nothing_was_billed(raised.value)

    def test_rejected_upload_is_retryable(self) -> None:
        service = ScriptedService(uploads=[response(402, {"error": {"code": "insufficient_quota"}})])
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(service, FILE_REQUEST, earlier=PriorSubmission())

    def test_lasting_rate_limit_does_not_claim_that_nothing_was_billed(self) -> None:
        service = ScriptedService(posts=[response(429, retry_after="100")] * 2)
        with pytest.raises(ToAPIsWaitInterruptedError) as raised:
            submit(service, retry_timeout=60, earlier=PriorSubmission("id-0", posted_at=1.0))
        assert not claims_nothing_was_billed(raised.value)

    def test_submission_without_a_webhook_follows_a_rejected_one_at_every_generation(self) -> None:
        not_configured = rejection(400, "webhook_not_configured")
        service = ScriptedService(look_ups={"video_0": [FAILED]}, posts=[not_configured, task(video_id="video_1")])
        optional = Callback("https://airflow.example/toapis/webhooks/c", required=False)
        assert submit(service, callback=optional, earlier=PriorSubmission("id-0", "video_0")).generation == 1

    @pytest.mark.parametrize(
        "other",
        [
            task(video_id="video_9", client_business_id="id-9"),
            response(200, {"id": "req_1", "error": {"code": "rate_limit"}}),
            response(200, {"id": "video_\ud83d", "status": "queued"}),
        ],
        ids=["another key", "an error", "an id that is not text"],
    )
    def test_response_that_is_not_about_this_submission_is_looked_up(self, other: Response) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, task(video_id="video_1")]}, posts=[other])
        assert submit(service).task.id == "video_1"

    def test_recorded_video_is_found_by_its_key_if_its_id_returns_another_video(self) -> None:
        service = ScriptedService(
            look_ups={
                "video_9": [task("completed", "video_9", client_business_id="id-9")],
                "id-0": [task("queued", "video_1")],
            }
        )
        assert submit(service, earlier=PriorSubmission("id-0", "video_9", posted_at=1.0)).task.id == "video_1"

    def test_incomplete_record_looks_up_the_next_generation(self) -> None:
        failed = task("failed", "video_0", error={"code": "generation_failed", "message": "no GPU"})
        late = [NOT_FOUND] * 5 + [task("queued", "video_1")]
        service = ScriptedService(look_ups={"video_0": [failed], "id-0": [failed], "id-1": late})
        earlier = PriorSubmission("id-0", "video_0", posted_at=1.0, is_newest=False)
        submission = submit(service, earlier=earlier)
        assert (submission.task.id, submission.reattached) == ("video_1", True)

    def test_pause_is_measured_with_a_monotonic_clock(self) -> None:
        service = ScriptedService(
            look_ups={"id-0": [NOT_FOUND, task("queued", "video_7")]}, posts=[response(429, retry_after="30")]
        )
        submission = drive(
            submit_once(
                SubmitSpec(REQUEST, NumberedKeys(), retry_timeout=100),
                now=lambda: NOW,
                clock=lambda: service.clock,
            ),
            service,
        )
        assert submission.reattached

    def test_working_second_result_url_keeps_the_video(self) -> None:
        urls = [{"url": f"https://files.toapis.com/{n}.mp4"} for n in range(2)]
        old = task("completed", "video_0", expires_at=NOW.int_timestamp, result={"data": urls})
        service = ScriptedService(look_ups={"id-0": [old]}, url_responses=[response(404), response(206)])
        assert submit(service).reattached


class TestCallback:
    REQUIRED = Callback("https://airflow.example/toapis/webhooks/c?dag_id=d", required=True)
    OPTIONAL = replace(REQUIRED, required=False)
    NOT_CONFIGURED = rejection(400, "webhook_not_configured", "Webhook is not configured for this token")

    def test_callback_url_is_sent_with_the_submission(self) -> None:
        service = ScriptedService(posts=[task()])
        assert submit(service, callback=self.REQUIRED).webhook
        assert service.bodies[0]["callback_url"] == self.REQUIRED.url

    @pytest.mark.parametrize("model", ["MiniMax-Hailuo-02", "viduq3-pro"])
    def test_some_models_get_the_callback_url_in_metadata(self, model: str) -> None:
        service = ScriptedService(posts=[response(200, {"id": "video_1", "status": "queued"})])
        request = VideoRequest(model=model, prompt=PROMPT, parameters={"metadata": {"prompt_optimizer": True}})
        assert submit(service, request, callback=self.REQUIRED).webhook
        assert service.bodies[0]["metadata"] == {"prompt_optimizer": True, "callback_url": self.REQUIRED.url}

    @pytest.mark.parametrize(
        "parameters", [{"callback_url": "https://mine"}, {"metadata": {"callback_url": "https://mine"}}]
    )
    def test_callback_url_in_parameters_overrides_the_callback(self, parameters: dict[str, object]) -> None:
        service = ScriptedService(posts=[task()])
        assert not submit(service, replace(REQUEST, parameters=parameters), callback=self.REQUIRED).webhook
        assert self.REQUIRED.url not in str(service.bodies)

    def test_callback_url_is_not_part_of_the_request(self) -> None:
        assert "callback" not in str(REQUEST.wire_body([IMAGE_URL]))

    def test_required_webhook_fails_without_webhook_configuration(self) -> None:
        service = ScriptedService(posts=[self.NOT_CONFIGURED])
        with pytest.raises(ToAPIsRequestError) as rejected:
            submit(service, callback=self.REQUIRED)
        assert rejected.value.code == "webhook_not_configured"
        assert claims_nothing_was_billed(rejected.value)

    @pytest.mark.parametrize(
        "rejected", [NOT_CONFIGURED, rejection(400, "invalid_request", "callback_url must have the token's host")]
    )
    def test_optional_webhook_is_dropped_without_webhook_configuration(
        self, rejected: HttpResponse, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = ScriptedService(posts=[rejected, task(video_id="video_1")], uploads=[UPLOADED])
        submission = submit(service, FILE_REQUEST, callback=self.OPTIONAL)
        assert (submission.task.id, submission.webhook) == ("video_1", False)
        assert ["callback_url" in body for body in service.bodies] == [True, False]
        assert service.sent == ["look up id-0", "upload shoe.jpg", "post id-0", "post id-0"]
        reasons = [(record.levelname, record.args[0]) for record in caplog.records if isinstance(record.args, tuple)]
        assert [level for level, reason in reasons if isinstance(reason, ToAPIsRequestError)] == ["WARNING"]

    def test_other_rejection_is_raised(self) -> None:
        service = ScriptedService(posts=[rejection(400, "invalid_request", "seconds must be 10")])
        with pytest.raises(ToAPIsRequestError) as rejected:
            submit(service, callback=self.OPTIONAL)
        assert rejected.value.code == "invalid_request"

    def test_lost_response_is_looked_up_and_the_webhook_is_expected(self) -> None:
        service = ScriptedService(look_ups={"id-0": [NOT_FOUND, task(video_id="video_1")]}, posts=[TIMED_OUT])
        submission = submit(service, callback=self.OPTIONAL)
        assert (submission.task.id, submission.webhook) == ("video_1", True)
        assert len(service.bodies) == 1

    def test_lost_response_before_a_rejection_keeps_the_submission_recorded(self) -> None:
        low_balance = rejection(402, "insufficient_quota")
        service = ScriptedService(posts=[TIMED_OUT, self.NOT_CONFIGURED, low_balance])
        with pytest.raises(ToAPIsWaitInterruptedError):
            submit(service, callback=self.OPTIONAL)
        still_recorded = service.steps.count("record id-0") - service.steps.count("withdraw id-0")
        assert still_recorded == 1, "the first submission can still appear"

    def test_reattached_video_has_no_webhook(self) -> None:
        service = ScriptedService(look_ups={"id-0": [task()]})
        assert not submit(service, callback=self.REQUIRED).webhook
