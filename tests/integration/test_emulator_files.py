"""Uploads, result URLs, the account endpoints, the shop and the request log."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.integration.emulator_process import EmulatorProcess

KEY = "sk-right"
VIDEO_SUBMISSION = {
    "model": "grok-video-1.5",
    "prompt": "push in",
    "video_generation_mode": "text_to_video",
    "duration": 1,
}


@pytest.fixture(scope="module")
def process() -> Iterator[EmulatorProcess]:
    with EmulatorProcess(latency=0, api_key=KEY) as process:
        yield process


@pytest.fixture
def emulator(process: EmulatorProcess) -> EmulatorProcess:
    process.reset()
    return process


def image_bytes(kind: str = "PNG", side: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 90)).save(buffer, kind)
    return buffer.getvalue()


def upload(emulator: EmulatorProcess, content: bytes, kind: str = "images", **form: Any) -> Any:
    return emulator.api(f"/v1/uploads/{kind}", "POST", files={"file": ("photo.bin", content)}, data=form)


def finished_url(emulator: EmulatorProcess) -> str:
    video = emulator.api("/v1/videos/generations", "POST", json=VIDEO_SUBMISSION).json()
    assert (video["status"], video["progress"]) == ("queued", 0)
    return str(emulator.finish(video["id"])["result"]["data"][0]["url"])


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("GIF", "image/gif"), ("WEBP", "image/webp")],
)
def test_uploaded_image_gets_a_public_url(emulator: EmulatorProcess, kind: str, media_type: str) -> None:
    content = image_bytes(kind)

    body = upload(emulator, content, purpose="generation").json()

    assert (body["success"], body["message"]) == (True, "")
    assert body["data"]["id"].startswith("upload_")
    assert (body["data"]["mime_type"], body["data"]["size"]) == (media_type, len(content))
    fetched = emulator.get(body["data"]["url"])
    assert (fetched.content, fetched.headers["content-type"]) == (content, media_type)


@pytest.mark.parametrize(
    ("kind", "content"), [("videos", b"\x1aE\xdf\xa3" + bytes(60)), ("audios", b"ID3" + bytes(60))]
)
def test_videos_and_audios_have_separate_directories(emulator: EmulatorProcess, kind: str, content: bytes) -> None:
    url = upload(emulator, content, kind).json()["data"]["url"]

    assert f"/{kind}/" in url
    assert emulator.get(url).content == content


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("images", b"<html>", "Unsupported image type. Allowed: JPEG, PNG, WebP, GIF"),
        ("images", b"\x89PNG\r\n\x1a\n" + bytes(10 * 1024 * 1024), "Image too large. Maximum size is 10MB"),
        ("videos", b"text", "Unsupported or invalid video file. Allowed: MP4, WebM, MOV"),
        ("videos", bytes(50 * 1024 * 1024 + 1), "Video too large. Maximum size is 50MB"),
        ("audios", b"text", "Unsupported or invalid audio file. Allowed: MP3, WAV, M4A"),
    ],
)
def test_bad_upload_is_rejected_with_the_documented_message(
    emulator: EmulatorProcess, kind: str, content: bytes, message: str
) -> None:
    response = upload(emulator, content, kind)

    assert response.status_code == 400
    assert response.json() == {"success": False, "message": message}


@pytest.mark.parametrize("request_body", [{"json": {}}, {"data": {"file": "text"}}, {"files": {"other": b"x"}}])
def test_upload_without_a_file_is_rejected(emulator: EmulatorProcess, request_body: dict[str, Any]) -> None:
    response = emulator.api("/v1/uploads/images", "POST", **request_body)

    assert response.status_code == 400
    assert response.json()["success"] is False


def test_uploaded_image_can_be_used_for_a_video(emulator: EmulatorProcess) -> None:
    url = upload(emulator, image_bytes()).json()["data"]["url"]
    body = {"model": "grok-video-1.5", "prompt": "x", "image": url, "duration": 1}

    video = emulator.api("/v1/videos/generations", "POST", json=body).json()

    assert emulator.finish(video["id"])["status"] == "completed"


def test_result_file_can_be_fetched_in_parts_without_a_key(emulator: EmulatorProcess) -> None:
    url = finished_url(emulator)

    whole = emulator.get(url)
    part = emulator.get(url, headers={"Range": "bytes=100-199"})
    rest = emulator.get(url, headers={"Range": f"bytes={len(whole.content) - 50}-"})
    beyond = emulator.get(url, headers={"Range": f"bytes={len(whole.content)}-"})

    assert whole.headers["content-type"] == "video/mp4"
    assert int(whole.headers["content-length"]) == len(whole.content)
    assert whole.headers["etag"] == part.headers["etag"]
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole.content)}"
    assert rest.content == whole.content[-50:]
    assert beyond.status_code == 416


def test_urls_are_forbidden_after_they_expire(emulator: EmulatorProcess) -> None:
    result, uploaded = finished_url(emulator), upload(emulator, image_bytes()).json()["data"]["url"]
    assert [emulator.get(url).status_code for url in (result, uploaded)] == [200, 200]

    emulator.advance(86401)

    assert [emulator.get(url).status_code for url in (result, uploaded)] == [403, 403]


def test_unknown_and_unfinished_files_are_not_found(emulator: EmulatorProcess) -> None:
    assert emulator.get("/files/videos/video_unknown/output.mp4").status_code == 404
    assert emulator.get("/files/uploads/1/unknown.png").status_code == 404


def test_request_log_shows_an_api_key_sent_to_a_file_url(emulator: EmulatorProcess) -> None:
    url = finished_url(emulator)
    emulator.clear_requests()

    emulator.get(url, headers={"User-Agent": "careful/1"})
    emulator.get(url, headers={"Authorization": f"Bearer {KEY}", "User-Agent": "careless/1"})

    careful, careless = emulator.requests()
    assert (careful["has_authorization"], careful["user_agent"]) == (False, "careful/1")
    assert (careless["has_authorization"], careless["status"]) == (True, 200)
    assert (careless["method"], careless["endpoint"]) == ("GET", "result")
    assert emulator.request_counts() == {"result": 2}


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer sk-wrong"}, {"Authorization": "Basic sk-right"}, {}])
@pytest.mark.parametrize("path", ["/v1/balance", "/v1/models", "/v1/pricing", "/v1/videos/generations/video_1"])
def test_wrong_key_is_unauthorized(emulator: EmulatorProcess, path: str, headers: dict[str, str]) -> None:
    response = emulator.get(path, headers=headers)

    assert response.status_code == 401
    assert response.json()["error"] == {"code": 401, "message": "Invalid API key", "type": "authentication_error"}


def test_rotated_key_replaces_the_previous_key_until_a_reset(emulator: EmulatorProcess) -> None:
    def statuses() -> list[int]:
        keys = (KEY, "sk-new", "sk-wrong")
        return [emulator.get("/v1/balance", headers={"Authorization": f"Bearer {key}"}).status_code for key in keys]

    before = statuses()
    emulator.rotate_api_key("sk-new")
    during, own = statuses(), emulator.api("/v1/balance").status_code
    emulator.reset()

    assert (before, during, own, statuses()) == ([200, 401, 401], [401, 200, 401], 200, [200, 401, 401])


def test_emulator_that_accepts_any_key_rejects_others_after_a_rotation() -> None:
    with EmulatorProcess() as emulator:
        accepted = emulator.get("/v1/balance", headers={"Authorization": "Bearer sk-any"})
        emulator.rotate_api_key("sk-new")
        rejected = emulator.get("/v1/balance", headers={"Authorization": "Bearer sk-any"})

    assert (accepted.status_code, rejected.status_code) == (200, 401)


@pytest.mark.parametrize("body", [{}, {"key": ""}, {"key": 1}, ["sk-new"]])
def test_malformed_key_is_rejected_and_changes_nothing(emulator: EmulatorProcess, body: object) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        emulator.control("api-key/rotate", "POST", body)

    assert emulator.api("/v1/balance").status_code == 200


def test_request_log_has_real_and_emulator_time(emulator: EmulatorProcess) -> None:
    emulator.advance(1000)
    emulator.api("/v1/balance")

    (entry,) = emulator.requests()
    assert entry["emulator_time"] - entry["time"] == pytest.approx(1000, abs=1)
    assert entry["time"] == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize("path", ["/balance", "/v1/user/balance", "/user/balance"])
def test_balance_has_aliases(emulator: EmulatorProcess, path: str) -> None:
    assert emulator.api(path).json() == emulator.api("/v1/balance").json()


def test_models_are_text_models_unless_video_is_requested(emulator: EmulatorProcess) -> None:
    assert emulator.api("/v1/models").json() == {"success": True, "object": "list", "data": []}
    models = emulator.api("/v1/models?type=video").json()["data"]

    assert "grok-video-1.5-preview" in {model["id"] for model in models}
    assert models == emulator.api("/v1/models?type=all").json()["data"]
    assert models[0].keys() == {"id", "object", "created", "owned_by", "supported_endpoint_types"}
    assert emulator.api("/v1/models?type=smell").status_code == 400


def test_pricing_is_paged(emulator: EmulatorProcess) -> None:
    whole = emulator.api("/v1/pricing").json()
    collected: list[dict[str, Any]] = []
    page = {"has_more": True, "next_after": ""}
    while page["has_more"]:
        page = emulator.api("/v1/pricing", params={"limit": 7, "after": page["next_after"]}).json()
        assert len(page["data"]) == 7 or not page["has_more"]
        collected += page["data"]

    assert collected == whole["data"]
    assert (whole["has_more"], whole["next_after"], whole["currency"]) == (False, "", "USD")


def test_pricing_of_one_model(emulator: EmulatorProcess) -> None:
    response = emulator.api("/v1/pricing?model=grok-video-1.5-preview")

    assert response.headers["cache-control"] == "private, no-store"
    assert response.json()["data"] == [
        {
            "id": "grok-video-1.5-preview",
            "type": "video",
            "prices": [
                {
                    "group": "default",
                    "conditions": {"seconds": seconds},
                    "charge_type": "per_request",
                    "price_basis": "request",
                    "unit": "request",
                    "unit_price": price,
                }
                for seconds, price in (("10", "0.10"), ("15", "0.15"))
            ],
        }
    ]


def listed(emulator: EmulatorProcess, model: str) -> list[dict[str, Any]]:
    (entry,) = emulator.api(f"/v1/pricing?model={model}").json()["data"]
    return list(entry["prices"])


def test_listed_price_has_all_its_parts(emulator: EmulatorProcess) -> None:
    (kling,) = listed(emulator, "kling-v3")
    assert (kling["unit_price"], kling["minimum_charge_usd"]) == ("0.08", "0.50")
    assert (kling["input_image_unit_price"], kling["free_input_image_count"]) == ("0.05", 1)
    assert {price["input_unit_price"] for price in listed(emulator, "gemini-omni-1.1-flash-preview-official")} == {
        "0.006950"
    }


def test_listed_prices_can_be_changed_and_are_charged(emulator: EmulatorProcess) -> None:
    entry = {"charge_type": "per_second", "unit_price": "0.10", "minimum_charge_usd": "0.50", "invented": [None]}
    own = listed(emulator, "grok-video-1.5")
    emulator.list_prices("grok-video-1.5", entry, currency="CNY")
    assert listed(emulator, "grok-video-1.5") == [entry]
    assert emulator.api("/v1/pricing").json()["currency"] == "CNY"
    assert emulator.control("prices") == {"currency": "CNY", "prices": {"grok-video-1.5": [entry]}}
    for seconds in (1, 7):
        emulator.api("/v1/videos/generations", "POST", json={**VIDEO_SUBMISSION, "duration": seconds})
    assert [charge["cost_usd"] for charge in emulator.ledger()["billed"]] == ["0.50", "0.70"]

    emulator.control("prices", "DELETE")
    assert listed(emulator, "grok-video-1.5") == own
    assert emulator.api("/v1/pricing").json()["currency"] == "USD"


@pytest.mark.parametrize(
    "prices", [[], [{"unit_price": "0"}], [{"charge_type": "per_second"}], {"a": 1}, None], ids=str
)
def test_listed_prices_without_an_amount_do_not_change_the_charge(emulator: EmulatorProcess, prices: object) -> None:
    emulator.control("prices", "POST", {"model": "grok-video-1.5", "prices": prices})
    assert emulator.api("/v1/pricing?model=grok-video-1.5").json()["data"][0]["prices"] == prices
    emulator.api("/v1/videos/generations", "POST", json=VIDEO_SUBMISSION)
    assert [charge["cost_usd"] for charge in emulator.ledger()["billed"]] == ["0.01"]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("model=unknown", 404, "model_not_found"),
        ("limit=0", 400, "invalid_request_error"),
        ("limit=101", 400, "invalid_request_error"),
        ("limit=many", 400, "invalid_request_error"),
        ("type=smell", 400, "invalid_request_error"),
    ],
)
def test_bad_pricing_query_is_rejected(emulator: EmulatorProcess, query: str, status: int, code: str) -> None:
    response = emulator.api(f"/v1/pricing?{query}")

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_doubled_version_is_an_invalid_url_and_a_missing_version_an_html_page(emulator: EmulatorProcess) -> None:
    doubled, missing = emulator.api("/v1/v1/videos/generations", "POST", json={}), emulator.api("/models")

    assert doubled.json()["error"]["message"].startswith("Invalid URL (POST /v1/v1/videos/generations)")
    assert (doubled.status_code, missing.status_code) == (404, 404)
    assert missing.headers["content-type"].startswith("text/html")


def test_shop_lists_products_with_image_urls_and_a_local_file(emulator: EmulatorProcess) -> None:
    products = emulator.get("/shop/products").json()["products"]
    as_files = emulator.get("/shop/products?images=files").json()["products"]

    assert [(product["duration"], product["aspect_ratio"]) for product in products] == [
        (10, "16:9"),
        (15, "9:16"),
        (10, "1:1"),
    ]
    linked = [emulator.get(product["image"]) for product in products[:2]]
    assert [response.headers["content-type"] for response in linked] == ["image/jpeg", "image/jpeg"]
    assert products[2]["image"] == as_files[2]["image"]
    for product in as_files:
        with Image.open(Path(product["image"])) as image:
            assert image.size == (1024, 1024)
    assert emulator.get("/shop/images/unknown.jpg").status_code == 404


def test_shop_accepts_alerts(emulator: EmulatorProcess) -> None:
    assert emulator.api("/shop/alerts", "POST", content="a run failed").status_code == 204


def test_shop_stores_posted_videos(emulator: EmulatorProcess) -> None:
    sku = emulator.get("/shop/products").json()["products"][0]["sku"]
    video = {"id": "video_1", "output_path": "/videos/shoe.mp4"}

    given = emulator.api(f"/shop/products/{sku}/video", "POST", json=video)

    assert (given.status_code, given.json()) == (201, {"sku": sku, "video": video})
    assert emulator.get("/shop/videos").json() == {"videos": [{"sku": sku, "video": video}]}
    assert emulator.get("/shop/products").json()["products"][0]["video"] == video


@pytest.mark.parametrize(
    ("sku", "body", "status"),
    [("NONE-1", b'{"id": "video_1"}', 404), ("SNK-001", b"{}", 400), ("SNK-001", b"[]", 400), ("SNK-001", b"{", 400)],
)
def test_shop_rejects_unknown_products_and_bad_bodies(
    emulator: EmulatorProcess, sku: str, body: bytes, status: int
) -> None:
    assert emulator.api(f"/shop/products/{sku}/video", "POST", content=body).status_code == status
    assert emulator.get("/shop/videos").json() == {"videos": []}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("clock", {"advance": -1}),
        ("clock", {"advance": "soon"}),
        ("clock", []),
        ("tasks/video_1", {"status": "sleeping"}),
        ("tasks/video_1", {"status": "failed", "form": "gremlin"}),
        ("prices", []),
        ("prices", {"model": "grok-video-1.5"}),
        ("prices", {"model": "unknown", "prices": []}),
        ("prices", {"price": "grok-video-1.5", "prices": []}),
        ("webhooks/rotate", {}),
        ("webhooks/test", {}),
    ],
)
def test_malformed_control_request_is_rejected(emulator: EmulatorProcess, path: str, body: object) -> None:
    assert emulator.api(f"/_emulator/{path}", "POST", json=body).status_code == 400


def test_unknown_task_cannot_be_finished(emulator: EmulatorProcess) -> None:
    assert emulator.api("/_emulator/tasks/video_1", "POST", json={"status": "failed"}).status_code == 404


def test_console_url_shows_the_ledger(emulator: EmulatorProcess) -> None:
    assert emulator.get("/console", follow_redirects=True).json() == emulator.ledger()
