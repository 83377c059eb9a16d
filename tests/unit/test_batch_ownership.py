"""Ownership of an output directory by one task, and the plan of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.ownership import Owner, Ownership, PlannedRow, RunPlan
from airflow_provider_toapis.exceptions import ToAPIsRequestError

PLAN = RunPlan({"shoe": PlannedRow("F", "0.10"), "mug": PlannedRow("G", None)})


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(str(tmp_path))


def ownership(directory: Directory, **changes: Any) -> Ownership:
    arguments: dict[str, Any] = {"dag_id": "shop", "task_id": "make", "run_id": "tonight"}
    return Ownership(directory, Owner(**(arguments | changes)))


def test_directory_belongs_to_its_task_in_every_run(directory: Directory, tmp_path: Path) -> None:
    ownership(directory).acquire()
    ownership(directory, run_id="tomorrow", map_index=3).acquire()
    content = json.loads((tmp_path / ".manifest" / "owner.json").read_text())
    assert content == {"version": 1, "dag_id": "shop", "task_id": "make"}


@pytest.mark.parametrize("other", [{"dag_id": "other"}, {"task_id": "other"}])
def test_another_task_is_rejected_until_the_file_is_deleted(
    directory: Directory, tmp_path: Path, other: dict[str, str]
) -> None:
    ownership(directory).acquire()
    owner = tmp_path / ".manifest" / "owner.json"
    with pytest.raises(ToAPIsRequestError) as rejected:
        ownership(directory, **other).acquire()
    for expected in (str(owner), "'make'", "'shop'", "'other'", "delete .manifest/owner.json"):
        assert expected in str(rejected.value)
    owner.unlink()
    ownership(directory, **other).acquire()
    with pytest.raises(ToAPIsRequestError):
        ownership(directory).acquire()


@pytest.mark.parametrize("content", ["{", "[]", "7", '{"version": 2}', "null", "[" * 100_000])
def test_unreadable_owner_file_is_named_in_the_error(directory: Directory, tmp_path: Path, content: str) -> None:
    ownership(directory)
    (tmp_path / ".manifest" / "owner.json").write_text(content)
    with pytest.raises(ToAPIsRequestError, match=r"owner\.json"):
        ownership(directory).acquire()


@pytest.mark.parametrize("content", ['{"version": 1}'.encode("utf-16"), b"\xff\xfe\0"])
def test_owner_file_in_another_encoding_is_named_in_the_error(
    directory: Directory, tmp_path: Path, content: bytes
) -> None:
    ownership(directory)
    (tmp_path / ".manifest" / "owner.json").write_bytes(content)
    with pytest.raises(ToAPIsRequestError, match=r"owner\.json"):
        ownership(directory).acquire()


@pytest.mark.parametrize("name", ["owner.json", "plan"])
def test_empty_file_of_a_dead_worker_is_written_again(directory: Directory, tmp_path: Path, name: str) -> None:
    own = ownership(directory)
    own.record(PLAN)
    (plan,) = (tmp_path / ".manifest" / "plans").iterdir()
    file = plan if name == "plan" else tmp_path / ".manifest" / name
    file.write_text("")
    own.acquire()
    own.record(PLAN)
    assert json.loads(file.read_text())["version"] == 1
    assert own.planned() == PLAN


def test_first_plan_of_a_run_is_final(directory: Directory) -> None:
    own = ownership(directory)
    assert own.planned() is None
    assert own.record(PLAN) == PLAN
    assert ownership(directory).record(RunPlan({"shoe": PlannedRow("other", "9")})) == PLAN
    assert ownership(directory).planned() == PLAN
    assert ownership(directory, run_id="tomorrow").planned() is None


def test_plan_allows_only_planned_fingerprints() -> None:
    assert PLAN.allows("shoe", "F")
    assert not PLAN.allows("shoe", "changed")
    assert not PLAN.allows("new", "F")


def test_second_map_index_of_a_run_is_rejected(directory: Directory) -> None:
    ownership(directory, map_index=0).record(PLAN)
    other = ownership(directory, map_index=1)
    with pytest.raises(ToAPIsRequestError, match="map index 0") as rejected:
        other.planned()
    assert "/.manifest/plans/" in str(rejected.value)
    with pytest.raises(ToAPIsRequestError):
        other.record(PLAN)
    assert ownership(directory, map_index=1, run_id="tomorrow").record(PLAN) == PLAN


@pytest.mark.parametrize(
    "rows",
    [None, [], {"shoe": None}, {"shoe": {"fingerprint": "F"}}, {"shoe": {"fingerprint": "F", "price_usd": "free"}}],
)
def test_unreadable_plan_is_named_in_the_error(directory: Directory, tmp_path: Path, rows: object) -> None:
    own = ownership(directory)
    own.record(PLAN)
    (plan,) = (tmp_path / ".manifest" / "plans").iterdir()
    plan.write_text(json.dumps({"version": 1, "run_id": "tonight", "map_index": -1, "rows": rows}))
    with pytest.raises(ToAPIsRequestError, match=plan.name):
        own.planned()
