"""A shop with more to show than the emulator's: each of its products in four colours."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from airflow_provider_toapis.emulator.shop import PRODUCTS, Product

#: How far each variant of a product lies from the first one on the colour circle, which has 256 places.
_TURNS = (0, 44, 128, 196)
#: What that makes of each product; the first is the colour that its prompt names.
_COLOURS = {
    "SNK-001": ("coral", "lime", "turquoise", "violet"),
    "LMP-002": ("teal", "indigo", "crimson", "green"),
    "MUG-003": ("blue", "purple", "orange", "green"),
}
FEED = "products.json"


@dataclass(frozen=True)
class ColourShop:
    """Where it is, and what it sells.

    :param url: Address that serves the feed at :data:`FEED` and the photos.
    :param products: As the feed has them.
    """

    url: str
    products: list[dict[str, Any]]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Print nothing."""


@contextmanager
def open_colour_shop(folder: Path) -> Iterator[ColourShop]:
    """Serve the shop on a free port of the loopback address until the block ends.

    :param folder: Gets the photos and the feed. Created when missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    url = f"http://127.0.0.1:{server.server_address[1]}"
    products = [entry for product in PRODUCTS for entry in _variants(product, folder, url)]
    (folder / FEED).write_text(json.dumps({"products": products}), encoding="utf-8")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield ColourShop(url, products)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _variants(product: Product, folder: Path, url: str) -> Iterator[dict[str, Any]]:
    photo = product.draw()
    colours = _COLOURS[product.sku]
    for colour, turn in zip(colours, _TURNS, strict=True):
        sku = f"{product.sku}-{colour.upper()}"
        _turned(photo, turn).save(folder / f"{sku}.jpg", quality=90)
        yield {
            "sku": sku,
            "prompt": product.prompt.replace(colours[0], colour),
            "image": f"{url}/{sku}.jpg",
            "duration": product.duration,
            "aspect_ratio": product.aspect_ratio,
        }


def _turned(photo: Image.Image, turn: int) -> Image.Image:
    """Return a photo whose colours are turned on the colour circle."""
    hue, saturation, value = photo.convert("HSV").split()
    return Image.merge("HSV", (hue.point(lambda place: (place + turn) % 256), saturation, value)).convert("RGB")
