"""A deferred attempt continues with some rows in memory, and reads all rows if another run has written anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_toapis.batch import manifest as manifest_module
from airflow_provider_toapis.batch.checkpoint import Checkpoint, Checkpoints
from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.feed_files import FeedPosition
from airflow_provider_toapis.batch.manifest import Manifest
from airflow_provider_toapis.batch.manifest_entry import Cost
from airflow_provider_toapis.batch.plan import Attempt
from airflow_provider_toapis.batch.progress import Progress
from airflow_provider_toapis.batch.tally import Tally
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsWaitInterruptedError
from tests.catalog_entries import RUN, TIME, entry, submission

ATTEMPT = Attempt(RUN, 1, TIME, 0.0)
FEED = FeedPosition("70 bytes, modified 7", 66, 7)
PENDING = [entry(f"pending-{row}", "pending", row=row) for row in range(10, 40)]
SUBMITTED = entry(
    "submitted",
    submission=submission("submitted", video_id="v1"),
    saved=None,
    costs=(Cost("v1", "af-1", RUN, "0.1"), Cost("v0", "af-0", RUN, "0.30", billed=True)),
)


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(str(tmp_path))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the queue in blocks that are shorter than two lines."""
    monkeypatch.setattr(manifest_module, "_QUEUE_BLOCK", 1000)


def narrowed(directory: Directory) -> tuple[Manifest, Progress]:
    """Return a manifest that a planned run has narrowed."""
    manifest = Manifest(directory)
    progress = Progress(manifest, ATTEMPT, 0.05)
    for row in (entry("saved"), SUBMITTED, *reversed(PENDING)):
        progress.update(row)
    progress.narrow()
    return manifest, progress


def resumed(directory: Directory, attempt: Attempt = ATTEMPT) -> tuple[Manifest, Progress]:
    checkpoint = Checkpoints(directory, attempt).read()
    manifest = Manifest(directory, checkpoint.manifest if checkpoint else None)
    return manifest, Progress(manifest, attempt, 0.05, tally=checkpoint.tally if checkpoint else None)


def save(directory: Directory) -> Checkpoint:
    manifest, progress = narrowed(directory)
    checkpoint = Checkpoint(manifest.state, progress.tally, 31, FEED)
    Checkpoints(directory, ATTEMPT).write(checkpoint)
    return checkpoint


def keys(rows: Any) -> list[str]:
    return [row.key for row in rows]


class TestNarrowedManifest:
    def test_only_rows_in_progress_stay_in_memory(self, directory: Directory) -> None:
        manifest, progress = narrowed(directory)
        assert manifest.loaded == {"submitted": SUBMITTED}
        assert (progress.active(), progress.has_pending(())) == ([SUBMITTED], True)
        assert {name: progress.overview()[name] for name in ("saved", "submitted", "pending")} == {
            "saved": 1,
            "submitted": 1,
            "pending": 30,
        }

    def test_all_rows_are_read_when_they_are_needed(self, directory: Directory) -> None:
        manifest, progress = narrowed(directory)
        before = progress.overview()
        assert manifest.entries == Manifest(directory).entries
        assert len(manifest.entries) == 32
        assert progress.overview() == before
        assert len(progress.pending()) == 30

    def test_pending_rows_are_loaded_in_the_order_of_the_feed(self, directory: Directory) -> None:
        _, progress = narrowed(directory)
        progress.load_pending(0)
        assert progress.pending() == []
        progress.load_pending(12)
        assert progress.pending()[:3] == PENDING[:3]
        assert len(progress.pending()) < 6
        progress.load_pending(100)
        assert progress.pending() == PENDING
        assert not progress.has_pending(set(keys(PENDING)))
        assert progress.overview()["pending"] == 30

    def test_rows_that_are_loaded_and_not_submitted_stay_in_memory(self, directory: Directory) -> None:
        _, progress = narrowed(directory)
        progress.load_pending(12)
        loaded = progress.pending()
        progress.update(replace(loaded[0], submission=submission("submitted", video_id="v2")))
        progress.narrow()
        assert progress.pending() == loaded[1:]
        progress.load_pending(100)
        assert progress.pending() == PENDING[1:]

    def test_recorded_state_of_a_queued_row_is_not_replaced(self, directory: Directory) -> None:
        manifest, progress = narrowed(directory)
        other = Manifest(directory)
        other.update(entry("pending-10", "submitted", submission=submission("submitted", video_id="v2")))
        other.flush()
        progress.refresh()
        assert not manifest.is_narrowed
        progress.narrow()
        progress.load_pending(100)
        assert keys(progress.pending()) == keys(PENDING[1:])
        assert keys(progress.active()) == ["submitted", "pending-10"]

    @pytest.mark.parametrize("end", ["compacted", "joined", "truncated"])
    def test_all_rows_are_read_if_the_queue_cannot_be_read(
        self, directory: Directory, tmp_path: Path, end: str
    ) -> None:
        manifest, progress = narrowed(directory)
        before = manifest.state.queue
        assert before is not None
        if end == "compacted":
            Manifest(directory).compact()
        elif end == "joined":
            (tmp_path / ".manifest" / before.part).rename(tmp_path / ".manifest" / "0-joined.jsonl")
        else:
            content = (tmp_path / ".manifest" / before.part).read_text()
            (tmp_path / ".manifest" / before.part).write_text(content[:-1])
        progress.load_pending(100)
        assert not manifest.is_narrowed
        assert sorted(keys(progress.pending())) == keys(PENDING)

    def test_part_of_the_queue_is_not_joined(self, directory: Directory) -> None:
        manifest, progress = narrowed(directory)
        for number in range(40):
            progress.update(replace(SUBMITTED, row=number, prompt="x" * 30_000))
            manifest.flush()
        assert manifest.state.queue is not None
        assert manifest.state.queue.part in manifest.state.parts
        progress.load_pending(100)
        assert progress.pending() == PENDING

    def test_manifest_without_rows_that_were_read_is_an_error(self, directory: Directory, tmp_path: Path) -> None:
        manifest, progress = narrowed(directory)
        for part in (tmp_path / ".manifest").glob("*.jsonl"):
            part.unlink()
        for use in (progress.refresh, progress.load_all, manifest.compact, lambda: manifest.entries):
            with pytest.raises(ToAPIsWaitInterruptedError, match="has lost rows"):
                use()
        assert not (tmp_path / "manifest.jsonl").exists()


class TestCheckpoint:
    def test_resumed_attempt_reads_only_its_checkpoint(
        self, directory: Directory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved = save(directory)
        read: list[str] = []
        lines = Directory.lines

        def recorded(self: Directory, name: str) -> Iterator[str]:
            read.append(name)
            return lines(self, name)

        monkeypatch.setattr(Directory, "lines", recorded)
        found = Checkpoints(directory, ATTEMPT).read()
        assert found is not None
        assert (found.manifest, found.planned, found.feed) == (saved.manifest, 31, FEED)
        assert (found.tally.counts, found.tally.spend) == (+saved.tally.counts, saved.tally.spend)
        manifest, progress = resumed(directory)
        assert manifest.is_narrowed
        assert len(set(read)) == 1
        _, before = narrowed(Directory(f"{directory}/other"))
        assert progress.overview() == before.overview()
        progress.load_pending(100)
        assert progress.pending() == PENDING

    def test_rows_of_another_run_are_read(self, directory: Directory) -> None:
        save(directory)
        other = Manifest(directory)
        other.update(entry("other"))
        other.flush()
        manifest, progress = resumed(directory)
        assert not manifest.is_narrowed
        assert progress.overview()["saved"] == 2
        assert keys(progress.active()) == ["submitted"]

    @pytest.mark.parametrize("change", ["compacted", "corrected", "removed"])
    def test_changed_files_are_read(self, directory: Directory, tmp_path: Path, change: str) -> None:
        save(directory)
        (first, *_) = sorted((tmp_path / ".manifest").glob("*.jsonl"))
        if change == "compacted":
            Manifest(directory).compact()
        elif change == "corrected":
            first.write_text(first.read_text().replace('"prompt": "The', '"prompt": "A'))
        else:
            (tmp_path / "manifest.jsonl").write_text(first.read_text())
            first.unlink()
        manifest, progress = resumed(directory)
        assert not manifest.is_narrowed
        assert progress.overview()["pending"] == 30

    @pytest.mark.parametrize("attempt", [replace(ATTEMPT, try_number=2), replace(ATTEMPT, run_id="other")])
    def test_other_attempts_do_not_use_it(self, directory: Directory, attempt: Attempt) -> None:
        save(directory)
        assert Checkpoints(directory, attempt).read() is None

    @pytest.mark.parametrize("content", ["", "{}\n", "{", '{"version": 2}\n', None])
    def test_unreadable_checkpoint_is_ignored(self, directory: Directory, tmp_path: Path, content: str | None) -> None:
        save(directory)
        (file,) = (tmp_path / ".manifest" / "checkpoints").iterdir()
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[:-1]) if content is None else content)
        manifest, progress = resumed(directory)
        assert not manifest.is_narrowed
        assert progress.overview()["pending"] == 30

    @pytest.mark.parametrize(
        "changed",
        [{"counts": {"canceled": 1}}, {"queue": {"part": "gone.jsonl"}}, {"queue": {"offset": -7}}],
        ids=["unknown status", "unknown part", "negative offset"],
    )
    def test_changed_checkpoint_is_ignored(
        self, directory: Directory, tmp_path: Path, changed: dict[str, dict[str, Any]]
    ) -> None:
        save(directory)
        (file,) = (tmp_path / ".manifest" / "checkpoints").iterdir()
        first, *others = file.read_text().splitlines(keepends=True)
        header = json.loads(first)
        header |= {name: header[name] | value for name, value in changed.items()}
        file.write_text("".join([f"{json.dumps(header)}\n", *others]))
        assert Checkpoints(directory, ATTEMPT).read() is None

    def test_checkpoint_that_cannot_be_written_is_logged(
        self, directory: Directory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: object) -> None:
            raise ToAPIsConnectionError("Cannot write", sent=False)

        monkeypatch.setattr(Directory, "write", fail)
        empty = Checkpoint(manifest_module.ManifestState(None, {}, None, 0, ()), Tally(RUN), 0, None)
        with caplog.at_level("INFO"):
            Checkpoints(directory, ATTEMPT).write(empty)
        assert "will read all rows" in caplog.text

    def test_checkpoint_is_removed(self, directory: Directory) -> None:
        save(directory)
        checkpoints = Checkpoints(directory, ATTEMPT)
        checkpoints.remove()
        checkpoints.remove()
        assert checkpoints.read() is None
