"""A directory belongs to one task, and a run to what it has planned."""

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
def folder(tmp_path: Path) -> Directory:
    return Directory(str(tmp_path))


def ownership(folder: Directory, **changes: Any) -> Ownership:
    facts: dict[str, Any] = {"dag_id": "shop", "task_id": "make", "run_id": "tonight"}
    return Ownership(folder, Owner(**(facts | changes)))


def test_directory_stays_the_task_s_in_every_run(folder: Directory, tmp_path: Path) -> None:
    ownership(folder).acquire()
    ownership(folder, run_id="tomorrow", map_index=3).acquire()
    content = json.loads((tmp_path / ".manifest" / "owner.json").read_text())
    assert content == {"version": 1, "dag_id": "shop", "task_id": "make"}


@pytest.mark.parametrize("other", [{"dag_id": "other"}, {"task_id": "other"}])
def test_another_task_is_rejected_until_the_file_is_deleted(
    folder: Directory, tmp_path: Path, other: dict[str, str]
) -> None:
    ownership(folder).acquire()
    owner = tmp_path / ".manifest" / "owner.json"
    with pytest.raises(ToAPIsRequestError) as rejected:
        ownership(folder, **other).acquire()
    for told in (str(owner), "'make'", "'shop'", "'other'", "delete this file"):
        assert told in str(rejected.value)
    owner.unlink()
    ownership(folder, **other).acquire()
    with pytest.raises(ToAPIsRequestError):
        ownership(folder).acquire()


@pytest.mark.parametrize("content", ["{", "[]", "7", '{"version": 2}', "null", "[" * 100_000])
def test_owner_that_cannot_be_read_is_named(folder: Directory, tmp_path: Path, content: str) -> None:
    ownership(folder)
    (tmp_path / ".manifest" / "owner.json").write_text(content)
    with pytest.raises(ToAPIsRequestError, match=r"owner\.json"):
        ownership(folder).acquire()


@pytest.mark.parametrize("content", ['{"version": 1}'.encode("utf-16"), b"\xff\xfe\0"])
def test_owner_in_another_encoding_is_named(folder: Directory, tmp_path: Path, content: bytes) -> None:
    ownership(folder)
    (tmp_path / ".manifest" / "owner.json").write_bytes(content)
    with pytest.raises(ToAPIsRequestError, match=r"owner\.json"):
        ownership(folder).acquire()


@pytest.mark.parametrize("name", ["owner.json", "plan"])
def test_file_of_a_worker_that_died_while_it_wrote_it_is_written_again(
    folder: Directory, tmp_path: Path, name: str
) -> None:
    mine = ownership(folder)
    mine.record(PLAN)
    (plan,) = (tmp_path / ".manifest" / "plans").iterdir()
    file = plan if name == "plan" else tmp_path / ".manifest" / name
    file.write_text("")
    mine.acquire()
    mine.record(PLAN)
    assert json.loads(file.read_text())["version"] == 1
    assert mine.planned() == PLAN


def test_first_plan_of_a_run_stays(folder: Directory) -> None:
    mine = ownership(folder)
    assert mine.planned() is None
    assert mine.record(PLAN) == PLAN
    assert ownership(folder).record(RunPlan({"shoe": PlannedRow("other", "9")})) == PLAN
    assert ownership(folder).planned() == PLAN
    assert ownership(folder, run_id="tomorrow").planned() is None


def test_plan_allows_a_row_as_it_was_planned() -> None:
    assert PLAN.allows("shoe", "F")
    assert not PLAN.allows("shoe", "changed")
    assert not PLAN.allows("new", "F")


def test_second_map_index_of_a_run_is_rejected(folder: Directory) -> None:
    ownership(folder, map_index=0).record(PLAN)
    other = ownership(folder, map_index=1)
    with pytest.raises(ToAPIsRequestError, match="map index 0") as rejected:
        other.planned()
    assert "/.manifest/plans/" in str(rejected.value)
    with pytest.raises(ToAPIsRequestError):
        other.record(PLAN)
    assert ownership(folder, map_index=1, run_id="tomorrow").record(PLAN) == PLAN


@pytest.mark.parametrize(
    "rows",
    [None, [], {"shoe": None}, {"shoe": {"fingerprint": "F"}}, {"shoe": {"fingerprint": "F", "price_usd": "free"}}],
)
def test_plan_that_cannot_be_read_is_named(folder: Directory, tmp_path: Path, rows: object) -> None:
    mine = ownership(folder)
    mine.record(PLAN)
    (plan,) = (tmp_path / ".manifest" / "plans").iterdir()
    plan.write_text(json.dumps({"version": 1, "run_id": "tonight", "map_index": -1, "rows": rows}))
    with pytest.raises(ToAPIsRequestError, match=plan.name):
        mine.planned()
