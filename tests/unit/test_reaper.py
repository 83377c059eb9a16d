"""The reaper ends sessions that a killed process leaves behind, and no other session with the same id."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dev.airflow import reaper
from dev.airflow.process_group import members

WAIT = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture
def session() -> Iterator[subprocess.Popen[bytes]]:
    """A running process with its own session."""
    with subprocess.Popen(WAIT, start_new_session=True) as process:
        yield process
        process.kill()


def reap(monkeypatch: pytest.MonkeyPatch, session_id: int, started: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{session_id} {started}\n"))
    reaper.main()


def test_watched_session_is_killed(session: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    reap(monkeypatch, session.pid, reaper._started(session.pid))
    assert session.wait() < 0


def test_session_with_a_reused_id_is_not_killed(
    session: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    reap(monkeypatch, session.pid, "1.0")
    assert session.poll() is None


def test_session_whose_first_process_has_ended_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"import os, subprocess; subprocess.Popen({WAIT!r}, stdout=subprocess.DEVNULL); print(os.getpid())"
    first = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True, check=True)
    session_id = int(first.stdout)
    assert len(members(session_id)) == 1
    reap(monkeypatch, session_id, "1.0")
    assert members(session_id) == []
