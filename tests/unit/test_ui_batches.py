"""Rows of a batch on the pages inside Airflow, read from a manifest that a DAG author can forge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_toapis.version_compat import AIRFLOW_V_3_1_PLUS

if not AIRFLOW_V_3_1_PLUS:
    pytest.skip("needs Airflow 3.1: earlier versions cannot show pages of plugins", allow_module_level=True)

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.manifest import MANIFEST, Manifest
from airflow_provider_toapis.batch.manifest_entry import Cost, ManifestEntry, Review, Superseded
from airflow_provider_toapis.batch.ownership import Owner, Ownership
from airflow_provider_toapis.exceptions import ToAPIsConnectionError
from airflow_provider_toapis.media_check import MediaFacts
from airflow_provider_toapis.ui import batches
from airflow_provider_toapis.ui.batches import BatchRows, BatchUnavailableError, ReviewRejectedError
from airflow_provider_toapis.ui.pages import batch_page
from tests.catalog_entries import RUN, TIME, entry, saved, submission
from tests.shown_videos import ADDRESSES, sent, task_videos

#: Values that JSON can contain, of other types, or of the right type and extreme.
FORGED: dict[str, Any] = {
    "null": None,
    "true": True,
    "negative": -1,
    "huge": 10**400,
    "nan": float("nan"),
    "infinity": float("-inf"),
    "empty text": "",
    "text": "text",
    "surrogates": "a\ud800b\udfff",
    "control characters": "\x00\x1b[31m\x7f\u202e",
    "amount": "9" * 400,
    "exponent": "1e-999999",
    "before the first day": "0001-01-01T00:00:00+23:59",
    "after the last day": "9999-12-31T23:59:59-23:59",
    "naive time": "2026-01-01T00:00:00",
    "status": "saved",
    "path": "../../etc/passwd",
    "list": ["a\ud800", 1, None],
    "object": {"a": {"b": 10**400}},
    "nested": [[[[]]]],
    "long": "x" * 1_000_000,
}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a batch below a media root."""
    monkeypatch.setenv("AIRFLOW__TOAPIS__MEDIA_ROOTS", str(tmp_path))
    Ownership(Directory(str(tmp_path)), Owner("shop", "catalog", RUN)).acquire()
    return tmp_path


def full_entry() -> ManifestEntry:
    """Return an entry in which every field has a value."""
    media = MediaFacts(6.0, 1280, 720, 24.0, "h264", True, 1000)
    video = saved("a", media=media, poster_path="a.jpg", warnings=("a warning",), posted_at=1.0, duration=6)
    known = submission("failed", reason="a reason", video_id="video_2", client_business_id="af-2", posted_at=1.0)
    cost = Cost("video_a", "af-1", RUN, "0.3", True)
    review = Review("redo", "video_a", "Slower", "eva", TIME)
    superseded = Superseded("video_0", "af-0", "f" * 64, "0.3", TIME, RUN)
    return replace(
        entry("a", saved=video), submission=known, costs=(cost,), review=review, superseded=(superseded,), images=("a",)
    )


def rows_of(directory: Path, task_id: str = "catalog") -> BatchRows:
    return BatchRows(task_videos(batch={"output_path": str(directory)}, task_id=task_id))


def write(directory: Path, *lines: ManifestEntry | dict[str, Any]) -> None:
    """Write the manifest."""
    texts = [line.as_line() if isinstance(line, ManifestEntry) else json.dumps(line) for line in lines]
    (directory / MANIFEST).write_text("".join(f"{text.rstrip()}\n" for text in texts), encoding="utf-8")


def changed_lines(value: Any) -> Iterator[dict[str, Any]]:
    """Return the line of an entry with one field replaced by a value, for each field."""
    line = json.loads(full_entry().as_line())

    def change(node: Any) -> Iterator[None]:
        for name in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            before = node[name]
            yield from change(before)
            node[name] = value
            yield
            node[name] = before

    for _ in change(line):
        yield line


def shown(directory: Path) -> str:
    """Return the page of the batch with its rows, as it is sent."""
    videos = task_videos(batch={"output_path": str(directory)}, task_id="catalog")
    found = BatchRows(videos).find(None, "a", 1)
    return sent(batch_page(videos, found, {"page": "1"}, ADDRESSES, problem="", can_review=True))


@pytest.mark.parametrize("value", FORGED.values(), ids=FORGED)
def test_any_value_of_a_field_is_shown_or_named_as_a_problem(directory: Path, value: Any) -> None:
    outcomes = set()
    for line in changed_lines(value):
        write(directory, line)
        try:
            outcomes.add(shown(directory).rstrip()[-7:])
        except BatchUnavailableError:
            outcomes.add("problem")
    assert outcomes <= {"</html>", "problem"}
    assert outcomes


def test_manifest_of_the_test_is_valid(directory: Path) -> None:
    write(directory, full_entry())
    page = shown(directory)
    assert all(text in page for text in ("a reason", "a warning", "1280 x 720", "<q>Slower</q>", "$0.3"))


def test_rows_that_need_attention_are_first(directory: Path) -> None:
    states = ["saved", "pending", "removed", "rejected", "postponed", "submitted", "failed", "interrupted"]
    write(directory, *(entry(f"{state}-{row}", state, row=row) for row in (2, 1) for state in states))
    found = rows_of(directory).find(None, None, 1)
    order = ["failed", "rejected", "interrupted", "submitted", "postponed", "pending", "saved", "removed"]
    assert [row.entry.key for row in found.rows] == [f"{state}-{row}" for state in order for row in (1, 2)]
    assert (found.number, list(found.states)) == (16, order)


def test_states_of_all_rows_can_be_chosen_whatever_is_shown(directory: Path) -> None:
    write(directory, entry("a"), entry("b", "failed"))
    found = rows_of(directory).find("saved", "no such key", 1)
    assert (list(found.rows), found.number, list(found.states)) == ([], 0, ["failed", "saved"])


@pytest.mark.parametrize("search", ["STRASSE", "straße", "video_Straße", "af-1"])
def test_search_ignores_case(directory: Path, search: str) -> None:
    write(directory, entry("Straße"), entry("b", "failed"))
    found = [row.entry.key for row in rows_of(directory).find(None, search, 1).rows]
    assert found == (["Straße"] if search != "af-1" else [])


@pytest.mark.parametrize(("page", "keys"), [(1, 24), (2, 24), (3, 2), (4, 0), (10**6, 0)])
def test_rows_are_paged(directory: Path, page: int, keys: int) -> None:
    write(directory, *(entry(f"{number:02}", row=number) for number in range(50)))
    found = rows_of(directory).find(None, None, page)
    assert [row.entry.key for row in found.rows] == [f"{number:02}" for number in range(50)][24 * (page - 1) :][:24]
    assert (len(found.rows), found.number) == (keys, 50)


class TestCache:
    @pytest.fixture
    def read(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The directories whose manifests are read."""
        directories: list[str] = []

        class Read(Manifest):
            def __init__(self, directory: Directory) -> None:
                directories.append(str(directory))
                super().__init__(directory)

        monkeypatch.setattr(batches, "Manifest", Read)
        return directories

    def test_unchanged_manifest_is_read_once(self, directory: Path, read: list[str]) -> None:
        write(directory, entry("a"))
        for _ in range(3):
            assert rows_of(directory).row("a") is not None
        assert read == [str(directory)]

    @pytest.mark.parametrize("is_part", [True, False])
    def test_changed_manifest_is_read_again(self, directory: Path, read: list[str], is_part: bool) -> None:
        write(directory, entry("a"))
        assert rows_of(directory).row("b") is None
        if is_part:
            manifest = Manifest(Directory(str(directory)))
            manifest.update(entry("b"))
            manifest.flush()
        else:
            write(directory, entry("b"), entry("c"))
        assert rows_of(directory).row("b") is not None
        assert (rows_of(directory).row("a") is not None) is is_part

    def test_removed_manifest_is_forgotten(self, directory: Path, read: list[str]) -> None:
        write(directory, entry("a"))
        assert rows_of(directory).row("a") is not None
        (directory / MANIFEST).unlink()
        assert rows_of(directory).row("a") is None

    def test_owner_is_checked_every_time(self, directory: Path, read: list[str]) -> None:
        write(directory, entry("a"))
        rows_of(directory)
        with pytest.raises(BatchUnavailableError):
            rows_of(directory, "other")


class TestErrors:
    @pytest.fixture
    def rows(self, directory: Path) -> BatchRows:
        write(directory, entry("a"))
        return rows_of(directory)

    @pytest.fixture(params=[ToAPIsConnectionError("a signed URL"), PermissionError("a path")])
    def broken(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        """Return a function that makes a method of the directory fail."""

        def fail(*_: object, **__: object) -> Any:
            raise request.param

        return lambda method: monkeypatch.setattr(Directory, method, fail)

    def test_storage_that_fails_while_reviews_are_listed(self, directory: Path, rows: BatchRows, broken: Any) -> None:
        rows.add_review("a", partial(Review, "redo", "video_a", "Slower", "eva"))
        reviewed = rows_of(directory)
        broken("sizes")
        with pytest.raises(BatchUnavailableError) as failed:
            reviewed.find(None, None, 1)
        assert "signed URL" not in str(failed.value)

    @pytest.mark.parametrize("method", ["read", "sizes", "version_of"])
    def test_storage_that_fails_while_the_manifest_is_read(
        self, directory: Path, rows: BatchRows, broken: Any, method: str
    ) -> None:
        broken(method)
        with pytest.raises(BatchUnavailableError):
            rows_of(directory)

    def test_storage_that_fails_while_a_review_is_written(self, rows: BatchRows, broken: Any) -> None:
        broken("create")
        with pytest.raises(BatchUnavailableError):
            rows.add_review("a", partial(Review, "approve", "video_a", "", "eva"))

    @pytest.mark.parametrize(("key", "video_id"), [("a", "video_b"), ("b", "video_a"), ("", ""), ("a", "\ud800")])
    def test_review_of_another_video(self, rows: BatchRows, key: str, video_id: str) -> None:
        with pytest.raises(ReviewRejectedError):
            rows.add_review(key, partial(Review, "approve", video_id, "", "eva"))

    def test_review_has_the_time_of_the_server(
        self, directory: Path, rows: BatchRows, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batches, "time_now", lambda: TIME)
        rows.add_review("a", partial(Review, "redo", "video_a", "Slower", "eva"))
        (row,) = rows_of(directory).find(None, None, 1).rows
        assert row.review == Review("redo", "video_a", "Slower", "eva", TIME)
