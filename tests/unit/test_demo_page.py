from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from demo.catalogue_run import ProductVideo
from demo.page import money, write_page


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "shop" / "lamp.jpg"
    file.parent.mkdir()
    file.write_bytes(b"a picture")
    return file


def video(folder: Path, picture: Path, **changes: Any) -> ProductVideo:
    facts: dict[str, Any] = {
        "sku": "LAMP-01",
        "name": "Lamp",
        "prompt": "The lamp lights up",
        "picture": str(picture),
        "video_id": "video_1",
        "model": "grok-video-1.5",
        "duration": 10,
        "aspect_ratio": "16:9",
        "waited": 17.4,
        "cost": Decimal("0.1"),
        "file": folder / "videos" / "LAMP-01.mp4",
    }
    return ProductVideo(**(facts | changes))


def test_page_shows_video_beside_a_copy_of_its_picture(tmp_path: Path, picture: Path) -> None:
    page = write_page(tmp_path / "out", [video(tmp_path / "out", picture)], "One video.")

    html = page.read_text()
    assert 'src="pictures/LAMP-01.jpg"' in html
    assert 'src="videos/LAMP-01.mp4"' in html
    assert (tmp_path / "out" / "pictures" / "LAMP-01.jpg").read_bytes() == b"a picture"
    for fact in ("Lamp", "The lamp lights up", "video_1", "grok-video-1.5", "10 s", "16:9", "17 s", "$0.10"):
        assert f">{fact}<" in html


def test_page_escapes_what_the_shop_wrote(tmp_path: Path, picture: Path) -> None:
    dangerous = '<script>alert("1")</script>'
    made = video(tmp_path, picture, name=dangerous, prompt=dangerous, video_id=dangerous)

    html = write_page(tmp_path, [made], dangerous).read_text()

    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(&quot;1&quot;)") >= 4


def test_page_loads_nothing_from_elsewhere(tmp_path: Path, picture: Path) -> None:
    html = write_page(tmp_path, [video(tmp_path, picture)], "One video.").read_text()

    assert "http" not in html
    assert "url(" not in html


def test_file_names_with_special_characters_are_linked(tmp_path: Path, picture: Path) -> None:
    made = video(tmp_path, picture, sku="LAMP #1 50%", file=tmp_path / "videos" / "LAMP #1 50%.mp4")

    html = write_page(tmp_path, [made], "One video.").read_text()

    assert 'src="videos/LAMP%20%231%2050%25.mp4"' in html
    assert 'src="pictures/LAMP%20%231%2050%25.jpg"' in html


def test_video_outside_the_page_folder_is_refused(tmp_path: Path, picture: Path) -> None:
    made = video(tmp_path, picture, file=Path("/elsewhere/LAMP-01.mp4"))

    with pytest.raises(ValueError, match=r"/elsewhere/LAMP-01\.mp4"):
        write_page(tmp_path / "out", [made], "One video.")


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (Decimal("0.1"), "$0.10"),
        (Decimal("0.300"), "$0.30"),
        (Decimal("12"), "$12.00"),
        (Decimal("0.027034"), "$0.027034"),
        (Decimal(0), "$0.00"),
        (None, "not settled yet"),
    ],
)
def test_money_is_exact_and_an_unknown_amount_is_not_nothing(amount: Decimal | None, words: str) -> None:
    assert money(amount) == words
