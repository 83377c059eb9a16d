"""The pages inside Airflow: sessions and permissions, one task instance, its files, batches and reviews."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import httpx
import pytest

from airflow_provider_toapis.version_compat import AIRFLOW_V_3_1_PLUS

if not AIRFLOW_V_3_1_PLUS:
    pytest.skip("needs Airflow 3.1: earlier versions cannot show pages of plugins", allow_module_level=True)

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.manifest import Manifest
from airflow_provider_toapis.batch.manifest_entry import ManifestEntry
from airflow_provider_toapis.batch.ownership import Owner, Ownership
from airflow_provider_toapis.batch.reviews import Reviews, approved_videos
from airflow_provider_toapis.operators.batch import BATCH_KEY
from airflow_provider_toapis.operators.submission_record import VIDEOS_KEY, downloaded_video
from tests.catalog_entries import entry, saved
from tests.integration.airflow_database import RUN, Database, metadata_database
from tests.integration.storages import S3Storage
from tests.integration.test_ui_list import deny
from tests.integration.ui_client import SAME_ORIGIN, Client, address, page_of, simple_auth_manager, titles
from tests.shown_videos import FORGED, Elements, query_of, recorded_video, returned_video

MP4 = b"\x00\x00\x00\x20ftypisom" + bytes(range(256))
JPEG = b"\xff\xd8\xff\xe0" + b"an image"
PAGE = f"/toapis/videos/shop/{quote(RUN)}/video"
BATCH = f"/toapis/videos/shop/{quote(RUN)}/catalog"
APPROVE = {"key": "a", "video_id": "video_a", "decision": "approve"}


@pytest.fixture(scope="module", autouse=True)
def _database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    directory = tmp_path_factory.mktemp("airflow")
    with metadata_database(f"sqlite:///{directory}/airflow.db"), simple_auth_manager(directory):
        yield


@pytest.fixture
def database() -> Database:
    """An empty database."""
    return Database()


@pytest.fixture(scope="module")
def client(_database: None) -> Client:
    return Client()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A media root, next to a directory that is not served."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "1.mp4").write_bytes(MP4)
    directory = tmp_path / "videos"
    directory.mkdir()
    monkeypatch.setenv("AIRFLOW__TOAPIS__MEDIA_ROOTS", str(directory))
    return directory


@pytest.fixture
def saved_video(database: Database, root: Path) -> Path:
    """A saved video with a poster, recorded by a task."""
    (root / "1.mp4").write_bytes(MP4)
    (root / "1.jpg").write_bytes(JPEG)
    path = str(root / "1.mp4")
    returned = returned_video(output_path=path, poster_path=str(root / "1.jpg"))
    database.add(
        {VIDEOS_KEY: [recorded_video(output_path=path)], "return_value": returned}, rendered={"prompt": "A shoe"}
    )
    return root / "1.mp4"


def write_batch(output_path: str, *entries: ManifestEntry, dag_id: str = "shop", task_id: str = "catalog") -> None:
    """Write a directory as a batch leaves it, without its videos."""
    directory = Directory(output_path)
    Ownership(directory, Owner(dag_id, task_id, RUN)).acquire()
    manifest = Manifest(directory)
    for each in entries:
        manifest.update(each)
    manifest.compact()


@pytest.fixture
def batch(database: Database, root: Path) -> Path:
    """A batch with a saved row ``a``, a failed row ``b`` and a submitted row ``ä/+ %``."""
    directory = root / "catalog"
    directory.mkdir()
    row_a = entry("a", saved=saved("a", poster_path="a.jpg"))
    write_batch(str(directory), row_a, entry("b", "failed"), entry("ä/+ %", "submitted"))
    (directory / "a.mp4").write_bytes(MP4)
    (directory / "a.jpg").write_bytes(JPEG)
    database.add({BATCH_KEY: {"output_path": str(directory), "saved": 1}}, task_id="catalog")
    return directory


def files(directory: Path) -> dict[str, tuple[int, bytes | None]]:
    """Return all files and directories below a directory, with the times of their changes and their contents."""
    return {
        str(path.relative_to(directory)): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in directory.rglob("*")
    }


class TestPermissions:
    ROUTES = (
        *(("GET", path) for path in ("/toapis/videos/", PAGE, f"{PAGE}/video", f"{PAGE}/poster", f"{PAGE}/progress")),
        *(("GET", path) for path in (BATCH, f"{BATCH}/video?key=a", f"{PAGE}?map_index=3")),
        ("GET", "/toapis/videos/spend"),
        ("GET", "/toapis/videos/spend.csv"),
        ("GET", "/toapis/videos/static/style.css"),
        ("GET", "/toapis/videos/static/player.js"),
        ("POST", f"{BATCH}/reviews"),
    )
    EACH_ROUTE = pytest.mark.parametrize(("method", "path"), ROUTES)

    @staticmethod
    def request(client: Client, method: str, path: str, role: str | None, **headers: str) -> Any:
        content = json.dumps(APPROVE).encode() if method == "POST" else None
        sent = {"Content-Type": "application/json", **SAME_ORIGIN} if method == "POST" else {}
        return client.send(method, path, content, role=role, headers=sent | headers)

    def test_every_route_is_in_the_table(self, client: Client) -> None:
        patterns = [
            (method, re.compile(f"/toapis/videos{re.sub('{[a-z_]+}', '[^/]+', route.path)}"))
            for route in client.routes
            for method in route.methods
        ]
        paths = [(method, path.partition("?")[0]) for method, path in self.ROUTES]
        assert all(any(m == method and p.fullmatch(path) for m, path in paths) for method, p in patterns)

    @EACH_ROUTE
    def test_request_without_a_session_is_rejected(
        self, saved_video: Path, batch: Path, client: Client, method: str, path: str
    ) -> None:
        assert self.request(client, method, path, None).status_code == 401
        assert self.request(client, method, path, None, Cookie="_token=forged").status_code in (401, 403)
        assert self.request(client, method, path, None, Authorization="Bearer forged").status_code in (401, 403)

    @EACH_ROUTE
    def test_request_without_permission_is_rejected(
        self, saved_video: Path, batch: Path, client: Client, method: str, path: str
    ) -> None:
        status = self.request(client, method, path, "nobody").status_code
        assert status == (200 if "/static/" in path else 403)

    @EACH_ROUTE
    def test_request_to_another_dag_is_rejected(  # noqa: PLR0917
        self, saved_video: Path, batch: Path, client: Client, method: str, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deny(monkeypatch, "shop")
        status = self.request(client, method, path, "admin").status_code
        assert status == (403 if "/shop/" in path else 200)
        if "/shop/" in path:
            other = f"{path}{'&' if '?' in path else '?'}dag_id=other"
            assert self.request(client, method, other, "admin").status_code == 403

    @EACH_ROUTE
    @pytest.mark.parametrize("role", ["viewer", "user", "op", "admin"])
    def test_only_users_who_can_edit_the_dag_can_review(  # noqa: PLR0917
        self, saved_video: Path, batch: Path, client: Client, method: str, path: str, role: str
    ) -> None:
        status = self.request(client, method, path, role).status_code
        expected = 404 if "map_index=3" in path else 403 if (method, role) == ("POST", "viewer") else 200
        assert status == expected

    @EACH_ROUTE
    @pytest.mark.parametrize("other", ["HEAD", "PUT", "DELETE", "PATCH", "POST", "GET"])
    def test_other_methods_are_rejected(self, client: Client, method: str, path: str, other: str) -> None:
        if other != method:
            status = client.send(other, path, role="admin").status_code
            assert status in (404, 405, 422)

    @pytest.mark.parametrize(
        "path", ["/docs", "/redoc", "/openapi.json", "/static/", "/static/base.html.jinja", "/static/..%2fapp.py"]
    )
    def test_nothing_else_is_sent(self, client: Client, path: str) -> None:
        assert client.get(f"/toapis/videos{path}", role="admin").status_code in (404, 422)

    def test_static_files_have_their_media_types(self, client: Client) -> None:
        for name, media_type in (("style.css", "text/css"), ("player.js", "text/javascript")):
            response = client.get(f"/toapis/videos/static/{name}")
            assert response.headers["content-type"].partition(";")[0] == media_type


class TestTaskInstance:
    @pytest.fixture(autouse=True)
    def _any_run_id(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Allow run ids that Airflow rejects by default."""
        monkeypatch.setenv("AIRFLOW__SCHEDULER__ALLOWED_RUN_ID_PATTERN", ".*")

    def test_page_shows_what_is_recorded(self, saved_video: Path, client: Client) -> None:
        page = client.get(PAGE).text
        assert str(saved_video) in page
        assert "A shoe" in page
        (player,) = Elements(page).all("video")
        assert unquote(urlsplit(player["src"]).path) == unquote(f"{PAGE}/video")
        assert query_of(player["src"]) == {"map_index": "-1", "video_id": "video_1"}

    @pytest.mark.parametrize(
        "path", ["/other/{run}/video", "/shop/other/video", "/shop/{run}/other", "/shop/{run}/video?map_index=0"]
    )
    def test_other_task_instance_is_not_found(self, saved_video: Path, client: Client, path: str) -> None:
        response = client.get(f"/toapis/videos{path.format(run=quote(RUN))}")
        assert response.status_code == 404
        assert "No video yet" in response.text

    @pytest.mark.parametrize("map_index", ["-2", "2147483648", "1.5", "a", "{TASK_ID}", "9" * 5000])
    def test_invalid_map_index_is_rejected(self, saved_video: Path, client: Client, map_index: str) -> None:
        assert client.get(PAGE, map_index=map_index).status_code == 422

    def test_placeholder_of_a_tab_is_the_map_index_of_an_unmapped_task(self, saved_video: Path, client: Client) -> None:
        page = client.get(PAGE, map_index="{MAP_INDEX}")
        assert page.status_code == 200
        assert page.text == client.get(PAGE).text

    def test_mapped_task_instances_have_own_pages(self, database: Database, client: Client) -> None:
        for map_index in range(2):
            database.add({VIDEOS_KEY: [recorded_video(f"video_{map_index}")]}, map_index=map_index)
        for map_index in range(2):
            page = client.get(PAGE, map_index=map_index).text
            assert f"video_{map_index}" in page
            assert f"video_{1 - map_index}" not in page

    def test_mapped_task_without_map_index_lists_its_videos(self, database: Database, client: Client) -> None:
        for map_index in range(2):
            database.add({VIDEOS_KEY: [recorded_video(f"video_{map_index}")]}, map_index=map_index)
        database.add({VIDEOS_KEY: [recorded_video("video_of_another_run")]}, run_id="manual__2")
        response = client.get(PAGE, map_index="{MAP_INDEX}")
        assert response.status_code == 307
        listed = Elements(client.get(response.headers["location"]).text)
        assert len(listed.all("article")) == 2

    @pytest.mark.parametrize("run_id", ["manual__2026-01-01T00:00:00+00:00", "a#b", "a?b=c&d", "ä 👟", "a;b,c", "a%"])
    @pytest.mark.parametrize("task_id", ["group.video", "a-b_c"])
    def test_links_open_the_page(
        self, database: Database, client: Client, root: Path, run_id: str, task_id: str
    ) -> None:
        (root / "1.mp4").write_bytes(MP4)
        video = recorded_video("a/b?c#d&e%", output_path=str(root / "1.mp4"))
        database.add({VIDEOS_KEY: [video]}, dag_id="ä.b", run_id=run_id, task_id=task_id)
        page = client.get(page_of(client.get()))
        assert page.status_code == 200
        assert client.get(Elements(page.text).all("video")[0]["src"]).content == MP4

    def test_run_id_with_a_slash_opens_no_other_page(self, database: Database, client: Client) -> None:
        database.add({VIDEOS_KEY: [recorded_video("video_1")]}, run_id="a")
        database.add({VIDEOS_KEY: [recorded_video("video_2")]}, run_id="a/video")
        link = next(found for found in Elements(client.get().text).addresses() if "/toapis/videos/shop/a%2F" in found)
        response = client.get(link)
        assert response.status_code in (404, 422)
        assert "video_1" not in response.text

    @pytest.mark.parametrize("path", [PAGE, f"{PAGE}/video", f"{BATCH}/video?key=%00", f"{PAGE}%00"])
    def test_text_that_a_database_cannot_store_is_rejected(self, client: Client, path: str) -> None:
        assert client.get(f"{path}{'&' if '?' in path else '?'}search=%00").status_code == 400

    def test_task_that_is_not_deferred_has_no_progress(self, saved_video: Path, client: Client) -> None:
        response = client.get(f"{PAGE}/progress")
        assert (response.status_code, response.json()) == (200, {})


class TestMedia:
    def test_video_and_poster_are_served(self, saved_video: Path, client: Client) -> None:
        video, poster = (client.get(f"{PAGE}/{kind}") for kind in ("video", "poster"))
        assert (video.content, video.headers["content-type"]) == (MP4, "video/mp4")
        assert (poster.content, poster.headers["content-type"]) == (JPEG, "image/jpeg")
        assert video.headers["content-security-policy"] == "default-src 'none'; sandbox"

    @pytest.mark.parametrize("kind", ["other", "Video", "video.mp4", "..", "static"])
    def test_nothing_else_is_served(self, saved_video: Path, client: Client, kind: str) -> None:
        assert client.get(f"{PAGE}/{kind}").status_code in (404, 422)

    def test_requested_range_is_sent(self, saved_video: Path, client: Client) -> None:
        response = client.send("GET", f"{PAGE}/video", headers={"Range": "bytes=4-11"})
        assert (response.status_code, response.content) == (206, b"ftypisom")
        assert response.headers["content-range"] == f"bytes 4-11/{len(MP4)}"

    @pytest.mark.parametrize("validator", ['"an-etag"', 'W/"a"', "Thu, 01 Jan 2026 00:00:00 GMT", "", "*"])
    def test_range_of_an_unknown_version_is_ignored(self, saved_video: Path, client: Client, validator: str) -> None:
        """No response has a validator, so the file can have changed since the client read its beginning."""
        response = client.send("GET", f"{PAGE}/video", headers={"Range": "bytes=4-11", "If-Range": validator})
        assert (response.status_code, response.content) == (200, MP4)
        assert not {"etag", "last-modified"} & response.headers.keys()

    def test_range_after_the_end_has_the_security_headers(self, saved_video: Path, client: Client) -> None:
        assert client.send("GET", f"{PAGE}/video", headers={"Range": "bytes=9999-"}).status_code == 416

    def test_video_is_chosen_by_id_and_never_by_path(self, database: Database, client: Client, root: Path) -> None:
        for number in (1, 2):
            (root / f"{number}.mp4").write_bytes(MP4 + bytes([number]))
        videos = [recorded_video(f"video_{number}", output_path=str(root / f"{number}.mp4")) for number in (1, 2)]
        database.add({VIDEOS_KEY: videos})
        assert client.get(f"{PAGE}/video", video_id="video_1").content[-1] == 1
        for video_id in ("video_2", ""):
            assert client.get(f"{PAGE}/video", video_id=video_id, output_path=str(root / "1.mp4")).content[-1] == 2
        for video_id in ("video_3", str(root / "1.mp4"), "../1.mp4"):
            assert client.get(f"{PAGE}/video", video_id=video_id).status_code == 404

    def test_video_of_another_task_is_not_served(self, saved_video: Path, database: Database, client: Client) -> None:
        database.add({VIDEOS_KEY: [recorded_video("video_2")]}, task_id="other")
        other = f"{PAGE.removesuffix('video')}other/video"
        for query in ({}, {"video_id": "video_1"}, {"key": "a"}, {"task_id": "video"}):
            assert client.get(other, **query).status_code == 404

    @pytest.mark.parametrize(
        "path",
        [
            "/etc/passwd",
            "{root}/../secret/1.mp4",
            "{root}/linked/1.mp4",
            "file:///etc/passwd",
            "s3://other/1.mp4",
            "{root}",
            "",
            None,
            7,
            ["a"],
        ],
    )
    def test_forged_path_is_not_served(self, database: Database, client: Client, root: Path, path: Any) -> None:
        (root / "linked").symlink_to(root.parent / "secret")
        forged = path.format(root=root) if isinstance(path, str) else path
        video = recorded_video(output_path=forged)
        returned = returned_video(output_path=forged, poster_path=forged)
        database.add({VIDEOS_KEY: [video], "return_value": returned})
        for kind in ("video", "poster"):
            response = client.get(f"{PAGE}/{kind}")
            assert (response.status_code, response.json()) == (404, {"detail": "This file is not served."})
        assert Elements(client.get(PAGE).text).all("video") == [] or forged == str(root)

    def test_result_of_another_video_is_not_served(self, database: Database, client: Client, root: Path) -> None:
        (root / "1.mp4").write_bytes(MP4)
        returned = returned_video("video_2", output_path=str(root / "1.mp4"))
        database.add({VIDEOS_KEY: [recorded_video("video_1")], "return_value": returned})
        assert client.get(f"{PAGE}/video").status_code == 404

    def test_downloaded_videos_are_served(self, database: Database, client: Client, root: Path) -> None:
        known = {"status": "completed", "model": "veo-3", "client_business_id": None}
        results = []
        for number in (1, 2):
            (root / f"{number}.mp4").write_bytes(MP4 + bytes([number]))
            results.append(returned_video(f"video_{number}", output_path=str(root / f"{number}.mp4")) | known)
        database.add({VIDEOS_KEY: [downloaded_video(result) for result in results], "return_value": results})
        players = Elements(client.get(PAGE).text).all("video")
        assert [client.get(player["src"]).content[-1] for player in players] == [2, 1]

    def test_signed_url_of_an_object_opens_the_object(
        self, database: Database, client: Client, s3_client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage = S3Storage(s3_client, "films")
        storage.put(MP4)
        monkeypatch.setenv("AIRFLOW__TOAPIS__MEDIA_ROOTS", "s3://aws_default@films/videos")
        database.add({VIDEOS_KEY: [recorded_video(output_path=storage.output_path)]})
        response = client.send("GET", f"{PAGE}/video", headers={"Range": "bytes=4-11"})
        assert (response.status_code, response.headers["cache-control"]) == (307, "no-store")
        signed = response.headers["location"]
        (expires,) = parse_qs(urlsplit(signed).query)["Expires"]
        assert 0 < int(expires) - time.time() <= 301
        part = httpx.get(signed, headers={"Range": "bytes=4-11"})
        assert (part.status_code, part.content) == (206, b"ftypisom")

    @pytest.mark.parametrize(
        "path",
        ["s3://films/videos/shoe.mp4", "s3://other@films/videos/shoe.mp4", "s3://aws_default@films/videos2/shoe.mp4"],
    )
    def test_object_outside_of_the_roots_is_not_signed(
        self, database: Database, client: Client, s3_client: Any, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        s3_client.create_bucket(Bucket="films")
        for key in ("videos/shoe.mp4", "videos2/shoe.mp4"):
            s3_client.put_object(Bucket="films", Key=key, Body=MP4)
        monkeypatch.setenv("AIRFLOW__TOAPIS__MEDIA_ROOTS", "s3://aws_default@films/videos")
        database.add({VIDEOS_KEY: [recorded_video(output_path=path)]})
        assert client.get(f"{PAGE}/video").status_code == 404

    def test_object_that_is_no_video_is_not_signed(
        self, database: Database, client: Client, s3_client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage = S3Storage(s3_client, "pages")
        monkeypatch.setenv("AIRFLOW__TOAPIS__MEDIA_ROOTS", "s3://aws_default@pages/videos")
        database.add({VIDEOS_KEY: [recorded_video(output_path=storage.output_path)]})
        for content in (b"<!doctype html>", b"", None):
            if content is not None:
                storage.put(content)
            else:
                s3_client.delete_object(Bucket="pages", Key="videos/shoe.mp4")
            assert client.get(f"{PAGE}/video").status_code == 404


class TestBatch:
    def test_rows_that_need_attention_are_first(self, batch: Path, client: Client) -> None:
        assert titles(client.get(BATCH)) == ["b", "ä/+ %", "a"]

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ({"state": "saved"}, ["a"]),
            ({"state": "failed"}, ["b"]),
            ({"state": "other"}, []),
            ({"state": ""}, ["b", "ä/+ %", "a"]),
            ({"search": "Ä/"}, ["ä/+ %"]),
            ({"search": "VIDEO_A"}, ["a"]),
            ({"search": "%"}, ["ä/+ %"]),
            ({"search": "b", "state": "saved"}, []),
            ({"page": 2}, []),
            ({"page": 10**6}, []),
        ],
    )
    def test_rows_are_filtered(self, batch: Path, client: Client, query: Any, found: list[str]) -> None:
        response = client.get(BATCH, **query)
        assert titles(response) == found
        assert ("No row matches." in response.text) is (not found)

    @pytest.mark.parametrize("page", ["0", "-1", "a", "1000001", "1.5"])
    def test_invalid_page_is_rejected(self, batch: Path, client: Client, page: str) -> None:
        assert client.get(BATCH, page=page).status_code == 422

    def test_every_row_is_on_one_page(self, batch: Path, client: Client) -> None:
        write_batch(str(batch), *(entry(f"row-{number:02}", row=number) for number in range(60)))
        response = client.get(BATCH, search="row-")
        pages = [titles(response)]
        while more := address(response, f"page={len(pages) + 1}"):
            response = client.get(more)
            pages.append(titles(response))
        assert [len(page) for page in pages] == [24, 24, 12]
        assert [title for page in pages for title in page] == [f"row-{number:02}" for number in range(60)]

    def test_large_batch_is_shown(self, batch: Path, client: Client) -> None:
        write_batch(str(batch), *(entry(f"row-{number}", row=number) for number in range(10_000)))
        response = client.get(BATCH, page=400)
        assert len(titles(response)) == 24
        assert "10,003 rows" in response.text
        assert len(response.content) < 100_000

    def test_files_of_a_row_are_served(self, batch: Path, client: Client) -> None:
        (player,) = Elements(client.get(BATCH, state="saved").text).all("video")
        assert client.get(player["src"]).content == MP4
        assert client.get(player["poster"]).content == JPEG

    @pytest.mark.parametrize("key", ["b", "ä/+ %", "unknown", "../a", "a.mp4", "a/../a"])
    def test_row_without_a_video_is_not_served(self, batch: Path, client: Client, key: str) -> None:
        for kind in ("video", "poster"):
            assert client.get(f"{BATCH}/{kind}", key=key).status_code == 404

    @pytest.mark.parametrize("name", ["../secret.mp4", "/etc/passwd", "..", "linked.mp4", "linked/1.mp4"])
    def test_forged_file_name_is_not_served(self, batch: Path, client: Client, root: Path, name: str) -> None:
        (root / "secret.mp4").write_bytes(MP4)
        (batch / "linked.mp4").symlink_to(root.parent / "secret" / "1.mp4")
        (batch / "linked").symlink_to(root.parent / "secret")
        write_batch(str(batch), entry("a", saved=saved("a", file=name, poster_path=name)))
        for kind in ("video", "poster"):
            assert client.get(f"{BATCH}/{kind}", key="a").status_code == 404
        assert titles(client.get(BATCH, search="a"))

    def test_page_of_a_batch_writes_nothing(self, batch: Path, root: Path, client: Client) -> None:
        before = files(root.parent)
        for path in (BATCH, f"{BATCH}/video?key=a", f"{BATCH}/poster?key=a", f"{BATCH}?state=saved"):
            assert client.get(path).status_code == 200
        assert files(root.parent) == before


class TestForgedRecords:
    """A record of one task does not break the pages that all users open."""

    @pytest.mark.parametrize("name", [name for name in FORGED if name != "nested"])
    def test_pages_show_other_videos(self, saved_video: Path, database: Database, client: Client, name: str) -> None:
        value = FORGED[name]
        # A large value is only once in the database.
        small = value if len(str(value)) < 10_000 else None
        generation = dict.fromkeys(recorded_video() | {"videos": 1}, small)
        database.add({VIDEOS_KEY: value, "return_value": value}, task_id="forged", rendered={"prompt": value})
        database.add(
            {VIDEOS_KEY: [generation, {**generation, "id": "video_2", "generation": 0}]}, task_id="forged_fields"
        )
        database.add({BATCH_KEY: value}, task_id="forged_batch")
        state = {"output_path": "/data", "spend": [generation, {**generation, "status": "saved", "videos": 1}]}
        database.add({BATCH_KEY: dict.fromkeys(("saved", "reason"), small) | state}, task_id="forged_state")
        assert "1.mp4" in titles(client.get())
        today = {"from": "2026-01-01", "to": "2026-01-01"}
        for path in ("spend", "spend.csv"):
            response = client.get(f"/toapis/videos/{path}", **today)
            assert response.status_code == 200
            assert "shop" in response.text
        for task_id in ("forged", "forged_fields", "forged_batch", "forged_state"):
            assert client.get(f"{PAGE.removesuffix('video')}{task_id}").status_code == 200


class TestUnavailableBatch:
    """A problem replaces the rows, and neither files nor reviews are accepted."""

    def assert_unavailable(self, client: Client, path: str = BATCH) -> str:
        response = client.get(path)
        assert (response.status_code, titles(response)) == (200, [])
        assert client.get(f"{path}/video", key="a").status_code == 404
        assert client.review(f"{path}/reviews", APPROVE).status_code == 409
        (problem,) = re.findall(r'<p class="warning">(.*?)</p>', response.text, re.DOTALL)
        return str(problem)

    @pytest.fixture(autouse=True)
    def _writes_nothing(self, batch: Path, root: Path) -> Iterator[None]:
        yield
        assert not (batch / ".manifest" / "reviews").exists() or not list((batch / ".manifest" / "reviews").iterdir())

    def test_directory_outside_of_the_roots(self, batch: Path, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW__TOAPIS__MEDIA_ROOTS", f"{batch}2")
        assert "media_roots" in self.assert_unavailable(client)

    @pytest.mark.parametrize(
        "path",
        [
            None,
            "",
            7,
            "relative",
            "/",
            "/etc",
            "{root}",
            "{root}/missing",
            "{root}/catalog.mp4",
            "{root}/../secret",
            "s3://shop",
        ],
    )
    def test_forged_directory(self, batch: Path, root: Path, database: Database, client: Client, path: Any) -> None:
        forged = path.format(root=root) if isinstance(path, str) else path
        database.add({BATCH_KEY: {"output_path": forged}}, task_id="forged")
        before = files(root.parent)
        self.assert_unavailable(client, BATCH.replace("catalog", "forged"))
        assert files(root.parent) == before

    @pytest.mark.parametrize(("dag_id", "task_id"), [("shop", "other"), ("other", "catalog"), ("Shop", "catalog")])
    def test_directory_of_another_task(
        self, batch: Path, database: Database, client: Client, dag_id: str, task_id: str
    ) -> None:
        database.add({BATCH_KEY: {"output_path": str(batch)}}, dag_id=dag_id, task_id=task_id)
        path = f"/toapis/videos/{dag_id}/{quote(RUN)}/{task_id}"
        assert "another task" in self.assert_unavailable(client, path)

    @pytest.mark.parametrize(
        "content", [None, b"", b"{}", b"[]", b"null", b'{"dag_id": "shop"}', b"\xff\xfe", b"[" * 100_000]
    )
    def test_owner_that_cannot_be_read(self, batch: Path, client: Client, content: bytes | None) -> None:
        owner = batch / ".manifest" / "owner.json"
        owner.unlink()
        if content is not None:
            owner.write_bytes(content)
        assert "another task" in self.assert_unavailable(client)

    @pytest.mark.parametrize(
        "content",
        [
            b"no JSON\n",
            b"{}\n",
            b"[]\n",
            b"7\n",
            b"\xff\n",
            b"[" * 100_000,
            b'{"version": 2, "key": "a"}\n',
            b'{"version": 1, "key": ' + b"9" * 5000 + b"}\n",
        ],
    )
    def test_manifest_that_cannot_be_read(self, batch: Path, client: Client, content: bytes) -> None:
        (batch / "manifest.jsonl").write_bytes(content)
        self.assert_unavailable(client)

    @pytest.mark.parametrize("name", ["manifest.jsonl", ".manifest/owner.json"])
    def test_directory_instead_of_a_file(self, batch: Path, client: Client, name: str) -> None:
        (batch / name).unlink()
        (batch / name).mkdir()
        self.assert_unavailable(client)

    @pytest.mark.parametrize("linked", [".manifest", ".manifest/reviews"])
    def test_linked_directory_of_reviews(self, batch: Path, root: Path, client: Client, linked: str) -> None:
        elsewhere = root / "other"
        if linked == ".manifest":
            (batch / linked).rename(elsewhere)
        else:
            elsewhere.mkdir()
        (batch / linked).symlink_to(elsewhere)
        before = files(root)
        assert "symbolic link" in self.assert_unavailable(client)
        assert files(root) == before

    def test_task_instance_without_a_batch(self, batch: Path, database: Database, client: Client) -> None:
        database.add({VIDEOS_KEY: [recorded_video()]})
        assert client.review(f"{PAGE}/reviews", APPROVE).status_code == 409
        assert client.get(f"{PAGE}/video", key="a").status_code == 404
        assert client.review(f"{PAGE}2/reviews", APPROVE).status_code == 404


class TestReviews:
    @staticmethod
    def reviews(batch: Path) -> list[dict[str, Any]]:
        """Return the files of the reviews."""
        directory = batch / ".manifest" / "reviews"
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*"))]

    def test_review_is_one_new_file(self, batch: Path, root: Path, client: Client) -> None:
        before = files(root.parent)
        review = {"key": "a", "video_id": "video_a", "decision": "redo", "comment": " Slower, 'please' <b> 👟\n"}
        response = client.review(f"{BATCH}/reviews", review)
        assert (response.status_code, response.json()) == (200, {"decision": "redo"})
        after = files(root.parent)
        (name,) = {path for path, (_, content) in after.items() if content is not None and path not in before}
        assert re.fullmatch(r"videos/catalog/\.manifest/reviews/[0-9a-f-]+redo\.json", name)
        unchanged = {path for path, (_, content) in before.items() if content is not None}
        assert {path: after[path] for path in unchanged} == {path: before[path] for path in unchanged}
        (written,) = self.reviews(batch)
        assert written["comment"] == "Slower, 'please' <b> 👟"
        assert (written["key"], written["video_id"], written["reviewed_by"]) == ("a", "video_a", "a user")

    def test_review_is_shown(self, batch: Path, client: Client) -> None:
        client.review(f"{BATCH}/reviews", APPROVE | {"decision": "redo", "comment": "<script>\u202e"})
        page = client.get(BATCH).text
        assert "Redo requested by a user" in page
        assert "<q>&lt;script&gt;\u202e</q>" in page
        client.review(f"{BATCH}/reviews", APPROVE, role="admin")
        assert "Approved by a admin" in client.get(BATCH).text
        assert [video["key"] for video in approved_videos(str(batch))] == ["a"]

    def test_every_review_is_kept(self, batch: Path, client: Client) -> None:
        for decision in ("approve", "redo", "redo", "approve"):
            assert client.review(f"{BATCH}/reviews", APPROVE | {"decision": decision}).status_code == 200
        assert {review["decision"] for review in self.reviews(batch)} == {"approve", "redo"}
        assert Reviews(Directory(str(batch))).decision("a", "video_a") == "approve"

    @pytest.mark.parametrize(
        "changes",
        [
            {"key": "unknown"},
            {"key": "b"},
            {"key": "ä/+ %"},
            {"key": "../a"},
            {"video_id": "video_0"},
            {"video_id": "video_A"},
            {"key": "a\0"},
            {"video_id": "../../x"},
        ],
    )
    def test_review_of_another_video_is_rejected(self, batch: Path, client: Client, changes: dict[str, str]) -> None:
        assert client.review(f"{BATCH}/reviews", APPROVE | changes).status_code == 409
        assert self.reviews(batch) == []

    def test_review_of_a_replaced_video_is_rejected(self, batch: Path, client: Client) -> None:
        newer = saved("a", video_id="video_2", saved_at="2026-02-04T00:00:00+00:00")
        write_batch(str(batch), entry("a", saved=newer, updated_at="2026-02-04T00:00:00+00:00"))
        response = client.review(f"{BATCH}/reviews", APPROVE)
        assert response.status_code == 409
        assert "Reload the page" in response.json()["detail"]
        assert client.review(f"{BATCH}/reviews", APPROVE | {"video_id": "video_2"}).status_code == 200

    @pytest.mark.parametrize(
        "review",
        [
            *(None, [], 7, "text", {}, {"key": "a"}, [APPROVE]),
            *(
                {**APPROVE, "extra": 1},
                {**APPROVE, "reviewed_by": "eva"},
                {**APPROVE, "\ud800": 1},
                {**APPROVE, "": ""},
            ),
            *({**APPROVE, "decision": decision} for decision in ("Approve", "delete", "", None, 1, ["redo"])),
            *({**APPROVE, "key": key} for key in ("", None, 7, "a" * 501, ["a"], {"a": 1}, "\ud800", float("nan"))),
            *({**APPROVE, "video_id": video_id} for video_id in ("", None, 10**400, "a" * 501, True, float("inf"))),
            *(
                {**APPROVE, "comment": comment}
                for comment in (None, 7, "a" * 2001, ["a"], "\ud800", "a\udfff", float("nan"))
            ),
        ],
    )
    def test_invalid_review_is_rejected(self, batch: Path, client: Client, review: Any) -> None:
        response = client.review(f"{BATCH}/reviews", review)
        assert response.status_code == 422
        assert isinstance(response.json()["detail"], str)
        assert self.reviews(batch) == []

    @pytest.mark.parametrize("comment", ["a" * 2000, "👟" * 2000, "\0\x1b[31m\u202e", "</script>", ""])
    def test_any_other_comment_is_accepted(self, batch: Path, client: Client, comment: str) -> None:
        assert client.review(f"{BATCH}/reviews", APPROVE | {"comment": comment}).status_code == 200
        assert self.reviews(batch)[0]["comment"] == comment
        assert client.get(BATCH).status_code == 200

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"\xff", b"[" * 100_000, b"key=a&video_id=video_a&decision=approve"]
    )
    def test_content_that_is_no_json_is_rejected(self, batch: Path, client: Client, content: bytes) -> None:
        headers = {"Content-Type": "application/json", **SAME_ORIGIN}
        assert client.send("POST", f"{BATCH}/reviews", content, role="user", headers=headers).status_code in (400, 422)
        assert self.reviews(batch) == []

    @pytest.mark.parametrize(
        "media_type",
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"],
    )
    def test_only_json_is_accepted(self, batch: Path, client: Client, media_type: str) -> None:
        headers = {"Content-Type": media_type}
        assert client.review(f"{BATCH}/reviews", APPROVE, headers=SAME_ORIGIN | headers).status_code == 422
        assert self.reviews(batch) == []

    @pytest.mark.parametrize(
        ("headers", "is_accepted"),
        [
            ({"Sec-Fetch-Site": "same-origin"}, True),
            ({"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"}, True),
            ({"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"}, False),
            ({"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"}, False),
            ({"Sec-Fetch-Site": "none"}, False),
            ({"Sec-Fetch-Site": "Same-Origin"}, False),
            ({"Origin": "http://testserver"}, True),
            ({"Origin": "https://testserver"}, True),
            ({"Origin": "https://airflow.example:8443"}, True),
            ({"Origin": "https://airflow.example"}, False),
            ({"Origin": "http://testserver:81"}, False),
            ({"Origin": "http://testserver.evil.example"}, False),
            ({"Origin": "http://evil.example/testserver"}, False),
            ({"Origin": "http://testserver@evil.example"}, False),
            ({"Origin": "http://evil.example#testserver"}, False),
            ({"Origin": "testserver"}, False),
            ({"Origin": "null"}, False),
            ({"Origin": "file://"}, False),
            ({"Origin": ""}, False),
            ({"Origin": "http://["}, False),
            ({"Origin": "http://evil.example", "Referer": "http://testserver/"}, False),
            ({"Origin": "http://evil.example", "X-Forwarded-Host": "evil.example"}, False),
            ({}, False),
        ],
    )
    def test_only_pages_of_this_server_can_review(
        self, batch: Path, client: Client, headers: dict[str, str], is_accepted: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example:8443/team")
        response = client.review(f"{BATCH}/reviews", APPROVE, headers=headers)
        assert response.status_code == (200 if is_accepted else 403)
        assert len(self.reviews(batch)) == is_accepted

    def test_file_instead_of_the_directory_of_reviews(self, batch: Path, client: Client) -> None:
        (batch / ".manifest" / "reviews").write_text("a file", encoding="utf-8")
        assert client.review(f"{BATCH}/reviews", APPROVE).status_code == 409
        response = client.get(BATCH)
        assert (titles(response), "cannot be shown" in response.text) == ([], True)
        assert client.get(f"{BATCH}/video", key="a").content == MP4

    def test_media_root_that_cannot_be_written(
        self, batch: Path, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> bool:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Directory, "_create", fail)
        response = client.review(f"{BATCH}/reviews", APPROVE)
        assert response.status_code == 409
        assert response.json()["detail"].startswith("The review was not saved.")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
    def test_read_only_media_root(self, batch: Path, client: Client) -> None:
        (batch / ".manifest").chmod(0o500)
        assert client.review(f"{BATCH}/reviews", APPROVE).status_code == 409
        assert len(titles(client.get(BATCH))) == 3

    def test_unreadable_review_does_not_hide_the_rows(self, batch: Path, client: Client) -> None:
        client.review(f"{BATCH}/reviews", APPROVE)
        (review,) = (batch / ".manifest" / "reviews").iterdir()
        for content in (b"", b"{}", b"\xff", b"[" * 100_000):
            review.write_bytes(content)
            assert len(titles(client.get(BATCH))) == 3

    def test_batch_in_object_storage_is_reviewed(
        self, database: Database, client: Client, s3_client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        s3_client.create_bucket(Bucket="catalogs")
        output_path = "s3://aws_default@catalogs/videos/"
        monkeypatch.setenv("AIRFLOW__TOAPIS__MEDIA_ROOTS", "s3://aws_default@catalogs/videos")
        write_batch(output_path, entry("a"))
        s3_client.put_object(Bucket="catalogs", Key="videos/a.mp4", Body=MP4)
        database.add({BATCH_KEY: {"output_path": output_path}}, task_id="catalog")
        before = set(keys_of(s3_client, "catalogs"))
        assert client.get(f"{BATCH}/video", key="a").status_code == 307
        assert client.review(f"{BATCH}/reviews", APPROVE).status_code == 200
        (new,) = set(keys_of(s3_client, "catalogs")) - before
        assert new.startswith("videos/.manifest/reviews/")
        assert "Approved by a user" in client.get(BATCH).text


def keys_of(s3_client: Any, bucket: str) -> list[str]:
    """Return the names of all objects in a bucket."""
    return [found["Key"] for found in s3_client.list_objects_v2(Bucket=bucket)["Contents"]]
