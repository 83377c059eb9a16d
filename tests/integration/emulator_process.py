"""The emulator as a background process, with methods for its control endpoints."""

from __future__ import annotations

import queue
import re
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any, Self

import httpx

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0
API_KEY = "sk-emulator"
#: The line that the emulator prints when it accepts connections.
READY = re.compile(r"ToAPIs emulator listening on (http://127\.0\.0\.1:\d+)\n")


class EmulatorProcess:
    """Runs ``python -m airflow_provider_toapis.emulator`` on a free port until the block ends.

    Keyword arguments are options of the command: ``latency=1`` is ``--latency 1``, ``no_replay=True`` is
    ``--no-replay``.

    :param port: 0 selects a free port.
    """

    def __init__(self, *, port: int = 0, **options: object) -> None:
        self._options = {"port": port, **options}
        self._api_key = self._options.get("api_key", API_KEY)
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        # Keep every connection open: another thread can still use a closed one (seen once: "Bad file descriptor").
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
        self._client = httpx.Client(timeout=120, trust_env=False, limits=limits)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._client.close()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process and wait until it accepts connections."""
        command = [sys.executable, "-m", "airflow_provider_toapis.emulator"]
        for name, value in self._options.items():
            flag = f"--{name.replace('_', '-')}"
            command += [flag] if value is True else [flag, str(value)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self._first_line()
        match = READY.fullmatch(line)
        if match is None:
            self.kill()
            raise RuntimeError(f"The emulator did not start: {line!r}")
        self.url = match[1]

    def _first_line(self) -> str:
        """Read a line in a separate thread, because reading from a pipe has no timeout."""
        assert self._process is not None
        assert self._process.stdout is not None
        lines: queue.Queue[str] = queue.Queue()
        reader = self._process.stdout
        threading.Thread(target=lambda: lines.put(reader.readline()), daemon=True).start()
        try:
            return lines.get(timeout=START_TIMEOUT)
        except queue.Empty:
            return ""

    def stop(self) -> int:
        """Stop the process with SIGTERM, or with SIGKILL after a timeout, and return its exit code."""
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._wait()

    def kill(self) -> None:
        """Kill the process with SIGKILL, like a crash."""
        assert self._process is not None
        self._process.kill()
        self._wait()

    def _wait(self) -> int:
        assert self._process is not None
        code = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code

    def api(self, path: str, method: str = "GET", **request: Any) -> httpx.Response:
        """Send a request with the API key to a ``path`` of the API such as ``/v1/balance``."""
        headers = {"Authorization": f"Bearer {self._api_key}", **request.pop("headers", {})}
        return self._client.request(method, self.url + path, headers=headers, **request)

    def get(self, url: str, **request: Any) -> httpx.Response:
        """Get a URL or a path of the emulator, without an API key."""
        return self._client.get(url if url.startswith("http") else self.url + url, **request)

    def control(self, path: str, method: str = "GET", json: Any = None) -> Any:
        """Call an endpoint of ``/_emulator`` and return its JSON response."""
        response = self._client.request(method, f"{self.url}/_emulator/{path}", json=json)
        response.raise_for_status()
        return response.json()

    def ledger(self) -> dict[str, Any]:
        """Return the ledger."""
        return dict(self.control("ledger"))

    def add_fault(self, **fault: Any) -> str:
        """Add a fault and return its id."""
        return str(self.control("faults", "POST", fault)["id"])

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults, with the number of times that each was applied."""
        return list(self.control("faults")["faults"])

    def clear_faults(self) -> None:
        """Remove every fault."""
        self.control("faults", "DELETE")

    def list_prices(self, model: str, *prices: Any, currency: str = "USD") -> None:
        """Set the prices of a ``model`` until the next reset."""
        self.control("prices", "POST", {"model": model, "prices": list(prices), "currency": currency})

    def advance(self, seconds: float) -> None:
        """Advance the emulator's time."""
        self.control("clock", "POST", {"advance": seconds})

    def requests(self) -> list[dict[str, Any]]:
        """Return the log of requests, oldest first."""
        return list(self.control("requests")["requests"])

    def request_counts(self) -> dict[str, int]:
        """Return the number of requests by endpoint."""
        return dict(self.control("requests")["counts"])

    def clear_requests(self) -> None:
        """Delete the log of requests."""
        self.control("requests", "DELETE")

    def finish(self, video_id: str, status: str = "completed", **outcome: str) -> dict[str, Any]:
        """Complete or fail a generation task immediately, and return its status.

        :param outcome: ``code``, ``message`` and ``form`` of a failure.
        """
        return dict(self.control(f"tasks/{video_id}", "POST", {"status": status, **outcome}))

    def rotate_api_key(self, key: str) -> None:
        """Accept only this API key from now on. :meth:`api` uses it."""
        self.control("api-key/rotate", "POST", {"key": key})
        self._api_key = key

    def reset(self) -> None:
        """Reset tasks, uploads, faults, requests, the ledger, the API key and the clock."""
        self.control("reset", "POST")
        self._api_key = self._options.get("api_key", API_KEY)
