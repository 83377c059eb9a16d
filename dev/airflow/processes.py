"""One background process with a log file, which ends together with everything that it started."""

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

#: Seconds that a process gets to end by itself before it is killed.
STOP_GRACE = 5.0

#: None of those that systems give to whoever connects: such a one could be taken before its process listens.
_PORTS = range(20_000, 32_000)


class ProcessError(Exception):
    """A background process did not come up or did not stay; the message names it and shows the end of its log."""


class BackgroundProcess:
    """A command that runs in a session of its own and writes to a log file.

    The session, not the process group, is what holds its descendants together: Airflow moves each task
    into a process group of its own.

    :param name: What messages call it.
    :param command: Program and arguments.
    :param environment: The whole environment of the process.
    :param log_path: Receives stdout and stderr; appended to when the process is started again.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; its folder is the log file's."""
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
        """Ask it to end, without waiting."""
        if self._process is not None:
            process_group.signal_members(self._process.pid, signal.SIGTERM)

    def stop(self, deadline: float | None = None) -> None:
        """End it and all its descendants; they are killed at ``deadline`` (monotonic, default in 5 s)."""
        if self._process is None:
            return
        deadline = time.monotonic() + STOP_GRACE if deadline is None else deadline
        try:
            self.request_stop()
            while process_group.members(self._process.pid) and time.monotonic() < deadline:
                self._process.poll()
                time.sleep(0.05)
        finally:
            # Also when an impatient second Ctrl-C ends the wait.
            self.kill()

    def kill(self) -> None:
        """End it and all its descendants at once, as a crash of the machine would."""
        if self._process is None:
            return
        process_group.kill_members(self._process.pid)
        self._process.wait()

    def processor_seconds(self) -> float:
        """Return what it and all that it started have computed so far."""
        return process_group.processor_seconds(self._process.pid) if self._process is not None else 0.0

    def log(self) -> str:
        """Return what it has written so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def error(self, reason: str) -> ProcessError:
        """Return an error that gives the reason and the end of the log, for the person who has to find out why."""
        return ProcessError(f"The {self.name} {reason}. {log_ending(self.log(), self.log_path)}")


def log_ending(log: str, log_path: Path, line_count: int = 15) -> str:
    """Return the last lines of a log that say something, with the place of the whole log."""
    lines = [line for line in log.splitlines() if line.strip()][-line_count:]
    shown = "\n".join(f"    {line[:300]}" for line in lines) or "    (empty)"
    return f"The end of its log ({log_path}):\n{shown}"


def free_port(preferred: int = 0) -> int:
    """Return ``preferred`` if it can be listened on at the loopback address, else a port that can."""
    for port in filter(None, (preferred, *random.sample(_PORTS, 20))):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise ProcessError("No port of 127.0.0.1 can be listened on.")
