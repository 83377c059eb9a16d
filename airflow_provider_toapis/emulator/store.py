"""The emulator's persistent state, in one SQLite file.

Changes that a response has confirmed survive a kill of the process, because SQLite has passed them to the operating
system. Only a crash of the machine can lose the latest changes (``synchronous=OFF``). That is acceptable for an
emulator.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from airflow_provider_toapis.emulator.rendering import Flaw

_SCHEMA = """
CREATE TABLE IF NOT EXISTS task (
    id TEXT PRIMARY KEY, client_business_id TEXT, operation TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    reference_urls TEXT NOT NULL, picture TEXT, duration INTEGER NOT NULL, aspect_ratio TEXT NOT NULL,
    callback_url TEXT, cost_usd TEXT NOT NULL, created_at REAL NOT NULL, due_at REAL NOT NULL,
    rendering TEXT, outcome TEXT, finished_at REAL, expires_at REAL, billing TEXT NOT NULL,
    error_code TEXT, error_message TEXT, error_form TEXT, flaw TEXT
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
    """One generation task.

    :param picture: Content hash of the source image; None until it is fetched.
    :param due_at: Emulator time from which the task can finish.
    :param rendering: Name of the video file; None until it is complete.
    :param outcome: ``completed`` or ``failed``; None until the task is final.
    :param billing: ``pending``, ``settled`` or ``refunded``.
    :param error_code: Code of the failure. For a planned failure, it is set before the task fails.
    :param error_form: Name of the response variant that reports the error.
    :param flaw: How the video deviates from its request; None if it does not.
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
    flaw: Flaw | None = None


_COLUMNS = tuple(column.name for column in fields(Task))


class Store:
    """The generation tasks, uploads, webhook events and shop videos of one emulator.

    Calls block the event loop. That is acceptable, because each takes only a few microseconds with a warm page cache.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.executescript(_SCHEMA)
        self._add_missing_columns()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _add_missing_columns(self) -> None:
        """Add the columns that the table of generation tasks lacks if an earlier version created the file."""
        existing = {row["name"] for row in self.execute("PRAGMA table_info(task)")}
        for name in set(_COLUMNS) - existing:
            self.execute(f"ALTER TABLE task ADD COLUMN {name} TEXT")

    def execute(self, statement: str, values: Iterable[Any] = ()) -> list[sqlite3.Row]:
        """Run one statement and return its rows."""
        return self._database.execute(statement, tuple(values)).fetchall()

    def clear(self) -> None:
        """Delete everything."""
        for table in _TABLES:
            self.execute(f"DELETE FROM {table}")  # noqa: S608 - a constant of this module

    def add_task(self, task: Task) -> None:
        """Store a new generation task."""
        values = {name: getattr(task, name) for name in _COLUMNS}
        values["reference_urls"] = json.dumps(task.reference_urls)
        marks = ", ".join("?" * len(_COLUMNS))
        self.execute(
            f"INSERT INTO task ({', '.join(_COLUMNS)}) VALUES ({marks})",  # noqa: S608 - names of dataclass fields
            values.values(),
        )

    def change_task(self, task_id: str, **changes: object) -> None:
        """Change columns of one generation task."""
        assignments = ", ".join(f"{name} = ?" for name in changes)
        self.execute(f"UPDATE task SET {assignments} WHERE id = ?", (*changes.values(), task_id))  # noqa: S608 - as above

    def tasks(self, condition: str = "1", values: Iterable[Any] = ()) -> list[Task]:
        """Return the generation tasks that match an SQL ``condition``, oldest first."""
        rows = self.execute(f"SELECT * FROM task WHERE {condition} ORDER BY created_at, rowid", values)  # noqa: S608 - callers' constants
        return [Task(**{**dict(row), "reference_urls": tuple(json.loads(row["reference_urls"]))}) for row in rows]

    def task(self, task_id: str) -> Task | None:
        """Return the generation task with this id; None if it does not exist."""
        return next(iter(self.tasks("id = ?", (task_id,))), None)

    def newest_task(self, client_business_id: str) -> Task | None:
        """Return the newest generation task with this ``client_business_id``; None if it does not exist."""
        return next(reversed(self.tasks("client_business_id = ?", (client_business_id,))), None)

    def clock_offset(self) -> float:
        """Return the stored offset of the emulator's clock, in seconds."""
        rows = self.execute("SELECT clock_offset FROM clock")
        return float(rows[0]["clock_offset"]) if rows else 0.0

    def save_clock_offset(self, offset: float) -> None:
        """Store the offset of the emulator's clock, in seconds."""
        self.execute("INSERT OR REPLACE INTO clock VALUES (1, ?)", (offset,))
