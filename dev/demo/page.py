"""Web page that shows the demo's result in the format of a batch's report."""

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


def write_page(directory: Path, videos: Sequence[ProductVideo], title: str) -> Path:
    """Write ``index.html`` into ``directory``, with copies of the source images, and return its path.

    :param directory: Must contain the video files, because the page links to them.
    :param title: Title of the page.
    :raises ValueError: A video file is not in ``directory``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made_at = datetime.now(UTC).isoformat()
    entries = [_entry(number, video, directory, made_at) for number, video in enumerate(videos, start=1)]
    page = directory / "index.html"
    page.write_text("".join(catalog_page(entries, title=title, made_at=made_at)), encoding="utf-8")
    return page


def format_usd(amount: Decimal | None) -> str:
    """Return an amount of US dollars as text, for example ``$0.10``; None means that the amount is not settled yet."""
    if amount is None:
        return "not settled yet"
    exact = amount == amount.quantize(_CENT)
    return f"${amount:.2f}" if exact else f"${amount.normalize():f}"


def _entry(number: int, video: ProductVideo, directory: Path, made_at: str) -> ManifestEntry:
    saved = SavedVideo(
        fingerprint="",
        video_id=video.video_id,
        client_business_id="",
        generation=0,
        file=video.file.relative_to(directory).as_posix(),
        size=video.size,
        sha256=video.sha256,
        price_usd=None if video.cost is None else f"{video.cost:f}",
        billed=video.cost is not None,
        saved_at=made_at,
        run_id="",
        reattached=False,
    )
    image = _copy_image(video, directory)
    return ManifestEntry(video.name, number, made_at, video.prompt, (str(image),), video.model, saved)


def _copy_image(video: ProductVideo, directory: Path) -> Path:
    """Copy the source image into ``directory``, because the shop's URLs stop working when the demo ends."""
    source_path = urlsplit(video.image).path
    copy = directory / "images" / f"{video.sku}{Path(source_path).suffix}"
    copy.parent.mkdir(exist_ok=True)
    if video.image.startswith(("http://", "https://")):
        copy.write_bytes(httpx.get(video.image, trust_env=False).raise_for_status().content)
    else:
        shutil.copyfile(source_path, copy)
    return copy
