"""The list of videos inside Airflow, read from SQLite and from PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from airflow_provider_toapis.version_compat import AIRFLOW_V_3_1_PLUS

if not AIRFLOW_V_3_1_PLUS:
    pytest.skip("needs Airflow 3.1: earlier versions cannot show pages of plugins", allow_module_level=True)

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

from airflow_provider_toapis.operators.batch import BATCH_KEY
from airflow_provider_toapis.operators.submission_record import VIDEOS_KEY
from dev.airflow.postgres import PostgresProcess
from tests.integration.airflow_database import NOON, Database, metadata_database
from tests.integration.ui_client import Client, address, simple_auth_manager, titles
from tests.shown_videos import recorded_video, returned_video

NO_ID = UUID(int=0)
LAST_RUN, EARLIER_RUN = "scheduled__2026-01-02", "scheduled__2026-01-01"
#: What a video of a task records, by task id.
TEXTS: dict[str, dict[str, str]] = {
    "id": {"video_id": "video_7f"},
    "key": {"client_business_id": "af-key-7"},
    "identity": {"identity": "Grüner Schuh 👟"},
    "percent": {"identity": "100% cotton"},
    "underscore": {"identity": "a_b"},
    "quote": {"identity": 'the "red" one'},
    "backslash": {"identity": "C:\\videos"},
    "slash": {"identity": "a/b"},
    "file": {"output_path": "s3://shop/videos/boot.mp4"},
}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"], autouse=True)
def _database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    directory = tmp_path_factory.mktemp("airflow")
    if request.param == "sqlite":
        with metadata_database(f"sqlite:///{directory}/airflow.db"), simple_auth_manager(directory):
            yield
    else:
        with PostgresProcess() as server, metadata_database(server.url), simple_auth_manager(directory):
            yield


@pytest.fixture
def database() -> Database:
    """An empty database."""
    return Database()


@pytest.fixture(scope="module")
def client(_database: None) -> Client:
    return Client()


def video(video_id: str, **fields: Any) -> dict[str, Any]:
    """Return the XComs of a task instance whose card has the video's id as its title."""
    return {VIDEOS_KEY: [recorded_video(video_id, client_business_id=None, **fields)]}


def test_page_without_videos_is_empty(database: Database, client: Client) -> None:
    response = client.get()
    assert titles(response) == []
    assert "No task has made a video yet." in response.text


def test_newest_run_is_first(database: Database, client: Client) -> None:
    for run_id in ("a", "c", "b"):
        database.add(video(f"video_{run_id}"), run_id=run_id)
    assert titles(client.get()) == ["video_b", "video_c", "video_a"]


def test_only_task_instances_with_videos_are_listed(database: Database, client: Client) -> None:
    database.add(video("video_1") | {"return_value": returned_video("video_1"), "toapis_video_link": "/"})
    database.add({"return_value": returned_video("video_2")}, task_id="other")
    database.add({"toapis_videos": [recorded_video("video_3")]}, task_id="another")
    assert titles(client.get()) == ["video_1"]


def test_batch_is_one_card(database: Database, client: Client) -> None:
    database.add({BATCH_KEY: {"output_path": "/data/catalog/", "saved": 3, "failed": 1, "spend": [{"cost_usd": 0.5}]}})
    response = client.get()
    assert titles(response) == ["catalog"]
    assert "3 saved, 1 failed" in response.text
    assert "<b>$0.50</b>" in response.text


def test_value_that_airflow_stores_as_text_is_shown(database: Database, client: Client) -> None:
    database.add({VIDEOS_KEY: json.dumps(video("video_1")[VIDEOS_KEY])})
    assert titles(client.get()) == ["video_1"]


@pytest.mark.parametrize("value", [None, 7, "text", "[", {}, [], [7, None], [{"id": 7}], [{"id": {"a": []}}]])
def test_forged_value_does_not_break_the_page(database: Database, client: Client, value: Any) -> None:
    database.add(video("video_1"))
    database.add({VIDEOS_KEY: value, "return_value": value}, task_id="forged", rendered={"prompt": value})
    database.add({BATCH_KEY: value}, task_id="forged_batch")
    assert set(titles(client.get())) >= {"video_1", "forged"}


def test_list_shows_only_dags_that_the_user_can_read(
    database: Database, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    deny(monkeypatch, "secret")
    database.add(video("video_1"))
    database.add(video("video_2"), dag_id="secret")
    assert titles(client.get()) == ["video_1"]
    assert titles(client.get(search="video_")) == ["video_1"]
    assert client.get(dag_id="secret").status_code == 403
    assert titles(client.get(dag_id="~")) == []


def deny(monkeypatch: pytest.MonkeyPatch, dag_id: str) -> None:
    """Deny all users the access to a DAG."""
    original = SimpleAuthManager.is_authorized_dag

    def is_authorized_dag(self: Any, *, details: Any = None, **arguments: Any) -> bool:
        return (details is None or details.id != dag_id) and original(self, details=details, **arguments)

    monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", is_authorized_dag)


class TestFilters:
    @pytest.fixture
    def filled(self, database: Database) -> Database:
        """Two DAGs, runs, tasks, models and days, and all states."""
        saved = {"output_path": "/data/1.mp4"}
        database.add(video("saved", model="grok-1", **saved), run_id=EARLIER_RUN, recorded_at=NOON - timedelta(days=1))
        database.add(video("failed", model="veo-3", **saved), run_id=EARLIER_RUN, task_id="other", state="failed")
        database.add(video("waiting", model="veo-3.1"), run_id=LAST_RUN, state="deferred")
        database.add(video("cleared", model="veo-3.1"), run_id=LAST_RUN, task_id="cleared", state=None)
        database.add(video("not saved", model="grok-1"), dag_id="films", run_id=LAST_RUN)
        database.add({BATCH_KEY: {"output_path": "/data/batch", "spend": [{"model": "grok-2"}]}}, dag_id="films")
        return database

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ({}, {"1.mp4", "waiting", "cleared", "not saved", "batch"}),
            ({"dag_id": "films"}, {"not saved", "batch"}),
            ({"dag_id": "film"}, set()),
            ({"run_id": LAST_RUN}, {"waiting", "cleared", "not saved"}),
            ({"task_id": "other"}, {"1.mp4"}),
            ({"task_id": " other "}, {"1.mp4"}),
            ({"state": "in progress"}, {"waiting", "cleared"}),
            ({"state": "saved"}, {"1.mp4", "batch"}),
            ({"state": "not saved"}, {"not saved"}),
            ({"state": "failed", "model": "veo-3"}, {"1.mp4"}),
            ({"model": "veo-3.1"}, {"waiting", "cleared"}),
            ({"model": "grok-2"}, {"batch"}),
            ({"model": "1.mp4"}, set()),
            ({"model": "eo-3"}, set()),
            ({"day": "2025-12-31"}, {"1.mp4"}),
            ({"day": "2026-01-02"}, set()),
            (
                {"dag_id": "films", "run_id": LAST_RUN, "task_id": "video", "state": "not saved", "day": "2026-01-01"},
                {"not saved"},
            ),
            ({"dag_id": "films", "state": "failed"}, set()),
            ({"state": "", "dag_id": " ", "search": ""}, {"1.mp4", "waiting", "cleared", "not saved", "batch"}),
        ],
    )
    def test_filters_are_combined(
        self, filled: Database, client: Client, filters: dict[str, str], found: set[str]
    ) -> None:
        response = client.get(**filters)
        assert set(titles(response)) == found
        assert ("No video matches." in response.text) is (not found)

    def test_filters_are_shown_in_the_form(self, filled: Database, client: Client) -> None:
        page = client.get(state="in progress", dag_id='a"b', model="veo", day="2026-01-02").text
        assert "<option selected>in progress</option>" in page
        assert all(f'value="{value}"' in page for value in ("a&#34;b", "veo", "2026-01-02"))

    @pytest.mark.parametrize(
        "filters", [{"state": "skipped"}, {"day": "2026-02-30"}, {"day": "today"}, {"state": "' OR 1=1"}]
    )
    def test_invalid_filter_is_ignored(self, filled: Database, client: Client, filters: dict[str, str]) -> None:
        assert len(titles(client.get(**filters))) == 6

    @pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
    def test_first_and_last_day_are_valid(self, filled: Database, client: Client, day: str) -> None:
        assert titles(client.get(day=day)) == []

    @pytest.mark.parametrize(
        ("seconds", "day"), [(0, "2026-01-01"), (86_399.999999, "2026-01-01"), (86_400, "2026-01-02")]
    )
    def test_days_are_in_utc(self, database: Database, client: Client, seconds: float, day: str) -> None:
        database.add(video("video_1"), recorded_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds))
        shown = [day for day in ("2025-12-31", "2026-01-01", "2026-01-02") if titles(client.get(day=day))]
        assert shown == [day]

    @pytest.mark.parametrize("name", ["dag_id", "run_id", "task_id", "state", "model", "day", "search", "after"])
    def test_text_that_a_database_cannot_store_is_rejected(self, filled: Database, client: Client, name: str) -> None:
        assert client.get(**{name: "a\0"}).status_code == 400
        assert client.get(**{name: "a" * 501}).status_code == 422
        assert client.get(**{name: "'\"\\;--\ufffd\U0001f45f"}).status_code == 200


class TestSearch:
    @pytest.fixture
    def filled(self, database: Database) -> Database:
        """One task for each text, and a mapped task instance with a label."""
        for task_id, fields in TEXTS.items():
            known: Any = {"video_id": "video_0", "client_business_id": None} | fields
            database.add({VIDEOS_KEY: [recorded_video(**known)]}, task_id=task_id, label=task_id)
        database.add({VIDEOS_KEY: [recorded_video("video_1")]}, task_id="label", map_index=0, label="Größe 42%_")
        return database

    @pytest.mark.parametrize(
        ("search", "found"),
        [
            ("video_7f", {"id"}),
            ("video_7", {"id"}),
            ("af-key-7", {"key"}),
            ("Grüner", {"identity"}),
            ("Schuh 👟", {"identity"}),
            ("%", {"percent", "Größe 42%_"}),
            ("100%", {"percent"}),
            ("100% c", {"percent"}),
            ("1%0", set()),
            ("a_b", {"underscore"}),
            ("a/b", {"slash"}),
            ("a-b", set()),
            ('the "red"', {"quote"}),
            ("C:\\videos", {"backslash"}),
            ("C:\\\\videos", set()),
            ("boot.mp4", {"file"}),
            ("Größe 42%_", {"Größe 42%_"}),
            ("' OR '1'='1", set()),
            ("no such text", set()),
        ],
    )
    def test_text_is_found(self, filled: Database, client: Client, search: str, found: set[str]) -> None:
        assert set(titles(client.get(search=search))) == found

    def test_text_is_found_among_the_filtered(self, filled: Database, client: Client) -> None:
        assert titles(client.get(search="video_", task_id="key")) == ["key"]


class TestPages:
    @staticmethod
    def all_pages(client: Client, **query: Any) -> list[list[str]]:
        """Follow the links to older videos, and return the titles of each page."""
        response = client.get(**query)
        pages = [titles(response)]
        while older := address(response, "after="):
            response = client.get(older)
            pages.append(titles(response))
            assert len(pages) < 10
        return pages

    def test_every_task_instance_is_on_one_page(self, database: Database, client: Client) -> None:
        """The DAGs have equal run ids, and the runs have mapped tasks and other tasks."""
        expected = set()
        for dag_id, task_id, map_indexes in (
            ("a", "video", range(30)),
            ("b", "video", range(15)),
            ("b", "a.b.c", range(-1, 7)),
        ):
            for map_index in map_indexes:
                label = f"{dag_id} {task_id} {map_index}"
                database.add(video("video_1"), dag_id=dag_id, task_id=task_id, map_index=map_index, label=label)
                expected.add(label)
        pages = self.all_pages(client)
        assert [len(page) for page in pages] == [24, 24, 5]
        found = [title for page in pages for title in page]
        assert len(found) == len(expected)
        assert set(found) == expected

    @pytest.mark.parametrize(("number", "pages"), [(23, [23]), (24, [24]), (25, [24, 1]), (48, [24, 24])])
    def test_last_page_has_no_link(self, database: Database, client: Client, number: int, pages: list[int]) -> None:
        for map_index in range(number):
            database.add(video("video_1"), map_index=map_index)
        assert [len(page) for page in self.all_pages(client)] == pages

    def test_filters_hold_on_every_page(self, database: Database, client: Client) -> None:
        for map_index in range(60):
            state = "failed" if map_index % 2 else "success"
            database.add(video("video_1"), map_index=map_index, state=state, label=f"{state} {map_index}")
        pages = self.all_pages(client, state="failed", search="video_1")
        assert [len(page) for page in pages] == [24, 6]
        assert all(title.startswith("failed") for page in pages for title in page)

    def test_new_video_does_not_move_the_next_page(self, database: Database, client: Client) -> None:
        for map_index in range(30):
            database.add(video("video_1"), map_index=map_index, label=f"item {map_index}")
        older = address(client.get(), "after=")
        assert older is not None
        database.add(video("video_2"), run_id=LAST_RUN)
        assert titles(client.get(older)) == [f"item {map_index}" for map_index in range(5, -1, -1)]

    def test_mapped_video_without_a_label_has_the_title_of_its_file(self, database: Database, client: Client) -> None:
        database.add({VIDEOS_KEY: [recorded_video("video_1", output_path="/videos/shoe.mp4")]}, map_index=7)
        assert titles(client.get()) == ["shoe.mp4"]

    @pytest.mark.parametrize(
        "after",
        [
            "",
            "1",
            "1.1",
            "a.b.c.d",
            "1.-1.-.a",
            f"²._1.{NO_ID}.a",
            f"{'9' * 10}.-1.{NO_ID}.a",
            f"1.1.{'-' * 36}.a",
            "1." + "9" * 400,
        ],
    )
    def test_invalid_position_is_ignored(self, database: Database, client: Client, after: str) -> None:
        database.add(video("video_1"))
        assert client.get(after=after).status_code == 200

    def test_position_after_the_last_video_is_empty(self, database: Database, client: Client) -> None:
        database.add(video("video_1"))
        assert titles(client.get(after=f"-1.-1.{NO_ID}.")) == []
