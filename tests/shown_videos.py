"""Task instances with videos, as the pages inside Airflow show them. Only for Airflow 3.1 and newer."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

from airflow_provider_toapis.operators.submission_record import RecordedSubmission
from airflow_provider_toapis.ui.pages import Addresses, list_page, task_page
from airflow_provider_toapis.ui.queries import Filters, Position, TaskVideos
from airflow_provider_toapis.ui.records import batch_of, generations_of, results_of

RUN = "scheduled__2026-01-01T00:00:00+00:00"
MODEL = "grok-video-1.5-preview"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ADDRESSES = Addresses("/toapis/videos", "")
HUGE = 10**400
SURROGATES = "a\ud800b\udfff"
DEEP: Any = []
for _ in range(5000):
    DEEP = [DEEP]
#: Values that a DAG author can write into an XCom.
FORGED: dict[str, Any] = {
    "null": None,
    "true": True,
    "negative": -1,
    "huge": HUGE,
    "huge negative": -HUGE,
    "nan": float("nan"),
    "infinity": float("inf"),
    "largest": 1.7e308,
    "empty text": "",
    "text": "text",
    "surrogates": SURROGATES,
    "control characters": "\x00\x1b[31m\x7f\x85\ufffe\u202e",
    "before the first day": "0001-01-01T00:00:00+23:59",
    "after the last day": "9999-12-31T23:59:59-23:59",
    "long text": "x" * 1_000_000,
    "empty list": [],
    "surrogates in a list": [SURROGATES, {SURROGATES: SURROGATES}],
    "numbers": [HUGE, float("nan"), 0.5],
    "many texts": ["a warning"] * 100_000,
    "many objects": [{"id": "video_1", "cost_usd": 1.7e308}] * 100_000,
    "empty object": {},
    "object": {"id": {"id": 1}, "output_path": ["a"], "status": None},
    "surrogates in an object": {"id": SURROGATES, SURROGATES: [SURROGATES]},
    "nested": DEEP,
}


def recorded_video(video_id: str = "video_1", **fields: Any) -> dict[str, Any]:
    """Return an entry of the XCom ``toapis_video``, as a task records it."""
    recorded = RecordedSubmission("", "", "", "key-1", video_id=video_id, posted_at=NOON.timestamp(), model=MODEL)
    return recorded.as_video(None) | {"status": "completed"} | fields


def returned_video(video_id: str = "video_1", **fields: Any) -> dict[str, Any]:
    """Return the result of a task."""
    return {"id": video_id, "status": "completed", "model": MODEL, "completed_at": "2026-01-01T12:01:00Z"} | fields


def task_videos(
    videos: Any = (),
    returned: Any = None,
    *,
    batch: Any = None,
    task_id: str = "video",
    map_index: int = -1,
    **fields: Any,
) -> TaskVideos:
    """Return a task instance.

    :param videos: The XCom ``toapis_video``.
    :param returned: The XCom ``return_value``.
    :param batch: The XCom ``toapis_batch``; None for a task that is no batch.
    """
    generations = generations_of(videos if videos != () else [recorded_video()]) if batch is None else ()
    known: dict[str, Any] = {
        "dag_id": "shop",
        "run_id": RUN,
        "label": None,
        "task_state": "success",
        "started_at": NOON,
        "ended_at": NOON,
        "recorded_at": NOON,
        "generations": generations,
        "batch": None if batch is None else batch_of(batch),
        "returned": returned,
        "returned_at": None if returned is None else NOON,
        "results": results_of(returned, [generation.id for generation in generations]),
    }
    return TaskVideos(position=Position(1, task_id, map_index, UUID(int=1)), **(known | fields))


def shown_list(*found: TaskVideos, **chosen: str) -> str:
    """Return the page with the list, as it is sent."""
    return sent(list_page(found, Filters(), has_more=True, addresses=ADDRESSES, chosen=chosen))


def shown_task(videos: TaskVideos) -> str:
    """Return the page of a task instance, as it is sent."""
    return sent(task_page(videos, ADDRESSES))


def sent(page: str) -> str:
    """Return a page after it was encoded and decoded."""
    return page.encode().decode()


def query_of(address: str) -> dict[str, str]:
    """Return the query of an address, without the id of the task instance, which only Airflow 3.4 needs."""
    return {name: value for name, value in parse_qsl(urlsplit(address).query) if name != "ti"}


class Elements(HTMLParser):
    """The elements of a page, as a browser parses them.

    :param page: The HTML of the page.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of all elements with this tag."""
        return [attributes for name, attributes in self.tags if name == tag]

    def addresses(self) -> set[str]:
        """Return all addresses that the page links to, loads or sends forms to."""
        names = ("href", "src", "poster", "action")
        return {attributes[name] for _, attributes in self.tags for name in names if name in attributes}
