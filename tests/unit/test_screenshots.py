"""The images of the documentation."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from airflow_provider_toapis.emulator.shop import PRODUCTS
from dev.demo import screenshots

PROJECT = Path(__file__).parents[2]
WINDOWS = {
    screenshots.GRAPH,
    screenshots.LINKS,
    screenshots.CATALOG_PAGE,
    screenshots.VIDEOS_PAGE,
    screenshots.VIDEOS_DARK,
    screenshots.REVIEW_PAGE,
    screenshots.SPEND_PAGE,
}
PHONES = {screenshots.VIDEOS_PHONE}
DIALOGS = {screenshots.FORM_IMAGE, screenshots.FORM_EXTRA_IMAGE}
#: Maximum size of one image, for slow connections.
MAX_BYTES = 250_000


def shown_images() -> Iterator[tuple[Path, str]]:
    """Yield every image that README and docs show, with its alternative text."""
    for page in (PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))):
        for alt_text, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                yield (page.parent / target).resolve(), alt_text


@pytest.mark.parametrize("name", sorted(WINDOWS | DIALOGS | PHONES))
def test_image_is_a_small_png(name: str) -> None:
    file = screenshots.IMAGES / name
    with Image.open(file) as image:
        assert image.format == "PNG"
        image.load()
    assert file.stat().st_size < MAX_BYTES


@pytest.mark.parametrize("name", sorted(WINDOWS))
def test_window_image_has_the_window_size(name: str) -> None:
    with Image.open(screenshots.IMAGES / name) as image:
        assert image.size == (screenshots.WIDTH, screenshots.HEIGHT)


@pytest.mark.parametrize("name", sorted(DIALOGS))
def test_dialog_image_shows_only_the_dialog(name: str) -> None:
    with Image.open(screenshots.IMAGES / name) as image:
        assert image.width < screenshots.WIDTH


def test_image_directory_contains_only_screenshots() -> None:
    assert {file.name for file in screenshots.IMAGES.glob("*.png")} == WINDOWS | DIALOGS | PHONES


def test_readme_shows_waiting_tasks() -> None:
    assert screenshots.IMAGES / screenshots.GRAPH in dict(shown_images())


def test_every_shown_image_exists_and_has_alt_text() -> None:
    for file, alt_text in shown_images():
        assert file.is_file()
        assert alt_text


def test_compressed_image_keeps_size_and_colors() -> None:
    content = io.BytesIO()
    Image.new("RGB", (30, 20), (168, 36, 34)).save(content, "PNG")

    with Image.open(io.BytesIO(screenshots.compressed(content.getvalue()))) as image:
        assert (image.format, image.size) == ("PNG", (30, 20))
        assert image.convert("RGB").getpixel((15, 10)) == (168, 36, 34)


def test_feed_repeats_each_product_under_its_own_sku() -> None:
    products = screenshots.repeated_products("http://127.0.0.1:1")

    assert len({product["sku"] for product in products}) == screenshots.COPIES * len(PRODUCTS)
    assert len({product["image"] for product in products}) == len(PRODUCTS)
