"""What others are told about a video: everything that names it, nothing that is secret."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_toapis.api.download import StoredFile, video_result
from airflow_provider_toapis.api.responses import parse_video_task
from airflow_provider_toapis.assets import VideoMetadata, metadata_of, uri_of

PROMPT = "The shoe of the secret campaign turns slowly"
SIGNATURE = "X-Amz-Algorithm=A&X-Amz-Credential=AKIAEXAMPLE&X-Amz-Signature=0123456789abcdef"
STORED = StoredFile(path="/videos/video_1.mp4", size=7, sha256="ab" * 32)


def result(stored: StoredFile | None = STORED, **changed: Any) -> dict[str, Any]:
    """Return what an operator returns for a finished video."""
    body = {
        "id": "video_1",
        "status": "completed",
        "model": "grok-video-1.5",
        "url": f"https://files.example/1.mp4?{SIGNATURE}",
        "billing": {"status": "settled", "credits": "100", "cost_usd": "0.50"},
    }
    task = parse_video_task(body | changed)
    assert task is not None
    return video_result(task, "af-1", stored)


class TestVideoMetadata:
    def test_names_the_video_where_it_lies_and_what_it_cost(self) -> None:
        made = metadata_of(result(), prompt=PROMPT, image="s3://bucket/shoe.jpg", duration="6")
        assert made == VideoMetadata(
            video_id="video_1",
            model="grok-video-1.5",
            prompt_sha256=hashlib.sha256(PROMPT.encode()).hexdigest(),
            path="/videos/video_1.mp4",
            sha256="ab" * 32,
            size=7,
            duration=6,
            price_usd=0.5,
            source_image="s3://bucket/shoe.jpg",
        )

    def test_of_a_video_that_is_not_kept_has_no_copy(self) -> None:
        made = metadata_of(result(stored=None))
        assert (made.path, made.sha256, made.size) == (None, None, None)

    def test_of_what_was_not_asked_for_is_empty(self) -> None:
        made = metadata_of(result())
        assert (made.prompt_sha256, made.duration, made.source_image, made.source_images) == (None, None, None, ())

    def test_is_a_json_object(self) -> None:
        images = ["a.jpg", "https://shop.example/b.jpg"]
        for image in (None, "a.jpg", images):
            made = metadata_of(result(), prompt=PROMPT, image=image, duration=6).as_dict()
            assert json.loads(json.dumps(made)) == made
            assert made["source_image"] == image
            assert set(made) == set(VideoMetadata.__dataclass_fields__)

    def test_holds_neither_prompt_nor_signature_nor_password(self) -> None:
        image = [f"https://bucket.example/a.jpg?{SIGNATURE}&v=2", "https://shop:pass@word@shop.example/b.jpg"]
        made = metadata_of(result(), prompt=PROMPT, image=image)
        assert made.source_images == ("https://bucket.example/a.jpg?v=2", "https://shop.example/b.jpg")
        text = json.dumps(made.as_dict())
        assert not [secret for secret in (PROMPT, "X-Amz", "AKIA", "pass", "files.example") if secret in text]

    def test_names_pictures_that_are_path_objects(self) -> None:
        assert metadata_of(result(), image=Path("/shop/a.jpg")).source_image == "/shop/a.jpg"

    @pytest.mark.parametrize(
        ("billing", "price"),
        [
            ({"cost_usd": "0.5"}, 0.5),
            ({"cost_usd": 0.00001}, 0.00001),
            ({"cost_usd": "0"}, 0.0),
            ({"status": "pending"}, None),
            ({"cost_usd": None}, None),
            ({"cost_usd": True}, None),
            ({"cost_usd": "unknown"}, None),
            ({"cost_usd": "NaN"}, None),
            ({"cost_usd": "1e999999999"}, None),
            (None, None),
        ],
    )
    def test_says_the_price_only_where_the_service_does(self, billing: object, price: float | None) -> None:
        assert metadata_of(result(billing=billing)).price_usd == price


class TestUri:
    @pytest.mark.parametrize(
        ("path", "uri"),
        [
            ("/videos/a b#1.mp4", "file:///videos/a%20b%231.mp4"),
            ("s3://bucket/a b.mp4", "s3://bucket/a b.mp4"),
            ("s3://aws_default@bucket/a@b.mp4", "s3://bucket/a@b.mp4"),
            ("gs://bucket/a.mp4", "gs://bucket/a.mp4"),
        ],
    )
    def test_names_the_file_wherever_it_is(self, path: str, uri: str) -> None:
        assert uri_of(path) == uri

    def test_of_a_relative_path_starts_at_the_root(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert uri_of("out/a.mp4") == f"file://{tmp_path}/out/a.mp4"
