"""Flows of idempotent requests: their retries and accepted responses."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest

from airflow_provider_toapis.api.error_responses import HttpResponse
from airflow_provider_toapis.api.flows import (
    HttpRequest,
    all_prices,
    call,
    find_video,
    look_up,
    upload_request,
    video_path,
)
from airflow_provider_toapis.api.responses import TaskStatus, parse_video_task
from airflow_provider_toapis.api.video_request import FileUpload
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsConnectionError,
    ToAPIsContentPolicyError,
    ToAPIsError,
    ToAPIsNotFoundError,
    ToAPIsQuotaError,
    ToAPIsRateLimitError,
    ToAPIsRequestError,
    ToAPIsServerError,
)
from tests.unit.scripted_service import (
    HTML_PAGE,
    NOT_FOUND,
    NOT_SENT,
    TIMED_OUT,
    Response,
    ScriptedService,
    drive,
    rejection,
    response,
    task,
)

STATUS_REQUEST = HttpRequest("GET", video_path("video_1"))
ANOTHER_SERVICE = response(200, b"<html>")
TRANSIENT: Sequence[Response] = (
    HTML_PAGE,
    response(500),
    response(504),
    response(524),
    response(408),
    ANOTHER_SERVICE,
    response(200, b'{"id": "video_1", "sta'),
    response(200, {}),
    response(200, {"success": False, "message": "busy"}),
    rejection(429, "rate_limit_exceeded"),
    rejection(503, "rate_limit_unavailable"),
    TIMED_OUT,
    NOT_SENT,
)


def service(*responses: Response) -> ScriptedService:
    return ScriptedService(look_ups={"video_1": responses})


class TestCall:
    @pytest.mark.parametrize("failure", TRANSIENT, ids=str)
    def test_transient_error_is_retried(self, failure: Response) -> None:
        scripted = service(failure, failure, task("completed"))
        assert scripted.run(call(STATUS_REQUEST, parse_video_task)).status is TaskStatus.COMPLETED
        assert scripted.steps == ["look up video_1", "sleep 1", "look up video_1", "sleep 2", "look up video_1"]

    @pytest.mark.parametrize(
        ("rejected", "error_class"),
        [
            (rejection(400, "invalid_request"), ToAPIsRequestError),
            (response(401), ToAPIsAuthError),
            (response(402), ToAPIsQuotaError),
            (response(403), ToAPIsAuthError),
            (response(404, {}), ToAPIsNotFoundError),
            (response(422), ToAPIsContentPolicyError),
            (rejection(503, "model_not_found"), ToAPIsRequestError),
        ],
        ids=str,
    )
    def test_rejection_is_raised_at_once(self, rejected: Response, error_class: type[ToAPIsError]) -> None:
        scripted = service(rejected)
        with pytest.raises(error_class):
            scripted.run(call(STATUS_REQUEST, parse_video_task))
        assert scripted.steps == ["look up video_1"]

    @pytest.mark.parametrize(
        "failure", [t for t in TRANSIENT if t not in (ANOTHER_SERVICE, response(200, {}))], ids=str
    )
    def test_retry_timeout_raises_the_last_error(self, failure: Response) -> None:
        scripted = service(failure)
        with pytest.raises((ToAPIsServerError, ToAPIsRateLimitError, ToAPIsConnectionError)):
            scripted.run(call(STATUS_REQUEST, parse_video_task, retry_timeout=60))
        assert scripted.sleeps == [1, 2, 4, 8, 15, 15, 15]

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            *((200, body) for body in (b"<html>", b"It works!", b"[]", b"", b"{}")),
            *((200, body) for body in (b'{"hello": "world"}', b'{"status": "ok"}', b'{"code": 0, "data": null}')),
            (204, b""),
            (501, b"<html>"),
        ],
    )
    def test_response_of_another_service_is_retried_briefly(self, status: int, body: bytes) -> None:
        scripted = service(HttpResponse(status, body=body, via=" (connection 'c', host h)"))
        with pytest.raises(ToAPIsServerError, match=r"\(connection 'c', host h\)") as raised:
            scripted.run(call(STATUS_REQUEST, parse_video_task))
        assert raised.value.http_status == status
        assert scripted.sleeps == [1, 2]

    def test_strict_look_up_keeps_retrying_another_service(self) -> None:
        scripted = service(ANOTHER_SERVICE)
        with pytest.raises(ToAPIsServerError):
            scripted.run(look_up("video_1", strict=True))
        assert len(scripted.sleeps) > 2

    def test_permanent_connection_error_is_raised_at_once(self) -> None:
        scripted = service(ToAPIsConnectionError("certificate", sent=False, lasting=True))
        with pytest.raises(ToAPIsConnectionError):
            scripted.run(call(STATUS_REQUEST, parse_video_task))
        assert scripted.steps == ["look up video_1"]

    def test_zero_retry_timeout_sends_one_request(self) -> None:
        scripted = service(HTML_PAGE)
        with pytest.raises(ToAPIsServerError):
            scripted.run(call(STATUS_REQUEST, parse_video_task, retry_timeout=0))
        assert scripted.steps == ["look up video_1"]

    def test_retry_after_is_waited_for(self) -> None:
        scripted = service(response(429, retry_after="20"), task())
        scripted.run(call(STATUS_REQUEST, parse_video_task))
        assert scripted.sleeps == [20]

    def test_zero_retry_after_still_backs_off(self) -> None:
        scripted = service(response(429, retry_after="0"), response(429, retry_after="0"), task())
        scripted.run(call(STATUS_REQUEST, parse_video_task))
        assert scripted.sleeps == [1, 2]

    def test_retry_after_beyond_the_retry_timeout_is_raised_at_once(self) -> None:
        scripted = service(response(429, retry_after="61"))
        with pytest.raises(ToAPIsRateLimitError) as raised:
            scripted.run(call(STATUS_REQUEST, parse_video_task, retry_timeout=60))
        assert raised.value.retry_after == 61
        assert scripted.sleeps == []


class TestFindVideo:
    def test_known_id_returns_the_video(self) -> None:
        found = service(task("in_progress")).run(find_video("video_1"))
        assert found is not None
        assert found.id == "video_1"

    @pytest.mark.parametrize(
        "not_found",
        [
            NOT_FOUND,
            response(404, {}),
            response(410, {}),
            rejection(400, "task_not_exist"),
            response(400, {"message": "task_not_exist"}),
        ],
        ids=str,
    )
    def test_not_found_returns_none(self, not_found: Response) -> None:
        assert service(not_found).run(find_video("video_1")) is None

    @pytest.mark.parametrize(
        "other",
        [
            *TRANSIENT,
            response(400),
            response(401),
            response(402),
            response(403),
            response(405),
            response(409),
            response(302),
        ],
        ids=str,
    )
    def test_other_error_is_not_treated_as_not_found(self, other: Response) -> None:
        with pytest.raises(ToAPIsError):
            service(other).run(find_video("video_1"))

    def test_video_id_is_escaped_in_the_path(self) -> None:
        assert video_path("../tokens?a=1#b/c") == "/v1/videos/generations/..%2Ftokens%3Fa%3D1%23b%2Fc"


class TestUploadRequest:
    @pytest.mark.parametrize("media_kind", ["image", "video", "audio"])
    def test_upload_uses_the_endpoint_of_its_kind(self, media_kind: str) -> None:
        file = FileUpload("a.jpg", "image/jpeg", BytesIO)
        assert upload_request(media_kind, file) == HttpRequest("POST", f"/v1/uploads/{media_kind}s", file=file)


class PriceList:
    """Responds with the page of prices that the parameter ``after`` of a request selects."""

    def __init__(self, pages: dict[str, dict[str, Any]]) -> None:
        self._pages = pages
        self.paths: list[str] = []

    def respond(self, request: HttpRequest) -> Response:
        assert len(self.paths) < 10
        self.paths.append(request.path)
        return response(200, self._pages[request.path.partition("after=")[2]])


def page(model: str, **more: Any) -> dict[str, Any]:
    price = {"charge_type": "per_second", "unit": "second", "unit_price": "0.01"}
    return {"data": [{"id": model, "prices": [price]}], **more}


class TestAllPrices:
    def test_all_pages_are_read(self) -> None:
        prices = PriceList({"": page("a", has_more=True, next_after="x y"), "x+y": page("b", has_more=False)})
        assert [price.model for price in drive(all_prices(), prices)] == ["a", "b"]
        assert prices.paths == [
            "/v1/pricing?type=video&limit=100",
            "/v1/pricing?type=video&limit=100&after=x+y",
        ]

    def test_one_model_is_requested(self) -> None:
        prices = PriceList({"": page("a")})
        assert drive(all_prices("a&b"), prices)[0].unit_price == Decimal("0.01")
        assert prices.paths == ["/v1/pricing?type=video&limit=100&model=a%26b"]

    @pytest.mark.parametrize("after", [{}, {"next_after": None}, {"next_after": ""}, {"next_after": ["a"]}], ids=str)
    def test_missing_next_page_ends_the_list(self, after: dict[str, Any]) -> None:
        assert len(drive(all_prices(), PriceList({"": page("a", has_more=True, **after)}))) == 1

    def test_cyclic_pages_end_the_list(self) -> None:
        pages = {"": "x", "x": "y", "y": "x"}
        circle = PriceList({name: page("a", has_more=True, next_after=after) for name, after in pages.items()})
        assert len(drive(all_prices(), circle)) == 3

    def test_self_referencing_page_ends_the_list(self) -> None:
        again = page("a", has_more=True, next_after="x")
        assert len(drive(all_prices(), PriceList({"": again, "x": again}))) == 2
