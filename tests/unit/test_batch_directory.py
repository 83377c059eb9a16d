"""Exclusive creation of small files: a file is complete or does not exist."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.exceptions import ToAPIsError


def test_worker_that_dies_while_writing_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    directory = Directory(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_disk_full)
        with pytest.raises(ToAPIsError):
            directory.create("plan.json", "{}")
    assert list(tmp_path.iterdir()) == []
    assert directory.create("plan.json", "{}")


@pytest.mark.parametrize("hard_links", [True, False])
def test_only_first_create_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool) -> None:
    def fail_link(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not hard_links:
        monkeypatch.setattr(os, "link", fail_link)
    directory = Directory(str(tmp_path))
    assert [directory.create("plan.json", text) for text in ("one", "two")] == [True, False]
    assert directory.read("plan.json") == "one"
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("removes_abandoned", [True, False])
def test_partial_files_of_killed_workers_are_removed_on_request(tmp_path: Path, removes_abandoned: bool) -> None:
    abandoned = tmp_path / ".1.toapis-part"
    abandoned.touch()
    os.utime(abandoned, (0, 0))
    Directory(str(tmp_path), removes_abandoned=removes_abandoned).write("manifest.jsonl", [""])
    assert abandoned.exists() is not removes_abandoned
