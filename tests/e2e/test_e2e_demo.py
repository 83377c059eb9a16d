"""``python -m dev.demo run`` as a new user runs it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil  # type: ignore[import-untyped]

PROJECT = Path(__file__).parents[2]
TIME_LIMIT = 300.0


def start_demo(output: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TOAPIS_API_KEY"}
    return subprocess.Popen(
        [sys.executable, "-m", "dev.demo", "run", "--output", str(output)],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_running(seen: set[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that do not end within 20 s. The supervising process ends shortly after the demo itself."""
    _, alive = psutil.wait_procs(seen, timeout=20)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def state_directories() -> set[Path]:
    return set((PROJECT / ".demo").glob("*"))


def test_demo_makes_the_videos_and_leaves_nothing_running(tmp_path: Path) -> None:
    directories_before = state_directories()
    with ExitStack() as taken_ports:
        for port in (8080, 8790):
            # The ports must be in use during the demo. Another process can already use them.
            try:
                taken_ports.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
        demo = start_demo(tmp_path / "out")
        watched = psutil.Process(demo.pid)
        seen: set[psutil.Process] = set()
        deadline = time.monotonic() + TIME_LIMIT
        while demo.poll() is None:
            assert time.monotonic() < deadline
            seen |= set(watched.children(recursive=True)) if watched.is_running() else set()
            time.sleep(0.5)
        stdout, stderr = demo.communicate()

    assert demo.returncode == 0, stderr
    assert stderr == ""
    assert len(seen) >= 5
    assert left_running(seen) == []
    assert state_directories() == directories_before
    assert len(re.findall(r"^.+ 1[05] s +\$0\.1[05] +\d+ s +.+\.mp4$", stdout, re.MULTILINE)) == 3
    assert "waiting in the triggerer" in stdout
    assert re.search(r"Total cost of \d+ videos: \$0\.\d\d", stdout)
    page = tmp_path / "out" / "index.html"
    assert page.as_uri() in stdout
    sources = set(re.findall(r'"(?:\./|file://)([^"]+\.(?:mp4|jpg))"', page.read_text()))
    assert len(sources) == 6
    assert all((page.parent / source).stat().st_size > 1000 for source in sources)


def test_interrupted_demo_leaves_nothing_running(tmp_path: Path) -> None:
    demo = start_demo(tmp_path / "out")
    watched = psutil.Process(demo.pid)
    deadline = time.monotonic() + TIME_LIMIT
    while len(seen := set(watched.children(recursive=True))) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.2)

    demo.send_signal(signal.SIGINT)
    stdout, stderr = demo.communicate(timeout=60)

    assert demo.returncode == 130
    assert "Nothing is left running." in stdout
    assert "Traceback" not in stderr
    assert left_running(seen) == []
