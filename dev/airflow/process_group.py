"""Find, signal and kill the processes of a session: a process and its descendants, in any process group."""

from __future__ import annotations

import os
import signal
import time

import psutil  # type: ignore[import-untyped]


def members(session_id: int) -> list[int]:
    """Return the ids of the running processes of a session."""
    return [pid for pid in psutil.pids() if _session_of(pid) == session_id and not _is_zombie(pid)]


def signal_members(session_id: int, signal_number: signal.Signals) -> None:
    """Send a signal to every process of a session."""
    for pid in members(session_id):
        try:
            os.kill(pid, signal_number)
        except ProcessLookupError:
            continue


def kill_members(session_id: int) -> None:
    """Kill every process of a session, including new ones, and return when none is left."""
    while members(session_id):
        signal_members(session_id, signal.SIGKILL)
        time.sleep(0.02)


def processor_seconds(session_id: int) -> float:
    """Return the processor time of a session so far, in seconds, including ended children that were waited for."""
    return sum(map(_processor_seconds, members(session_id)))


def _processor_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True
