"""The pictures of the documentation: which there are, and that whoever reads gets to see them."""

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
WINDOWS = {screenshots.GRAPH, screenshots.LINKS, screenshots.CATALOG_PAGE}
DIALOGS = {screenshots.FORM_IMAGE, screenshots.FORM_EXTRA_IMAGE}
#: What a page may ask of whoever is on a slow line.
MOST_BYTES = 250_000


def shown() -> Iterator[tuple[Path, str]]:
    """Every picture that README and docs show, with the words for who cannot see it."""
    for page in (PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))):
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                yield (page.parent / target).resolve(), words


@pytest.mark.parametrize("name", sorted(WINDOWS | DIALOGS))
def test_picture_is_a_png_that_loads_quickly(name: str) -> None:
    file = screenshots.IMAGES / name
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        picture.load()
    assert file.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("name", sorted(WINDOWS))
def test_picture_of_a_window_is_as_large_as_the_window(name: str) -> None:
    with Image.open(screenshots.IMAGES / name) as picture:
        assert picture.size == (screenshots.WIDTH, screenshots.HEIGHT)


@pytest.mark.parametrize("name", sorted(DIALOGS))
def test_picture_of_a_dialog_shows_the_dialog_alone(name: str) -> None:
    with Image.open(screenshots.IMAGES / name) as picture:
        assert picture.width < screenshots.WIDTH


def test_there_are_no_other_pictures_than_those_that_are_taken() -> None:
    assert {file.name for file in screenshots.IMAGES.glob("*.png")} == WINDOWS | DIALOGS


def test_readme_shows_waiting_tasks() -> None:
    assert screenshots.IMAGES / screenshots.GRAPH in dict(shown())


def test_every_picture_that_is_shown_exists_and_has_words() -> None:
    for file, words in shown():
        assert file.is_file()
        assert words


def test_compressed_picture_has_its_size_and_its_colors() -> None:
    content = io.BytesIO()
    Image.new("RGB", (30, 20), (168, 36, 34)).save(content, "PNG")

    with Image.open(io.BytesIO(screenshots.compressed(content.getvalue()))) as picture:
        assert (picture.format, picture.size) == ("PNG", (30, 20))
        assert picture.convert("RGB").getpixel((15, 10)) == (168, 36, 34)


def test_feed_repeats_each_product_under_its_own_sku() -> None:
    products = screenshots.repeated_products("http://127.0.0.1:1")

    assert len({product["sku"] for product in products}) == screenshots.COPIES * len(PRODUCTS)
    assert len({product["image"] for product in products}) == len(PRODUCTS)
