from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dev.demo.catalog_run import ProductVideo
from dev.demo.page import format_usd, write_page


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "shop" / "lamp.jpg"
    file.parent.mkdir()
    file.write_bytes(b"an image")
    return file


def video(directory: Path, image: Path, **changes: Any) -> ProductVideo:
    fields: dict[str, Any] = {
        "sku": "LAMP-01",
        "name": "Lamp",
        "prompt": "The lamp lights up",
        "image": str(image),
        "video_id": "video_1",
        "model": "grok-video-1.5",
        "duration": 10,
        "waited": 17.4,
        "cost": Decimal("0.1"),
        "file": directory / "videos" / "LAMP-01.mp4",
        "size": 1,
        "sha256": "",
    }
    return ProductVideo(**(fields | changes))


def test_page_shows_video_next_to_a_copy_of_its_image(tmp_path: Path, image: Path) -> None:
    page = write_page(tmp_path / "out", [video(tmp_path / "out", image)], "One video")

    html = page.read_text()
    copy = tmp_path / "out" / "images" / "LAMP-01.jpg"
    assert copy.read_bytes() == b"an image"
    assert copy.as_uri() in html
    assert "./videos/LAMP-01.mp4" in html
    for text in ("One video", "The lamp lights up", "video_1", "grok-video-1.5", "$0.10"):
        assert text in html


def test_video_outside_the_page_directory_is_rejected(tmp_path: Path, image: Path) -> None:
    outside_video = video(tmp_path, image, file=Path("/elsewhere/LAMP-01.mp4"))

    with pytest.raises(ValueError, match=r"/elsewhere/LAMP-01\.mp4"):
        write_page(tmp_path / "out", [outside_video], "One video")


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (Decimal("0.1"), "$0.10"),
        (Decimal("0.300"), "$0.30"),
        (Decimal("12"), "$12.00"),
        (Decimal("0.027034"), "$0.027034"),
        (Decimal(0), "$0.00"),
        (None, "not settled yet"),
    ],
)
def test_cost_is_exact_and_an_unknown_cost_is_not_zero(amount: Decimal | None, text: str) -> None:
    assert format_usd(amount) == text
