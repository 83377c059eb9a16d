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
