from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from dev.cluster.cluster import PROCESSES, Cluster
from dev.cluster.status import Screen, Status

PARTS = {"postgres": True, "redis": False, "api-server": True, "scheduler": True, "worker-1": True}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_status_shows_parts_tasks_and_cost() -> None:
    status = Status(PARTS, {"success": 2, "deferred": 1}, 3, "0.30", ["worker-1"])

    assert status.lines() == [
        "● postgres   ○ redis   ● api-server   ● scheduler",
        "● worker-1",
        "tasks      1 deferred, 2 success",
        "videos     3 billed, 0.30 USD",
        "restarted: worker-1",
    ]


@pytest.mark.parametrize(("tasks", "message"), [(None, "the database does not respond"), ({}, "none yet")])
def test_status_shows_a_message_without_tasks(tasks: dict[str, int] | None, message: str) -> None:
    assert Status(PARTS, tasks, 0, "0.00").lines()[2] == f"tasks      {message}"


def test_terminal_screen_replaces_the_previous_page() -> None:
    out = Terminal()
    screen = Screen(out)

    screen.show(["one", "two", "three"])
    screen.show(["four"])

    assert out.getvalue() == "one\ntwo\nthree\n\x1b[3F\x1b[Jfour\n"


def test_lines_are_cut_to_the_terminal_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((11, 24)))
    out = Terminal()

    Screen(out).show(["0123456789abc"])

    assert out.getvalue() == "0123456789\n"


def test_other_output_appends_only_changed_pages() -> None:
    out = io.StringIO()
    screen = Screen(out)

    for page in ("one", "one", "two"):
        screen.show([page])

    assert out.getvalue() == "one\ntwo\n", "an unchanged page is not repeated"


class FakeProcess:
    def __init__(self) -> None:
        self.running = True

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    kill = stop


def test_only_parts_that_ended_by_themselves_are_restarted(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, tmp_path, connections={})
    processes = {name: FakeProcess() for name in PROCESSES}
    cluster.airflow = SimpleNamespace(processes=processes)  # type: ignore[assignment]
    cluster.parts = processes  # type: ignore[assignment]
    cluster.kill("worker-1")
    cluster.stop("triggerer-2")
    processes["scheduler"].running = False

    assert list(cluster.revive()) == ["scheduler"]

    assert not processes["worker-1"].running
    cluster.start("worker-1")
    processes["worker-1"].running = False
    assert list(cluster.revive()) == ["worker-1"]
