"""``python -m dev.demo screenshots``: take the screenshots of the documentation from a real Airflow."""

from __future__ import annotations

import io
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from PIL import Image

from airflow_provider_toapis.emulator.shop import PRODUCTS
from airflow_provider_toapis.get_provider_info import CONNECTION_FIELDS
from airflow_provider_toapis.links.video import ToAPIsConsoleLink, ToAPIsVideoLink
from dev.airflow.processes import ProcessError
from dev.demo.airflow_pages import FORM, AirflowPages
from dev.demo.browser import Browser, Page, find_browser
from dev.demo.catalog_run import DAG_ID
from dev.demo.environment import PROJECT, Environment, running_environment
from dev.demo.target import Service

IMAGES = PROJECT / "docs" / "images"

#: Size in pixels of a screenshot of a whole window.
WIDTH, HEIGHT = 1920, 1200
#: Screenshots of a whole window.
GRAPH, LINKS, CATALOG_PAGE = "graph-deferred.png", "extra-link.png", "catalog-page.png"
VIDEOS_PAGE, VIDEOS_DARK, REVIEW_PAGE, SPEND_PAGE = (
    "videos-page.png",
    "videos-page-dark.png",
    "review-page.png",
    "spend-page.png",
)
#: Screenshot of a phone.
VIDEOS_PHONE = "videos-page-phone.png"
#: Screenshots of a dialog.
FORM_IMAGE, FORM_EXTRA_IMAGE = "connection-form.png", "connection-form-extra.png"
#: Widths of the window in CSS pixels: one for large text, and one that fits all tabs of a task's page.
_NARROW, _WIDE = 1280, 1440
#: Size of a phone's window in CSS pixels, and its scale.
_PHONE, _PHONE_SCALE = (390, 844), 2
#: Height in pixels of the window with the connection form. With all its fields, the form is taller than any screen.
_FORM_HEIGHT = 2850
#: Number of colors of a screenshot. The loss is not visible, and the file is only a quarter as large.
_COLORS = 256
#: K-means rounds of the color quantization. Without them, light backgrounds get a tint.
_REFINEMENTS = 2

_NIGHTLY = "example_nightly_catalog"
_RUN = "spring-catalog"
#: Seconds that a generation takes: longer than this script runs, so that a video becomes ready only when the script
#: completes it.
_LATENCY = 3600.0
#: Number of products whose videos are ready while the other videos are in progress. They are the last products of the
#: feed, because Airflow lists the last products first.
_READY = 3
#: Number of copies of each of the emulator's products in the feed, with different SKUs.
COPIES = 4
_FEED = "products.json"
#: Maximum seconds for Airflow's work between two screenshots.
_TIMEOUT = 300.0


def take_screenshots(directory: Path) -> None:
    """Start everything, take the screenshots, and stop everything.

    :param directory: Directory for the screenshots. Created if missing.
    :raises ProcessError: Airflow or the emulator did not start, or did not reach the state to show.
    :raises BrowserError: A page does not show the expected content.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (
        running_environment(Service(None), latency=_LATENCY) as environment,
        _served(repeated_products(environment.emulator.url)) as shop,
        Browser(find_browser()) as browser,
        browser.page() as page,
    ):
        page.prefer("light")
        _Photographer(environment, shop, page, directory).take_all()


def repeated_products(emulator_url: str) -> list[dict[str, Any]]:
    """Return a feed with ``COPIES`` rows for each product of the emulator's shop. The rows differ in their SKUs."""
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
    """A web server with the feed. The feed's URL is ``url``, a slash and :data:`_FEED`."""

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
    environment: Environment
    shop: _Shop
    page: Page
    directory: Path
    nightly_run: list[str] = field(default_factory=list)

    def take_all(self) -> None:
        pages = AirflowPages(self.page, self.environment.airflow.url)
        self._submit_videos()
        self._resize(_NARROW)
        count = len(self.shop.products)
        pages.open_graph(DAG_ID, _RUN, "make_video", {"Deferred": count - _READY, "Success": _READY})
        self._save(GRAPH)
        self._resize(_WIDE)
        pages.open_links(DAG_ID, _RUN, "make_video", count - 1, [ToAPIsVideoLink.name, ToAPIsConsoleLink.name])
        self._save(LINKS)
        self._resize(_NARROW, _FORM_HEIGHT)
        pages.open_connection_form("ToAPIs", "toapis_default")
        self._save(FORM_IMAGE, FORM)
        pages.unfold("Extra Fields", [field["label"] for field in CONNECTION_FIELDS.values()])
        self._save(FORM_EXTRA_IMAGE, FORM)
        self._resize(_NARROW)
        self._open_catalog_page(self._make_catalog())
        self._save(CATALOG_PAGE)
        self._take_videos_pages()

    def _take_videos_pages(self) -> None:
        """Take the pages that are inside Airflow's UI."""
        url = self.environment.airflow.url
        # Airflow's own page signs the user in.
        self.page.open(url)
        self.page.wait_until("document.querySelector('a[href]')", "Airflow's navigation")
        schemes: Mapping[str, Literal["light", "dark"]] = {VIDEOS_PAGE: "light", VIDEOS_DARK: "dark"}
        for name, scheme in schemes.items():
            self.page.prefer(scheme)
            self._open_videos(f"{url}/toapis/videos/")
            self._save(name)
        self.page.resize(*_PHONE, scale=_PHONE_SCALE)
        self.page.prefer("light")
        self._open_videos(f"{url}/toapis/videos/")
        self._save(VIDEOS_PHONE)
        self._resize(_NARROW)
        batch = f"{_NIGHTLY}/{quote(self.nightly_run[0], safe='')}/make_videos"
        self._open_videos(f"{url}/toapis/videos/{batch}?map_index=-1")
        self._save(REVIEW_PAGE)
        self.page.open(f"{url}/toapis/videos/spend")
        self.page.wait_until("document.querySelector('svg')", "the chart")
        self._save(SPEND_PAGE)

    def _open_videos(self, url: str) -> None:
        self.page.open(url)
        self.page.wait_until("document.querySelectorAll('.card').length > 8", "the cards")
        self.page.wait_until("[...document.images].every((image) => image.complete)", "all images")

    def _submit_videos(self) -> None:
        """Run the product catalog until some videos are ready and the tasks of the others are deferred."""
        airflow = self.environment.airflow
        airflow.api(
            "PATCH",
            "connections/shop_api",
            json={"connection_id": "shop_api", "conn_type": "http", "host": self.shop.url},
        )
        print(f"Running {DAG_ID}")
        airflow.trigger(DAG_ID, {"feed": _FEED, "output_directory": str(self.environment.home / "videos")}, run_id=_RUN)
        count = len(self.shop.products)
        self._wait_for(f"{count} deferred tasks", lambda: self._states().count("deferred") == count)
        for index in range(count - _READY, count):
            self.environment.emulator.finish(airflow.xcom(DAG_ID, _RUN, "make_video", key="video_id", map_index=index))
        self._wait_for(f"{_READY} videos", lambda: self._states()[-_READY:] == ["success"] * _READY)

    def _make_catalog(self) -> Path:
        """Run the nightly catalog to its end and return the path of its page."""
        feed = self.environment.home / "products.jsonl"
        feed.write_text("\n".join(json.dumps(_row(product)) for product in self.shop.products), encoding="utf-8")
        settings = {"feed": str(feed), "output_directory": str(self.environment.home / "nightly")}
        print(f"Running {_NIGHTLY}")
        earlier = self._pending()
        # One video is shorter than requested, so that the page shows a warning.
        self.environment.emulator.shorten_next()
        run_id = self.environment.airflow.trigger(_NIGHTLY, settings)
        count = len(self.shop.products)
        self._wait_for(f"{count} more videos", lambda: len(self._pending() - earlier) == count)
        for video_id in self._pending() - earlier:
            self.environment.emulator.finish(video_id)
        self.nightly_run.append(run_id)
        state = self.environment.airflow.wait_for_run(_NIGHTLY, run_id, _TIMEOUT)
        if state != "success":
            log = self.environment.airflow.task_log(_NIGHTLY, run_id, "make_videos")
            raise ProcessError(f"{_NIGHTLY} ended with state {state}:\n{log}")
        return Path(self.environment.airflow.xcom(_NIGHTLY, run_id, "make_videos")["report"])

    def _open_catalog_page(self, index: Path) -> None:
        """Show the page, play its first video for a second and pause it."""
        self.page.open(index.as_uri())
        count = len(self.shop.products)
        self.page.wait_until(f"document.querySelectorAll('.card.saved').length === {count}", f"{count} saved videos")
        self.page.click(".play")
        self.page.wait_until("document.querySelector('video')?.currentTime > 1", "a video that plays")
        self.page.evaluate("document.querySelector('video').pause(); scrollTo(0, 0)")
        self.page.wait_until("[...document.images].every((image) => image.naturalWidth)", "all images")

    def _states(self) -> list[str]:
        instances = self.environment.airflow.task_instances(DAG_ID, _RUN)
        return [instance["state"] for instance in instances if instance["task_id"] == "make_video"]

    def _pending(self) -> set[str]:
        """Return the ids of the videos in progress."""
        return {bill["id"] for bill in self.environment.emulator.billed() if bill["status"] == "pending"}

    def _wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _TIMEOUT
        while not condition():
            self.environment.airflow.check_running()
            self.environment.emulator.check_running()
            if time.monotonic() > deadline:
                raise ProcessError(f"Timed out after {_TIMEOUT:.0f} seconds waiting for {what}.")
            time.sleep(1)

    def _resize(self, width: int, pixels_high: int = HEIGHT) -> None:
        scale = WIDTH / width
        self.page.resize(width, round(pixels_high / scale), scale=scale)

    def _save(self, name: str, selector: str | None = None) -> None:
        file = self.directory / name
        file.write_bytes(compressed(self.page.screenshot(selector)))
        print(f"  {file} ({file.stat().st_size // 1000} kB)")


def _row(product: Mapping[str, Any]) -> dict[str, Any]:
    """Return a product as a row of the batch operator's feed."""
    return {"key": product["sku"], **{name: product[name] for name in ("prompt", "image", "duration", "aspect_ratio")}}


def compressed(png: bytes) -> bytes:
    """Return a screenshot as a smaller PNG with the same dimensions."""
    content = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    palette = image.quantize(_COLORS, Image.Quantize.MAXCOVERAGE, kmeans=_REFINEMENTS)
    # Dithering avoids visible steps in photos. It does not change pixels that have a palette color, as most pixels of a
    # page do.
    image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(content, "PNG", optimize=True)
    return content.getvalue()
