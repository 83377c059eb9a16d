"""End the processes that a killed process leaves behind, for example after ``kill -9`` or a time limit in CI.

``python -m dev.airflow.reaper`` reads session ids from standard input, which closes when the parent process ends.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

from dev.airflow.process_group import kill_members


def watch(session_id: int) -> None:
    """Let the reaper kill all processes of a session when the calling process ends, even if it ends by SIGKILL."""
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
        # Ctrl-C signals the whole process group of the terminal, but must not end the reaper.
        start_new_session=True,
    )


def main() -> None:
    """Read session ids until the parent ends, then kill the remaining processes of these sessions."""
    for session_id in [int(line) for line in sys.stdin]:
        kill_members(session_id)


if __name__ == "__main__":
    main()
