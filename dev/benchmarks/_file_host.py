"""Server for result files of any size, in its own process. A file consists of one random block that is repeated."""

from __future__ import annotations

import os
import socketserver
import subprocess
import sys
from types import TracebackType
from typing import Self

_BLOCK = os.urandom(1024 * 1024)
_HEAD = 'HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: {length}\r\nETag: "{length}"\r\n\r\n'


class FileHost:
    """Serves ``/<bytes>.mp4`` on a free port of the loopback address."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dev.benchmarks._file_host"], stdout=subprocess.PIPE, text=True
        )
        if self._process.stdout is None:
            raise RuntimeError("the file host has no output")
        self._port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def url(self, size: int) -> str:
        """Return the URL of a file with ``size`` bytes."""
        return f"http://127.0.0.1:{self._port}/{size}.mp4"


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        size = int(self.rfile.readline().split()[1][1:].removesuffix(b".mp4"))
        while self.rfile.readline() not in (b"\r\n", b""):
            pass
        self.connection.sendall(_HEAD.format(length=size).encode())
        for _ in range(size // len(_BLOCK)):
            self.connection.sendall(_BLOCK)
        self.connection.sendall(_BLOCK[: size % len(_BLOCK)])


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


if __name__ == "__main__":
    with _Server(("127.0.0.1", 0), _Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
