"""Metadata of a video for asset events: it identifies the video and contains no secrets."""

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
    """Return an operator's result for a finished video."""
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
    def test_metadata_contains_video_file_and_price(self) -> None:
        metadata = metadata_of(result(), prompt=PROMPT, image="s3://bucket/shoe.jpg", duration="6")
        assert metadata == VideoMetadata(
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

    def test_metadata_of_an_unsaved_video_has_no_file(self) -> None:
        metadata = metadata_of(result(stored=None))
        assert (metadata.path, metadata.sha256, metadata.size) == (None, None, None)

    def test_metadata_of_missing_arguments_is_empty(self) -> None:
        metadata = metadata_of(result())
        assert (metadata.prompt_sha256, metadata.duration, metadata.source_image, metadata.source_images) == (
            None,
            None,
            None,
            (),
        )

    def test_metadata_is_json_serializable(self) -> None:
        images = ["a.jpg", "https://shop.example/b.jpg"]
        for image in (None, "a.jpg", images):
            metadata = metadata_of(result(), prompt=PROMPT, image=image, duration=6).as_dict()
            assert json.loads(json.dumps(metadata)) == metadata
            assert metadata["source_image"] == image
            assert set(metadata) == set(VideoMetadata.__dataclass_fields__)

    def test_metadata_contains_no_prompt_signature_or_password(self) -> None:
        image = [f"https://bucket.example/a.jpg?{SIGNATURE}&v=2", "https://shop:pass@word@shop.example/b.jpg"]
        metadata = metadata_of(result(), prompt=PROMPT, image=image)
        assert metadata.source_images == ("https://bucket.example/a.jpg?v=2", "https://shop.example/b.jpg")
        text = json.dumps(metadata.as_dict())
        assert not [secret for secret in (PROMPT, "X-Amz", "AKIA", "pass", "files.example") if secret in text]

    def test_path_object_is_a_source_image(self) -> None:
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
    def test_price_is_set_only_if_the_service_reports_it(self, billing: object, price: float | None) -> None:
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
    def test_uri_names_local_and_remote_files(self, path: str, uri: str) -> None:
        assert uri_of(path) == uri

    def test_uri_of_a_relative_path_is_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert uri_of("out/a.mp4") == f"file://{tmp_path}/out/a.mp4"
