"""The pages inside Airflow: every text is escaped, every address is quoted, and states and notes are right."""

from __future__ import annotations

import json
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from airflow_provider_toapis.version_compat import AIRFLOW_V_3_1_PLUS
from tests.clock import replace_clock

if not AIRFLOW_V_3_1_PLUS:
    pytest.skip("needs Airflow 3.1: earlier versions cannot show pages of plugins", allow_module_level=True)

from airflow.utils.state import TaskInstanceState

from airflow_provider_toapis.batch.manifest_entry import Review
from airflow_provider_toapis.media_check import MediaFacts
from airflow_provider_toapis.ui.batches import BatchRow, FoundRows
from airflow_provider_toapis.ui.pages import Addresses, batch_page, missing_page
from airflow_provider_toapis.ui.queries import FAILED, IN_PROGRESS, NOT_SAVED, SAVED, TaskVideos
from tests.catalog_entries import TIME, entry, saved
from tests.shown_videos import (
    ADDRESSES,
    NOON,
    Elements,
    query_of,
    recorded_video,
    returned_video,
    sent,
    shown_list,
    shown_task,
    task_videos,
)

HOSTILE = {
    "element": '"><script>alert(1)</script>',
    "end of script": "</script></style></title></textarea>--><img src=x onerror=alert(1)>",
    "attribute": 'x\' onmouseover=\'alert(1)\' " onfocus="alert(1)" autofocus x="',
    "javascript": "javascript:alert(1)",
    "template": "{{ 7 * 7 }}{% include '/etc/passwd' %}${7*7}",
    "entity": "&quot;&#34;&gt;&lt;script&gt;",
    "right to left": "\u202egnp.exe\u2066",
    "line breaks": "a\r\nSet-Cookie: a=b\r\n\r\n<b>\n",
    "path": "../../../etc/passwd?a=b&c=d#e%2f+;",
}
EACH_HOSTILE_TEXT = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
HARMLESS = "text"
URL = "https://files.example/1.mp4?signature=secret"
AN_HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be one minute after noon."""
    set_time(monkeypatch, minutes=1)


def set_time(monkeypatch: pytest.MonkeyPatch, **after_noon: float) -> None:
    now = (NOON + timedelta(**after_noon)).timestamp()
    replace_clock(monkeypatch, lambda: now)


def row(key: str, review: Review | None = None, **changes: Any) -> BatchRow:
    return BatchRow(entry(key, **changes), "/data/videos/catalog", review)


def shown_batch(
    rows: Any = (), *, videos: TaskVideos | None = None, number: int | None = None, problem: str = "", **options: Any
) -> str:
    """Return the page of a batch, as it is sent."""
    found = FoundRows(rows, len(rows) if number is None else number, ("failed", "saved"))
    batch = videos or task_videos(batch={"output_path": "/data/videos/catalog"})
    chosen = {"page": "1"} | options.pop("chosen", {})
    return sent(
        batch_page(batch, found, chosen, ADDRESSES, problem=problem, can_review=options.pop("can_review", True))
    )


def page_with(text: str) -> dict[str, str]:
    """Return all pages with a text in every place where a DAG author, a feed or a user can write one."""
    names: dict[str, Any] = {"dag_id": text, "run_id": text, "label": text, "task_id": text, "task_state": "failed"}
    video = recorded_video(
        text, **dict.fromkeys(("status", "model", "client_business_id", "identity", "output_path", "reason"), text)
    )
    returned = returned_video(
        text,
        warnings=[text, text],
        output_path=text,
        poster_path=text,
        url=text,
        media={"duration": 6.0, "video_codec": text},
        **{"other": text, f"{text}": text},
    )
    task = task_videos([video, video], returned, rendered={"prompt": text, "image": [text]}, **names)
    batch = task_videos(batch={"output_path": text, "reason": text, "saved": 1}, **names)
    media = MediaFacts(6.0, 1280, 720, 24.0, text, True, None)
    review = Review("redo", text, text, text, TIME)
    rows = [
        row(text, review, prompt=text, images=(text,), model=text, saved=saved(text, warnings=(text,), media=media)),
        row(
            "b",
            review,
            state="failed",
            prompt=text,
            submission=None,
            saved=saved("b", check_failed=True, warnings=(text,)),
        ),
    ]
    chosen = {"state": text, "search": text, "dag_id": text, "model": text}
    return {
        "list": shown_list(task, batch, **chosen),
        "task": shown_task(task),
        "batch": shown_batch(rows, videos=batch, number=100, chosen=chosen | {"page": "2"}),
        "problem": shown_batch(videos=batch, problem=text),
    }


class TestHostileTexts:
    @EACH_HOSTILE_TEXT
    def test_no_text_changes_the_elements_of_a_page(self, text: str) -> None:
        for harmless, hostile in zip(page_with(HARMLESS).values(), page_with(text).values(), strict=True):
            assert structure(hostile) == structure(harmless)

    @EACH_HOSTILE_TEXT
    def test_text_is_shown_unchanged(self, text: str) -> None:
        for page in page_with(text).values():
            assert text.replace("\r\n", "\n") in unescape(page).replace("\r\n", "\n")

    @EACH_HOSTILE_TEXT
    def test_every_address_is_ours(self, text: str) -> None:
        for page in page_with(text).values():
            for address in Elements(page).addresses():
                assert address.startswith(("/toapis/videos/", "/dags/"))
                assert not {"..", ""} & set(urlsplit(address).path.rstrip("/").split("/")[1:])

    @pytest.mark.parametrize("name", ["list", "task", "batch", "problem"])
    def test_no_page_has_inline_scripts_or_styles(self, name: str) -> None:
        elements = Elements(page_with(HARMLESS)[name])
        assert elements.all("script") == [{"src": "/toapis/videos/static/player.js", "defer": ""}]
        assert elements.all("style") == []
        assert not {
            attribute for _, attributes in elements.tags for attribute in attributes if attribute.startswith("on")
        }
        assert not any("style" in attributes for _, attributes in elements.tags)

    def test_titles_cannot_reverse_the_text_around_them(self) -> None:
        title = HOSTILE["right to left"]
        videos = task_videos(label=title)
        assert all(f"<bdi>{title}</bdi>" in page for page in (shown_list(videos), shown_task(videos)))
        assert f"<bdi>{title}</bdi>" in shown_batch([row(title)])

    @pytest.mark.parametrize(
        "image", ["javascript:alert(1)", "data:image/svg+xml,<svg>", "file:///a.png", "//a.example", 7, {}]
    )
    def test_only_web_images_are_shown(self, image: Any) -> None:
        for images in (image, [image]):
            assert Elements(shown_task(task_videos(rendered={"image": images}))).all("img") == []
        assert Elements(shown_batch([row("a", state="failed", images=(str(image),))])).all("img") == []

    def test_web_image_is_shown_without_a_referrer(self) -> None:
        images = ["/local/a.jpg", "HTTPS://a.example/a.jpg?b=1&c=2"]
        for page in (
            shown_list(task_videos(rendered={"image": images})),
            shown_batch([row("a", state="failed", images=tuple(images))]),
        ):
            (image,) = Elements(page).all("img")
            assert (image["src"], image["referrerpolicy"]) == (images[1], "no-referrer")


def structure(page: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return all elements of a page with the names of their attributes."""
    return [(tag, tuple(attributes)) for tag, attributes in Elements(page).tags]


class TestAddresses:
    RUN_ID = "manual__2026-01-01T00:00:00+00:00/ä#?%2F&=; a"

    def test_names_are_quoted_in_the_path(self) -> None:
        videos = task_videos(dag_id="ä.b", run_id=self.RUN_ID, task_id="group.a b", map_index=3)
        page = urlsplit(ADDRESSES.task(videos, "video", video_id="v&map_index=9#"))
        assert [unquote(name) for name in page.path.split("/")[3:]] == ["ä.b", self.RUN_ID, "group.a b", "video"]
        assert query_of(page.geturl()) == {"map_index": "3", "video_id": "v&map_index=9#"}
        assert page.fragment == ""

    @pytest.mark.parametrize(("map_index", "end"), [(-1, ""), (0, "/mapped/0"), (12, "/mapped/12")])
    def test_task_instance_in_airflow_is_linked(self, map_index: int, end: str) -> None:
        videos = task_videos(run_id=self.RUN_ID, map_index=map_index)
        address = Addresses("/team/toapis/videos", "/team").task_instance(videos)
        quoted = "manual__2026-01-01T00%3A00%3A00%2B00%3A00%2F%C3%A4%23%3F%252F%26%3D%3B%20a"
        assert address == f"/team/dags/shop/runs/{quoted}/tasks/video{end}"

    def test_next_page_keeps_the_filters(self) -> None:
        videos = task_videos(task_id="a.b&c")
        page = shown_list(videos, dag_id="ä&b", search="50 %")
        (address,) = [address for address in Elements(page).addresses() if "after=" in address]
        assert query_of(address) == {"dag_id": "ä&b", "search": "50 %", "after": str(videos.position)}

    def test_pages_of_a_batch_keep_the_filters(self) -> None:
        page = shown_batch([row("a")], number=100, chosen={"state": "failed", "search": "ä&b", "page": "2"})
        queries = [query_of(address) for address in Elements(page).addresses() if "page=" in address]
        known = {"map_index": "-1", "state": "failed", "search": "ä&b"}
        assert sorted(queries, key=lambda query: query["page"]) == [known | {"page": "1"}, known | {"page": "3"}]

    @pytest.mark.parametrize(
        ("number", "page", "pages"), [(24, "1", []), (25, "1", ["2"]), (48, "2", ["1"]), (49, "2", ["1", "3"])]
    )
    def test_only_pages_with_rows_are_linked(self, number: int, page: str, pages: list[str]) -> None:
        html = shown_batch([row("a")], number=number, chosen={"page": page})
        linked = [query["page"] for address in Elements(html).addresses() if "page" in (query := query_of(address))]
        assert sorted(linked) == pages

    def test_pages_work_below_the_path_of_the_base_url(self) -> None:
        page = missing_page(Addresses("/team/toapis/videos", "/team"))
        assert all(address.startswith("/team/toapis/videos/") for address in Elements(page).addresses())


class TestStates:
    RUNNING = (
        "queued",
        "running",
        "deferred",
        "up_for_retry",
        "up_for_reschedule",
        "scheduled",
        "restarting",
        "awaiting_input",
        None,
    )
    ENDED = ("failed", "upstream_failed", "removed", "skipped")

    def test_every_state_of_airflow_is_known(self) -> None:
        assert {*self.RUNNING, *self.ENDED, "success"} >= {str(state) for state in TaskInstanceState}

    @pytest.mark.parametrize("task_state", RUNNING)
    def test_task_that_has_not_ended_is_in_progress(self, task_state: str | None) -> None:
        video = recorded_video(output_path="/data/1.mp4")
        assert task_videos([video], task_state=task_state).state == IN_PROGRESS
        assert task_videos(batch={}, task_state=task_state).state == IN_PROGRESS

    @pytest.mark.parametrize("task_state", ENDED)
    def test_task_without_success_has_failed(self, task_state: str) -> None:
        video = recorded_video(output_path="/data/1.mp4")
        assert task_videos([video], task_state=task_state).state == FAILED
        assert task_videos(batch={}, task_state=task_state).state == FAILED

    def test_successful_task_has_saved_its_videos(self) -> None:
        assert task_videos([recorded_video(), recorded_video(output_path="/data/1.mp4")]).state == SAVED
        assert task_videos(batch={}).state == SAVED

    @pytest.mark.parametrize("videos", [[], [recorded_video()], [recorded_video(output_path="")], "forged"])
    def test_successful_task_without_a_file_has_not_saved_its_videos(self, videos: Any) -> None:
        assert task_videos(videos).state == NOT_SAVED

    @pytest.mark.parametrize("state", [IN_PROGRESS, FAILED, SAVED, NOT_SAVED])
    def test_state_is_shown(self, state: str) -> None:
        task_state = {IN_PROGRESS: "deferred", FAILED: "failed"}.get(state, "success")
        path = "/data/1.mp4" if state == SAVED else None
        page = shown_list(task_videos([recorded_video(output_path=path)], task_state=task_state))
        assert f'<p class="state {state.replace(" ", "-")}">{state}</p>' in page


class TestNotes:
    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [(-5, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (10**6, "278 h")],
    )
    def test_time_in_progress_is_shown(self, seconds: int, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
        set_time(monkeypatch, seconds=seconds)
        video = recorded_video(status="in_progress")
        assert f"<span>in_progress, for {shown}</span>" in shown_list(task_videos([video], task_state="deferred"))

    @pytest.mark.parametrize("submitted_at", [None, "", "yesterday", "2026-01-01T00:00:00", 7])
    def test_time_in_progress_begins_with_the_task_without_a_submission(self, submitted_at: Any) -> None:
        video = recorded_video(status=None, submitted_at=submitted_at)
        started = NOON - AN_HOUR
        page = shown_task(task_videos([video], task_state="running", started_at=started))
        assert "in progress, for 61 min" in page
        page = shown_task(task_videos([video], task_state=None, started_at=None, recorded_at=started))
        assert "in progress, for 61 min" in page

    def test_failed_video_of_a_task_that_is_tried_again_is_named(self) -> None:
        page = shown_list(task_videos([recorded_video(status="failed", reason="a reason")], task_state="up_for_retry"))
        assert "a reason" in page
        assert "The task is tried again." in page

    @pytest.mark.parametrize(("left", "shown"), [(59, "59 s"), (3 * 3600, "3 h")])
    def test_time_until_a_url_expires_is_shown(self, left: int, shown: str) -> None:
        expires = (NOON + timedelta(minutes=1, seconds=left)).isoformat()
        videos = task_videos([recorded_video()], returned_video(url=URL, expires_at=expires))
        page = shown_list(videos)
        assert f"URL expires in {shown}" in page
        assert Elements(page).all("video")[0]["src"] == URL

    def test_expired_url_is_not_played(self) -> None:
        expires = (NOON + timedelta(minutes=1)).isoformat()
        page = shown_list(task_videos([recorded_video()], returned_video(url=URL, expires_at=expires)))
        assert "URL has expired" in page
        assert Elements(page).all("video") == []

    @pytest.mark.parametrize("expires", [None, "tomorrow", "2026-01-02T00:00:00", 7])
    def test_url_without_a_time_is_not_played(self, expires: Any) -> None:
        page = shown_list(task_videos([recorded_video()], returned_video(url=URL, expires_at=expires)))
        assert "URL" not in page
        assert Elements(page).all("video") == []

    def test_expiry_of_a_saved_video_is_not_shown(self) -> None:
        expires = (NOON + AN_HOUR).isoformat()
        returned = returned_video(url=URL, expires_at=expires, output_path="/data/1.mp4")
        assert "URL" not in shown_list(task_videos([recorded_video(output_path="/data/1.mp4")], returned))

    @pytest.mark.parametrize(
        ("task_state", "has_progress"), [("deferred", True), ("running", False), ("success", False)]
    )
    def test_progress_is_looked_up_only_while_a_task_is_deferred(self, task_state: str, has_progress: bool) -> None:
        assert ("data-progress" in shown_list(task_videos(task_state=task_state))) is has_progress
        assert "data-progress" not in shown_list(task_videos(batch={}, task_state=task_state))


class TestMedia:
    @pytest.fixture
    def root(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("AIRFLOW__TOAPIS__MEDIA_ROOTS", str(tmp_path))
        return tmp_path

    def test_saved_video_below_a_root_is_played(self, root: Path) -> None:
        returned = returned_video(output_path=f"{root}/1.mp4", poster_path=f"{root}/1.jpg", url=URL)
        (player,) = Elements(shown_list(task_videos([recorded_video(output_path=f"{root}/1.mp4")], returned))).all(
            "video"
        )
        run = "scheduled__2026-01-01T00%3A00%3A00%2B00%3A00"
        for name, kind in (("src", "video"), ("poster", "poster")):
            assert urlsplit(player[name]).path == f"/toapis/videos/shop/{run}/video/{kind}"
            assert query_of(player[name]) == {"map_index": "-1", "video_id": "video_1"}
        assert player["preload"] == "none"

    def test_other_saved_video_is_not_played(self, root: Path) -> None:
        page = shown_list(task_videos([recorded_video(output_path=f"{root}2/1.mp4")]))
        assert Elements(page).all("video") == []
        assert "media_roots" in page

    def test_video_of_a_row_is_played_by_key(self, root: Path) -> None:
        entry_of_row = entry("a/ä", saved=saved("a", poster_path="a.jpg"))
        page = shown_batch([BatchRow(entry_of_row, str(root))])
        (player,) = Elements(page).all("video")
        assert query_of(player["src"])["key"] == "a/ä"
        assert urlsplit(player["poster"]).path.endswith("/video/poster")

    @pytest.mark.parametrize("name", ["../1.mp4", "/etc/passwd", "sub/1.mp4", "sub\\1.mp4", ""])
    def test_file_of_a_row_is_only_a_name(self, root: Path, name: str) -> None:
        forged = BatchRow(entry("a", saved=saved("a", file=name, poster_path=name)), f"{root}/catalog")
        assert (forged.video_path, forged.poster_path) == (None, None)
        assert Elements(shown_batch([forged])).all("video") == []


class TestTaskPage:
    def test_newest_video_is_first(self) -> None:
        page = shown_task(task_videos([recorded_video("video_1"), recorded_video("video_2", generation=1)]))
        assert page.index("video_2") < page.index("video_1")

    @pytest.mark.parametrize(
        ("costs", "total", "is_known"),
        [([0.3, 0.25], "$0.55", True), ([0.3, None], "$0.30", False), ([0.1, 0.2], "$0.3000", True)],
    )
    def test_cost_of_all_videos_is_shown(self, costs: list[float | None], total: str, is_known: bool) -> None:
        page = shown_task(task_videos([recorded_video(f"video_{cost}", cost_usd=cost) for cost in costs]))
        assert f"<b>{total}</b>" in page
        assert ("not reported yet" not in page) is is_known

    def test_downloaded_video_has_no_cost(self) -> None:
        page = shown_task(task_videos([recorded_video(generation=None)]))
        assert "downloaded, not submitted" in page
        assert "not reported yet" not in page

    def test_result_has_no_url(self) -> None:
        nested = {"video": {"url": URL, "id": "a"}, "urls": [URL]}
        for returned in (returned_video(url=URL, urls=[URL], nested=nested), [returned_video(url=URL), [nested]]):
            page = shown_task(task_videos([recorded_video()], returned))
            text = unescape(page.partition("<pre>")[2].partition("</pre>")[0])
            assert "secret" not in text
            assert json.loads(text)

    @pytest.mark.parametrize("prompt", [None, 7, ["a"], {"a": 1}])
    def test_only_a_text_is_shown_as_prompt(self, prompt: Any) -> None:
        assert "<h2>Prompt</h2>" not in shown_task(task_videos(rendered={"prompt": prompt}))

    def test_measured_facts_are_shown(self) -> None:
        media = {
            "duration": 6.04,
            "width": 1280,
            "height": 720.0,
            "fps": 23.976,
            "video_codec": "h264",
            "has_audio": False,
        }
        texts = Elements(shown_task(task_videos([recorded_video()], returned_video(media=media)))).texts
        assert {"6.04 s", "1280 x 720", "23.976", "h264", "no"} <= set(texts)

    def test_times_are_shown_in_utc(self) -> None:
        returned = returned_video(completed_at="2026-01-01T14:01:00+02:00", output_path="/data/1.mp4")
        texts = Elements(shown_task(task_videos([recorded_video(output_path="/data/1.mp4")], returned))).texts
        assert {"2026-01-01 12:00:00 UTC", "2026-01-01 12:01:00 UTC"} <= set(texts)


class TestBatchPage:
    def test_row_can_be_reviewed_by_users_who_can_edit_the_dag(self) -> None:
        (form,) = [form for form in Elements(shown_batch([row("a")])).all("form") if form["class"] == "review"]
        assert (form["data-key"], form["data-video-id"]) == ("a", "video_a")
        assert urlsplit(form["action"]).path.endswith("/video/reviews")
        page = shown_batch([row("a")], can_review=False)
        assert "data-key" not in page
        assert "Only users who can edit this DAG" in page

    @pytest.mark.parametrize("state", ["failed", "submitted", "pending", "rejected"])
    def test_row_without_a_video_cannot_be_reviewed(self, state: str) -> None:
        assert "data-key" not in shown_batch([row("a", state=state)])

    def test_problem_replaces_the_rows(self) -> None:
        page = shown_batch([row("a")], problem="A problem.")
        assert "A problem." in page
        assert "data-key" not in page

    @pytest.mark.parametrize(("video_id", "is_earlier"), [("video_a", False), ("video_0", True)])
    def test_review_of_an_earlier_video_is_named(self, video_id: str, is_earlier: bool) -> None:
        page = shown_batch([row("a", Review("redo", video_id, "Slower", "eva", TIME))])
        assert "Redo requested by eva, 2026-02-03 02:14:06 UTC" in page
        assert "<q>Slower</q>" in page
        assert ("for an earlier video" in page) is is_earlier

    def test_facts_that_are_too_large_for_a_float_are_shown(self) -> None:
        media = MediaFacts(float("inf"), 10**400, 1, float("nan"), "h264", False, None)
        assert f"{10**400} x 1" in shown_batch([row("a", saved=saved("a", media=media))])

    def test_counts_of_a_batch_are_shown(self) -> None:
        videos = task_videos(batch={"saved": 1234, "failed": 1, "pending": 0, "reason": "a reason"})
        for page in (shown_list(videos), shown_batch(videos=videos)):
            assert "1,234 saved, 1 failed" in page
            assert "a reason" in page
