"""Asking what may be asked again: how often, how long, and what counts as an answer."""

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
    Answer,
    ScriptedService,
    answer,
    drive,
    refusal,
    task,
)

STATUS = HttpRequest("GET", video_path("video_1"))
ANOTHER_SERVICE = answer(200, b"<html>")
TRANSIENT: Sequence[Answer] = (
    HTML_PAGE,
    answer(500),
    answer(504),
    answer(524),
    answer(408),
    ANOTHER_SERVICE,
    answer(200, b'{"id": "video_1", "sta'),
    answer(200, {}),
    answer(200, {"success": False, "message": "busy"}),
    refusal(429, "rate_limit_exceeded"),
    refusal(503, "rate_limit_unavailable"),
    TIMED_OUT,
    NOT_SENT,
)


def service(*answers: Answer) -> ScriptedService:
    return ScriptedService(look_ups={"video_1": answers})


class TestCall:
    @pytest.mark.parametrize("trouble", TRANSIENT, ids=str)
    def test_trouble_is_asked_again(self, trouble: Answer) -> None:
        played = service(trouble, trouble, task("completed"))
        assert played.run(call(STATUS, parse_video_task)).status is TaskStatus.COMPLETED
        assert played.steps == ["look up video_1", "sleep 1", "look up video_1", "sleep 2", "look up video_1"]

    @pytest.mark.parametrize(
        ("refused", "kind"),
        [
            (refusal(400, "invalid_request"), ToAPIsRequestError),
            (answer(401), ToAPIsAuthError),
            (answer(402), ToAPIsQuotaError),
            (answer(403), ToAPIsAuthError),
            (answer(404, {}), ToAPIsNotFoundError),
            (answer(422), ToAPIsContentPolicyError),
            (refusal(503, "model_not_found"), ToAPIsRequestError),
        ],
        ids=str,
    )
    def test_refusal_is_raised_at_once(self, refused: Answer, kind: type[ToAPIsError]) -> None:
        played = service(refused)
        with pytest.raises(kind):
            played.run(call(STATUS, parse_video_task))
        assert played.steps == ["look up video_1"]

    @pytest.mark.parametrize("trouble", [t for t in TRANSIENT if t not in (ANOTHER_SERVICE, answer(200, {}))], ids=str)
    def test_patience_ends_with_the_last_error(self, trouble: Answer) -> None:
        played = service(trouble)
        with pytest.raises((ToAPIsServerError, ToAPIsRateLimitError, ToAPIsConnectionError)):
            played.run(call(STATUS, parse_video_task, retry_timeout=60))
        assert played.sleeps == [1, 2, 4, 8, 15, 15, 15]

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            *((200, body) for body in (b"<html>", b"It works!", b"[]", b"", b"{}")),
            *((200, body) for body in (b'{"hello": "world"}', b'{"status": "ok"}', b'{"code": 0, "data": null}')),
            (204, b""),
            (501, b"<html>"),
        ],
    )
    def test_another_service_is_not_asked_for_long(self, status: int, body: bytes) -> None:
        played = service(HttpResponse(status, body=body, via=" (connection 'c', host h)"))
        with pytest.raises(ToAPIsServerError, match=r"\(connection 'c', host h\)") as raised:
            played.run(call(STATUS, parse_video_task))
        assert raised.value.http_status == status
        assert played.sleeps == [1, 2]

    def test_another_service_is_asked_on_where_an_earlier_submission_may_exist(self) -> None:
        played = service(ANOTHER_SERVICE)
        with pytest.raises(ToAPIsServerError):
            played.run(look_up("video_1", strict=True))
        assert len(played.sleeps) > 2

    def test_fault_that_lasts_is_raised_at_once(self) -> None:
        played = service(ToAPIsConnectionError("certificate", sent=False, lasting=True))
        with pytest.raises(ToAPIsConnectionError):
            played.run(call(STATUS, parse_video_task))
        assert played.steps == ["look up video_1"]

    def test_without_patience_it_is_asked_once(self) -> None:
        played = service(HTML_PAGE)
        with pytest.raises(ToAPIsServerError):
            played.run(call(STATUS, parse_video_task, retry_timeout=0))
        assert played.steps == ["look up video_1"]

    def test_waits_as_long_as_told(self) -> None:
        played = service(answer(429, retry_after="20"), task())
        played.run(call(STATUS, parse_video_task))
        assert played.sleeps == [20]

    def test_told_to_come_back_at_once_it_backs_off_all_the_same(self) -> None:
        played = service(answer(429, retry_after="0"), answer(429, retry_after="0"), task())
        played.run(call(STATUS, parse_video_task))
        assert played.sleeps == [1, 2]

    def test_told_to_wait_beyond_its_patience_it_gives_up_at_once(self) -> None:
        played = service(answer(429, retry_after="61"))
        with pytest.raises(ToAPIsRateLimitError) as raised:
            played.run(call(STATUS, parse_video_task, retry_timeout=60))
        assert raised.value.retry_after == 61
        assert played.sleeps == []


class TestFindVideo:
    def test_known_id(self) -> None:
        found = service(task("in_progress")).run(find_video("video_1"))
        assert found is not None
        assert found.id == "video_1"

    @pytest.mark.parametrize(
        "denial",
        [
            NOT_FOUND,
            answer(404, {}),
            answer(410, {}),
            refusal(400, "task_not_exist"),
            answer(400, {"message": "task_not_exist"}),
        ],
        ids=str,
    )
    def test_unknown_id(self, denial: Answer) -> None:
        assert service(denial).run(find_video("video_1")) is None

    @pytest.mark.parametrize(
        "other",
        [*TRANSIENT, answer(400), answer(401), answer(402), answer(403), answer(405), answer(409), answer(302)],
        ids=str,
    )
    def test_no_other_answer_means_that_it_is_not_there(self, other: Answer) -> None:
        with pytest.raises(ToAPIsError):
            service(other).run(find_video("video_1"))

    def test_id_cannot_lead_to_another_endpoint(self) -> None:
        assert video_path("../tokens?a=1#b/c") == "/v1/videos/generations/..%2Ftokens%3Fa%3D1%23b%2Fc"


class TestUploadRequest:
    @pytest.mark.parametrize("kind", ["image", "video", "audio"])
    def test_goes_to_the_kinds_own_endpoint(self, kind: str) -> None:
        file = FileUpload("a.jpg", "image/jpeg", BytesIO)
        assert upload_request(kind, file) == HttpRequest("POST", f"/v1/uploads/{kind}s", file=file)


class PriceList:
    """Pages of prices by their ``after``."""

    def __init__(self, pages: dict[str, dict[str, Any]]) -> None:
        self._pages = pages
        self.paths: list[str] = []

    def answer(self, request: HttpRequest) -> Answer:
        assert len(self.paths) < 10
        self.paths.append(request.path)
        return answer(200, self._pages[request.path.partition("after=")[2]])


def page(model: str, **more: Any) -> dict[str, Any]:
    price = {"charge_type": "per_second", "unit": "second", "unit_price": "0.01"}
    return {"data": [{"id": model, "prices": [price]}], **more}


class TestAllPrices:
    def test_reads_page_after_page(self) -> None:
        prices = PriceList({"": page("a", has_more=True, next_after="x y"), "x+y": page("b", has_more=False)})
        assert [price.model for price in drive(all_prices(), prices)] == ["a", "b"]
        assert prices.paths == [
            "/v1/pricing?type=video&limit=100",
            "/v1/pricing?type=video&limit=100&after=x+y",
        ]

    def test_asks_for_one_model(self) -> None:
        prices = PriceList({"": page("a")})
        assert drive(all_prices("a&b"), prices)[0].unit_price == Decimal("0.01")
        assert prices.paths == ["/v1/pricing?type=video&limit=100&model=a%26b"]

    @pytest.mark.parametrize("after", [{}, {"next_after": None}, {"next_after": ""}, {"next_after": ["a"]}], ids=str)
    def test_stops_where_no_next_page_is_named(self, after: dict[str, Any]) -> None:
        assert len(drive(all_prices(), PriceList({"": page("a", has_more=True, **after)}))) == 1

    def test_stops_where_pages_lead_in_a_circle(self) -> None:
        pages = {"": "x", "x": "y", "y": "x"}
        circle = PriceList({name: page("a", has_more=True, next_after=after) for name, after in pages.items()})
        assert len(drive(all_prices(), circle)) == 3

    def test_stops_where_a_page_names_itself_as_the_next(self) -> None:
        again = page("a", has_more=True, next_after="x")
        assert len(drive(all_prices(), PriceList({"": again, "x": again}))) == 2
