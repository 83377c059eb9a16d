from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_toapis.emulator.error_bodies import RejectedError
from airflow_provider_toapis.emulator.models import MODELS, Price
from airflow_provider_toapis.emulator.validation import parse_derivation, parse_generation

IMAGE = "https://shop.example/chair.jpg"
PREVIEW = {"model": "grok-video-1.5-preview", "prompt": "push in", "images": [IMAGE]}
SUCCESSOR = {"model": "grok-video-1.5", "prompt": "push in", "image": IMAGE}
REFERENCED = {"model": "grok-video-1.5", "prompt": "x", "video_generation_mode": "reference_images_to_video"}
IMAGINE = {"model": "grok-imagine-1.0-video", "prompt": "x"}
VERSION_1 = {"model": "grok-video-1.0", "prompt": "x"}
VERSION_3 = {"model": "grok-video-3", "prompt": "x"}


@pytest.mark.parametrize(
    ("body", "duration", "cost"),
    [
        (PREVIEW, 10, "0.10"),
        ({**PREVIEW, "seconds": "15"}, 15, "0.15"),
        (SUCCESSOR, 8, "0.08"),
        ({**SUCCESSOR, "duration": 15}, 15, "0.15"),
        ({**SUCCESSOR, "video_generation_mode": "first_frame_image_to_video"}, 8, "0.08"),
        ({"model": "grok-video-1.5", "prompt": "x", "input_reference": IMAGE}, 8, "0.08"),
        ({"model": "grok-video-1.5", "prompt": "x", "video_generation_mode": "text_to_video"}, 8, "0.08"),
        ({**REFERENCED, "reference_images": [IMAGE, {"url": IMAGE}]}, 8, "0.08"),
        ({**REFERENCED, "image_urls": [IMAGE]}, 8, "0.08"),
        ({**VERSION_1, "duration": 1}, 1, "0.01"),
        ({**VERSION_3, "seconds": "6"}, 6, "0.06"),
        ({**VERSION_3, "duration": 5}, 5, "0.05"),
        ({**IMAGINE, "duration": 30, "quality": "720p"}, 30, "0.30"),
        ({"model": "seedance-2", "duration": -1}, 5, "1.00"),
        ({"model": "gemini-omni-1.1-flash-preview-official", "duration": 10, "resolution": "4K"}, 10, "2.432640"),
    ],
)
def test_documented_request_is_accepted_at_its_price(body: dict[str, Any], duration: int, cost: str) -> None:
    generation = parse_generation(body)

    assert (generation.duration, generation.cost) == (duration, Decimal(cost))


@pytest.mark.parametrize(
    ("body", "cost"),
    [
        ({"model": "kling-v3", "duration": 3}, "0.50"),
        ({"model": "kling-v3", "duration": 10, "reference_images": [IMAGE]}, "0.80"),
        ({"model": "kling-v3", "duration": 10, "reference_images": [IMAGE] * 4}, "0.95"),
    ],
    ids=["minimum", "free image", "further images"],
)
def test_every_part_of_a_price_is_charged(body: dict[str, Any], cost: str) -> None:
    assert parse_generation(body).cost == Decimal(cost)


def test_other_prices_can_be_charged() -> None:
    prices = {
        "grok-video-1.5-preview": (Price("request", Decimal(7), when={"seconds": "15"}), Price("request", Decimal(5)))
    }
    assert parse_generation({**PREVIEW, "seconds": "15"}, prices).cost == 7
    assert parse_generation(PREVIEW, prices).cost == 5
    assert parse_derivation(VERSION_1, "remix", 8, "16:9", {"grok-video-1.0": (Price("second", Decimal(1)),)}).cost == 8


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**PREVIEW, "prompt": ""}, "prompt"),
        ({**PREVIEW, "prompt": 7}, "prompt"),
        ({**PREVIEW, "images": []}, "images"),
        ({**PREVIEW, "images": [IMAGE, IMAGE]}, "images"),
        ({**PREVIEW, "images": IMAGE}, "images"),
        ({**PREVIEW, "images": ["data:image/png;base64,AAAA"]}, "images"),
        ({**PREVIEW, "images": ["iVBORw0KGgo" * 20]}, "images"),
        ({**PREVIEW, "images": ["asset://chair"]}, "images"),
        ({**PREVIEW, "images": [7]}, "images"),
        ({"model": "grok-video-1.5-preview", "prompt": "x"}, "images"),
        ({**PREVIEW, "seconds": 10}, "seconds"),
        ({**PREVIEW, "seconds": "20"}, "seconds"),
        ({**PREVIEW, "aspect_ratio": "4:3"}, "aspect_ratio"),
        ({**SUCCESSOR, "duration": "10"}, "duration"),
        ({**SUCCESSOR, "duration": True}, "duration"),
        ({**SUCCESSOR, "duration": 16}, "duration"),
        ({**SUCCESSOR, "resolution": "720P"}, "resolution"),
        ({**SUCCESSOR, "input_reference": "https://shop.example/other.jpg"}, "image"),
        ({**SUCCESSOR, "reference_images": [IMAGE]}, "reference_images"),
        ({**SUCCESSOR, "image": [IMAGE]}, "image"),
        ({"model": "grok-video-1.5", "prompt": "x"}, "image"),
        ({**SUCCESSOR, "video_generation_mode": "text_to_video"}, "image"),
        ({**SUCCESSOR, "video_generation_mode": "dreaming"}, "video_generation_mode"),
        (REFERENCED, "reference_images"),
        ({**REFERENCED, "image": IMAGE}, "reference_images"),
        ({**REFERENCED, "image": IMAGE, "images": [IMAGE]}, "image"),
        ({**SUCCESSOR, "images": [IMAGE], "video_generation_mode": "first_frame_image_to_video"}, "reference_images"),
        ({"model": "grok-video-1.5", "prompt": "x", "video_generation_mode": "first_frame_image_to_video"}, "image"),
        ({**REFERENCED, "reference_images": [IMAGE] * 8}, "reference_images"),
        ({**REFERENCED, "reference_images": [IMAGE], "images": [IMAGE, IMAGE]}, "reference_images"),
        ({**VERSION_1, "image": IMAGE, "reference_images": [IMAGE] * 8}, "reference_images"),
        ({**VERSION_3, "seconds": 6}, "seconds"),
        ({**VERSION_3, "duration": 7}, "duration"),
        ({**VERSION_3, "images": [IMAGE] * 4}, "images"),
        ({**IMAGINE, "duration": "10"}, "duration"),
        ({**IMAGINE, "duration": 5}, "duration"),
        ({**IMAGINE, "image_urls": [IMAGE] * 8}, "image_urls"),
        ({**PREVIEW, "client_business_id": 7}, "client_business_id"),
        ({"model": "wan2.6", "duration": "long"}, "duration"),
        ({"model": "wan2.6", "duration": 3600}, "duration"),
        (None, "body"),
        ([PREVIEW], "body"),
    ],
)
def test_invalid_value_is_rejected_with_the_field(body: object, field: str) -> None:
    with pytest.raises(RejectedError) as rejection:
        parse_generation(body)

    error = rejection.value.body["error"]
    assert rejection.value.status == 400
    assert (error["code"], error["param"]) == ("invalid_request", field)
    assert error["message"].startswith(field)


def test_base64_image_is_rejected_with_the_message_of_the_service() -> None:
    with pytest.raises(RejectedError, match="base64 image is not allowed"):
        parse_generation({**PREVIEW, "images": ["data:image/png;base64,AAAA"]})


def test_data_uri_is_accepted_by_models_that_support_it() -> None:
    uri = "data:image/png;base64,AAAA"

    assert parse_generation({"model": "seedance-2", "image_with_roles": [{"url": uri}]}).references == (uri,)


def test_missing_model_gets_the_gateway_error_envelope() -> None:
    with pytest.raises(RejectedError) as rejection:
        parse_generation({"prompt": "x"})

    assert rejection.value.status == 400
    assert rejection.value.body["error"]["type"] == "new_api_error"


@pytest.mark.parametrize("model", ["minimax-h3", "seedance-2.0", "GROK-VIDEO-1.5", "sora"])
def test_inexact_model_id_gets_no_available_channel(model: str) -> None:
    with pytest.raises(RejectedError, match="no available channel") as rejection:
        parse_generation({"model": model, "prompt": "x"})

    assert rejection.value.status == 503
    assert rejection.value.body["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("model", [name for name, model in MODELS.items() if not model.fields])
def test_other_models_accept_any_fields(model: str) -> None:
    generation = parse_generation(
        {"model": model, "prompt": "x", "duration": "6", "image_urls": [IMAGE], "size": "9:16"}
    )

    assert (generation.duration, generation.references, generation.aspect_ratio) == (6, (IMAGE,), "9:16")
    assert generation.cost > 0


def test_unknown_fields_are_ignored() -> None:
    assert parse_generation({**PREVIEW, "duration": 3, "n": 4}) == parse_generation(PREVIEW)


def test_client_business_id_and_callback_url_are_read_from_metadata() -> None:
    extras = {"client_business_id": "sku-1", "callback_url": "https://shop.example/hook"}

    assert parse_generation({**PREVIEW, "metadata": extras}) == parse_generation({**PREVIEW, **extras})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": "grok-video-1.0"}, "prompt"),
        ({"model": "grok-video-1.0", "prompt": "x", "aspect_ratio": "3:2"}, "aspect_ratio"),
        ({"model": "grok-video-1.5", "prompt": "x"}, "model"),
    ],
)
def test_invalid_remix_is_rejected(body: dict[str, Any], field: str) -> None:
    with pytest.raises(RejectedError) as rejection:
        parse_derivation(body, "remix", 8, "16:9")

    assert rejection.value.body["error"]["param"] == field
