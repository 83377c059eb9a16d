"""Every kind of fault, as a client sees it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_toapis.emulator.response_variants import RESPONSES, VARIANTS
from tests.integration.emulator_process import EmulatorProcess

GENERATIONS = "/v1/videos/generations"
SUBMISSION = {
    "model": "grok-video-1.5",
    "prompt": "push in",
    "video_generation_mode": "text_to_video",
    "duration": 1,
    "client_business_id": "order-1",
}


@pytest.fixture(scope="module")
def process() -> Iterator[EmulatorProcess]:
    with EmulatorProcess(latency=600, submit_rps=0, query_rps=0) as process:
        yield process


@pytest.fixture
def emulator(process: EmulatorProcess) -> EmulatorProcess:
    process.reset()
    return process


def submit(emulator: EmulatorProcess, **fields: Any) -> httpx.Response:
    return emulator.api(GENERATIONS, "POST", json=SUBMISSION | fields)


def status(emulator: EmulatorProcess, video_id: str = "order-1") -> httpx.Response:
    return emulator.api(f"{GENERATIONS}/{video_id}")


def completed(emulator: EmulatorProcess) -> dict[str, Any]:
    return emulator.finish(submit(emulator).json()["id"])


def completed_url(emulator: EmulatorProcess) -> str:
    return str(completed(emulator)["result"]["data"][0]["url"])


def posted(emulator: EmulatorProcess) -> int:
    return int(emulator.ledger()["posted"])


@pytest.mark.parametrize("name", RESPONSES)
def test_named_response_replaces_the_real_one(emulator: EmulatorProcess, name: str) -> None:
    emulator.add_fault(on="status", kind="error", name=name)
    submit(emulator)

    struck, real = status(emulator), status(emulator)

    assert struck.status_code == RESPONSES[name]["status"]
    if "html" in RESPONSES[name]:
        assert (struck.text, struck.headers["content-type"]) == (RESPONSES[name]["html"], "text/html; charset=utf-8")
    else:
        assert struck.json() == RESPONSES[name]["body"]
    assert real.json()["status"] == "queued"


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.when == "completed"])
def test_variant_of_a_completed_video_applies_only_after_completion(emulator: EmulatorProcess, name: str) -> None:
    emulator.add_fault(on="status", kind="variant", name=name)
    video = submit(emulator).json()
    assert status(emulator).json()["status"] == "queued"
    real = emulator.finish(video["id"])

    assert status(emulator).json() == VARIANTS[name].apply(real)
    assert status(emulator).json() == real


@pytest.mark.parametrize("form", [name for name, variant in VARIANTS.items() if variant.when == "failed"])
def test_failed_task_is_refunded_and_reports_its_reason_in_the_requested_form(
    emulator: EmulatorProcess, form: str
) -> None:
    emulator.add_fault(on="status", kind="task_failed", code="InvalidParameter", message="No", form=form)
    submit(emulator)

    first, second = status(emulator).json(), status(emulator).json()

    assert first == second
    assert first["status"] == "failed"
    assert "No" in json.dumps(first)
    assert emulator.ledger()["billed"][0]["status"] == "refunded"


def test_task_failed_fault_at_submit_fails_the_task_when_it_is_due(emulator: EmulatorProcess) -> None:
    emulator.add_fault(on="submit", kind="task_failed", code="content_policy_violation")

    assert submit(emulator).json()["status"] == "queued"
    assert status(emulator).json()["status"] == "queued"
    emulator.advance(3600)

    assert status(emulator).json()["error"]["code"] == "content_policy_violation"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"kind": "html"}, (502, "text/html", "502 Bad Gateway")),
        ({"kind": "html", "status": 524}, (524, "text/html", "502 Bad Gateway")),
        ({"kind": "status", "status": 500}, (500, "application/json", "HTTP 500")),
        ({"kind": "status", "status": 418, "body": {"a": 1}}, (418, "application/json", '{"a": 1}')),
        ({"kind": "status", "status": 200, "body": "<p>", "content_type": "text/html"}, (200, "text/html", "<p>")),
    ],
)
@pytest.mark.parametrize("path", ["/v1/balance", "/v1/models", "/v1/pricing", f"{GENERATIONS}/order-1"])
def test_any_endpoint_can_return_any_response(
    emulator: EmulatorProcess, fault: dict[str, Any], expected: tuple[int, str, str], path: str
) -> None:
    emulator.add_fault(on="any", **fault)

    response = emulator.api(path)

    code, media_type, text = expected
    assert (response.status_code, response.headers["content-type"].partition(";")[0]) == (code, media_type)
    assert text in response.text


def test_response_of_a_fault_can_have_headers(emulator: EmulatorProcess) -> None:
    emulator.add_fault(on="balance", kind="status", status=429, headers={"Retry-After": "7"})

    assert emulator.api("/v1/balance").headers["retry-after"] == "7"


@pytest.mark.parametrize(("after", "tasks"), [(False, 0), (True, 1)])
def test_error_comes_before_or_after_the_task_is_created(emulator: EmulatorProcess, after: bool, tasks: int) -> None:
    emulator.add_fault(on="submit", kind="error", name="internal_error", after=after)

    assert submit(emulator).status_code == 500
    assert posted(emulator) == tasks
    assert status(emulator).status_code == (200 if after else 404)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(("after", "tasks"), [(False, 0), (True, 1)])
def test_connection_is_dropped_before_or_after_the_task_is_created(
    emulator: EmulatorProcess, after: bool, tasks: int, reset: bool
) -> None:
    emulator.add_fault(on="submit", kind="drop", after=after, reset=reset)

    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        submit(emulator)

    assert posted(emulator) == tasks
    assert [request["status"] for request in emulator.requests()] == [None]
    assert submit(emulator).status_code == 200


def test_upload_can_be_dropped(emulator: EmulatorProcess) -> None:
    emulator.add_fault(on="upload", kind="drop")

    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)):
        emulator.api("/v1/uploads/images", "POST", files={"file": ("a.png", bytes(1_000_000))})


@pytest.mark.parametrize(("after", "tasks"), [(False, 0), (True, 1)])
def test_delay_exceeds_the_clients_timeout_before_or_after_the_task_is_created(
    emulator: EmulatorProcess, after: bool, tasks: int
) -> None:
    emulator.add_fault(on="submit", kind="delay", seconds=0.5, after=after)

    with pytest.raises(httpx.ReadTimeout):
        emulator.api(GENERATIONS, "POST", json=SUBMISSION, timeout=0.2)

    assert posted(emulator) == tasks


def test_delay_and_error_apply_together(emulator: EmulatorProcess) -> None:
    emulator.add_fault(on="balance", kind="delay", seconds=0.2)
    emulator.add_fault(on="balance", kind="error", name="bad_gateway")
    started = time.monotonic()

    assert emulator.api("/v1/balance").status_code == 502
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize("value", ["pending", "submitted", "processing", "running", "generating", "", "mystery"])
def test_raw_status_is_reported_at_submit_and_status(emulator: EmulatorProcess, value: str) -> None:
    emulator.add_fault(on="submit", kind="task_status", value=value)
    emulator.add_fault(on="status", kind="task_status", value=value, progress="10%")

    assert submit(emulator).json()["status"] == value
    body = status(emulator).json()
    assert (body["status"], body["progress"]) == (value, "10%")
    assert status(emulator).json()["status"] == "queued"


def test_other_name_of_completed_applies_only_to_a_completed_video(emulator: EmulatorProcess) -> None:
    emulator.add_fault(on="status", kind="task_status", value="succeeded", when="completed")
    video = submit(emulator).json()
    assert status(emulator).json()["status"] == "queued"
    emulator.finish(video["id"])

    body = status(emulator).json()

    assert body["status"] == "succeeded"
    assert body["result"]["data"][0]["url"]


def test_seedance_style_submission_is_in_progress_immediately(emulator: EmulatorProcess) -> None:
    emulator.add_fault(on="submit", kind="task_status", value="in_progress", progress=10)

    body = submit(emulator).json()

    assert (body["status"], body["progress"]) == ("in_progress", 10)


@pytest.mark.parametrize(
    "name", ["id_as_task_id", "id_as_request_id", "task_id_in_data", "camel_case_id_in_data", "no_id", "nested"]
)
def test_id_can_be_elsewhere_in_the_response_to_a_submission(emulator: EmulatorProcess, name: str) -> None:
    emulator.add_fault(on="submit", kind="variant", name=name)

    body = submit(emulator).json()

    video_id = emulator.ledger()["billed"][0]["id"]
    assert "id" not in body
    assert (video_id in json.dumps(body)) == (name != "no_id")


def test_variant_can_be_defined_in_the_fault(emulator: EmulatorProcess) -> None:
    emulator.add_fault(
        on="status", kind="variant", remove=["metadata"], merge={"progress": None, "tag": "$id"}, nest="data"
    )
    video = submit(emulator).json()

    body = status(emulator).json()["data"]

    assert body["tag"] == video["id"]
    assert not {"metadata", "progress"} & body.keys()


def test_balance_can_be_unlimited(emulator: EmulatorProcess) -> None:
    emulator.add_fault(on="balance", kind="variant", merge={"unlimited_quota": True, "remain_balance": -1})

    assert emulator.api("/v1/balance").json()["remain_balance"] == -1


def test_completed_video_can_temporarily_lack_its_url(emulator: EmulatorProcess) -> None:
    emulator.add_fault(on="status", kind="no_url", times=2)
    completed(emulator)

    responses = [status(emulator).json() for _ in range(3)]

    assert [response["status"] for response in responses] == ["completed"] * 3
    assert ["result" in response for response in responses] == [False, False, True]


@pytest.mark.parametrize("code", [403, 404])
def test_result_can_be_temporarily_forbidden(emulator: EmulatorProcess, code: int) -> None:
    url = completed_url(emulator)
    emulator.add_fault(on="result", kind="url_forbidden", status=code, match="/files/videos/")

    assert [emulator.get(url).status_code for _ in range(2)] == [code, 200]


@pytest.mark.parametrize("on", ["status", "result"])
def test_result_can_expire_permanently(emulator: EmulatorProcess, on: str) -> None:
    url = completed_url(emulator)
    emulator.add_fault(on=on, kind="expired")

    body = status(emulator).json()

    assert [emulator.get(url).status_code for _ in range(2)] == [403, 403]
    assert status(emulator).json()["expires_at"] <= time.time()
    assert (body["expires_at"] <= time.time()) == (on == "status")


def received(url: str, into: bytearray) -> int:
    """Download into a buffer, which keeps the bytes before an error, and return the Content-Length."""
    with httpx.stream("GET", url, trust_env=False) as response:
        for chunk in response.iter_raw():
            into += chunk
        return int(response.headers["content-length"])


@pytest.mark.parametrize("fraction", [0, 0.3])
def test_result_can_be_truncated(emulator: EmulatorProcess, fraction: float) -> None:
    url = completed_url(emulator)
    content = emulator.get(url).content
    emulator.add_fault(on="result", kind="truncate", fraction=fraction)
    part, whole = bytearray(), bytearray()

    with pytest.raises(httpx.RemoteProtocolError):
        received(url, part)

    assert part == content[: int(len(content) * fraction)]
    assert received(url, whole) == len(content)
    assert whole == content


def test_result_can_be_shorter_than_its_content_length(emulator: EmulatorProcess) -> None:
    url = completed_url(emulator)
    emulator.add_fault(on="result", kind="wrong_length", by=500)

    with pytest.raises(httpx.RemoteProtocolError):
        emulator.get(url)


@pytest.mark.parametrize("by", [-500, -10_000_000])
def test_result_can_be_truncated_with_a_matching_content_length(emulator: EmulatorProcess, by: int) -> None:
    url = completed_url(emulator)
    content = emulator.get(url).content
    emulator.add_fault(on="result", kind="wrong_length", by=by)

    assert emulator.get(url).content == content[: max(0, len(content) + by)]


def test_upload_can_be_rejected_with_status_200(emulator: EmulatorProcess, tmp_path: Path) -> None:
    emulator.add_fault(on="upload", kind="upload_refused", message="storage is full")

    response = emulator.api("/v1/uploads/images", "POST", files={"file": ("a.png", b"\x89PNG\r\n\x1a\n")})

    assert (response.status_code, response.json()) == (200, {"success": False, "message": "storage is full"})


def test_just_submitted_video_can_be_temporarily_not_found(emulator: EmulatorProcess) -> None:
    video = submit(emulator).json()
    emulator.add_fault(on="status", kind="error", name="task_not_exist", times=2, match=video["id"])

    assert [status(emulator).status_code for _ in range(3)] == [400, 400, 200]


@pytest.mark.parametrize("match", ["order-1", "push in", "/v1/videos/generations"])
def test_fault_can_match_one_submission(emulator: EmulatorProcess, match: str) -> None:
    emulator.add_fault(on="submit", kind="html", match=match)

    codes = [
        submit(emulator, client_business_id="order-2", prompt="another").status_code,
        submit(emulator).status_code,
        submit(emulator).status_code,
    ]

    assert codes == ([502, 200, 200] if match.startswith("/") else [200, 502, 200])


@pytest.mark.parametrize("operation", ["remix", "extend"])
def test_faults_apply_to_remix_and_extend(emulator: EmulatorProcess, operation: str) -> None:
    video = completed(emulator)
    emulator.add_fault(on=operation, kind="error", name="no_channel", after=True)
    body = {"model": "grok-video-1.0", "prompt": "x"}

    assert emulator.api(f"/v1/videos/{video['id']}/{operation}", "POST", json=body).status_code == 503
    assert posted(emulator) == 2


def test_faults_are_listed_and_canceled(emulator: EmulatorProcess) -> None:
    emulator.add_fault(on="balance", kind="html", times=-1)
    emulator.api("/v1/balance")

    assert [(fault["struck"], fault["remaining"]) for fault in emulator.faults()] == [(1, -1)]
    emulator.clear_faults()

    assert emulator.faults() == []
    assert emulator.api("/v1/balance").status_code == 200


def test_unknown_fault_is_rejected(emulator: EmulatorProcess) -> None:
    response = emulator.api("/_emulator/faults", "POST", json={"on": "submit", "kind": "gremlin"})

    assert response.status_code == 400
    assert "gremlin" in response.json()["error"]["message"]
    assert emulator.faults() == []
