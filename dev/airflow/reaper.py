"""Ends what a process leaves behind when it dies without a chance to tidy up: ``kill -9``, or a time limit in CI.

Run as ``python -m dev.airflow.reaper``, it reads session ids from its standard input, which closes when its parent is
gone.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

from dev.airflow.process_group import kill_members


def watch(session_id: int) -> None:
    """Have everything in a session killed when this process ends, however it ends."""
    watcher = _watcher()
    assert watcher.stdin is not None  # noqa: S101 - it was started with a pipe
    watcher.stdin.write(f"{session_id}\n".encode())
    watcher.stdin.flush()


@cache
def _watcher() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dev.airflow.reaper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        # Ctrl-C reaches the whole process group of the terminal; the watcher has to outlive it.
        start_new_session=True,
    )


def main() -> None:
    """Read session ids until the parent is gone, then end what is left of them."""
    for session_id in [int(line) for line in sys.stdin]:
        kill_members(session_id)


if __name__ == "__main__":
    main()
