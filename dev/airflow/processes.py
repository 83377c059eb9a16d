"""One background process with a log file. It ends together with all its descendants."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from dev.airflow import process_group
from dev.airflow.reaper import watch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

#: Seconds between SIGTERM and SIGKILL.
STOP_GRACE = 5.0

#: Ports below the range of ephemeral ports. Another client could get an ephemeral port before the process uses it.
_PORTS = range(20_000, 32_000)


class ProcessError(Exception):
    """A background process did not start, or has ended. The message contains its name and the end of its log."""


class BackgroundProcess:
    """A command that runs in its own session and writes to a log file.

    Descendants are found by the session instead of the process group, because Airflow moves each task into its own
    process group.

    :param name: Name of the process in messages.
    :param command: Program and arguments.
    :param environment: The complete environment of the process.
    :param log_path: File for stdout and stderr. A restarted process appends to it.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process in the directory of the log file.

        :raises ProcessError: The process already runs.
        """
        if self.running:
            raise ProcessError(f"The {self.name} is running already.")
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self.log_path.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        watch(self._process.pid)

    def request_stop(self) -> None:
        """Send SIGTERM to the process and its descendants, without waiting."""
        if self._process is not None:
            process_group.signal_members(self._process.pid, signal.SIGTERM)

    def stop(self, deadline: float | None = None) -> None:
        """Stop the process and its descendants. Those that still run at ``deadline`` are killed.

        :param deadline: Value of ``time.monotonic()``. Default: 5 seconds from now.
        """
        if self._process is None:
            return
        deadline = time.monotonic() + STOP_GRACE if deadline is None else deadline
        try:
            self.request_stop()
            while process_group.members(self._process.pid) and time.monotonic() < deadline:
                self._process.poll()
                time.sleep(0.05)
        finally:
            # This also runs if a second Ctrl-C interrupts the wait.
            self.kill()

    def kill(self) -> None:
        """Kill the process and its descendants immediately, as a crash of the machine would."""
        if self._process is None:
            return
        process_group.kill_members(self._process.pid)
        self._process.wait()

    def processor_seconds(self) -> float:
        """Return the processor time of the process and its descendants so far, in seconds."""
        return process_group.processor_seconds(self._process.pid) if self._process is not None else 0.0

    def log(self) -> str:
        """Return the output so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def error(self, reason: str) -> ProcessError:
        """Return an error with the reason and the end of the log."""
        return ProcessError(f"The {self.name} {reason}. {log_tail(self.log(), self.log_path)}")


def log_tail(log: str, log_path: Path, line_count: int = 15) -> str:
    """Return the last non-empty lines of a log, and the path of the whole log."""
    lines = [line for line in log.splitlines() if line.strip()][-line_count:]
    shown = "\n".join(f"    {line[:300]}" for line in lines) or "    (empty)"
    return f"The end of its log ({log_path}):\n{shown}"


def free_port(preferred: int = 0) -> int:
    """Return ``preferred`` if it is free at the loopback address, else another free port.

    :raises ProcessError: No free port was found.
    """
    for port in filter(None, (preferred, *random.sample(_PORTS, 20))):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise ProcessError("Cannot find a free port on 127.0.0.1.")
