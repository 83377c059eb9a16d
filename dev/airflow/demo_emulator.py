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

#: Maximum seconds for the start, which usually takes one second.
START_TIMEOUT = 60.0


class DemoEmulator:
    """Runs ``python -m airflow_provider_toapis.emulator`` until the block ends.

    :param directory: Directory for the emulator's files and log. Created if missing.
    :param latency: Seconds that an emulated generation takes.
    :param port: Preferred port. If it is in use, another port is selected. 0 selects any free port.
    """

    def __init__(self, directory: Path, *, latency: float, port: int = 0) -> None:
        chosen_port = free_port(port)
        self.url = f"http://127.0.0.1:{chosen_port}"
        self._directory = directory.resolve()
        module = [sys.executable, "-m", "airflow_provider_toapis.emulator"]
        options = ["--port", str(chosen_port), "--data-dir", str(self._directory / "data"), "--latency", str(latency)]
        environment = {name: value for name, value in os.environ.items() if name != "TOAPIS_API_KEY"}
        self._process = BackgroundProcess("emulator", module + options, environment, self._directory / "emulator.log")

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
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
        """Return the ledger's charges, oldest first: ``id``, ``cost_usd``, ``status`` ..."""
        response = httpx.get(f"{self.url}/_emulator/ledger", trust_env=False).raise_for_status()
        billed: list[dict[str, Any]] = response.json()["billed"]
        return billed

    def finish(self, video_id: str) -> None:
        """Complete a video immediately."""
        # The emulator responds only when the video is rendered, so the timeout is long.
        response = httpx.post(
            f"{self.url}/_emulator/tasks/{video_id}", json={"status": "completed"}, timeout=60, trust_env=False
        )
        response.raise_for_status()

    def shorten_next(self) -> None:
        """Render the next submitted video with half of the requested length."""
        fault = {"on": "submit", "kind": "flaw", "name": "short"}
        httpx.post(f"{self.url}/_emulator/faults", json=fault, trust_env=False).raise_for_status()

    def check_running(self) -> None:
        """Check that the emulator runs.

        :raises ProcessError: The emulator ended unexpectedly.
        """
        if not self._process.running:
            raise self._process.error("ended unexpectedly")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            if not self._process.running:
                raise self._process.error("ended while it was starting")
            if time.monotonic() > deadline:
                raise self._process.error(f"was not ready after {START_TIMEOUT:.0f} seconds")
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/shop/products", trust_env=False).is_success
        except httpx.HTTPError:
            return False
