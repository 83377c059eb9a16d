"""Renderer of the video files. It renders in a few threads, and renders identical videos only once."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from airflow_provider_toapis.emulator.reference_images import check_image
from airflow_provider_toapis.emulator.rendering import Shot, render

#: Niceness of the rendering threads. Their priority is lower than the event loop's, so that polls get a response while
#: every core renders.
RENDERING_NICENESS = 10


class Renderer:
    """Stores every source image and every rendering in a file whose name identifies its content.

    :param directory: Directory for the images and renderings, which survive restarts.
    """

    def __init__(self, directory: Path) -> None:
        self._images = directory / "pictures"
        self._renderings = directory / "renderings"
        for subdirectory in (self._images, self._renderings):
            subdirectory.mkdir(parents=True, exist_ok=True)
        self._stopped = threading.Event()
        self._threads = ThreadPoolExecutor(max(2, os.cpu_count() or 2), "rendering", initializer=_yield_to_event_loop)
        self._in_progress: dict[str, asyncio.Future[None]] = {}

    def close(self) -> None:
        """Cancel all rendering and end the threads."""
        self._stopped.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def save_image(self, content: bytes) -> str:
        """Save an image file and return its name, a hash of the content.

        :raises UnusableImageError: The content is not an image that can be rendered.
        """
        name = hashlib.sha256(content).hexdigest()[:32]
        target = self._images / name
        if not target.exists():
            check_image(content)
            unfinished = target.with_suffix(f".{threading.get_native_id()}")
            unfinished.write_bytes(content)
            unfinished.replace(target)
        return name

    def file(self, rendering: str) -> Path:
        """Return the path of a rendering by its name."""
        return self._renderings / f"{rendering}.mp4"

    async def produce(self, shot: Shot) -> str:
        """Render ``shot`` unless its file exists, and return the name of the rendering."""
        if not self.file(shot.key).exists():
            if shot.key not in self._in_progress:
                loop = asyncio.get_running_loop()
                self._in_progress[shot.key] = loop.run_in_executor(self._threads, self._render, shot)
                self._in_progress[shot.key].add_done_callback(functools.partial(self._forget, shot.key))
            # The rendering is shielded, because other tasks can wait for it when this one is canceled.
            await asyncio.shield(self._in_progress[shot.key])
        return shot.key

    def _render(self, shot: Shot) -> None:
        image = (self._images / shot.image).read_bytes()
        render(image, shot, self.file(shot.key), self._stopped.is_set)

    def _forget(self, key: str, rendering: asyncio.Future[None]) -> None:
        del self._in_progress[key]
        if not rendering.cancelled():
            # Retrieve the error, because asyncio warns about errors that no task has retrieved.
            rendering.exception()


def _yield_to_event_loop() -> None:
    # Linux has a niceness per thread. On other systems, this call would lower the priority of the whole process.
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), RENDERING_NICENESS)
