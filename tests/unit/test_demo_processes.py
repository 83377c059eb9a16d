from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from dev.airflow.processes import BackgroundProcess, ProcessError, free_port

#: Starts a child in its own process group, as Airflow does with tasks; both processes ignore SIGTERM.
STUBBORN_PROCESSES = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(
    [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"],
    process_group=0,
)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""

Start = Callable[[str], BackgroundProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[BackgroundProcess] = []

    def start_script(script: str) -> BackgroundProcess:
        process = BackgroundProcess("tester", [sys.executable, "-c", script], dict(os.environ), tmp_path / "tester.log")
        process.start()
        started.append(process)
        return process

    yield start_script
    for process in started:
        process.kill()


def wait_for_log(process: BackgroundProcess) -> str:
    deadline = time.monotonic() + 20
    while not process.log().endswith("\n"):
        assert time.monotonic() < deadline, "the process wrote nothing"
        time.sleep(0.02)
    return process.log()


def alive(pid: int) -> bool:
    return bool(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize("end", [BackgroundProcess.kill, lambda process: process.stop(time.monotonic() + 0.3)])
def test_descendants_in_other_process_groups_end_too(start: Start, end: Callable[[BackgroundProcess], None]) -> None:
    process = start(STUBBORN_PROCESSES)
    parent, child = map(int, wait_for_log(process).split())
    assert alive(parent)
    assert alive(child)

    end(process)

    assert not alive(parent)
    assert not alive(child)
    assert not process.running


def test_killed_parent_leaves_no_processes(tmp_path: Path) -> None:
    log = tmp_path / "tester.log"
    parent_script = f"""
import os, pathlib, signal, sys, time
from dev.airflow.processes import BackgroundProcess
log = pathlib.Path({str(log)!r})
process = BackgroundProcess("tester", [sys.executable, "-c", {STUBBORN_PROCESSES!r}], dict(os.environ), log)
process.start()
while not process.log().endswith("\\n"):
    time.sleep(0.02)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", parent_script], cwd=Path(__file__).parents[2], check=False, timeout=30)

    deadline = time.monotonic() + 20
    pids = [int(pid) for pid in log.read_text().split()]
    assert len(pids) == 2
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_stop_lets_a_process_shut_down(start: Start) -> None:
    process = start(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('tidied up', flush=True)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)"
    )
    wait_for_log(process)

    process.stop()

    assert process.log() == "ready\ntidied up\n"


def test_killed_process_can_be_restarted_and_keeps_its_log(start: Start) -> None:
    process = start("import time; print('hello', flush=True); time.sleep(600)")
    wait_for_log(process)
    process.kill()

    process.start()

    assert process.running
    assert process.log().startswith("hello\n")


def test_error_shows_the_end_of_the_log_and_its_path(start: Start, tmp_path: Path) -> None:
    # Print all lines in a single write, because the process is stopped as soon as the log has a line.
    process = start(r"print('\n'.join(f'line {number}' for number in range(40)))")
    wait_for_log(process)
    process.stop()

    message = str(process.error("ended while it was starting"))

    assert "The tester ended while it was starting." in message
    assert str(tmp_path / "tester.log") in message
    assert "line 39" in message
    assert "line 3\n" not in message


def test_starting_twice_is_rejected(start: Start) -> None:
    process = start("import time; time.sleep(600)")

    with pytest.raises(ProcessError, match="tester is running already"):
        process.start()


def test_preferred_port_is_used_only_if_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) not in {0, port}
    assert free_port(port) == port


def test_processor_seconds_include_ended_children(start: Start) -> None:
    busy = "import time; until = time.process_time() + 0.3\nwhile time.process_time() < until: pass"
    script = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {busy!r}]); print(1, flush=True)"
    process = start(f"{script}; time.sleep(60)")
    wait_for_log(process)
    assert process.processor_seconds() >= 0.3
