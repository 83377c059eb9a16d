"""The list of videos: which task instances its filters find, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pytest

from airflow_provider_toapis.version_compat import AIRFLOW_V_3_1_PLUS

if not AIRFLOW_V_3_1_PLUS:
    pytest.skip("needs Airflow 3.1: earlier versions cannot show pages of plugins", allow_module_level=True)

from sqlalchemy.orm import Session

from airflow_provider_toapis.operators.batch import BATCH_KEY
from airflow_provider_toapis.operators.submission_record import VIDEOS_KEY
from airflow_provider_toapis.ui.queries import PAGE_SIZE, Filters, find_page
from tests.metadata_database import NOON, metadata_session, record_xcom
from tests.shown_videos import recorded_video, returned_video


@pytest.fixture
def session() -> Iterator[Session]:
    with metadata_session() as session:
        yield session


def found(session: Session, **filters: Any) -> list[str]:
    """Return the task ids of the first page."""
    videos, has_more = find_page(session, {"shop"}, Filters(**filters), None)
    assert not has_more
    return [each.position.task_id for each in videos]


class TestFilters:
    @pytest.fixture(autouse=True)
    def task_instances(self, session: Session) -> None:
        """One task instance of each kind, with its state as its task id."""
        saved = recorded_video("video_saved", output_path="/videos/café 50%.mp4", model="veo3.1-fast")
        record_xcom(session, VIDEOS_KEY, [saved], task_id="saved", map_index=0, rendered_map_index="Red shoe")
        record_xcom(session, VIDEOS_KEY, [recorded_video("video_lost")], task_id="not_saved")
        record_xcom(session, VIDEOS_KEY, [recorded_video("video_failed")], task_id="failed", state="failed")
        record_xcom(session, VIDEOS_KEY, [recorded_video("video_next")], task_id="deferred", state="deferred")
        record_xcom(session, BATCH_KEY, {"output_path": "/batch"}, task_id="batch", at=NOON + timedelta(days=1))
        record_xcom(session, "return_value", returned_video("video_saved"), task_id="saved", map_index=0)
        record_xcom(session, "return_value", {"id": "video_other"}, task_id="other")
        record_xcom(session, VIDEOS_KEY, [recorded_video("video_secret")], task_id="secret", dag_id="secret", run=2)

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({}, ["saved", "not_saved", "failed", "deferred", "batch"]),
            ({"state": "saved"}, ["saved", "batch"]),
            ({"state": "not saved"}, ["not_saved"]),
            ({"state": "failed"}, ["failed"]),
            ({"state": "in progress"}, ["deferred"]),
            ({"model": "veo3.1-fast"}, ["saved"]),
            ({"model": "video_saved"}, []),
            ({"search": "video_lost"}, ["not_saved"]),
            ({"search": "video_"}, ["saved", "not_saved", "failed", "deferred"]),
            ({"search": "café 50%.mp4"}, ["saved"]),
            ({"search": "50_.mp4"}, []),
            ({"search": "Red sh"}, ["saved"]),
            ({"search": "Red%"}, []),
            ({"search": "Red sh", "state": "failed"}, []),
            ({"day": date(2026, 3, 16)}, ["batch"]),
            ({"task_id": "failed", "run_id": "run_1", "dag_id": "shop"}, ["failed"]),
            ({"dag_id": "secret"}, []),
        ],
    )
    def test_find_task_instances(self, session: Session, filters: dict[str, Any], expected: list[str]) -> None:
        assert found(session, **filters) == expected


def test_pages_have_every_task_instance_once_the_newest_run_first(session: Session) -> None:
    count = 2 * PAGE_SIZE + 1
    for number in range(count):
        record_xcom(session, VIDEOS_KEY, [recorded_video(f"video_{number}")], run=1 + number // 30, map_index=number)
    pages, after = [], None
    for has_more in (True, True, False):
        videos, more = find_page(session, {"shop"}, Filters(), after)
        assert more == has_more
        pages += [str(video.newest.id) for video in videos]
        after = videos[-1].position
    assert pages == [f"video_{number}" for number in reversed(range(count))]
