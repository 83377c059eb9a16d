"""The ToAPIs emulator, with its small shop, as a background process."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import httpx

from dev.airflow.processes import BackgroundProcess, free_port

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

#: Seconds; it usually takes one.
START_TIMEOUT = 60.0


class DemoEmulator:
    """Run ``python -m airflow_provider_toapis.emulator`` until the block ends.

    :param folder: Where it keeps its files and its log. Created when missing.
    :param latency: Seconds that an emulated video takes.
    :param port: Preferred port; another one is taken when it is in use. 0 means any.
    """

    def __init__(self, folder: Path, *, latency: float, port: int = 0) -> None:
        chosen_port = free_port(port)
        self.url = f"http://127.0.0.1:{chosen_port}"
        self._folder = folder.resolve()
        module = [sys.executable, "-m", "airflow_provider_toapis.emulator"]
        options = ["--port", str(chosen_port), "--data-dir", str(self._folder / "data"), "--latency", str(latency)]
        environment = {name: value for name, value in os.environ.items() if name != "TOAPIS_API_KEY"}
        self._process = BackgroundProcess("emulator", module + options, environment, self._folder / "emulator.log")

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._process.start()
            self._wait_until_ready()
        except BaseException:
            self._process.stop()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.stop()

    def billed(self) -> list[dict[str, Any]]:
        """Return what it has charged for, oldest first: ``id``, ``cost_usd``, ``status`` ..."""
        answer = httpx.get(f"{self.url}/_emulator/ledger", trust_env=False).raise_for_status()
        billed: list[dict[str, Any]] = answer.json()["billed"]
        return billed

    def finish(self, video_id: str) -> None:
        """Let a video be ready at once."""
        # Which takes as long as to render it.
        answer = httpx.post(
            f"{self.url}/_emulator/tasks/{video_id}", json={"status": "completed"}, timeout=60, trust_env=False
        )
        answer.raise_for_status()

    def check_running(self) -> None:
        """Raise :class:`~dev.airflow.processes.ProcessError` when it has ended by itself."""
        if not self._process.running:
            raise self._process.error("ended by itself")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if not self._process.running:
                raise self._process.error("ended while it was starting")
            if time.monotonic() > deadline:
                raise self._process.error(f"was not ready after {START_TIMEOUT:.0f} seconds")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/shop/products", trust_env=False).is_success
        except httpx.HTTPError:
            return False
