"""A small file that is created exclusively is there whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.exceptions import ToAPIsError


def test_worker_that_dies_while_it_writes_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    folder = Directory(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ToAPIsError):
            folder.create("plan.json", "{}")
    assert list(tmp_path.iterdir()) == []
    assert folder.create("plan.json", "{}")


@pytest.mark.parametrize("links", [True, False])
def test_only_the_first_creates_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def no_links(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    folder = Directory(str(tmp_path))
    assert [folder.create("plan.json", text) for text in ("one", "two")] == [True, False]
    assert folder.read("plan.json") == "one"
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]
