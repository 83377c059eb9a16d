"""End the processes that a killed process leaves behind, for example after ``kill -9`` or a time limit in CI.

``python -m dev.airflow.reaper`` reads session ids from standard input, which closes when the parent process ends. Each
has the start time of the session's first process, because another session can get the same id later.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from dev.airflow.process_group import kill_members

_ENDED = "ended"


def watch(session_id: int) -> None:
    """Let the reaper kill all processes of a session when the calling process ends, even if it ends by SIGKILL."""
    watcher = _watcher()
    assert watcher.stdin is not None  # noqa: S101 - it was started with a pipe
    watcher.stdin.write(f"{session_id} {_started(session_id)}\n".encode())
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
    for session_id, started in [line.split() for line in sys.stdin]:
        # If the first process has ended, its id stays that of the session as long as the session has a process.
        if _started(int(session_id)) in (started, _ENDED):
            kill_members(int(session_id))


def _started(process_id: int) -> str:
    try:
        return str(psutil.Process(process_id).create_time())
    except psutil.NoSuchProcess:
        return _ENDED


if __name__ == "__main__":
    main()
