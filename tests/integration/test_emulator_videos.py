"""Submissions, polls, and the content of the video files."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any

import av
import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from tests.integration.emulator_process import EmulatorProcess

GENERATIONS = "/v1/videos/generations"
OFFLINE_IMAGE = "https://images.invalid/chair.jpg"


@pytest.fixture(scope="module")
def process() -> Iterator[EmulatorProcess]:
    # Without a submission limit, because these tests submit faster than the default group allows.
    with EmulatorProcess(latency=600, balance=5, submit_rps=0) as process:
        yield process


@pytest.fixture
def emulator(process: EmulatorProcess) -> EmulatorProcess:
    process.reset()
    return process


def submit(emulator: EmulatorProcess, path: str = GENERATIONS, **fields: Any) -> dict[str, Any]:
    body = {"model": "grok-video-1.5", "prompt": "push in", "video_generation_mode": "text_to_video", "duration": 1}
    response = emulator.api(path, "POST", json=body | fields)
    assert response.status_code == 200, response.text
    return dict(response.json())


def submit_image(emulator: EmulatorProcess, image: str, **fields: Any) -> dict[str, Any]:
    return submit(emulator, image=image, video_generation_mode="first_frame_image_to_video", **fields)


def status(emulator: EmulatorProcess, video_id: str) -> dict[str, Any]:
    response = emulator.api(f"{GENERATIONS}/{video_id}")
    assert response.status_code == 200, response.text
    return dict(response.json())


def until_final(emulator: EmulatorProcess, video_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while (body := status(emulator, video_id))["status"] not in {"completed", "failed"}:
        assert time.monotonic() < deadline, body
        time.sleep(0.05)
    return body


def frames_of(emulator: EmulatorProcess, body: dict[str, Any]) -> tuple[list[Image.Image], float]:
    """Return the first, middle and last frame of a completed video, and its length in seconds."""
    content = emulator.get(body["result"]["data"][0]["url"]).content
    with av.open(io.BytesIO(content), "r") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert container.duration is not None
        seconds = container.duration / av.time_base
        frames = [
            frame.to_image()  # type: ignore[no-untyped-call]
            for frame in container.decode(stream)
        ]
    assert content.index(b"moov") < content.index(b"mdat")
    return [frames[0], frames[len(frames) // 2], frames[-1]], seconds


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two images, from 0 (equal) to 255 (black and white)."""
    size = (64, 64)
    changed = ImageChops.difference(one.convert("RGB").resize(size), other.convert("RGB").resize(size))
    return sum(ImageStat.Stat(changed).mean) / 3


def test_submitted_video_is_queued_in_the_documented_form(emulator: EmulatorProcess) -> None:
    body = submit(emulator, client_business_id="order-1")

    assert body.pop("id").startswith("video_")
    assert body.pop("created_at") == pytest.approx(time.time(), abs=5)
    assert body == {
        "object": "generation.task",
        "model": "grok-video-1.5",
        "status": "queued",
        "progress": 0,
        "client_business_id": "order-1",
        "metadata": {},
    }


def test_progress_rises_with_time_and_is_100_only_when_completed(emulator: EmulatorProcess) -> None:
    video = submit(emulator)
    seen = []
    for _ in range(12):
        seen.append(status(emulator, video["id"]))
        emulator.advance(60)
    finished = until_final(emulator, video["id"])

    unfinished = [body for body in seen if body["status"] in {"queued", "in_progress"}]
    progress = [body["progress"] for body in unfinished]
    assert seen[0]["status"] == "queued"
    assert seen[2]["status"] == "in_progress"
    assert progress == sorted(progress)
    assert len(set(progress)) > 5
    assert max(progress) < 100
    assert (finished["status"], finished["progress"]) == ("completed", 100)


def test_completed_video_has_every_documented_field(emulator: EmulatorProcess) -> None:
    video = submit(emulator, client_business_id="order-1")

    body = emulator.finish(video["id"])

    assert body == {
        "id": video["id"],
        "client_business_id": "order-1",
        "object": "generation.task",
        "model": "grok-video-1.5",
        "status": "completed",
        "progress": 100,
        "created_at": video["created_at"],
        "completed_at": body["completed_at"],
        "expires_at": body["completed_at"] + 86400,
        "result": {
            "type": "video",
            "data": [{"url": f"{emulator.url}/files/videos/{video['id']}/output.mp4", "format": "mp4"}],
        },
        "billing": {"status": "settled", "credits": "2.00", "cost_usd": "0.01"},
        "metadata": {},
    }


def test_video_can_be_looked_up_by_client_business_id(emulator: EmulatorProcess) -> None:
    video = submit(emulator, client_business_id="order-1")

    assert status(emulator, "order-1")["id"] == video["id"]
    assert emulator.api(f"/v1/videos/{video['id']}").json()["id"] == video["id"]


def test_repeated_client_business_id_replays_the_task_and_is_not_billed(emulator: EmulatorProcess) -> None:
    first = submit(emulator, client_business_id="order-1")
    again = submit(emulator, client_business_id="order-1", prompt="another prompt")
    other = submit(emulator, client_business_id="order-2")

    assert first["id"] == again["id"] != other["id"]
    assert (emulator.ledger()["posted"], emulator.ledger()["total_usd"]) == (2, "0.02")


def test_unknown_id_is_not_found(emulator: EmulatorProcess) -> None:
    response = emulator.api(f"{GENERATIONS}/video_unknown")

    assert response.status_code == 404
    assert response.json() == {"error": {"code": 404, "message": "Task not found", "type": "not_found_error"}}


def test_malformed_body_is_rejected(emulator: EmulatorProcess) -> None:
    headers = {"Content-Type": "application/json"}

    assert emulator.api(GENERATIONS, "POST", content=b"{", headers=headers).status_code == 400
    assert emulator.api(GENERATIONS, "POST", json=["video"]).status_code == 400
    assert emulator.ledger()["posted"] == 0


def test_duration_as_text_is_rejected_and_not_billed(emulator: EmulatorProcess) -> None:
    body = {"model": "grok-imagine-1.0-video", "prompt": "x", "duration": "10"}

    response = emulator.api(GENERATIONS, "POST", json=body)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "duration"
    assert emulator.ledger()["posted"] == 0


def test_submission_without_enough_quota_is_rejected(emulator: EmulatorProcess) -> None:
    body = {"model": "veo3.1-fast", "prompt": "x"}

    responses = [emulator.api(GENERATIONS, "POST", json=body) for _ in range(13)]

    assert [response.status_code for response in responses] == [200] * 12 + [400]
    error = responses[-1].json()["error"]
    assert error["code"] == "BadRequest"
    assert error["message"].startswith(
        "user quota is not enough for veo3.1-fast deposit, user quota: $0.20, required deposit: $0.40"
    )
    assert emulator.ledger()["total_usd"] == "4.80"


@pytest.mark.parametrize("ratio", ["16:9", "9:16", "1:1", "3:2"])
def test_file_has_the_requested_length_and_ratio_and_shows_the_product(emulator: EmulatorProcess, ratio: str) -> None:
    products = emulator.get("/shop/products").json()["products"]
    images = [Image.open(io.BytesIO(emulator.get(product["image"]).content)) for product in products[:2]]
    video = submit_image(emulator, products[0]["image"], duration=2, aspect_ratio=ratio)

    frames, seconds = frames_of(emulator, emulator.finish(video["id"]))

    across, down = map(int, ratio.split(":"))
    assert seconds == pytest.approx(2, abs=0.1)
    assert frames[0].width * down == frames[0].height * across
    own, foreign = (difference(ImageOps.fit(image.convert("RGB"), frames[0].size), frames[0]) for image in images)
    assert own < 10 < foreign


def test_camera_moves_slowly_through_the_whole_video(emulator: EmulatorProcess) -> None:
    image = emulator.get("/shop/products").json()["products"][0]["image"]

    (first, middle, last), _ = frames_of(emulator, emulator.finish(submit_image(emulator, image)["id"]))

    assert difference(first, last) > difference(first, middle) > 1
    assert difference(first, last) > difference(middle, last) > 1
    zoomed = last.resize(first.size).resize((first.width * 4 // 5, first.height * 4 // 5))
    margin = (first.width // 10, first.height // 10)
    center = first.crop((*margin, first.width - margin[0], first.height - margin[1]))
    assert difference(center, zoomed) < 3


def test_preview_model_makes_ten_or_fifteen_seconds(emulator: EmulatorProcess) -> None:
    image = emulator.get("/shop/products").json()["products"][0]["image"]
    body = {"model": "grok-video-1.5-preview", "prompt": "x", "images": [image], "seconds": "15"}
    video = emulator.api(GENERATIONS, "POST", json=body).json()

    finished = emulator.finish(video["id"])

    assert frames_of(emulator, finished)[1] == pytest.approx(15, abs=0.1)
    assert finished["billing"]["cost_usd"] == "0.15"


def test_each_prompt_has_a_different_image(emulator: EmulatorProcess) -> None:
    videos = [emulator.finish(submit(emulator, prompt=prompt)["id"]) for prompt in ("a blue sea", "a city at night")]

    (sea, *_), _ = frames_of(emulator, videos[0])
    (city, *_), _ = frames_of(emulator, videos[1])

    assert difference(sea, city) > 10


def test_unreachable_public_image_is_replaced_by_a_placeholder(emulator: EmulatorProcess) -> None:
    body = emulator.finish(submit_image(emulator, OFFLINE_IMAGE)["id"])

    assert body["status"] == "completed"
    (frame, *_), _ = frames_of(emulator, body)
    assert ImageStat.Stat(frame.convert("L")).extrema[0][1] > 180, "the text is white"


@pytest.mark.parametrize(
    "path",
    ["/shop/images/unknown.jpg", "/files/uploads/1/unknown.jpg", "/shop/products", "/v1/models"],
)
def test_reference_that_is_not_an_image_fails_the_task_and_refunds_it(emulator: EmulatorProcess, path: str) -> None:
    body = until_final(emulator, submit_image(emulator, emulator.url + path)["id"])

    assert (body["status"], body["progress"]) == ("failed", 0)
    assert body["error"]["code"] == "InvalidParameter"
    assert body["billing"] == {"status": "refunded", "credits": "0", "cost_usd": "0"}
    assert (emulator.ledger()["count"], emulator.ledger()["posted"]) == (0, 1)


def test_unreachable_private_image_url_fails_the_task(emulator: EmulatorProcess) -> None:
    body = until_final(emulator, submit_image(emulator, "http://127.0.0.1:1/chair.jpg")["id"])

    assert (body["status"], body["error"]["code"]) == ("failed", "InvalidParameter")


def test_remix_and_extend_make_new_videos_of_the_same_image(emulator: EmulatorProcess) -> None:
    image = emulator.get("/shop/products").json()["products"][0]["image"]
    source = submit_image(emulator, image, duration=2)
    finished = emulator.finish(source["id"])
    body = {"model": "grok-video-1.0", "prompt": "at night", "client_business_id": "remix-1"}
    extension = {"model": "grok-video-1.0", "prompt": "go on", "client_business_id": "extend-1"}

    remix = emulator.api(f"/v1/videos/{source['id']}/remix", "POST", json=body).json()
    extended = emulator.api(f"/v1/videos/{source['id']}/extend", "POST", json=extension).json()

    (first, _, last), seconds = frames_of(emulator, finished)
    (remix_first, _, remix_last), remix_seconds = frames_of(emulator, emulator.finish(remix["id"]))
    (extended_first, *_), extended_seconds = frames_of(emulator, emulator.finish(extended["id"]))
    assert remix["id"].startswith("video_remix_")
    assert extended["id"].startswith("video_extend_")
    assert status(emulator, "remix-1")["id"] == remix["id"]
    assert remix_seconds == pytest.approx(seconds, abs=0.1)
    assert extended_seconds == pytest.approx(seconds + 8, abs=0.1)
    assert max(difference(first, remix_last), difference(last, remix_first), difference(first, extended_first)) < 4
    assert emulator.ledger()["posted"] == 3


@pytest.mark.parametrize("operation", ["remix", "extend"])
def test_only_a_completed_video_can_be_remixed_or_extended(emulator: EmulatorProcess, operation: str) -> None:
    body = {"model": "grok-video-1.0", "prompt": "x"}
    running = submit(emulator)
    expired = emulator.finish(submit(emulator)["id"])
    emulator.advance(90_000)
    until_final(emulator, running["id"])
    young = submit(emulator)

    codes = [
        emulator.api(f"/v1/videos/{video_id}/{operation}", "POST", json=body).status_code
        for video_id in ("video_unknown", young["id"], expired["id"], running["id"])
    ]

    assert codes == [404, 400, 400, 200]


def test_outcome_can_be_set(emulator: EmulatorProcess) -> None:
    failed = submit(emulator)
    body = emulator.finish(failed["id"], "failed", code="content_policy_violation", message="No", form="fail_reason")

    assert body["fail_reason"] == "No"
    assert status(emulator, failed["id"]) == body
    assert emulator.finish(failed["id"], "completed")["status"] == "failed", "a final status stays"
    assert [line["status"] for line in emulator.ledger()["billed"]] == ["refunded"]


def test_ledger_and_balance_agree(emulator: EmulatorProcess) -> None:
    running, completed, failed = (submit(emulator, duration=10) for _ in range(3))
    emulator.finish(completed["id"])
    emulator.finish(failed["id"], "failed")

    ledger = emulator.ledger()
    balance = emulator.api("/v1/balance").json()

    assert {line["id"]: line["status"] for line in ledger["billed"]} == {
        running["id"]: "pending",
        completed["id"]: "settled",
        failed["id"]: "refunded",
    }
    assert (ledger["count"], ledger["total_usd"], ledger["posted"]) == (2, "0.20", 3)
    assert balance == {
        "success": True,
        "remain_balance": 4.8,
        "used_balance": 0.2,
        "remain_credits": 960.0,
        "used_credits": 40.0,
        "credits_per_usd": 200,
        "unlimited_quota": False,
    }
