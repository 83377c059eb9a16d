"""``python -m dev.demo run``: the videos of a small product catalog, what they cost, and a page that plays them."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from dev.demo.catalog_run import CatalogRun, ProductVideo
from dev.demo.environment import running_stage
from dev.demo.page import money, write_page
from dev.demo.progress import ProgressDisplay
from dev.demo.target import Service


def run(service: Service, output: Path) -> None:
    """Make the videos, then print a table of them and where the page is.

    :param service: Who makes the videos.
    :param output: Folder for the videos and the page.
    :raises ProcessError: Airflow or the emulator did not come up.
    :raises CatalogRunError: The DAG run failed.
    """
    started = time.monotonic()
    print(f"Product videos by {service.name}, ordered by a real Airflow on this machine.")
    videos_folder = _videos_folder(service, output)
    with running_stage(service) as stage:
        print("Starting the product catalog DAG")
        catalog_run = CatalogRun.start(stage.airflow, feed=service.product_feed, output_folder=videos_folder)
        catalog_run.follow(ProgressDisplay(sys.stdout).show)
        videos = catalog_run.videos()
        cost = f"{_total_cost(videos)}{' (emulated: no real money)' if service.emulated else ''}"
        page = write_page(output, videos, f"Product videos by {service.name}")
    print(f"\n{_table(videos)}\n")
    print(f"All {len(videos)} together cost {cost}.")
    print(f"Watch them: {page.as_uri()}")
    print(f"Took {time.monotonic() - started:.0f} seconds. Nothing is left running.")


def _videos_folder(service: Service, output: Path) -> Path:
    """Return where the videos go. Emulated ones replace those of the last demo; paid ones are never removed."""
    if not service.emulated:
        return output / "videos" / f"{datetime.now(UTC):%Y-%m-%d_%H%M%S}"
    folder = output / "videos" / "emulated"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _table(videos: Sequence[ProductVideo]) -> str:
    rows: list[tuple[str, ...]] = [("Product", "Video", "Length", "Price", "Waited", "File")]
    for video in videos:
        length, waited = f"{video.duration} s", f"{video.waited:.0f} s"
        rows.append((video.name, video.video_id, length, money(video.cost), waited, os.path.relpath(video.file)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _total_cost(videos: Sequence[ProductVideo]) -> str:
    settled = [video.cost for video in videos if video.cost is not None]
    unsettled = len(videos) - len(settled)
    total = money(sum(settled, Decimal(0)))
    return f"{total}, with {unsettled} not settled yet" if unsettled else total
