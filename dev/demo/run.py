"""``python -m dev.demo run``: make the videos of a small product catalog, show their cost, and write a page."""

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
from dev.demo.environment import running_environment
from dev.demo.page import format_usd, write_page
from dev.demo.progress import ProgressDisplay
from dev.demo.target import Service


def run(service: Service, output: Path) -> None:
    """Make the videos, then print a table of them and the URL of the page.

    :param service: The service that generates the videos.
    :param output: Directory for the videos and the page.
    :raises ProcessError: Airflow or the emulator did not start, or ended.
    :raises CatalogRunError: The DAG run failed.
    """
    started = time.monotonic()
    print(f"Product videos from {service.name}, made by a real Airflow on this machine.")
    videos_directory = _videos_directory(service, output)
    with running_environment(service) as environment:
        print("Starting the product catalog DAG")
        catalog_run = CatalogRun.start(
            environment.airflow, feed=service.product_feed, output_directory=videos_directory
        )
        catalog_run.follow(ProgressDisplay(sys.stdout).show)
        videos = catalog_run.videos()
        cost = f"{_total_cost(videos)}{' (emulated: nothing is billed)' if service.emulated else ''}"
        page = write_page(output, videos, f"Product videos from {service.name}")
    print(f"\n{_table(videos)}\n")
    print(f"Total cost of {len(videos)} videos: {cost}.")
    print(f"Watch them: {page.as_uri()}")
    print(f"Took {time.monotonic() - started:.0f} seconds. Nothing is left running.")


def _videos_directory(service: Service, output: Path) -> Path:
    """Return the directory for the videos. Emulated videos of earlier demos are deleted, billed videos are not."""
    if not service.emulated:
        return output / "videos" / f"{datetime.now(UTC):%Y-%m-%d_%H%M%S}"
    directory = output / "videos" / "emulated"
    shutil.rmtree(directory, ignore_errors=True)
    return directory


def _table(videos: Sequence[ProductVideo]) -> str:
    rows: list[tuple[str, ...]] = [("Product", "Video", "Length", "Price", "Waited", "File")]
    for video in videos:
        length, waited = f"{video.duration} s", f"{video.waited:.0f} s"
        rows.append((video.name, video.video_id, length, format_usd(video.cost), waited, os.path.relpath(video.file)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _total_cost(videos: Sequence[ProductVideo]) -> str:
    settled = [video.cost for video in videos if video.cost is not None]
    unsettled = len(videos) - len(settled)
    total = format_usd(sum(settled, Decimal(0)))
    return f"{total}, with {unsettled} not settled yet" if unsettled else total
