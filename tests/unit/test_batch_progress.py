from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.manifest import Manifest
from airflow_provider_toapis.batch.manifest_entry import Cost, ManifestEntry
from airflow_provider_toapis.batch.plan import Attempt
from airflow_provider_toapis.batch.progress import Progress
from tests.catalog_entries import RUN, TIME, entry, saved, submission

ATTEMPT = Attempt(RUN, 1, TIME, 0.0)
STATES = ("saved", "removed", "pending", "postponed", "submitted", "interrupted", "failed", "rejected")


def _row(key: str, state: str, *, run_id: str, price: str | None, billed: bool, unchecked: bool) -> ManifestEntry:
    video = f"video_{key}"
    fields: dict[str, Any] = {"costs": (Cost(video, "af-1", run_id, price, billed),)}
    if state in ("saved", "removed"):
        fields["saved"] = saved(key, run_id=run_id, check_pending=unchecked)
    else:
        fields["submission"] = submission(state, run_id=run_id, video_id=video if state == "submitted" else None)
    return entry(key, state, **fields)


ROWS = st.lists(
    st.builds(
        _row,
        st.sampled_from("abc"),
        st.sampled_from(STATES),
        run_id=st.sampled_from([RUN, "other"]),
        price=st.sampled_from([None, "0.1", "0.25"]),
        billed=st.booleans(),
        unchecked=st.booleans(),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(rows=ROWS)
def test_progress_after_updates_equals_progress_of_a_new_attempt(tmp_path_factory: Any, rows: Any) -> None:
    manifest = Manifest(Directory(str(tmp_path_factory.mktemp("videos"))))
    updated = Progress(manifest, ATTEMPT, 0.05)
    for row in rows:
        updated.update(row)
    counted = Progress(manifest, ATTEMPT, 0.05)
    assert updated.overview() == counted.overview()
    assert updated.summary() == counted.summary()
    assert updated.active() == counted.active()
    for rows_of in (Progress.pending, Progress.unchecked):
        assert {row.key for row in rows_of(updated)} == {row.key for row in rows_of(counted)}


def test_rows_that_another_run_recorded_are_counted(tmp_path: Path) -> None:
    manifest, other = (Manifest(Directory(str(tmp_path))) for _ in range(2))
    progress = Progress(manifest, ATTEMPT, 0.05)
    progress.update(entry("a"))
    other.update(entry("b"))
    other.flush()
    progress.refresh()
    assert progress.overview()["saved"] == 2
    manifest.compact()
    assert progress.overview()["saved"] == 2
