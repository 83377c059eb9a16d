"""The state that outlives the process, in one SQLite file.

A killed process loses nothing that was answered: what SQLite has handed to the operating system survives it. Only
the machine's own crash could lose the last moments (``synchronous=OFF``), which is no matter for an emulator.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS task (
    id TEXT PRIMARY KEY, client_business_id TEXT, operation TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    reference_urls TEXT NOT NULL, picture TEXT, duration INTEGER NOT NULL, aspect_ratio TEXT NOT NULL,
    callback_url TEXT, cost_usd TEXT NOT NULL, created_at REAL NOT NULL, due_at REAL NOT NULL,
    rendering TEXT, outcome TEXT, finished_at REAL, expires_at REAL, billing TEXT NOT NULL,
    error_code TEXT, error_message TEXT, error_form TEXT
);
CREATE INDEX IF NOT EXISTS task_business_id ON task (client_business_id, created_at);
CREATE INDEX IF NOT EXISTS task_due ON task (due_at) WHERE outcome IS NULL;
CREATE TABLE IF NOT EXISTS upload (name TEXT PRIMARY KEY, mime_type TEXT NOT NULL, expires_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS event (
    id TEXT PRIMARY KEY, url TEXT NOT NULL, body TEXT NOT NULL, attempts INTEGER NOT NULL, next_at REAL,
    statuses TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS product_video (number INTEGER PRIMARY KEY, sku TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS clock (singleton INTEGER PRIMARY KEY CHECK (singleton = 1), clock_offset REAL NOT NULL);
"""
_TABLES = ("task", "upload", "event", "product_video", "clock")


@dataclass(frozen=True)
class Task:
    """One ordered video.

    :param picture: Content hash of the picture it is made from, once that is here.
    :param due_at: Emulator time from which it may be finished.
    :param rendering: Name of its file, once that is complete.
    :param outcome: ``completed`` or ``failed`` once it is final.
    :param billing: ``pending``, ``settled`` or ``refunded``.
    :param error_code: Set before the outcome where a fault has decided that it will fail.
    :param error_form: Name of the variant in which its status reports the error.
    """

    id: str
    client_business_id: str | None
    operation: str
    model: str
    prompt: str
    reference_urls: tuple[str, ...]
    picture: str | None
    duration: int
    aspect_ratio: str
    callback_url: str | None
    cost_usd: str
    created_at: float
    due_at: float
    rendering: str | None = None
    outcome: str | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    billing: str = "pending"
    error_code: str | None = None
    error_message: str | None = None
    error_form: str | None = None


_COLUMNS = tuple(column.name for column in fields(Task))


class Store:
    """The tasks, uploads, webhook events and shop videos of one emulator.

    Every call is a few microseconds against a warm page cache, so it is made on the event loop.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def execute(self, statement: str, values: Iterable[Any] = ()) -> list[sqlite3.Row]:
        """Run one statement and return its rows."""
        return self._database.execute(statement, tuple(values)).fetchall()

    def clear(self) -> None:
        """Forget everything."""
        for table in _TABLES:
            self.execute(f"DELETE FROM {table}")  # noqa: S608 - a constant of this module

    def add_task(self, task: Task) -> None:
        """Keep a new task."""
        values = {name: getattr(task, name) for name in _COLUMNS}
        values["reference_urls"] = json.dumps(task.reference_urls)
        marks = ", ".join("?" * len(_COLUMNS))
        self.execute(
            f"INSERT INTO task ({', '.join(_COLUMNS)}) VALUES ({marks})",  # noqa: S608 - names of dataclass fields
            values.values(),
        )

    def change_task(self, task_id: str, **changes: object) -> None:
        """Change columns of one task."""
        assignments = ", ".join(f"{name} = ?" for name in changes)
        self.execute(f"UPDATE task SET {assignments} WHERE id = ?", (*changes.values(), task_id))  # noqa: S608 - as above

    def tasks(self, condition: str = "1", values: Iterable[Any] = ()) -> list[Task]:
        """Return the tasks that meet an SQL ``condition``, oldest first."""
        rows = self.execute(f"SELECT * FROM task WHERE {condition} ORDER BY created_at, rowid", values)  # noqa: S608 - callers' constants
        return [Task(**{**dict(row), "reference_urls": tuple(json.loads(row["reference_urls"]))}) for row in rows]

    def task(self, task_id: str) -> Task | None:
        """Return the task with this id of the service."""
        return next(iter(self.tasks("id = ?", (task_id,))), None)

    def newest_task(self, client_business_id: str) -> Task | None:
        """Return the latest task with this id of the customer."""
        return next(reversed(self.tasks("client_business_id = ?", (client_business_id,))), None)

    def clock_offset(self) -> float:
        """Return how far the emulator's time was moved in earlier runs, in seconds."""
        rows = self.execute("SELECT clock_offset FROM clock")
        return float(rows[0]["clock_offset"]) if rows else 0.0

    def keep_clock_offset(self, offset: float) -> None:
        """Remember how far the emulator's time is moved."""
        self.execute("INSERT OR REPLACE INTO clock VALUES (1, ?)", (offset,))
