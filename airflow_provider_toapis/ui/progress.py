"""The progress of a video, looked up at the service while its task is deferred.

The connection is that of the task's trigger. Responses are cached, so that many viewers cost the service no more
requests than one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, Any

from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from cachetools import TTLCache
from sqlalchemy import select

from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.triggers.video import ToAPIsVideoTrigger

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_provider_toapis.ui.queries import TaskVideos

log = logging.getLogger(__name__)
#: Seconds for which a response is cached, and the maximum number of look-ups at a time.
_CACHED_SECONDS = 10.0
_CONCURRENT = 4
_TRIGGER = f"{ToAPIsVideoTrigger.__module__}.{ToAPIsVideoTrigger.__qualname__}"


@dataclass(frozen=True)
class Progress:
    """What the service reports about a video in progress.

    :param percent: From 0 to 100; None if the service reports none.
    """

    status: str
    percent: float | None


_known: TTLCache[tuple[str, str], Progress | None] = TTLCache(10_000, _CACHED_SECONDS)
_known_lock = Lock()
_look_ups = BoundedSemaphore(_CONCURRENT)


def progress_of(session: Session, videos: TaskVideos) -> Progress | None:
    """Return the progress of the newest video of a task instance.

    :return: None if the task is not deferred, or if the service cannot be asked right now.
    """
    waits_for = _waits_for(session, videos)
    if waits_for is None or waits_for[1] != videos.newest.id:
        return None
    with _known_lock:
        if waits_for in _known:
            return _known[waits_for]
    if not _look_ups.acquire(blocking=False):
        return None
    # Do not hold a connection to the database while the service responds.
    session.commit()
    try:
        found = _look_up(*waits_for)
    finally:
        _look_ups.release()
    with _known_lock:
        _known[waits_for] = found
    return found


def _waits_for(session: Session, videos: TaskVideos) -> tuple[str, str] | None:
    """Return the connection and the video of the task instance's trigger; None without a trigger of ours."""
    query = (
        select(Trigger)
        .join(TaskInstance, TaskInstance.trigger_id == Trigger.id)
        .where(TaskInstance.id == videos.position.ti_id, Trigger.classpath == _TRIGGER)
    )
    trigger = session.scalar(query)
    kwargs: Any = {} if trigger is None else trigger.kwargs
    conn_id, video_id = kwargs.get("toapis_conn_id"), kwargs.get("video_id")
    return (conn_id, video_id) if isinstance(conn_id, str) and isinstance(video_id, str) else None


def _look_up(conn_id: str, video_id: str) -> Progress | None:
    try:
        task = ToAPIsHook(conn_id).get_video(video_id, retry_timeout=0.0, is_id=True)
    except Exception as error:  # noqa: BLE001 - the page is useful without the progress
        log.debug("Cannot look up the progress of video %s (%s).", video_id, type(error).__name__)
        return None
    return Progress(str(task.status), task.progress)
