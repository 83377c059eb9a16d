"""The memory of a catalog survives the death of its writer at every step."""

from __future__ import annotations

import dataclasses
import json
import os
import time
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.manifest import Manifest, superseded_by
from airflow_provider_toapis.batch.manifest_entry import ManifestEntry
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsRequestError
from tests.catalog_entries import entry, saved, submission

LATER = "2026-02-03T02:14:07+00:00"


@pytest.fixture
def folder(tmp_path: Path) -> Directory:
    return Directory(str(tmp_path))


def written(folder: Directory, *entries: ManifestEntry) -> Manifest:
    manifest = Manifest(folder)
    for one in entries:
        manifest.update(one)
    manifest.flush()
    return manifest


def parts(folder: Directory) -> list[str]:
    return [name for name in folder.subdirectory(".manifest").sizes() if name.endswith(".jsonl")]


def test_row_survives_with_the_part_that_was_written(folder: Directory) -> None:
    written(folder, entry("a"), entry("b"))
    assert Manifest(folder).entries == {"a": entry("a"), "b": entry("b")}


def test_row_that_was_not_written_is_lost_and_nothing_else(folder: Directory) -> None:
    manifest = written(folder, entry("a"))
    manifest.update(entry("b"))
    assert Manifest(folder).entries.keys() == {"a"}


def test_newest_line_of_a_row_wins(folder: Directory) -> None:
    newer = dataclasses.replace(entry("a"), prompt="in the evening", updated_at=LATER)
    written(folder, entry("a"))
    written(folder, newer)
    assert Manifest(folder).entries == {"a": newer}


def test_each_part_is_put_once_and_never_written_again(folder: Directory, tmp_path: Path) -> None:
    manifest = written(folder, entry("a"))
    before = {file: file.read_bytes() for file in (tmp_path / ".manifest").glob("*.jsonl")}
    manifest.update(entry("b"))
    manifest.flush()
    assert len(parts(folder)) == 2
    assert {file: file.read_bytes() for file in before} == before


def test_nothing_new_makes_no_part(folder: Directory) -> None:
    manifest = written(folder, entry("a"))
    assert manifest.flush() == []
    assert len(parts(folder)) == 1


def test_end_of_a_run_leaves_one_file(folder: Directory) -> None:
    manifest = written(folder, entry("a"))
    manifest.update(entry("b"))
    manifest.compact()
    assert parts(folder) == []
    assert Manifest(folder).entries.keys() == {"a", "b"}


def test_death_before_the_parts_are_removed_changes_nothing(folder: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = dataclasses.replace(entry("a"), prompt="in the evening", updated_at=LATER)
    manifest = written(folder, entry("a"))
    manifest.update(newer)
    with monkeypatch.context() as patch:
        patch.setattr(Directory, "remove", _die)
        with pytest.raises(OSError, match="killed"):
            manifest.compact()
    assert len(parts(folder)) == 2
    assert Manifest(folder).entries == {"a": newer}


def test_death_while_a_part_is_written_leaves_no_half_of_it(folder: Directory) -> None:
    with pytest.raises(OSError, match="killed"):
        folder.subdirectory(".manifest").write("1.jsonl", _pieces_that_end())
    assert parts(folder) == []


def _pieces_that_end() -> Iterator[str]:
    yield '{"key": "a"'
    _die()


def _die(*_: object) -> None:
    raise OSError("killed")


@pytest.mark.parametrize("field", ["version", "key", "row", "updated_at", "images", "model", "in_feed"])
def test_line_with_null_for_a_field_stops_the_run_and_is_named(folder: Directory, tmp_path: Path, field: str) -> None:
    lines = [entry("a").as_dict(), entry("b").as_dict() | {field: None}]
    (tmp_path / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(ToAPIsRequestError, match=r"manifest\.jsonl.*line 2"):
        Manifest(folder)


WRONG_VALUES: dict[str, list[Any]] = {
    "version": [2, "1"],
    "updated_at": [None, "yesterday", "2026-02-03T02:14:06"],
    "saved_at": [None, "yesterday"],
    "price_usd": ["0,10", "free", 0.1, "NaN"],
    "generation": ["0", None],
    "size": [None],
    "posted_at": ["now"],
    "images": [[5]],
    "superseded": [[None], [{"price_usd": "free"}], 5],
    "costs": [[{"video_id": "video_1", "client_business_id": "af-1", "run_id": "r", "price_usd": "free"}]],
    "submission": [
        entry("a", "submitted").as_dict()["submission"] | wrong
        for wrong in (
            {"state": None},
            {"deadline": "soon"},
            {"price_usd": "0,10"},
            {"attempts": "r"},
            {"try_number": "1"},
        )
    ],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, some in WRONG_VALUES.items() for value in some])
def test_line_with_a_value_that_cannot_be_read_stops_the_run_and_is_named(
    folder: Directory, tmp_path: Path, field: str, value: object
) -> None:
    lines = [entry("a").as_dict(), entry("b").as_dict() | {field: value}]
    (tmp_path / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(ToAPIsRequestError, match=r"manifest\.jsonl.*line 2"):
        Manifest(folder)


def test_manifest_in_utf16_stops_the_run_and_is_named(folder: Directory, tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text(entry("a").as_line(), encoding="utf-16")
    with pytest.raises(ToAPIsRequestError, match=r"^Invalid output_path=.*manifest\.jsonl.*UTF-8"):
        Manifest(folder)


def test_manifest_that_is_a_directory_stops_the_run_and_is_named(folder: Directory, tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").mkdir()
    with pytest.raises(ToAPIsRequestError, match=r"^Invalid output_path=.*manifest\.jsonl.*directory"):
        Manifest(folder)


def test_full_disk_before_the_first_part_is_an_error_of_ours(
    folder: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    manifest = Manifest(folder)
    manifest.update(entry("a"))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ToAPIsConnectionError, match=r"jsonl.*No space left") as raised:
        manifest.flush()
    assert not raised.value.sent
    assert parts(folder) == []


@pytest.mark.parametrize("line", ["{", "[]", '{"key": 1}', "null"])
def test_line_that_cannot_be_read_stops_the_run_and_is_named(folder: Directory, tmp_path: Path, line: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(f"{line}\n")
    with pytest.raises(ToAPIsRequestError, match=r"manifest\.jsonl.*line 1"):
        Manifest(folder)


class TestTwoRuns:
    def test_compaction_keeps_newer_rows_of_another_run(self, folder: Directory) -> None:
        slow = written(folder, entry("a"), entry("b"))
        other = Manifest(folder)
        newer = dataclasses.replace(entry("a"), prompt="in the evening", updated_at=LATER)
        other.update(newer)
        other.update(entry("c"))
        other.compact()
        slow.compact()
        assert Manifest(folder).entries == {"a": newer, "b": entry("b"), "c": entry("c")}

    def test_compaction_removes_only_parts_that_it_has_read(
        self, folder: Directory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = written(folder, entry("a"))
        write = Directory.write

        def write_while_another_run_writes(self: Directory, name: str, pieces: Iterable[str]) -> None:
            write(self, name, pieces)
            if name == "manifest.jsonl":
                monkeypatch.setattr(Directory, "write", write)
                written(folder, entry("b"))

        monkeypatch.setattr(Directory, "write", write_while_another_run_writes)
        manifest.compact()
        assert len(parts(folder)) == 1
        assert Manifest(folder).entries.keys() == {"a", "b"}

    def test_compaction_leaves_the_parts_while_another_run_compacts(self, folder: Directory, tmp_path: Path) -> None:
        manifest = written(folder, entry("a"))
        lock = tmp_path / ".manifest" / "compaction.lock"
        lock.touch()
        assert not manifest.compact()
        assert len(parts(folder)) == 1
        os.utime(lock, (time.time() - 301, time.time() - 301))
        assert manifest.compact()
        assert parts(folder) == []
        assert not lock.exists()

    def test_part_that_is_compacted_while_it_is_read_is_not_missed(
        self, folder: Directory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = written(folder, entry("a"))
        lines = Directory.lines

        def lines_after_compaction(self: Directory, name: str) -> Iterator[str]:
            monkeypatch.setattr(Directory, "lines", lines)
            manifest.compact()
            return lines(self, name)

        monkeypatch.setattr(Directory, "lines", lines_after_compaction)
        assert Manifest(folder).entries.keys() == {"a"}

    def test_old_part_left_by_a_bulk_delete_does_not_hide_the_manifest(self, folder: Directory, tmp_path: Path) -> None:
        written(folder, dataclasses.replace(entry("a", "pending"), updated_at="2026-02-03T01:00:00Z"))
        (old,) = (tmp_path / ".manifest").glob("*.jsonl")
        content = old.read_text()
        manifest = Manifest(folder)
        manifest.update(entry("a"))
        manifest.compact()
        # Its name sorts after the names of all parts to come.
        old.with_name("9" * 20 + "-left.jsonl").write_text(content)
        assert Manifest(folder).entries["a"].state == "saved"

    def test_later_state_counts_although_the_clock_of_the_earlier_one_was_ahead(self, folder: Directory) -> None:
        ahead = dataclasses.replace(entry("a", "pending"), updated_at="2026-02-03T02:14:11.5+00:00")
        written(folder, ahead)
        written(folder, entry("a", "submitted", submission=submission("submitted", video_id="v1")))
        found = Manifest(folder).entries["a"]
        assert found.state == "submitted"
        assert datetime.fromisoformat(found.updated_at) > datetime.fromisoformat(ahead.updated_at)

    @pytest.mark.parametrize("submitted", [True, False], ids=["submitted", "saved"])
    def test_wish_of_a_run_that_did_not_know_of_it_does_not_hide_a_video(
        self, folder: Directory, submitted: bool
    ) -> None:
        first, second = Manifest(folder), Manifest(folder)
        known = entry("a", "submitted", submission=submission("submitted", video_id="v1")) if submitted else entry("a")
        first.update(known)
        first.flush()
        second.update(dataclasses.replace(entry("a", "pending"), updated_at=LATER))
        second.flush()
        assert Manifest(folder).entries["a"] == known

    @pytest.mark.parametrize("newer", ["pending", "submitted", "saved"])
    def test_video_for_another_form_of_the_row_is_superseded(self, folder: Directory, newer: str) -> None:
        first, second = Manifest(folder), Manifest(folder)
        submitted = submission("submitted", video_id="v1", fingerprint="other", price_usd="0.25", posted_at=1.5)
        first.update(entry("a", "submitted", submission=submitted))
        first.flush()
        states = {
            "pending": entry("a", "pending"),
            "submitted": entry("a", "submitted", submission=submission("submitted", video_id="v2")),
            "saved": entry("a"),
        }
        second.update(dataclasses.replace(states[newer], updated_at=LATER))
        second.flush()
        for _ in range(2):
            found = Manifest(folder).entries["a"]
            assert found.state == newer
            (video,) = found.superseded
            assert (video.video_id, video.fingerprint, video.price_usd) == ("v1", "other", "0.25")
            assert (video.posted_at, video.superseded_at) == (1.5, LATER)
            Manifest(folder).compact()

    def test_superseded_videos_of_both_states_stay_named(self, folder: Directory) -> None:
        first, second = Manifest(folder), Manifest(folder)
        videos = [superseded_by(submission("submitted", video_id=name), LATER, "run") for name in ("v1", "v2", "v3")]
        first.update(dataclasses.replace(entry("a", "pending"), superseded=tuple(videos[:2])))
        first.flush()
        other = dataclasses.replace(saved("a"), video_id="v1")
        second.update(dataclasses.replace(entry("a", saved=other), updated_at=LATER, superseded=tuple(videos[1:])))
        second.flush()
        assert [video.video_id for video in Manifest(folder).entries["a"].superseded] == ["v2", "v3"]

    def test_video_that_another_run_saved_is_not_lost(self, folder: Directory) -> None:
        first, second = Manifest(folder), Manifest(folder)
        first.update(entry("a"))
        first.flush()
        other = submission("submitted", video_id="v2", fingerprint="other")
        second.update(dataclasses.replace(entry("a", "submitted", submission=other), updated_at=LATER))
        second.flush()
        found = Manifest(folder).entries["a"]
        assert (found.saved, found.submission) == (entry("a").saved, other)

    def test_wish_for_a_video_whose_file_is_gone_counts(self, folder: Directory) -> None:
        written(folder, entry("a"))
        wanted = dataclasses.replace(entry("a", "pending", saved=saved("a")), updated_at=LATER)
        written(folder, wanted)
        assert Manifest(folder).entries["a"] == wanted

    def test_refresh_takes_what_another_run_wrote(self, folder: Directory) -> None:
        manifest = written(folder, entry("a"))
        written(folder, entry("b"))
        manifest.refresh()
        assert manifest.entries.keys() == {"a", "b"}
        other = Manifest(folder)
        other.update(entry("c"))
        other.compact()
        manifest.refresh()
        assert manifest.entries.keys() == {"a", "b", "c"}


def test_file_that_another_run_removes_while_the_directory_is_listed_is_not_there(
    folder: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone.mp4").touch()
    (tmp_path / "shoe.mp4").write_bytes(b"12345")
    is_file = Path.is_file

    def is_file_for_the_last_time(self: Path) -> bool:
        found = is_file(self)
        if self.name == "gone.mp4":
            self.unlink()
        return found

    monkeypatch.setattr(Path, "is_file", is_file_for_the_last_time)
    assert folder.sizes() == {"shoe.mp4": 5}


class TestFormat:
    def test_line_without_a_version_stops_the_run_and_is_named(self, folder: Directory, tmp_path: Path) -> None:
        line = entry("a").as_dict()
        del line["version"]
        (tmp_path / "manifest.jsonl").write_text(json.dumps(line))
        with pytest.raises(ToAPIsRequestError, match="line 1"):
            Manifest(folder)

    def test_lone_surrogate_in_the_text_of_an_error_is_replaced(self, folder: Directory) -> None:
        failed = entry("a", "failed", submission=submission("failed", reason="no \ud83d \U0001f45f"))
        written(folder, failed)
        read = Manifest(folder).entries["a"].submission
        assert read is not None
        assert read.reason == "no ? \U0001f45f"

    def test_unicode_form_of_a_key_does_not_count(self, folder: Directory, tmp_path: Path) -> None:
        key = "Größe-42"
        line = entry(key).as_dict() | {"key": unicodedata.normalize("NFD", key)}
        (tmp_path / "manifest.jsonl").write_text(json.dumps(line) + "\n")
        assert Manifest(folder).entries == {key: entry(key)}

    def test_fields_of_a_later_release_are_ignored(self, folder: Directory, tmp_path: Path) -> None:
        line = entry("a", "pending").as_dict()
        line["new"] = line["submission"]["new"] = 1
        (tmp_path / "manifest.jsonl").write_text(f"{json.dumps(line)}\n")
        assert Manifest(folder).entries == {"a": entry("a", "pending")}

    def test_line_with_the_version_starts_over(self, folder: Directory, tmp_path: Path) -> None:
        (tmp_path / "manifest.jsonl").write_text('{"version": 1}\n')
        manifest = Manifest(folder)
        assert (manifest.entries, manifest.starts_over) == ({}, True)
        (tmp_path / "manifest.jsonl").write_text('{"version": 2}\n')
        with pytest.raises(ToAPIsRequestError, match="line 1"):
            Manifest(folder)
