"""Redis, the broker of the cluster's workers, in its own directory."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from dev.airflow.processes import BackgroundProcess, free_port

_PROJECT = Path(__file__).resolve().parents[2]
#: Maximum seconds for the start. The start is usually immediate, but takes longer if Redis reads a long append-only
#: file.
START_TIMEOUT = 30.0


class RedisServer:
    """Runs a Redis server on a free port of the loopback address until the block ends.

    The server writes each command to disk before it responds, so its messages survive a kill.

    :param directory: Directory for the data and the log. Created if missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process = BackgroundProcess("redis", self._command(), {}, self._directory / "redis.log")

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the server runs."""
        return self._process.running

    def start(self) -> None:
        """Start the server and wait until it responds.

        :raises ProcessError: The server ended, or did not respond within ``START_TIMEOUT``.
        """
        self._process.start()
        deadline = time.monotonic() + START_TIMEOUT
        while not self._responds():
            if not self._process.running or time.monotonic() > deadline:
                raise self._process.error("did not start")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server cleanly."""
        self._process.stop()

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        self._process.kill()

    def processor_seconds(self) -> float:
        """Return the processor time of the server so far, in seconds."""
        return self._process.processor_seconds()

    def _command(self) -> list[str]:
        program = subprocess.run([_PROJECT / "dev/scripts/redis"], stdout=subprocess.PIPE, text=True, check=True)
        options = {
            "--bind": "127.0.0.1",
            "--port": str(self._port),
            "--dir": str(self._directory),
            "--appendonly": "yes",
            "--appendfsync": "always",
            "--save": "",
        }
        return [program.stdout.strip(), *(word for option in options.items() for word in option)]

    def _responds(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as client:
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False
