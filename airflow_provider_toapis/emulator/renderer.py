"""Makes the files of the videos, in a few threads beside the event loop, each different one once."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from airflow_provider_toapis.emulator.pictures import check_picture
from airflow_provider_toapis.emulator.rendering import Shot, render

#: Above the event loop's own niceness, so that a status is answered at once while every core is rendering.
RENDERING_NICENESS = 10


class Studio:
    """Keeps pictures and renderings by content.

    :param folder: Where they are kept, over restarts too.
    """

    def __init__(self, folder: Path) -> None:
        self._pictures = folder / "pictures"
        self._renderings = folder / "renderings"
        for place in (self._pictures, self._renderings):
            place.mkdir(parents=True, exist_ok=True)
        self._stopped = threading.Event()
        self._threads = ThreadPoolExecutor(max(2, os.cpu_count() or 2), "rendering", initializer=_yield_to_event_loop)
        self._in_progress: dict[str, asyncio.Future[None]] = {}

    def close(self) -> None:
        """Give up what is being rendered."""
        self._stopped.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def keep_picture(self, content: bytes) -> str:
        """Keep an image file and return the name of its content.

        :raises UnusablePictureError: It is no image that can be rendered.
        """
        name = hashlib.sha256(content).hexdigest()[:32]
        target = self._pictures / name
        if not target.exists():
            check_picture(content)
            unfinished = target.with_suffix(f".{threading.get_native_id()}")
            unfinished.write_bytes(content)
            unfinished.replace(target)
        return name

    def file(self, rendering: str) -> Path:
        """Return where the rendering of this name is kept."""
        return self._renderings / f"{rendering}.mp4"

    async def produce(self, shot: Shot) -> str:
        """Make the video of ``shot``, unless it exists, and return the name of the rendering."""
        if not self.file(shot.key).exists():
            if shot.key not in self._in_progress:
                loop = asyncio.get_running_loop()
                self._in_progress[shot.key] = loop.run_in_executor(self._threads, self._render, shot)
                self._in_progress[shot.key].add_done_callback(functools.partial(self._forget, shot.key))
            # One customer's end must not take away the file that another one waits for.
            await asyncio.shield(self._in_progress[shot.key])
        return shot.key

    def _render(self, shot: Shot) -> None:
        picture = (self._pictures / shot.picture).read_bytes()
        render(picture, shot, self.file(shot.key), self._stopped.is_set)

    def _forget(self, key: str, rendering: asyncio.Future[None]) -> None:
        del self._in_progress[key]
        if not rendering.cancelled():
            # Looked at, or asyncio complains about an error that nobody waits for any more.
            rendering.exception()


def _yield_to_event_loop() -> None:
    # Linux keeps a niceness per thread; elsewhere this call would slow down the whole process.
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), RENDERING_NICENESS)
