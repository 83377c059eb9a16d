"""Parsing of every response shape that is documented or was observed."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_toapis.api.responses import (
    Balance,
    OfferedModel,
    TaskError,
    TaskStatus,
    UploadedFile,
    VideoTask,
    parse_balance,
    parse_error_detail,
    parse_models,
    parse_uploaded_file,
    parse_video_task,
)

URL = "https://files.toapis.com/videos/abc/out.mp4"
COMPLETED: dict[str, Any] = {
    "id": "video_abc",
    "client_business_id": "sku-1",
    "object": "generation.task",
    "model": "grok-video-1.5",
    "status": "completed",
    "progress": 100,
    "created_at": 1768380222,
    "completed_at": 1768380514,
    "expires_at": 1768466914,
    "result": {"type": "video", "data": [{"url": URL, "format": "mp4"}]},
    "billing": {"status": "settled", "credits": "100", "cost_usd": "0.5"},
}


def parsed(body: dict[str, Any], video_id: str | None = None) -> VideoTask:
    task = parse_video_task(body, video_id)
    assert task is not None
    return task


def task_with(**fields: Any) -> VideoTask:
    return parsed({"id": "video_abc", **fields})


class TestDocumentedResponses:
    def test_submit_response_is_parsed(self) -> None:
        task = parsed(
            {
                "id": "video_abc",
                "object": "generation.task",
                "model": "grok-video-1.5-preview",
                "status": "queued",
                "progress": 0,
                "created_at": 1768380224,
                "metadata": {},
            }
        )
        assert task == VideoTask(
            id="video_abc",
            status=TaskStatus.QUEUED,
            raw_status="queued",
            model="grok-video-1.5-preview",
            progress=0,
            created_at=pendulum.datetime(2026, 1, 14, 8, 43, 44),
        )

    def test_completed_response_is_parsed(self) -> None:
        assert parsed(COMPLETED) == VideoTask(
            id="video_abc",
            status=TaskStatus.COMPLETED,
            raw_status="completed",
            model="grok-video-1.5",
            progress=100,
            created_at=pendulum.datetime(2026, 1, 14, 8, 43, 42),
            completed_at=pendulum.datetime(2026, 1, 14, 8, 48, 34),
            expires_at=pendulum.datetime(2026, 1, 15, 8, 48, 34),
            client_business_id="sku-1",
            urls=(URL,),
            format="mp4",
            billing={"status": "settled", "credits": "100", "cost_usd": "0.5"},
        )

    def test_failed_response_is_parsed(self) -> None:
        task = task_with(
            status="failed", progress=0, error={"code": "generation_failed", "message": "Generation failed: no GPU"}
        )
        assert task.status is TaskStatus.FAILED
        assert task.error == TaskError(code="generation_failed", message="Generation failed: no GPU")
        assert task.urls == ()


class TestStatusWords:
    @pytest.mark.parametrize(
        ("status_word", "status"),
        [
            ("queued", TaskStatus.QUEUED),
            ("pending", TaskStatus.QUEUED),
            ("submitted", TaskStatus.QUEUED),
            ("", TaskStatus.QUEUED),
            ("in_progress", TaskStatus.IN_PROGRESS),
            ("processing", TaskStatus.IN_PROGRESS),
            ("running", TaskStatus.IN_PROGRESS),
            ("generating", TaskStatus.IN_PROGRESS),
            ("completed", TaskStatus.COMPLETED),
            ("success", TaskStatus.COMPLETED),
            ("SUCCESS", TaskStatus.COMPLETED),
            ("failed", TaskStatus.FAILED),
            ("failure", TaskStatus.FAILED),
            ("FAILURE", TaskStatus.FAILED),
        ],
    )
    def test_known_status_words_are_mapped(self, status_word: str, status: TaskStatus) -> None:
        task = task_with(status=status_word)
        assert task.status is status
        assert task.raw_status == status_word

    @pytest.mark.parametrize(
        "status_word", ["done", "succeed", "complete", "ok", "finish", "TASK_STATUS_SUCCESS", "Done "]
    )
    def test_undocumented_success_word_is_final_with_a_result_url(self, status_word: str) -> None:
        ready = task_with(status=status_word, result={"data": [{"url": URL}]})
        assert ready.is_ready
        assert not ready.is_documented_status
        assert task_with(status=status_word).status is TaskStatus.IN_PROGRESS
        assert task_with(status=status_word, url="ftp://host/a.mp4").status is TaskStatus.IN_PROGRESS
        assert task_with(status=status_word, message="no").status is TaskStatus.IN_PROGRESS
        assert task_with(status=status_word, error={"message": "no"}).status is TaskStatus.FAILED
        assert task_with(status=status_word, url=URL, error={"message": "no"}).is_ready

    @pytest.mark.parametrize(
        "status_word",
        ["expired", "rejected", "fail", "timeout", "timedout", "time_out", "CANCELED", "TASK_STATUS_FAILED"],
    )
    @pytest.mark.parametrize(
        "error_fields",
        [
            {"error": {"code": "x"}},
            {"error": "no"},
            {"data": {"fail_reason": "no"}},
            {"message": "no"},
            {"reason": "no"},
        ],
    )
    def test_undocumented_failure_word_is_final_with_an_error(
        self, status_word: str, error_fields: dict[str, Any]
    ) -> None:
        failed = task_with(status=status_word, **error_fields)
        assert failed.status is TaskStatus.FAILED
        assert failed.error is not None
        assert not failed.is_documented_status
        assert not task_with(status=status_word).is_final
        assert not task_with(status=status_word, error=None, fail_reason="").is_final
        assert not task_with(data={"status": status_word}, message="success").is_final
        response_message = parse_video_task({"status": status_word, "message": "Too many requests"}, "video_1")
        assert response_message is not None
        assert not response_message.is_final

    @pytest.mark.parametrize("status_word", ["queued", "in_progress", "COMPLETED", "failed", "SUCCESS", "FAILURE"])
    def test_documented_status_words_are_recognized(self, status_word: str) -> None:
        assert task_with(status=status_word).is_documented_status

    @pytest.mark.parametrize("status_word", ["warming_up", "审核中", 7])
    @pytest.mark.parametrize("extra_fields", [{}, {"url": URL}, {"error": "no"}], ids=["alone", "url", "error"])
    def test_unknown_status_word_means_in_progress(self, status_word: object, extra_fields: dict[str, Any]) -> None:
        task = task_with(status=status_word, **extra_fields)
        assert task.status is TaskStatus.IN_PROGRESS
        assert task.raw_status == str(status_word)
        assert not task.is_documented_status

    @pytest.mark.parametrize("body", [{}, {"status": None}])
    def test_missing_status_is_not_final(self, body: dict[str, Any]) -> None:
        assert not task_with(**body).is_final

    @given(st.text())
    def test_only_known_status_words_are_final(self, status_word: str) -> None:
        final_words = {"completed", "success", "failed", "failure"}
        assert task_with(status=status_word).is_final == (status_word.strip().lower() in final_words)


class TestIds:
    @pytest.mark.parametrize(
        "body",
        [
            {"id": "vid_1"},
            {"task_id": "vid_1"},
            {"data": {"id": "vid_1"}},
            {"data": {"task_id": "vid_1"}},
            {"data": {"taskId": "vid_1"}},
            {"id": None, "task_id": "vid_1"},
            {"id": "", "task_id": "vid_1"},
            {"id": "", "data": {"task_id": "vid_1"}},
        ],
    )
    def test_id_is_found_in_every_known_place(self, body: dict[str, Any]) -> None:
        assert parsed(body).id == "vid_1"

    def test_status_response_without_id_is_about_the_requested_video(self) -> None:
        assert parsed({"status": "queued"}, "video_abc").id == "video_abc"

    @pytest.mark.parametrize("body", [{}, {"status": "queued"}, {"id": ""}, {"id": None}, {"id": {}}, {"data": []}])
    def test_submit_response_without_id_is_not_a_task(self, body: dict[str, Any]) -> None:
        assert parse_video_task(body) is None

    def test_rejection_with_a_request_id_is_not_a_task(self) -> None:
        rejection = {"success": False, "message": "not now", "request_id": "20261001"}
        assert parse_video_task(rejection) is None
        assert parse_video_task(rejection, "video_abc") is None


class TestNestedUnderData:
    def test_task_nested_under_data_is_parsed(self) -> None:
        assert parsed({"code": "success", "message": "", "data": COMPLETED}) == parsed(COMPLETED)

    def test_status_and_progress_nested_under_data_are_parsed(self) -> None:
        task = task_with(data={"status": "processing", "progress": "40%"})
        assert (task.status, task.progress) == (TaskStatus.IN_PROGRESS, 40)


class TestResultUrls:
    @pytest.mark.parametrize(
        "body",
        [
            {"result": {"type": "video", "data": [{"url": URL}]}},
            {"result": {"data": [{"video_url": URL}]}},
            {"result": {"type": "image", "data": [{"url": URL}]}},
            {"result": {"data": [URL]}},
            {"result": {"url": URL}},
            {"result": {"video_url": URL}},
            {"result": {"video": {"url": URL}}},
            {"result": {"videos": [{"url": URL}]}},
            {"result": {"videos": [URL]}},
            {"result": {"outputs": [{"url": URL}]}},
            {"result": {"outputs": [URL]}},
            {"data": {"result": {"data": [{"url": URL}]}}},
            {"data": {"data": [{"url": URL}]}},
            {"data": {"url": URL}},
            {"data": {"video_url": URL}},
            {"data": [{"url": URL}]},
            {"data": {"task_result": {"videos": [{"url": URL, "cover_url": "https://files.toapis.com/cover.jpg"}]}}},
            {"output": {"url": URL}},
            {"output": [URL]},
            {"result": {"data": {"url": URL}}},
            {"content": {"video_url": URL}},
            {"video_url": URL},
            {"url": URL},
            {"video": {"url": URL}},
            {"data": {"video": {"url": URL}}},
            {"metadata": {"url": URL}},
        ],
        ids=str,
    )
    def test_result_url_is_found_in_every_known_place(self, body: dict[str, Any]) -> None:
        task = task_with(status="succeeded", **body)
        assert task.urls == (URL,)
        assert task.is_ready

    def test_documented_result_url_comes_first(self) -> None:
        other = "https://files.toapis.com/videos/abc/other.mp4"
        task = task_with(status="completed", url=other, metadata={"url": other}, result={"data": [{"url": URL}]})
        assert task.urls == (URL, other)

    def test_duplicate_result_urls_are_merged(self) -> None:
        task = task_with(status="completed", video_url=URL, result={"data": [{"url": URL}, {"url": URL}]})
        assert task.urls == (URL,)

    @pytest.mark.parametrize("url_value", ["", None, 7, "file:///etc/passwd", "ftp://host/a.mp4", "out.mp4"])
    def test_only_http_result_urls_are_accepted(self, url_value: object) -> None:
        task = task_with(status="completed", url=url_value, result={"data": [{"url": url_value}]})
        assert task.urls == ()
        assert not task.is_ready

    @pytest.mark.parametrize(
        ("url_value", "absolute"),
        [
            ("/videos/a.mp4?sig=1", "http://localhost:8790/videos/a.mp4?sig=1"),
            ("//files.toapis.com/a.mp4", "http://files.toapis.com/a.mp4"),
            (f" {URL} ", URL),
            ("//[x", None),
        ],
    )
    def test_relative_result_url_is_resolved_against_the_base_url(self, url_value: str, absolute: str | None) -> None:
        task = task_with(status="completed", result={"data": [{"url": url_value}]})
        assert task.with_absolute_urls("http://localhost:8790").urls == ((absolute,) if absolute else ())

    @pytest.mark.parametrize(
        "result",
        [None, {}, [], "x", {"data": None}, {"data": {"characters": [{"id": "c"}]}}, {"data": [None, 1, []]}],
        ids=str,
    )
    def test_completed_without_usable_result_is_not_ready(self, result: object) -> None:
        task = task_with(status="completed", result=result)
        assert task.is_final
        assert not task.is_ready

    def test_url_of_an_unfinished_task_is_not_ready(self) -> None:
        assert not task_with(status="in_progress", url=URL).is_ready

    @pytest.mark.parametrize(
        ("given", "used"),
        [
            ("mp4", "mp4"),
            ("MOV", "mov"),
            (None, "mp4"),
            ("", "mp4"),
            ("../../x", "mp4"),
            ("mp4/..", "mp4"),
            ("mp4\n", "mp4"),
            ("endless", "mp4"),
            (4, "mp4"),
        ],
    )
    def test_format_is_a_plain_file_extension(self, given: object, used: str) -> None:
        item = {"url": URL, "format": given}
        assert task_with(status="completed", result={"data": [item]}).format == used
        assert task_with(status="completed", result={"data": item}).format == used


class TestFailureReasons:
    @pytest.mark.parametrize(
        ("body", "error"),
        [
            ({"error": {"code": "generation_failed", "message": "no"}}, TaskError("generation_failed", "no")),
            ({"error": {"code": 500, "message": "no"}}, TaskError("500", "no")),
            ({"error": {"code": "", "type": "new_api_error", "message": "no"}}, TaskError("new_api_error", "no")),
            ({"error": {"detail": "no"}}, TaskError(None, "no")),
            ({"error": "no"}, TaskError(None, "no")),
            ({"fail_reason": "no"}, TaskError(None, "no")),
            ({"error": None, "fail_reason": "no"}, TaskError(None, "no")),
            ({"error": {}, "fail_reason": "no"}, TaskError(None, "no")),
            ({"error_message": "no"}, TaskError(None, "no")),
            ({"data": {"error_message": "no"}}, TaskError(None, "no")),
            ({"data": {"error": {"code": "c", "message": "no"}}}, TaskError("c", "no")),
            ({"data": {"fail_reason": "no"}}, TaskError(None, "no")),
            ({"message": "no"}, TaskError(None, "no")),
            (
                {
                    "error": {
                        "code": 400,
                        "message": json.dumps({"error": {"code": "InvalidParameter", "message": "no"}}),
                    }
                },
                TaskError("InvalidParameter", "no"),
            ),
            (
                {"error": {"code": "c", "message": json.dumps({"message": "no"})}},
                TaskError("c", "no"),
            ),
            ({"fail_reason": json.dumps({"code": "c", "message": "no"})}, TaskError("c", "no")),
            ({}, TaskError(None, "")),
        ],
        ids=str,
    )
    def test_failure_reason_is_found_in_every_known_place(self, body: dict[str, Any], error: TaskError) -> None:
        assert task_with(status="failed", **body).error == error

    def test_invalid_json_in_an_error_stays_text(self) -> None:
        assert parse_error_detail("{broken") == TaskError(None, "{broken")
        assert parse_error_detail({"message": "{broken"}) == TaskError(None, "{broken")

    def test_nested_response_with_null_error_keeps_its_message(self) -> None:
        nested = json.dumps({"error": None, "message": "no"})
        assert parse_error_detail({"code": "c", "message": nested}) == TaskError("c", "no")

    def test_only_a_failed_task_has_an_error(self) -> None:
        assert task_with(status="in_progress", error={"code": "c", "message": "retrying"}).error is None


class TestNumbers:
    @pytest.mark.parametrize(
        ("progress", "percent"),
        [
            (0, 0), (37, 37), (100, 100), ("100%", 100), ("37", 37), (" 37 % ", 37), (37.9, 37), (-1, 0), (250, 100),
            ("1e999999999", 100), (None, None), ("", None), ("soon", None), (True, None), ([], None), ("nan", None),
        ],
    )  # fmt: skip
    def test_progress_is_parsed_as_whole_percent(self, progress: object, percent: int | None) -> None:
        assert task_with(progress=progress).progress == percent

    @pytest.mark.parametrize("value", [None, 0, -1, "", "yesterday", True, [], "2026-13-01", 1e30, 10**15, "1e9999999"])
    def test_invalid_time_is_none(self, value: object) -> None:
        assert task_with(created_at=value).created_at is None

    @pytest.mark.parametrize(
        "value", [
            1768380222, "1768380222", 1768380222.0, 1768380222000, "1768380222000", "2026-01-14T08:43:42Z",
            "2026-01-14T10:43:42+02:00", "2026-01-14 08:43:42",
        ],
    )  # fmt: skip
    def test_times_are_timezone_aware(self, value: object) -> None:
        assert task_with(created_at=value).created_at == pendulum.datetime(2026, 1, 14, 8, 43, 42, tz="UTC")

    @pytest.mark.parametrize(
        ("billing", "cost"),
        [
            ({"status": "settled", "cost_usd": "0.5"}, Decimal("0.5")),
            ({"status": "refunded", "credits": "0", "cost_usd": "0"}, Decimal(0)),
            ({"status": "pending"}, None),
            ({"cost_usd": "1e999999999"}, None),
            (None, None),
            ("free", None),
        ],
    )
    def test_cost_is_read_from_billing(self, billing: object, cost: Decimal | None) -> None:
        assert task_with(billing=billing).cost_usd == cost


class TestVideoTask:
    def test_result_expires_at_expires_at(self) -> None:
        task = parsed(COMPLETED)
        assert task.expires_at is not None
        assert not task.is_expired(task.expires_at.subtract(seconds=1))
        assert task.is_expired(task.expires_at)

    @pytest.mark.parametrize("name", ["completed_at", "created_at"])
    def test_result_without_expiry_expires_after_one_day(self, name: str) -> None:
        times: dict[str, Any] = {name: pendulum.datetime(2026, 1, 1)}
        task = VideoTask("video_1", TaskStatus.COMPLETED, "completed", **times)
        assert not task.is_expired(pendulum.datetime(2026, 1, 1, 23, 59, 59))
        assert task.is_expired(pendulum.datetime(2026, 1, 2))

    def test_result_without_any_time_never_expires(self) -> None:
        task = VideoTask("video_1", TaskStatus.COMPLETED, "completed")
        assert not task.is_expired(pendulum.datetime(2999, 1, 1))

    def test_completed_task_as_dict(self) -> None:
        as_dict = parsed(COMPLETED).as_dict()
        assert as_dict == {
            "id": "video_abc",
            "status": "completed",
            "model": "grok-video-1.5",
            "url": URL,
            "urls": [URL],
            "format": "mp4",
            "created_at": "2026-01-14T08:43:42Z",
            "completed_at": "2026-01-14T08:48:34Z",
            "expires_at": "2026-01-15T08:48:34Z",
            "client_business_id": "sku-1",
            "billing": {"status": "settled", "credits": "100", "cost_usd": "0.5"},
        }
        assert json.loads(json.dumps(as_dict)) == as_dict

    def test_queued_task_as_dict(self) -> None:
        assert task_with(status="queued").as_dict() == {
            "id": "video_abc",
            "status": "queued",
            "model": None,
            "url": None,
            "urls": [],
            "format": "mp4",
            "created_at": None,
            "completed_at": None,
            "expires_at": None,
            "client_business_id": None,
            "billing": None,
        }


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from(
    ["id", "status", "progress", "created_at", "result", "data", "error", "billing", "metadata", "url", "output"]
)


@given(st.dictionaries(_FIELDS, _JSON, max_size=6))
def test_parser_accepts_any_response(body: dict[str, Any]) -> None:
    task = parse_video_task(body, "video_abc")
    assert task is None or json.dumps(task.as_dict())


class TestUploadedFile:
    def test_documented_response_is_parsed(self) -> None:
        data = {"id": "upload_1", "url": "https://files.toapis.com/uploads/1.jpg", "mime_type": "image/jpeg", "size": 9}
        uploaded = parse_uploaded_file({"success": True, "message": "", "data": data})
        assert uploaded == UploadedFile("upload_1", "https://files.toapis.com/uploads/1.jpg", "image/jpeg", 9)
        assert uploaded.as_dict() == data

    @pytest.mark.parametrize(
        "body",
        [
            {"success": False, "message": "Image too large. Maximum size is 10MB"},
            {"success": False, "data": {"url": "https://files.toapis.com/uploads/1.jpg"}},
            {"success": True},
            {"success": True, "data": {}},
            {"success": True, "data": {"url": "uploads/1.jpg"}},
            {"success": True, "data": []},
        ],
        ids=str,
    )
    def test_upload_response_without_success_or_url_is_rejected(self, body: dict[str, Any]) -> None:
        assert parse_uploaded_file(body) is None


class TestBalance:
    def test_documented_response_is_parsed(self) -> None:
        balance = parse_balance(
            {
                "success": True,
                "remain_balance": 12.5,
                "used_balance": 3.1,
                "remain_credits": 2500,
                "used_credits": 620,
                "credits_per_usd": 200,
                "unlimited_quota": False,
            }
        )
        assert balance == Balance(
            remain_credits=Decimal(2500),
            used_credits=Decimal(620),
            remain_balance=Decimal("12.5"),
            used_balance=Decimal("3.1"),
            credits_per_usd=Decimal(200),
            unlimited=False,
        )
        assert balance.remain_usd == Decimal("12.5")

    def test_unlimited_balance_is_parsed(self) -> None:
        balance = parse_balance({"success": True, "remain_balance": -1, "unlimited_quota": True})
        assert balance is not None
        assert balance.unlimited
        assert balance.remain_usd is None

    def test_zero_credits_per_usd_gives_no_balance_in_usd(self) -> None:
        balance = parse_balance({"remain_credits": 1, "credits_per_usd": 0})
        assert balance is not None
        assert balance.remain_usd is None

    @pytest.mark.parametrize("rate", [-200, "1e-999999", "NaN", True])
    def test_invalid_credits_per_usd_gives_no_balance_in_usd(self, rate: object) -> None:
        balance = parse_balance({"remain_credits": 1, "credits_per_usd": rate})
        assert balance is not None
        assert balance.remain_usd is None

    @pytest.mark.parametrize("body", [{"success": False, "message": "no such key"}, {}, {"success": True}], ids=str)
    def test_balance_response_without_amounts_is_rejected(self, body: dict[str, Any]) -> None:
        assert parse_balance(body) is None


class TestModels:
    def test_models_are_parsed(self) -> None:
        body = {
            "success": True,
            "object": "list",
            "data": [
                {"id": "grok-video-1.5", "object": "model", "supported_endpoint_types": ["video-generation"]},
                {"id": "MiniMax-H3", "supported_endpoint_types": None},
                {"object": "model"},
            ],
        }
        assert parse_models(body) == (
            OfferedModel("grok-video-1.5", ("video-generation",)),
            OfferedModel("MiniMax-H3"),
        )
