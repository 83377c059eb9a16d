"""A small shop for demos. It has a product feed, from which videos are made, and an API that accepts the videos."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from airflow_provider_toapis.emulator.request_log import ENDPOINT_KEY
from airflow_provider_toapis.emulator.settings import Settings
from airflow_provider_toapis.emulator.store import Store


@dataclass(frozen=True)
class Product:
    """A product of the feed.

    :param image_file: File name of the product's image in ``images/``.
    :param image_as: Whether the feed lists the image as a URL, or as a path on this machine.
    """

    sku: str
    name: str
    prompt: str
    duration: int
    aspect_ratio: str
    image_file: str
    image_as: Literal["url", "path"]


PRODUCTS = (
    Product(
        "SNK-001",
        "Coral running shoe",
        "The camera glides slowly towards a coral running shoe on warm sand, soft morning light",
        10,
        "16:9",
        "sneaker.jpg",
        "url",
    ),
    Product(
        "LMP-002",
        "Teal desk lamp",
        "A teal desk lamp glows in the dark, the camera pushes in slowly, dust drifts through the warm light",
        15,
        "9:16",
        "lamp.jpg",
        "url",
    ),
    Product(
        "MUG-003",
        "Blue coffee mug",
        "Steam rises from a blue coffee mug on a pale table, slow push-in, calm morning mood",
        10,
        "1:1",
        "mug.jpg",
        "path",
    ),
)
PRODUCT_IMAGES = Path(__file__).parent / "images"
_BY_SKU = {product.sku: product for product in PRODUCTS}


class Shop:
    """The shop's product images, and the videos that the shop received."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store

    def image(self, name: str) -> Path | None:
        """Return the path of the product image with this file name; None if no product has such an image."""
        return PRODUCT_IMAGES / name if any(product.image_file == name for product in PRODUCTS) else None

    def feed(self, *, as_files: bool) -> list[dict[str, Any]]:
        """Return the product feed. It contains the latest video that the shop received for each product.

        :param as_files: List every image as a path, for a service that cannot reach this machine.
        """
        videos = {entry["sku"]: entry["video"] for entry in self.videos()}
        return [self._entry(product, videos.get(product.sku), as_files=as_files) for product in PRODUCTS]

    def _entry(self, product: Product, video: dict[str, Any] | None, *, as_files: bool) -> dict[str, Any]:
        as_path = as_files or product.image_as == "path"
        image = str(PRODUCT_IMAGES / product.image_file)
        return {
            "sku": product.sku,
            "name": product.name,
            "prompt": product.prompt,
            "image": image if as_path else f"{self._settings.origin}/shop/images/{product.image_file}",
            "duration": product.duration,
            "aspect_ratio": product.aspect_ratio,
            "video": video,
        }

    def add_video(self, sku: str, video: dict[str, Any]) -> None:
        """Store a video of a product. The feed contains only the latest video of each product."""
        self._store.execute("INSERT INTO product_video (sku, body) VALUES (?, ?)", (sku, json.dumps(video)))

    def videos(self) -> list[dict[str, Any]]:
        """Return every received video with the ``sku`` of its product, oldest first."""
        rows = self._store.execute("SELECT sku, body FROM product_video ORDER BY number")
        return [{"sku": row["sku"], "video": json.loads(row["body"])} for row in rows]


def shop_routes(shop: Shop) -> list[Route]:
    """Return the routes of ``/shop``. The shop is not part of the service: no API key, rate limit or fault applies."""

    async def products(request: Request) -> Response:
        return JSONResponse({"products": shop.feed(as_files=request.query_params.get("images") == "files")})

    async def image(request: Request) -> Response:
        file = shop.image(request.path_params["name"])
        return FileResponse(file) if file else _problem(404, "the image does not exist")

    async def add_video(request: Request) -> Response:
        sku = request.path_params["sku"]
        if sku not in _BY_SKU:
            return _problem(404, f"product {sku} does not exist")
        try:
            video = await request.json()
        except ValueError:
            return _problem(400, "the body must be JSON")
        if not isinstance(video, dict) or not isinstance(video.get("id"), str) or not video["id"]:
            return _problem(400, "the body must be a JSON object with the id of the video")
        shop.add_video(sku, video)
        return JSONResponse({"sku": sku, "video": video}, 201)

    async def videos(_request: Request) -> Response:
        return JSONResponse({"videos": shop.videos()})

    async def alert(request: Request) -> Response:
        logging.getLogger(__name__).warning("Alert: %s", (await request.body()).decode("utf-8", "replace"))
        return Response(status_code=204)

    routes = (
        ("/shop/alerts", alert, "POST"),
        ("/shop/products", products, "GET"),
        ("/shop/images/{name}", image, "GET"),
        ("/shop/products/{sku}/video", add_video, "POST"),
        ("/shop/videos", videos, "GET"),
    )
    return [Route(path, _logged(handler), methods=[method]) for path, handler, method in routes]


def _logged(handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
    async def serve(request: Request) -> Response:
        request.scope[ENDPOINT_KEY] = "shop"
        response: Response = await handler(request)
        return response

    return serve


def _problem(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)
