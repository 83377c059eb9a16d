"""``python -m dev.demo screenshots``: the pictures of the documentation, taken from a real Airflow."""

from __future__ import annotations

import io
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from airflow_provider_toapis.emulator.shop import PRODUCTS
from airflow_provider_toapis.get_provider_info import CONNECTION_FIELDS
from airflow_provider_toapis.links.video import ToAPIsConsoleLink, ToAPIsVideoLink
from dev.airflow.processes import ProcessError
from dev.demo.airflow_pages import FORM, AirflowPages
from dev.demo.browser import Browser, Page, find_browser
from dev.demo.catalog_run import DAG_ID
from dev.demo.environment import PROJECT, Stage, running_stage
from dev.demo.target import Service

IMAGES = PROJECT / "docs" / "images"

#: Pixels of a picture of a whole window.
WIDTH, HEIGHT = 1920, 1200
#: The pictures of a whole window.
GRAPH, LINKS, CATALOG_PAGE = "graph-deferred.png", "extra-link.png", "catalog-page.png"
#: The pictures of a dialog.
FORM_PICTURE, FORM_EXTRA_PICTURE = "connection-form.png", "connection-form-extra.png"
#: CSS pixels that a window is wide: narrow, so that words are large, or wide enough for all tabs of a task's page.
_NARROW, _WIDE = 1280, 1440
#: Pixels; the form with all its fields is taller than any screen.
_FORM_HEIGHT = 2850
#: Colors of a picture: what is lost cannot be seen, and the file is a quarter of the size.
_COLOURS = 256
#: Rounds in which the colors come closer to what they stand for; without any, light grounds take on a hue.
_REFINEMENTS = 2

_NIGHTLY = "example_nightly_catalog"
_RUN = "spring-catalog"
#: Seconds that a video takes of which the emulator is not told that it is ready: longer than anybody takes pictures.
_LATENCY = 3600.0
#: Products whose videos are ready while the others are being made; Airflow lists the last ones first.
_READY = 3
#: How often the feed has each of the emulator's products, under an SKU for each.
COPIES = 4
_FEED = "products.json"
#: Seconds for what Airflow has to do between two pictures.
_PATIENCE = 300.0


def take_screenshots(folder: Path) -> None:
    """Start everything, take the pictures, and end it again.

    :param folder: Gets the pictures. Created when missing.
    :raises ProcessError: Airflow or the emulator did not come up, or did not do what is to be seen.
    :raises BrowserError: A page does not show what it should.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="product-videos-") as output,
        running_stage(Service(None), latency=_LATENCY) as stage,
        _served(repeated_products(stage.emulator.url)) as shop,
        Browser(find_browser()) as browser,
        browser.page() as page,
    ):
        page.prefer("light")
        _Photographer(stage, shop, Path(output), page, folder).take_all()


def repeated_products(emulator_url: str) -> list[dict[str, Any]]:
    """Return a feed with more products than the emulator's shop has pictures."""
    return [
        {
            "sku": f"{product.sku}-{number}",
            "prompt": product.prompt,
            "image": f"{emulator_url}/shop/images/{product.image_file}",
            "duration": product.duration,
            "aspect_ratio": product.aspect_ratio,
        }
        for product in PRODUCTS
        for number in range(1, COPIES + 1)
    ]


@dataclass(frozen=True)
class _Shop:
    """Serves the feed at ``url`` and :data:`_FEED`."""

    url: str
    products: list[dict[str, Any]]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Print nothing."""


@contextmanager
def _served(products: list[dict[str, Any]]) -> Iterator[_Shop]:
    with (
        tempfile.TemporaryDirectory(prefix="toapis-shop-") as directory,
        ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=directory)) as server,
    ):
        (Path(directory) / _FEED).write_text(json.dumps({"products": products}), encoding="utf-8")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield _Shop(f"http://127.0.0.1:{server.server_address[1]}", products)
        server.shutdown()


@dataclass(frozen=True)
class _Photographer:
    stage: Stage
    shop: _Shop
    output: Path
    page: Page
    folder: Path

    def take_all(self) -> None:
        pages = AirflowPages(self.page, self.stage.airflow.url)
        self._order_videos()
        self._resize(_NARROW)
        count = len(self.shop.products)
        pages.open_graph(DAG_ID, _RUN, "make_video", {"Deferred": count - _READY, "Success": _READY})
        self._keep(GRAPH)
        self._resize(_WIDE)
        pages.open_links(DAG_ID, _RUN, "make_video", count - 1, [ToAPIsVideoLink.name, ToAPIsConsoleLink.name])
        self._keep(LINKS)
        self._resize(_NARROW, _FORM_HEIGHT)
        pages.open_connection_form("ToAPIs", "toapis_default")
        self._keep(FORM_PICTURE, FORM)
        pages.unfold("Extra Fields", [field["label"] for field in CONNECTION_FIELDS.values()])
        self._keep(FORM_EXTRA_PICTURE, FORM)
        self._resize(_NARROW)
        self._open_catalog_page(self._make_catalog())
        self._keep(CATALOG_PAGE)

    def _order_videos(self) -> None:
        """Run the product catalog until some of its videos are ready and the others wait."""
        airflow = self.stage.airflow
        airflow.api(
            "PATCH",
            "connections/shop_api",
            json={"connection_id": "shop_api", "conn_type": "http", "host": self.shop.url},
        )
        print(f"Running {DAG_ID}")
        airflow.trigger(DAG_ID, {"feed": _FEED, "output_folder": str(self.output / "videos")}, run_id=_RUN)
        count = len(self.shop.products)
        self._wait_for(f"{count} deferred tasks", lambda: self._states().count("deferred") == count)
        for index in range(count - _READY, count):
            self.stage.emulator.finish(airflow.xcom(DAG_ID, _RUN, "make_video", key="video_id", map_index=index))
        self._wait_for(f"{_READY} videos", lambda: self._states()[-_READY:] == ["success"] * _READY)

    def _make_catalog(self) -> Path:
        """Run the nightly catalog to its end and return its page."""
        feed = self.output / "products.jsonl"
        feed.write_text("\n".join(json.dumps(_row(product)) for product in self.shop.products), encoding="utf-8")
        settings = {"feed": str(feed), "output_folder": str(self.output / "nightly")}
        print(f"Running {_NIGHTLY}")
        earlier = self._pending()
        run_id = self.stage.airflow.trigger(_NIGHTLY, settings)
        count = len(self.shop.products)
        self._wait_for(f"{count} more videos", lambda: len(self._pending() - earlier) == count)
        for video_id in self._pending() - earlier:
            self.stage.emulator.finish(video_id)
        state = self.stage.airflow.wait_for_run(_NIGHTLY, run_id, _PATIENCE)
        if state != "success":
            log = self.stage.airflow.task_log(_NIGHTLY, run_id, "make_videos")
            raise ProcessError(f"{_NIGHTLY} ended as {state}:\n{log}")
        return Path(self.stage.airflow.xcom(_NIGHTLY, run_id, "make_videos")["report"])

    def _open_catalog_page(self, index: Path) -> None:
        """Show the page with its first video playing."""
        self.page.open(index.as_uri())
        count = len(self.shop.products)
        self.page.wait_until(f"document.querySelectorAll('.card.saved').length === {count}", f"{count} saved videos")
        self.page.click(".play")
        self.page.wait_until("document.querySelector('video')?.currentTime > 1", "a video that plays")
        self.page.evaluate("document.querySelector('video').pause(); scrollTo(0, 0)")
        self.page.wait_until("[...document.images].every((image) => image.naturalWidth)", "all pictures")

    def _states(self) -> list[str]:
        instances = self.stage.airflow.task_instances(DAG_ID, _RUN)
        return [instance["state"] for instance in instances if instance["task_id"] == "make_video"]

    def _pending(self) -> set[str]:
        """Return the videos that are being made."""
        return {bill["id"] for bill in self.stage.emulator.billed() if bill["status"] == "pending"}

    def _wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            self.stage.airflow.check_running()
            self.stage.emulator.check_running()
            if time.monotonic() > deadline:
                raise ProcessError(f"There are not {what} after {_PATIENCE:.0f} seconds.")
            time.sleep(1)

    def _resize(self, width: int, pixels_high: int = HEIGHT) -> None:
        scale = WIDTH / width
        self.page.resize(width, round(pixels_high / scale), scale=scale)

    def _keep(self, name: str, selector: str | None = None) -> None:
        file = self.folder / name
        file.write_bytes(compressed(self.page.screenshot(selector)))
        print(f"  {file} ({file.stat().st_size // 1000} kB)")


def _row(product: Mapping[str, Any]) -> dict[str, Any]:
    """Return a product as a row of the batch operator's feed."""
    return {"key": product["sku"], **{name: product[name] for name in ("prompt", "image", "duration", "aspect_ratio")}}


def compressed(png: bytes) -> bytes:
    """Return a picture as a smaller PNG of the same size."""
    content = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    palette = picture.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=_REFINEMENTS)
    # Photos would show steps where they have none; what has one of the colors, as most of a page, stays as it is.
    picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(content, "PNG", optimize=True)
    return content.getvalue()
