"""The progress of a video on the pages inside Airflow."""

from __future__ import annotations

from collections.abc import Iterator
from threading import BoundedSemaphore
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_toapis.version_compat import AIRFLOW_V_3_1_PLUS

if not AIRFLOW_V_3_1_PLUS:
    pytest.skip("needs Airflow 3.1: earlier versions cannot show pages of plugins", allow_module_level=True)

from airflow.models.trigger import Trigger
from cachetools import TTLCache
from sqlalchemy.orm import Session

from airflow_provider_toapis.exceptions import ToAPIsConnectionError
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.operators.submission_record import VIDEOS_KEY
from airflow_provider_toapis.triggers.video import ToAPIsVideoTrigger
from airflow_provider_toapis.ui import progress
from airflow_provider_toapis.ui.progress import Progress, progress_of
from airflow_provider_toapis.ui.queries import find_one
from tests.metadata_database import metadata_session, record_xcom
from tests.shown_videos import recorded_video

CLASSPATH, ARGUMENTS = ToAPIsVideoTrigger("video_1", "toapis_shop").serialize()


@pytest.fixture
def session() -> Iterator[Session]:
    with metadata_session() as session:
        yield session


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The connections and videos that are looked up. The cache is empty, and the clock of the cache stands still."""
    monkeypatch.setattr(progress, "_known", TTLCache(10, 10.0, timer=lambda: 0.0))
    found: list[tuple[str, str]] = []

    def get_video(hook: ToAPIsHook, video_id: str, **_: Any) -> Any:
        found.append((hook.toapis_conn_id, video_id))
        return SimpleNamespace(status="in_progress", progress=42)

    monkeypatch.setattr(ToAPIsHook, "get_video", get_video)
    return found


def shown(session: Session, classpath: str = CLASSPATH, video_id: str = "video_1", **changes: Any) -> Progress | None:
    """Return the progress of a deferred task instance.

    :param video_id: The video that the task instance has recorded.
    :param changes: Changed arguments of its trigger.
    """
    trigger = Trigger(classpath, ARGUMENTS | changes)
    session.add(trigger)
    session.flush()
    record_xcom(session, VIDEOS_KEY, [recorded_video(video_id)], state="deferred", trigger_id=trigger.id)
    return again(session)


def again(session: Session) -> Progress | None:
    videos = find_one(session, dag_id="shop", run_id="run_1", task_id="make_video", map_index=-1)
    assert videos is not None
    return progress_of(session, videos)


def test_video_is_looked_up_with_the_connection_of_its_trigger(session: Session, looked_up: list[Any]) -> None:
    assert shown(session) == Progress("in_progress", 42)
    assert looked_up == [("toapis_shop", "video_1")]


def test_no_transaction_is_open_during_the_look_up(
    session: Session, looked_up: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_during: list[bool] = []

    def get_video(*_: object, **__: object) -> Any:
        open_during.append(session.in_transaction())
        return SimpleNamespace(status="queued", progress=None)

    monkeypatch.setattr(ToAPIsHook, "get_video", get_video)
    assert shown(session) == Progress("queued", None)
    assert open_during == [False]


def test_response_is_cached(session: Session, looked_up: list[Any]) -> None:
    assert shown(session) == again(session) == again(session)
    assert len(looked_up) == 1


def test_failed_look_up_is_cached(session: Session, looked_up: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Any:
        looked_up.append(None)
        raise ToAPIsConnectionError("The service cannot be reached.")

    monkeypatch.setattr(ToAPIsHook, "get_video", fail)
    assert (shown(session), again(session)) == (None, None)
    assert len(looked_up) == 1


def test_task_instance_without_a_trigger_has_no_progress(session: Session, looked_up: list[Any]) -> None:
    record_xcom(session, VIDEOS_KEY, [recorded_video()], state="running")
    assert again(session) is None
    assert looked_up == []


@pytest.mark.parametrize(
    "changes",
    [
        {"classpath": "airflow.providers.standard.triggers.temporal.DateTimeTrigger"},
        {"video_id": "video_2"},
        {"toapis_conn_id": None},
        {"toapis_conn_id": ["a"]},
        {"toapis_conn_id": 7},
    ],
)
def test_other_trigger_is_not_looked_up(session: Session, looked_up: list[Any], changes: dict[str, Any]) -> None:
    assert shown(session, **changes) is None
    assert looked_up == []


@pytest.mark.parametrize("video_id", [None, 7, {}, ["video_1"]])
def test_forged_video_id_is_not_looked_up(session: Session, looked_up: list[Any], video_id: Any) -> None:
    trigger = Trigger(CLASSPATH, ARGUMENTS | {"video_id": video_id})
    session.add(trigger)
    session.flush()
    record_xcom(session, VIDEOS_KEY, [recorded_video()], state="deferred", trigger_id=trigger.id)
    assert again(session) is None
    assert looked_up == []


def test_only_a_few_videos_are_looked_up_at_a_time(
    session: Session, looked_up: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = BoundedSemaphore(1)
    monkeypatch.setattr(progress, "_look_ups", slots)
    with slots:
        assert shown(session) is None
    assert looked_up == []
    assert again(session) == again(session) == Progress("in_progress", 42)
