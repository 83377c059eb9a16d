"""Redis, the broker of the cluster's workers, in a folder of its own."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from dev.airflow.processes import BackgroundProcess, free_port

_PROJECT = Path(__file__).resolve().parents[2]
#: Seconds; it usually takes a moment, longer where it reads much from its log of commands.
START_TIMEOUT = 30.0


class RedisServer:
    """Run a Redis server on a free port of the loopback address until the block ends.

    It writes each command to disk before it answers, so that a killed one comes back with the messages that it had.

    :param folder: Where it keeps its data and its log. Created when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process = BackgroundProcess("redis", self._command(), {}, self._folder / "redis.log")

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
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
        """Whether it runs."""
        return self._process.running

    def start(self) -> None:
        """Start it and wait until it answers.

        :raises ProcessError: It ended, or did not answer in time.
        """
        self._process.start()
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if not self._process.running or time.monotonic() > deadline:
                raise self._process.error("did not come up")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it in order."""
        self._process.stop()

    def kill(self) -> None:
        """Kill it, as ``kill -9`` would."""
        self._process.kill()

    def processor_seconds(self) -> float:
        """Return what it has computed so far."""
        return self._process.processor_seconds()

    def _command(self) -> list[str]:
        program = subprocess.run([_PROJECT / "dev/scripts/redis"], stdout=subprocess.PIPE, text=True, check=True)
        options = {
            "--bind": "127.0.0.1",
            "--port": str(self._port),
            "--dir": str(self._folder),
            "--appendonly": "yes",
            "--appendfsync": "always",
            "--save": "",
        }
        return [program.stdout.strip(), *(word for option in options.items() for word in option)]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as client:
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False
