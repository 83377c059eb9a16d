"""The memory of a catalogue survives the death of its writer at every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_toapis.api.errors import ToAPIsRequestError
from airflow_provider_toapis.batch.entries import Entry
from airflow_provider_toapis.batch.folder import Folder
from airflow_provider_toapis.batch.manifest import Manifest, OrderNotes
from tests.catalogue_entries import entry


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path))


def written(folder: Folder, *entries: Entry) -> Manifest:
    manifest = Manifest(folder)
    for one in entries:
        manifest.note(one)
    manifest.flush()
    return manifest


def parts(folder: Folder) -> list[str]:
    return [name for name in folder.part(".manifest").sizes() if name.endswith(".jsonl")]


def test_row_survives_with_the_part_that_was_written(folder: Folder) -> None:
    written(folder, entry("a"), entry("b"))
    assert Manifest(folder).entries == {"a": entry("a"), "b": entry("b")}


def test_row_that_was_not_written_is_lost_and_nothing_else(folder: Folder) -> None:
    manifest = written(folder, entry("a"))
    manifest.note(entry("b"))
    assert Manifest(folder).entries.keys() == {"a"}


def test_newest_line_of_a_row_wins(folder: Folder) -> None:
    newer = dataclasses.replace(entry("a"), prompt="in the evening")
    written(folder, entry("a"))
    written(folder, newer)
    assert Manifest(folder).entries == {"a": newer}


def test_each_part_is_put_once_and_never_written_again(folder: Folder, tmp_path: Path) -> None:
    manifest = written(folder, entry("a"))
    before = {file: file.read_bytes() for file in (tmp_path / ".manifest").glob("*.jsonl")}
    manifest.note(entry("b"))
    manifest.flush()
    assert len(parts(folder)) == 2
    assert {file: file.read_bytes() for file in before} == before


def test_nothing_new_makes_no_part(folder: Folder) -> None:
    manifest = written(folder, entry("a"))
    assert manifest.flush() == []
    assert len(parts(folder)) == 1


def test_end_of_a_run_leaves_one_file(folder: Folder) -> None:
    manifest = written(folder, entry("a"))
    manifest.note(entry("b"))
    manifest.compact()
    assert parts(folder) == []
    assert Manifest(folder).entries.keys() == {"a", "b"}


def test_death_before_the_parts_are_removed_changes_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = dataclasses.replace(entry("a"), prompt="in the evening")
    manifest = written(folder, entry("a"))
    manifest.note(newer)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove", _die)
        with pytest.raises(OSError, match="killed"):
            manifest.compact()
    assert len(parts(folder)) == 2
    assert Manifest(folder).entries == {"a": newer}


def test_death_while_a_part_is_written_leaves_no_half_of_it(folder: Folder) -> None:
    with pytest.raises(OSError, match="killed"):
        folder.part(".manifest").put("1.jsonl", _pieces_that_end())
    assert parts(folder) == []


def _pieces_that_end() -> Iterator[str]:
    yield '{"key": "a"'
    _die()


def _die(*_: object) -> None:
    raise OSError("killed")


@pytest.mark.parametrize("line", ["{", "[]", '{"key": 1}', "null"])
def test_line_that_cannot_be_read_stops_the_run_and_is_named(folder: Folder, tmp_path: Path, line: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(f"{line}\n")
    with pytest.raises(ToAPIsRequestError, match=r"manifest\.jsonl.*line 1"):
        Manifest(folder)


def test_note_of_an_order_is_found_by_the_next_attempt_until_it_is_removed(folder: Folder) -> None:
    notes = OrderNotes(folder)
    notes.put("af-1")
    notes.put("af-2")
    assert notes.found == frozenset()
    notes.remove(["af-1", "of somebody else"])
    assert OrderNotes(folder).found == {"af-2"}
