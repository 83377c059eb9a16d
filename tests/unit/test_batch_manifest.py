"""The manifest of a batch stays readable if its writer dies at any step."""

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
from airflow_provider_toapis.batch.manifest import Manifest, newer_of, superseded_by
from airflow_provider_toapis.batch.manifest_entry import ManifestEntry, RowStatus
from airflow_provider_toapis.batch.plan import Attempt
from airflow_provider_toapis.batch.transitions import after_saving
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsRequestError
from tests.catalog_entries import entry, saved, submission

LATER = "2026-02-03T02:14:07+00:00"


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(str(tmp_path))


def write_entries(directory: Directory, *entries: ManifestEntry) -> Manifest:
    manifest = Manifest(directory)
    for each in entries:
        manifest.update(each)
    manifest.flush()
    return manifest


def parts(directory: Directory) -> list[str]:
    return [name for name in directory.subdirectory(".manifest").sizes() if name.endswith(".jsonl")]


def test_row_in_a_written_part_is_read_back(directory: Directory) -> None:
    write_entries(directory, entry("a"), entry("b"))
    assert Manifest(directory).entries == {"a": entry("a"), "b": entry("b")}


def test_row_without_flush_is_lost_and_others_are_read(directory: Directory) -> None:
    manifest = write_entries(directory, entry("a"))
    manifest.update(entry("b"))
    assert Manifest(directory).entries.keys() == {"a"}


def test_newest_entry_of_a_row_wins(directory: Directory) -> None:
    newer = dataclasses.replace(entry("a"), prompt="in the evening", updated_at=LATER)
    write_entries(directory, entry("a"))
    write_entries(directory, newer)
    assert Manifest(directory).entries == {"a": newer}


def test_flush_adds_a_part_and_leaves_earlier_parts_unchanged(directory: Directory, tmp_path: Path) -> None:
    manifest = write_entries(directory, entry("a"))
    before = {file: file.read_bytes() for file in (tmp_path / ".manifest").glob("*.jsonl")}
    manifest.update(entry("b"))
    manifest.flush()
    assert len(parts(directory)) == 2
    assert {file: file.read_bytes() for file in before} == before


def test_flush_without_changes_writes_no_part(directory: Directory) -> None:
    manifest = write_entries(directory, entry("a"))
    assert manifest.flush() == []
    assert len(parts(directory)) == 1


def test_compaction_leaves_one_file(directory: Directory) -> None:
    manifest = write_entries(directory, entry("a"))
    manifest.update(entry("b"))
    manifest.compact()
    assert parts(directory) == []
    assert Manifest(directory).entries.keys() == {"a", "b"}


def test_death_before_parts_are_removed_loses_nothing(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = dataclasses.replace(entry("a"), prompt="in the evening", updated_at=LATER)
    manifest = write_entries(directory, entry("a"))
    manifest.update(newer)
    with monkeypatch.context() as patch:
        patch.setattr(Directory, "remove", _die)
        with pytest.raises(OSError, match="killed"):
            manifest.compact()
    assert len(parts(directory)) == 2
    assert Manifest(directory).entries == {"a": newer}


def write_parts(directory: Directory, count: int) -> Manifest:
    """Write a part with one row, and then parts that update the row."""
    manifest = Manifest(directory)
    for number in range(count):
        manifest.update(entry("a", row=number))
        manifest.update(entry(f"b{number}"))
        manifest.flush()
    return manifest


def test_parts_that_pile_up_are_joined(directory: Directory) -> None:
    manifest = write_parts(directory, 200)
    assert len(parts(directory)) < 20
    found = Manifest(directory).entries
    assert found == manifest.entries
    assert len(found) == 201
    assert found["a"].row == 199


@pytest.mark.parametrize("state", ["pending", "saved"])
def test_parts_are_joined_in_their_order(directory: Directory, state: str) -> None:
    first = entry("a", "submitted", saved=None, submission=submission("submitted", video_id="v1", fingerprint="f1"))
    assert first.submission is not None
    failed = dataclasses.replace(first, submission=dataclasses.replace(first.submission, state=RowStatus.FAILED))
    if state == "pending":
        last = dataclasses.replace(first, submission=dataclasses.replace(first.submission, state=RowStatus.PENDING))
    else:
        last = dataclasses.replace(first, submission=None, saved=saved("a", fingerprint="f2", video_id="v2"))
    for each in (first, failed):
        write_entries(directory, each)
    # The part of the last state is larger, so it is not joined with the parts of the others.
    write_entries(directory, last, *(entry(f"large-{number}", prompt="x" * 1000) for number in range(40)))
    before = Manifest(directory).entries["a"]
    for number in range(10):
        write_entries(directory, entry(f"small-{number}"))
    after = Manifest(directory).entries["a"]
    assert (after.state, after.superseded) == (before.state, before.superseded) == (state, ())


def test_pending_submission_that_names_a_failed_video_is_not_replaced_by_it() -> None:
    older = entry("a", saved=None, submission=submission("submitted", video_id="v1"))
    newer = dataclasses.replace(
        entry("a", saved=None, submission=submission("pending", video_id="v1")), updated_at=LATER
    )
    assert newer_of(older, newer).state == newer_of(newer, older).state == "pending"


def test_part_without_line_end_is_joined_with_complete_lines(directory: Directory, tmp_path: Path) -> None:
    write_entries(directory, entry("corrected"))
    (part,) = (tmp_path / ".manifest").glob("*.jsonl")
    part.write_text(part.read_text().rstrip())
    write_parts(directory, 8)
    assert len(parts(directory)) < 8
    assert len(Manifest(directory).entries) == 10


@pytest.mark.parametrize("step", ["write", "remove"])
def test_death_while_parts_are_joined_loses_nothing(
    directory: Directory, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_parts(directory, 7)
    manifest = Manifest(directory)
    manifest.update(entry("last"))
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "_join_parts", lambda _: None)
        manifest.flush()
    before = Manifest(directory).entries
    manifest.update(entry("a", row=99))
    with monkeypatch.context() as patch:
        write = Directory.write

        def die_at_second_write(self: Directory, name: str, pieces: Iterable[str]) -> None:
            write(self, name, pieces)
            patch.setattr(Directory, "write", _die)

        patch.setattr(Directory, step, die_at_second_write if step == "write" else _die)
        with pytest.raises(OSError, match="killed"):
            manifest.flush()
    assert len(parts(directory)) == (9 if step == "write" else 10)
    found = Manifest(directory).entries
    assert found.pop("a").row == 99
    assert found == {key: row for key, row in before.items() if key != "a"}


def test_death_while_writing_a_part_leaves_no_partial_file(directory: Directory) -> None:
    with pytest.raises(OSError, match="killed"):
        directory.subdirectory(".manifest").write("1.jsonl", _pieces_until_death())
    assert parts(directory) == []


def _pieces_until_death() -> Iterator[str]:
    yield '{"key": "a"'
    _die()


def _die(*_: object) -> None:
    raise OSError("killed")


@pytest.mark.parametrize("field", ["version", "key", "row", "updated_at", "images", "model", "in_feed"])
def test_line_with_null_in_a_required_field_is_rejected_by_line(
    directory: Directory, tmp_path: Path, field: str
) -> None:
    lines = [entry("a").as_dict(), entry("b").as_dict() | {field: None}]
    (tmp_path / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(ToAPIsRequestError, match=r"manifest\.jsonl.*line 2"):
        Manifest(directory)


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
def test_line_with_invalid_value_is_rejected_by_line(
    directory: Directory, tmp_path: Path, field: str, value: object
) -> None:
    lines = [entry("a").as_dict(), entry("b").as_dict() | {field: value}]
    (tmp_path / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(ToAPIsRequestError, match=r"manifest\.jsonl.*line 2"):
        Manifest(directory)


def test_manifest_in_utf16_is_rejected_with_its_path(directory: Directory, tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text(entry("a").as_line(), encoding="utf-16")
    with pytest.raises(ToAPIsRequestError, match=r"^Invalid output_path=.*manifest\.jsonl.*UTF-8"):
        Manifest(directory)


def test_manifest_that_is_a_directory_is_rejected_with_its_path(directory: Directory, tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").mkdir()
    with pytest.raises(ToAPIsRequestError, match=r"^Invalid output_path=.*manifest\.jsonl.*directory"):
        Manifest(directory)


def test_full_disk_before_first_part_raises_connection_error(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    manifest = Manifest(directory)
    manifest.update(entry("a"))
    monkeypatch.setattr(os, "fsync", fail_disk_full)
    with pytest.raises(ToAPIsConnectionError, match=r"jsonl.*No space left") as raised:
        manifest.flush()
    assert not raised.value.sent
    assert parts(directory) == []


@pytest.mark.parametrize("line", ["{", "[]", '{"key": 1}', "null"])
def test_unreadable_manifest_line_stops_the_run(directory: Directory, tmp_path: Path, line: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(f"{line}\n")
    with pytest.raises(ToAPIsRequestError, match=r"manifest\.jsonl.*line 1"):
        Manifest(directory)


class TestTwoRuns:
    def test_compaction_keeps_newer_rows_of_another_run(self, directory: Directory) -> None:
        slow = write_entries(directory, entry("a"), entry("b"))
        other = Manifest(directory)
        newer = dataclasses.replace(entry("a"), prompt="in the evening", updated_at=LATER)
        other.update(newer)
        other.update(entry("c"))
        other.compact()
        slow.compact()
        assert Manifest(directory).entries == {"a": newer, "b": entry("b"), "c": entry("c")}

    def test_compaction_removes_only_parts_it_has_read(
        self, directory: Directory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = write_entries(directory, entry("a"))
        write = Directory.write

        def write_while_another_run_writes(self: Directory, name: str, pieces: Iterable[str]) -> None:
            write(self, name, pieces)
            if name == "manifest.jsonl":
                monkeypatch.setattr(Directory, "write", write)
                write_entries(directory, entry("b"))

        monkeypatch.setattr(Directory, "write", write_while_another_run_writes)
        manifest.compact()
        assert len(parts(directory)) == 1
        assert Manifest(directory).entries.keys() == {"a", "b"}

    def test_compaction_leaves_the_parts_while_another_run_compacts(self, directory: Directory, tmp_path: Path) -> None:
        manifest = write_entries(directory, entry("a"))
        lock = tmp_path / ".manifest" / "compaction.lock"
        lock.touch()
        assert not manifest.compact()
        assert len(parts(directory)) == 1
        os.utime(lock, (time.time() - 301, time.time() - 301))
        assert manifest.compact()
        assert parts(directory) == []
        assert not lock.exists()

    def test_part_compacted_during_a_read_is_still_read(
        self, directory: Directory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = write_entries(directory, entry("a"))
        lines = Directory.lines

        def lines_after_compaction(self: Directory, name: str) -> Iterator[str]:
            monkeypatch.setattr(Directory, "lines", lines)
            manifest.compact()
            return lines(self, name)

        monkeypatch.setattr(Directory, "lines", lines_after_compaction)
        assert Manifest(directory).entries.keys() == {"a"}

    def test_part_joined_during_a_read_is_still_read(
        self, directory: Directory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = write_parts(directory, 7)
        lines = Directory.lines

        def lines_after_join(self: Directory, name: str) -> Iterator[str]:
            monkeypatch.setattr(Directory, "lines", lines)
            manifest.update(entry("last"))
            manifest.flush()
            assert name not in parts(directory)
            return lines(self, name)

        monkeypatch.setattr(Directory, "lines", lines_after_join)
        assert Manifest(directory).entries == manifest.entries

    @pytest.mark.parametrize("end", ["joined", "compacted"])
    def test_parts_that_another_run_has_removed_are_not_joined(self, directory: Directory, end: str) -> None:
        manifest = write_parts(directory, 7)
        other = Manifest(directory)
        other.update(entry("other"))
        if end == "joined":
            other.flush()
        else:
            other.compact()
        manifest.update(entry("last"))
        manifest.flush()
        assert Manifest(directory).entries.keys() == {*manifest.entries, "other"}
        manifest.compact()
        assert Manifest(directory).entries.keys() == {*manifest.entries, "other"}
        assert parts(directory) == []

    def test_run_that_joins_the_parts_of_a_live_run_loses_none_of_its_rows(self, directory: Directory) -> None:
        first, second = Manifest(directory), Manifest(directory)
        for number in range(60):
            for manifest, name in ((first, "a"), (second, "b")):
                if number % 3:
                    manifest.refresh()
                manifest.update(entry(f"{name}{number}"))
                manifest.update(entry("both", row=number))
                manifest.flush()
        assert len(Manifest(directory).entries) == 121
        second.compact()
        first.update(entry("last"))
        first.flush()
        found = Manifest(directory).entries
        assert len(found) == 122
        assert found["both"].row == 59

    def test_old_part_left_by_a_bulk_delete_does_not_hide_the_manifest(
        self, directory: Directory, tmp_path: Path
    ) -> None:
        write_entries(directory, dataclasses.replace(entry("a", "pending"), updated_at="2026-02-03T01:00:00Z"))
        (old,) = (tmp_path / ".manifest").glob("*.jsonl")
        content = old.read_text()
        manifest = Manifest(directory)
        manifest.update(entry("a"))
        manifest.compact()
        # This name sorts after the names of all later parts.
        old.with_name("9" * 20 + "-left.jsonl").write_text(content)
        assert Manifest(directory).entries["a"].state == "saved"

    def test_later_state_wins_if_the_earlier_writers_clock_was_ahead(self, directory: Directory) -> None:
        ahead = dataclasses.replace(entry("a", "pending"), updated_at="2026-02-03T02:14:11.5+00:00")
        write_entries(directory, ahead)
        write_entries(directory, entry("a", "submitted", submission=submission("submitted", video_id="v1")))
        found = Manifest(directory).entries["a"]
        assert found.state == "submitted"
        assert datetime.fromisoformat(found.updated_at) > datetime.fromisoformat(ahead.updated_at)

    @pytest.mark.parametrize("submitted", [True, False], ids=["submitted", "saved"])
    def test_pending_entry_of_an_unaware_run_does_not_hide_a_video(self, directory: Directory, submitted: bool) -> None:
        first, second = Manifest(directory), Manifest(directory)
        known = entry("a", "submitted", submission=submission("submitted", video_id="v1")) if submitted else entry("a")
        first.update(known)
        first.flush()
        second.update(dataclasses.replace(entry("a", "pending"), updated_at=LATER))
        second.flush()
        assert Manifest(directory).entries["a"] == known

    @pytest.mark.parametrize("newer", ["pending", "submitted", "saved"])
    def test_video_with_another_fingerprint_is_superseded(self, directory: Directory, newer: str) -> None:
        first, second = Manifest(directory), Manifest(directory)
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
            found = Manifest(directory).entries["a"]
            assert found.state == newer
            (video,) = found.superseded
            assert (video.video_id, video.fingerprint, video.price_usd) == ("v1", "other", "0.25")
            assert (video.posted_at, video.superseded_at) == (1.5, LATER)
            Manifest(directory).compact()

    def test_superseded_videos_of_both_entries_are_merged(self, directory: Directory) -> None:
        first, second = Manifest(directory), Manifest(directory)
        videos = [superseded_by(submission("submitted", video_id=name), LATER, "run") for name in ("v1", "v2", "v3")]
        first.update(dataclasses.replace(entry("a", "pending"), superseded=tuple(videos[:2])))
        first.flush()
        other = dataclasses.replace(saved("a"), video_id="v1")
        second.update(dataclasses.replace(entry("a", saved=other), updated_at=LATER, superseded=tuple(videos[1:])))
        second.flush()
        assert [video.video_id for video in Manifest(directory).entries["a"].superseded] == ["v2", "v3"]

    def test_video_that_replaces_one_of_a_worker_whose_clock_is_ahead_is_the_saved_one(self) -> None:
        before = entry("a", saved=saved("a", saved_at="2099-01-01T00:00:00Z", redos=0))
        after = after_saving(before, saved("a", video_id="v2", redos=1), Attempt("run", 1, LATER, 0.0))
        for found in (newer_of(before, after), newer_of(after, before)):
            assert found.saved is not None
            assert (found.saved.video_id, found.saved.redos) == ("v2", 1)

    def test_video_saved_by_another_run_is_kept(self, directory: Directory) -> None:
        first, second = Manifest(directory), Manifest(directory)
        first.update(entry("a"))
        first.flush()
        other = submission("submitted", video_id="v2", fingerprint="other")
        second.update(dataclasses.replace(entry("a", "submitted", submission=other), updated_at=LATER))
        second.flush()
        found = Manifest(directory).entries["a"]
        assert (found.saved, found.submission) == (entry("a").saved, other)

    def test_pending_entry_after_a_file_is_missing_wins(self, directory: Directory) -> None:
        write_entries(directory, entry("a"))
        pending = dataclasses.replace(entry("a", "pending", saved=saved("a")), updated_at=LATER)
        write_entries(directory, pending)
        assert Manifest(directory).entries["a"] == pending

    def test_refresh_reads_entries_of_another_run(self, directory: Directory) -> None:
        manifest = write_entries(directory, entry("a"))
        write_entries(directory, entry("b"))
        manifest.refresh()
        assert manifest.entries.keys() == {"a", "b"}
        other = Manifest(directory)
        other.update(entry("c"))
        other.compact()
        manifest.refresh()
        assert manifest.entries.keys() == {"a", "b", "c"}


def test_file_removed_while_the_directory_is_listed_is_omitted(
    directory: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert directory.sizes() == {"shoe.mp4": 5}


class TestFormat:
    def test_line_without_version_is_rejected_by_line(self, directory: Directory, tmp_path: Path) -> None:
        line = entry("a").as_dict()
        del line["version"]
        (tmp_path / "manifest.jsonl").write_text(json.dumps(line))
        with pytest.raises(ToAPIsRequestError, match="line 1"):
            Manifest(directory)

    def test_lone_surrogate_in_error_text_is_replaced(self, directory: Directory) -> None:
        failed = entry("a", "failed", submission=submission("failed", reason="no \ud83d \U0001f45f"))
        write_entries(directory, failed)
        read = Manifest(directory).entries["a"].submission
        assert read is not None
        assert read.reason == "no ? \U0001f45f"

    def test_keys_are_compared_in_unicode_normal_form(self, directory: Directory, tmp_path: Path) -> None:
        key = "Größe-42"
        line = entry(key).as_dict() | {"key": unicodedata.normalize("NFD", key)}
        (tmp_path / "manifest.jsonl").write_text(json.dumps(line) + "\n")
        assert Manifest(directory).entries == {key: entry(key)}

    def test_fields_of_a_later_release_are_ignored(self, directory: Directory, tmp_path: Path) -> None:
        line = entry("a", "pending").as_dict()
        line["new"] = line["submission"]["new"] = 1
        (tmp_path / "manifest.jsonl").write_text(f"{json.dumps(line)}\n")
        assert Manifest(directory).entries == {"a": entry("a", "pending")}

    def test_line_with_only_the_version_starts_over(self, directory: Directory, tmp_path: Path) -> None:
        (tmp_path / "manifest.jsonl").write_text('{"version": 1}\n')
        manifest = Manifest(directory)
        assert (manifest.entries, manifest.starts_over) == ({}, True)
        (tmp_path / "manifest.jsonl").write_text('{"version": 2}\n')
        with pytest.raises(ToAPIsRequestError, match="line 1"):
            Manifest(directory)
