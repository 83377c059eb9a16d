"""Files in ``.manifest`` that record the owner of a directory and the plan of each run.

A directory belongs to one task of one DAG. Within a run, the directory belongs to one map index of that task. Only one
process can create the file with the run's plan, and this file contains the map index.
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
    """The task instance that makes the videos of a directory."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int = -1


@dataclass(frozen=True)
class PlannedRow:
    """A row of a run's plan.

    :param price_usd: Expected price of the video; None if unknown.
    """

    __pydantic_config__: ClassVar = READ_STRICTLY

    fingerprint: str
    price_usd: Price | None


@dataclass(frozen=True)
class RunPlan:
    """The rows that a run can submit in all its attempts.

    :param rows: The rows to submit, and the rows whose videos were in progress when the run was planned, by key.
    """

    rows: Mapping[str, PlannedRow] = field(default_factory=dict)

    def allows(self, key: str, fingerprint: str) -> bool:
        """Return whether this run is allowed to submit a row with this fingerprint."""
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


def belongs_to(directory: Directory, dag_id: str, task_id: str) -> bool:
    """Return whether a task is recorded as the owner of a directory."""
    try:
        found = _OWNER.validate_json(directory.subdirectory(_STATE).read(OWNER) or "")
    except ValueError:
        return False
    return (found.dag_id, found.task_id) == (dag_id, task_id)


class Ownership:
    """Checks and records which task owns a directory, and what each run has planned."""

    def __init__(self, directory: Directory, owner: Owner) -> None:
        self._state = directory.subdirectory(_STATE)
        self._plans = directory.subdirectory(PLANS)
        self._owner = owner
        #: Whether the owner file or the plan file could not be read.
        self.is_unreadable = False
        self._plan_name = f"{hashlib.sha256(owner.run_id.encode()).hexdigest()[:20]}.json"

    def acquire(self) -> None:
        """Claim the directory for this task.

        :raises ToAPIsRequestError: The directory belongs to another task or DAG.
        """
        line = {"version": VERSION, "dag_id": self._owner.dag_id, "task_id": self._owner.task_id}
        text = self._state.read(OWNER)
        if not text:
            if text is None and self._state.create(OWNER, f"{json.dumps(line)}\n"):
                return
            text = self._state.read(OWNER)
        if not text:
            # A worker died while it wrote the file, and left it empty.
            self._state.write(OWNER, [f"{json.dumps(line)}\n"])
            return
        found = self._parsed(_OWNER, self._state, OWNER, text)
        if (found.dag_id, found.task_id) != (self._owner.dag_id, self._owner.task_id):
            path = self._state.path_of(OWNER)
            raise ToAPIsRequestError.for_field(
                "output_path",
                path,
                f"the directory belongs to task {found.task_id!r} of DAG {found.dag_id!r}, and two tasks cannot share"
                f" a directory. Give task {self._owner.task_id!r} of DAG {self._owner.dag_id!r} its own directory,"
                f" or delete {_STATE}/{OWNER} to hand this directory over",
            )

    def planned(self) -> RunPlan | None:
        """Return the recorded plan of this run; None if no plan is recorded.

        :raises ToAPIsRequestError: Another map index of the task uses the directory in this run.
        """
        text = self._plans.read(self._plan_name)
        if not text:
            # A worker died while it wrote the file, and left it empty. The worker had not submitted anything yet.
            return None
        found = self._parsed(_PLAN, self._plans, self._plan_name, text)
        if found.run_id == self._owner.run_id and found.map_index != self._owner.map_index:
            raise ToAPIsRequestError.for_field(
                "output_path",
                self._plans.path_of(self._plan_name),
                f"map index {found.map_index} of this task already uses the directory in run {self._owner.run_id!r}."
                f" Give map index {self._owner.map_index} its own directory, or delete {PLANS}/{self._plan_name} to"
                " hand this directory over",
            )
        return RunPlan(found.rows)

    def record(self, plan: RunPlan) -> RunPlan:
        """Record the plan of this run before anything is submitted; return the plan that this attempt must follow.

        If an earlier attempt has recorded a plan, that plan is returned.

        :raises ToAPIsRequestError: Another map index of the task has recorded its plan first.
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
        f"the file cannot be read ({type(error).__name__}). Restore an earlier version of the file, or delete the file"
        " if no other task uses the directory",
    )
