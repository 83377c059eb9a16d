"""Start the process that measures videos, and send it requests. The process runs :mod:`media_probe`."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, BinaryIO

from airflow_provider_toapis import media_probe

if TYPE_CHECKING:
    from io import RawIOBase


#: A fork must end itself at most this many seconds after its time limit.
_GRACE_SECONDS = 5.0


class NotMeasuredError(Exception):
    """The video cannot be measured."""


class _Process:
    """The process that measures videos. It is started on demand, and ends when this process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: bytes, video: BinaryIO) -> tuple[int, object]:
        """Send a request; return the file descriptor from which its result can be read, and the process.

        :raises OSError: The process cannot be started.
        """
        result, pipe = os.pipe()
        files = [video.fileno(), pipe]
        try:
            with self._lock:
                try:
                    socket.send_fds(self._started(), [request], files)
                except ConnectionError:
                    # Something has ended the process.
                    self._requests = None
                    socket.send_fds(self._started(), [request], files)
        except BaseException:
            os.close(result)
            raise
        finally:
            os.close(pipe)
        return result, self._process

    def end(self, asked: object) -> None:
        """End a process that hangs. The next request starts a new process. Checks that already run in forks continue.

        :param asked: The process, as :meth:`ask` returned it. If another process has replaced it, nothing happens.
        """
        with self._lock:
            if asked is not self._process:
                return
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            if self._requests is not None:
                self._requests.close()
            self._requests = self._process = None

    def _started(self) -> socket.socket:
        if self._requests is None:
            # With -P, modules in the working directory are not imported.
            command = [sys.executable, "-P", "-m", media_probe.__name__]
            nothing = subprocess.DEVNULL
            self._requests, other = socket.socketpair()
            with other:
                # A new session, so that a signal to all processes of the task does not end this one before the task.
                self._process = subprocess.Popen(  # noqa: S603 - our own module
                    command, stdin=other.fileno(), stdout=nothing, stderr=nothing, start_new_session=True
                )
        return self._requests


_process = _Process()


def measure(file: BinaryIO, *, wants_poster: bool) -> dict[str, Any]:
    """Measure an open video file in another process, and return the facts as :mod:`media_probe` finds them.

    :param wants_poster: Whether to also return a poster, as base64.
    :raises NotMeasuredError: The process failed, was killed, or took too long.
    """
    request = media_probe.FACTS_AND_POSTER if wants_poster else media_probe.FACTS
    began = time.monotonic()
    descriptor, process = _process.ask(request, file)
    with os.fdopen(descriptor, "rb", buffering=0) as result:
        text = _read_until(result, began + media_probe.TIME_LIMIT + _GRACE_SECONDS)
    seconds = time.monotonic() - began
    if seconds >= media_probe.TIME_LIMIT + _GRACE_SECONDS:
        # A fork ends at its time limit, which closes the pipe. The pipe is still open, so the process hangs.
        _process.end(process)
    if not text and seconds >= media_probe.TIME_LIMIT:
        raise NotMeasuredError(f"the check took longer than {media_probe.TIME_LIMIT} s")
    try:
        measured: dict[str, Any] = json.loads(text)
    except ValueError:
        reason = "the process that measures videos could not start or ended early, for example at its limit of 1 GiB"
        raise NotMeasuredError(reason) from None
    if "error" in measured:
        raise NotMeasuredError(measured["error"])
    return measured


def _read_until(file: RawIOBase, deadline: float) -> bytes:
    """Read a pipe to its end or until the deadline, and return what was read."""
    ready = select.poll()
    ready.register(file, select.POLLIN)
    text = b""
    while ready.poll(max(0, deadline - time.monotonic()) * 1000):
        chunk = file.read(65_536)
        if not chunk:
            break
        text += chunk
    return text
