"""Whose directory it is, and what each run has planned there; both are files below ``.manifest``.

A directory belongs to one task of one DAG. In one run it belongs to one of that task's map indexes, because the run's
plan is created exclusively and names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal, TypeVar

from pydantic import TypeAdapter

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.manifest_entry import READ_STRICTLY, Price
from airflow_provider_toapis.exceptions import ToAPIsRequestError

OWNER = "owner.json"
PLANS = ".manifest/plans"
_STATE = ".manifest"
VERSION = 1

T = TypeVar("T")


@dataclass(frozen=True)
class Owner:
    """A task that makes the videos of a directory."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int = -1


@dataclass(frozen=True)
class PlannedRow:
    """A row as it was planned.

    :param price_usd: What its video is expected to cost; None where no price is known.
    """

    __pydantic_config__: ClassVar = READ_STRICTLY

    fingerprint: str
    price_usd: Price | None


@dataclass(frozen=True)
class RunPlan:
    """What a run submits over all its attempts.

    :param rows: Each row that will be submitted, or was in progress when the run was planned, by its key.
    """

    rows: Mapping[str, PlannedRow] = field(default_factory=dict)

    def allows(self, key: str, fingerprint: str) -> bool:
        """Whether this run may submit a row as it is now."""
        planned = self.rows.get(key)
        return planned is not None and planned.fingerprint == fingerprint


@dataclass(frozen=True)
class _OwnerFile:
    __pydantic_config__: ClassVar = READ_STRICTLY

    dag_id: str
    task_id: str
    version: Literal[1]


@dataclass(frozen=True)
class _PlanFile:
    __pydantic_config__: ClassVar = READ_STRICTLY

    run_id: str
    map_index: int
    rows: dict[str, PlannedRow]
    version: Literal[1]


_OWNER = TypeAdapter(_OwnerFile)
_PLAN = TypeAdapter(_PlanFile)


class Ownership:
    """Checks and records who works on a directory."""

    def __init__(self, directory: Directory, owner: Owner) -> None:
        self._state = directory.subdirectory(_STATE)
        self._plans = directory.subdirectory(PLANS)
        self._owner = owner
        #: Whether a file was found that cannot be read.
        self.is_unreadable = False
        self._plan_name = f"{hashlib.sha256(owner.run_id.encode()).hexdigest()[:20]}.json"

    def acquire(self) -> None:
        """Make the directory this task's, unless it is another one's.

        :raises ToAPIsRequestError: It belongs to another task or DAG.
        """
        line = {"version": VERSION, "dag_id": self._owner.dag_id, "task_id": self._owner.task_id}
        noted = self._state.read(OWNER)
        if not noted:
            if noted is None and self._state.create(OWNER, f"{json.dumps(line)}\n"):
                return
            noted = self._state.read(OWNER)
        if not noted:
            # Of a worker that died while it wrote the file there is nothing in it.
            self._state.write(OWNER, [f"{json.dumps(line)}\n"])
            return
        found = self._parsed(_OWNER, self._state, OWNER, noted)
        if (found.dag_id, found.task_id) != (self._owner.dag_id, self._owner.task_id):
            path = self._state.path_of(OWNER)
            raise ToAPIsRequestError.for_field(
                "output_path",
                path,
                f"this directory belongs to task {found.task_id!r} of DAG {found.dag_id!r}, and two tasks"
                f" cannot share one. Give task {self._owner.task_id!r} of DAG {self._owner.dag_id!r} its own directory,"
                " or delete this file to hand the directory over",
            )

    def planned(self) -> RunPlan | None:
        """Return what this run has planned; None where it has not.

        :raises ToAPIsRequestError: Another map index of the task works on the directory in this run.
        """
        text = self._plans.read(self._plan_name)
        if not text:
            # Of a worker that died while it wrote the file there is nothing in it: nothing was submitted either.
            return None
        found = self._parsed(_PLAN, self._plans, self._plan_name, text)
        if found.run_id == self._owner.run_id and found.map_index != self._owner.map_index:
            raise ToAPIsRequestError.for_field(
                "output_path",
                self._plans.path_of(self._plan_name),
                f"map index {found.map_index} of this task already uses this directory in run {self._owner.run_id!r}."
                f" Give map index {self._owner.map_index} its own directory, or delete this file to hand the directory"
                " over",
            )
        return RunPlan(found.rows)

    def record(self, plan: RunPlan) -> RunPlan:
        """Write what this run has planned, before it submits anything; return what holds.

        :raises ToAPIsRequestError: Another map index of the task was faster.
        """
        rows = {key: asdict(row) for key, row in plan.rows.items()}
        owner = self._owner
        line = {"version": VERSION, "run_id": owner.run_id, "map_index": owner.map_index, "rows": rows}
        text = f"{json.dumps(line)}\n"
        if self._plans.create(self._plan_name, text):
            return plan
        planned = self.planned()
        if planned is None:
            self._plans.write(self._plan_name, [text])
        return planned or plan

    def _parsed(self, kind: TypeAdapter[T], directory: Directory, name: str, text: str) -> T:
        try:
            return kind.validate_json(text)
        except ValueError as error:
            self.is_unreadable = True
            raise _unreadable(directory.path_of(name), error) from None


def _unreadable(path: str, error: Exception) -> ToAPIsRequestError:
    return ToAPIsRequestError.for_field(
        "output_path",
        path,
        f"this file cannot be read ({type(error).__name__}). Restore an earlier version of it, or delete it if no other"
        " task uses the directory",
    )
