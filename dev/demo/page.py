"""The demo's result as a web page: the report of a batch."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from airflow_provider_toapis.batch.manifest_entry import ManifestEntry, SavedVideo
from airflow_provider_toapis.batch.report import catalog_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dev.demo.catalog_run import ProductVideo

_CENT = Decimal("0.01")


def write_page(folder: Path, videos: Sequence[ProductVideo], title: str) -> Path:
    """Write ``index.html`` into ``folder``, with copies of the source images, and return its path.

    The page shows the images from where they are now.

    :param folder: Must hold the video files, so that the page plays them from where they are.
    :param title: The heading.
    :raises ValueError: A video file lies outside ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made_at = datetime.now(UTC).isoformat()
    entries = [_entry(number, video, folder, made_at) for number, video in enumerate(videos, start=1)]
    page = folder / "index.html"
    page.write_text("".join(catalog_page(entries, title=title, made_at=made_at)), encoding="utf-8")
    return page


def money(amount: Decimal | None) -> str:
    """Return US dollars as people write them; an unknown amount is said to be unknown, not shown as nothing."""
    if amount is None:
        return "not settled yet"
    exact = amount == amount.quantize(_CENT)
    return f"${amount:.2f}" if exact else f"${amount.normalize():f}"


def _entry(number: int, video: ProductVideo, folder: Path, made_at: str) -> ManifestEntry:
    saved = SavedVideo(
        fingerprint="",
        video_id=video.video_id,
        client_business_id="",
        generation=0,
        file=video.file.relative_to(folder).as_posix(),
        size=video.size,
        sha256=video.sha256,
        price_usd=None if video.cost is None else f"{video.cost:f}",
        billed=video.cost is not None,
        saved_at=made_at,
        run_id="",
        reattached=False,
    )
    image = _copy_image(video, folder)
    return ManifestEntry(video.name, number, made_at, video.prompt, (str(image),), video.model, saved)


def _copy_image(video: ProductVideo, folder: Path) -> Path:
    """Copy the source image, a URL or a local file, into ``folder``: the shop ends with the demo."""
    source_path = urlsplit(video.picture).path
    copy = folder / "images" / f"{video.sku}{Path(source_path).suffix}"
    copy.parent.mkdir(exist_ok=True)
    if video.picture.startswith(("http://", "https://")):
        copy.write_bytes(httpx.get(video.picture, trust_env=False).raise_for_status().content)
    else:
        shutil.copyfile(source_path, copy)
    return copy
