"""The pages about videos in a real Airflow, opened in a browser and attacked with an HTTP client."""

from __future__ import annotations

import csv
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

import httpx
import pytest

from airflow_provider_toapis.batch.reviews import approved_videos
from dev.demo.browser import Browser, Page
from tests.e2e.attacks import ATTACKS, RANGES, Attack
from tests.e2e.videos_site import (
    APPROVED,
    BUCKET,
    HOSTILE_KEY,
    KEYS,
    MANY_ROWS,
    PROGRESS,
    REDONE,
    ROOT_USER,
    SIGNATURE,
    STATES,
    USERS,
    Site,
    running_site,
)
from tests.integration.emulator_process import API_KEY

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
COMMENT = "Slower, please: <b>“à la carte”</b>"
#: What no response contains.
SECRETS = (ROOT_USER, SIGNATURE, API_KEY, '"dag_id"', "Traceback")
#: Headers that protect every response.
PROTECTION = {"content-security-policy", "x-content-type-options", "referrer-policy", "cache-control"}
#: Airflow causes the first warning for the page of each plugin, and Airflow 3.1 the second one for each page.
AIRFLOWS_WARNING = re.compile("An iframe which has both allow-scripts and allow-same-origin|No `HydrateFallback`")
MISSING_FILE = re.compile("Failed to load resource: the server responded with a status of 404")
#: JavaScript expression: the document of the page inside Airflow.
FRAME = "document.querySelector('iframe')?.contentDocument"
#: JavaScript expression: play the last half second of a video. Its value is the length, and the positions in between.
PLAY_THE_END = """(async () => {
    const video = document.querySelector("video");
    const after = (name) => new Promise((done, failed) => {
        video.addEventListener(name, done, {once: true});
        video.addEventListener("error", () => failed(video.error), {once: true});
    });
    video.muted = true;
    video.preload = "auto";
    await after("loadedmetadata");
    video.currentTime = video.duration - 0.5;
    await after("seeked");
    const sought = video.currentTime;
    video.play();
    await after("ended");
    return [video.duration, sought, video.currentTime];
})()"""
#: JavaScript expression: the lowest contrast ratio of a text and its background.
LOWEST_CONTRAST = """(() => {
    const channels = (color) => color.match(/[0-9.]+/g).map(Number);
    const luminance = (color) => channels(color).slice(0, 3)
        .map((each) => each / 255)
        .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
        .reduce((sum, each, index) => sum + each * [0.2126, 0.7152, 0.0722][index], 0);
    const ground = (element) => {
        const color = getComputedStyle(element).backgroundColor;
        return channels(color)[3] === 0 ? ground(element.parentElement) : color;
    };
    const contrast = (element) => {
        const [dark, light] = [getComputedStyle(element).color, ground(element)].map(luminance).sort((a, b) => a - b);
        return (light + 0.05) / (dark + 0.05);
    };
    const isText = (node) => node.nodeType === Node.TEXT_NODE && node.data.trim();
    const texts = [...document.body.querySelectorAll("*")].filter((each) => [...each.childNodes].some(isText));
    return Math.min(...texts.map(contrast));
})()"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def tab(browser: Browser, site: Site) -> Iterator[Page]:
    """A tab in which an admin is signed in."""
    with browser.page() as tab:
        tab.call("Network.setCookie", name="_token", value=site.airflow.token("admin"), url=site.airflow.url)
        yield tab


@pytest.fixture
def page(tab: Page) -> Iterator[Page]:
    """A tab in which an admin is signed in. No page may cause an error, a warning or a dialog in it."""
    yield tab
    assert [text for text in tab.complaints() if not AIRFLOWS_WARNING.match(text)] == []


@pytest.fixture(scope="module")
def clients(site: Site) -> dict[str | None, httpx.Client]:
    """HTTP clients by user; None is not signed in."""
    return {user: site.client(user) for user in (*USERS, None)}


def open_link(page: Page, site: Site, task_id: str) -> None:
    """Click on the extra link "Video" in Airflow's own page of a task."""
    run = site.runs["shown_videos"]
    page.open(f"{site.airflow.url}/dags/{run.dag_id}/runs/{run.run_id}/tasks/{task_id}/details")
    page.wait_until("[...document.links].some((link) => link.innerText === 'Video')", "the link")
    # Airflow 3.1 opens links in a new tab, which this page does not follow.
    page.evaluate("[...document.links].forEach((link) => link.removeAttribute('target'))")
    page.click("a:text-is('Video')")
    page.wait_until("document.querySelector('main .one')", "the page of the video")
    page.wait_until("document.readyState === 'complete'", "a loaded page")


def wait_for_frame(page: Page, condition: str, what: str) -> None:
    """Wait until the frame has loaded completely and a condition of its document is true.

    :param condition: JavaScript expression, in which ``{frame}`` is the document.
    """
    page.wait_until(f"{FRAME}?.readyState === 'complete' && {condition.format(frame=FRAME)}", what)


def facts(page: Page, document: str = "document") -> dict[str, str]:
    """Return the facts that the page of a task instance shows, by name."""
    pairs = (
        f"[...{document}.querySelectorAll('dl div')].map((pair) => [...pair.children].map((each) => each.innerText))"
    )
    return dict(page.evaluate(pairs))


def text_of(page: Page, selector: str) -> str:
    return str(page.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))


def test_link_opens_deferred_video_with_progress_prompt_and_image(page: Page, site: Site) -> None:
    open_link(page, site, "in_progress")

    page.wait_until("document.querySelector('[data-progress]').innerText", "the progress")
    assert text_of(page, "[data-progress]") == f"in_progress, {PROGRESS} %"
    assert facts(page)["Cost"] == "not reported yet"
    assert text_of(page, ".prompt") == "It turns slowly"
    page.evaluate("document.querySelector('.source').scrollIntoView()")
    page.wait_until("document.querySelector('.source').naturalWidth", "the source image")


def test_link_opens_finished_video_that_is_not_saved(page: Page, site: Site) -> None:
    (line,) = site.slow.ledger()["billed"]
    site.slow.clear_faults()
    site.slow.finish(line["id"])
    site.wait_for_states("shown_videos", STATES["shown_videos"] | {"in_progress": "success"})

    open_link(page, site, "in_progress")

    shown = facts(page)
    assert (shown["Video"], shown["Status"], shown["Cost"]) == (line["id"], "completed", "$0.10")
    assert text_of(page, ".state") == "not saved"
    result = site.runs["shown_videos"].xcom("in_progress")
    assert page.evaluate("document.querySelector('video').src") == result["url"]


def test_failed_video_its_reason_and_cost_are_three_clicks_away(page: Page, site: Site) -> None:
    page.open(site.airflow.url)
    page.click("a[href$='/toapis-videos']")
    wait_for_frame(page, "{frame}.querySelector('.card')", "the page Videos")

    page.click("select[name=state]", frame="iframe")
    page.press("f")
    page.press("Enter")
    page.click("form.filters button", frame="iframe")
    wait_for_frame(page, "{frame}.querySelectorAll('.card').length === 1", "one video")
    page.click(".card h2 a", frame="iframe")

    wait_for_frame(page, "{frame}.querySelector('main .one')", "the page of the video")
    assert "generation_failed" in page.evaluate(f"{FRAME}.querySelector('.reason').innerText")
    assert facts(page, FRAME)["Cost"] == "$0.00"


def test_page_inside_airflow_links_to_airflows_own_page(page: Page, site: Site) -> None:
    page.open(f"{site.airflow.url}/plugin/toapis-videos")
    wait_for_frame(page, "{frame}.querySelector('.card')", "the page Videos")

    page.click(".card a[target=_top]", frame="iframe")

    page.wait_until("location.pathname.startsWith('/dags/')", "Airflow's page of the task instance")


def test_page_inside_airflow_has_airflows_color_scheme(page: Page, site: Site) -> None:
    page.prefer(None)
    colors = set()
    for theme in SCHEMES:
        page.run_at_start(f"localStorage.setItem('theme', '{theme}')")
        page.open(f"{site.airflow.url}/plugin/toapis-videos")
        wait_for_frame(page, "{frame}.querySelector('.card')", "the page Videos")
        colors.add(page.evaluate(f"getComputedStyle({FRAME}.body).backgroundColor"))
    assert len(colors) == 2


@pytest.mark.parametrize("task_id", ["on_disk", "in_bucket"])
def test_saved_video_plays_from_near_its_end(page: Page, site: Site, task_id: str) -> None:
    page.open(site.airflow.url + site.path("shown_videos", task_id))

    assert page.evaluate(PLAY_THE_END) == [10, 9.5, 10]

    path = urlsplit(page.evaluate("document.querySelector('video').currentSrc")).path
    if task_id == "in_bucket":
        assert set(page.statuses(path)) == {307}
        path = f"/{BUCKET}/made/in_bucket.mp4"
    assert set(page.statuses(path)) == {206}


@contextmanager
def watched(file: Path) -> Iterator[set[bytes | None]]:
    """Read a file again and again until the block ends. Yield its contents; None if the file was missing."""
    contents: set[bytes | None] = set()
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            try:
                contents.add(file.read_bytes())
            except FileNotFoundError:
                contents.add(None)
            ended.wait(0.005)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield contents
    finally:
        ended.set()
        reader.join()


def review(page: Page, key: str, decision: str, comment: str = "") -> None:
    """Review a row on the page of a batch."""
    form = f"form.review[data-key={key}]"
    if comment:
        page.click(f"{form} [name=comment]")
        page.type(comment)
    page.click(f"{form} [value={decision}]")
    page.wait_until(f"document.querySelector('{form} output').innerText", "the response")


def test_next_run_generates_only_the_redone_video_again(page: Page, site: Site) -> None:
    run = site.runs["reviewed_videos"]
    before, posted = site.rows(), site.emulator.ledger()["posted"]
    # The new video differs from the old one.
    site.emulator.add_fault(on="submit", kind="flaw", name="with_audio", match=f"It glides: {REDONE}")
    page.open(site.airflow.url + site.path(run.dag_id, "make_videos"))
    review(page, APPROVED, "approve")
    review(page, REDONE, "redo", COMMENT)
    file = site.catalog / before[REDONE]["file"]
    old = file.read_bytes()

    with watched(file) as contents:
        next_run = site.airflow.trigger(run.dag_id, site.configurations[run.dag_id])
        assert site.airflow.wait_for_run(run.dag_id, next_run) == "success"

    assert contents == {old, file.read_bytes()}
    assert len(contents) == 2
    assert site.emulator.ledger()["posted"] == posted + 1
    after = site.rows()
    assert [key for key in KEYS if after[key]["video_id"] != before[key]["video_id"]] == [REDONE]
    assert after[REDONE]["review"]["comment"] == COMMENT
    (approved,) = approved_videos(str(site.catalog))
    assert (approved["key"], approved["video_id"]) == (APPROVED, before[APPROVED]["video_id"])
    assert approved["approved_by"] == "admin"


def test_page_of_batch_shows_reviews(page: Page, site: Site) -> None:
    page.open(site.airflow.url + site.path("reviewed_videos", "make_videos"))

    texts = [text_of(page, f"[aria-label={key}] p.review") for key in (APPROVED, REDONE)]
    assert texts[0].startswith("Approved by admin, ")
    assert texts[1].startswith("Redo requested by admin, ")
    assert COMMENT in texts[1]


def test_user_who_can_edit_the_dag_reviews_from_its_own_origin(
    site: Site, clients: dict[str | None, httpx.Client]
) -> None:
    body = {"key": HOSTILE_KEY, "video_id": site.rows()[HOSTILE_KEY]["video_id"], "decision": "approve"}
    path = site.path("reviewed_videos", "make_videos", "reviews")

    response = clients["editor"].post(path, json=body, headers={"Origin": site.airflow.url})

    assert response.status_code == 200
    approved = {video["key"]: video["approved_by"] for video in approved_videos(str(site.catalog))}
    assert approved[HOSTILE_KEY] == "editor"


def test_spend_is_what_the_service_billed(page: Page, site: Site) -> None:
    page.open(f"{site.airflow.url}/plugin/toapis-videos")
    wait_for_frame(page, "{frame}.querySelector('.card')", "the page Videos")

    page.click("a[href$='/spend']", frame="iframe")

    wait_for_frame(page, "{frame}.querySelector('.sums')", "the spend")
    total = sum(Decimal(service.ledger()["total_usd"]) for service in (site.emulator, site.slow))
    assert facts(page, FRAME)["Total"] == f"${total}"
    assert page.evaluate(f"{FRAME}.querySelectorAll('svg rect').length") > 0


def test_export_has_a_line_for_each_task(site: Site, clients: dict[str | None, httpx.Client]) -> None:
    response = clients["viewer"].get("/toapis/videos/spend.csv", params={"dag_id": "shown_videos"})

    assert response.headers["content-disposition"].startswith("attachment")
    lines = {line["task_id"]: line for line in csv.DictReader(response.text.splitlines())}
    assert lines.keys() == STATES["shown_videos"].keys()
    assert {line["dag_id"] for line in lines.values()} == {"shown_videos"}
    expected = {"on_disk": ("saved", "0.10", "0"), "in_bucket": ("saved", "0.10", "0"), "failing": ("failed", "0", "1")}
    for task_id, (outcome, billed, refunded) in expected.items():
        line = lines[task_id]
        assert (line["outcome"], line["videos"], line["refunded_videos"]) == (outcome, "1", refunded)
        assert Decimal(line["billed_usd"]) == Decimal(billed)
    assert leaks(response) == set()


def leaks(response: httpx.Response) -> set[str]:
    """Return the secrets in a response, and the names of missing headers."""
    text = f"{response.text}\n{response.headers}"
    return {secret for secret in SECRETS if secret in text} | (PROTECTION - response.headers.keys())


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_attack_is_rejected(site: Site, clients: dict[str | None, httpx.Client], attack: Attack) -> None:
    paths = {dag_id: f"{dag_id}/{quote(run.run_id)}" for dag_id, run in site.runs.items()}
    url = "/toapis/videos/" + attack.path.format(**paths, run_id=quote(site.runs["shown_videos"].run_id))
    reviews = site.catalog / ".manifest" / "reviews"
    known = sorted(reviews.glob("*"))

    if attack.review is None:
        response = clients[attack.user].get(url, headers=attack.headers)
    else:
        row = {"key": REDONE, "video_id": site.rows()[REDONE]["video_id"], "decision": "redo", **attack.review}
        headers = {"Content-Type": "application/json", **attack.headers}
        response = clients[attack.user].post(url, headers=headers, content=json.dumps(row))

    assert response.status_code == attack.status
    assert leaks(response) == set()
    assert sorted(reviews.glob("*")) == known


@pytest.mark.parametrize(
    "names", [("shown_videos", "on_disk"), ("shown_videos", "failing"), ("reviewed_videos", "make_videos")]
)
def test_user_who_can_only_read_sees_the_page(
    site: Site, clients: dict[str | None, httpx.Client], names: tuple[str, str]
) -> None:
    response = clients["viewer"].get(site.path(*names))
    assert response.status_code == 200
    assert leaks(response) == set()
    assert 'class="review"' not in response.text.replace('<p class="review"', "")


@pytest.mark.parametrize("value", RANGES.values(), ids=RANGES)
def test_abused_range_gets_the_file_once(site: Site, clients: dict[str | None, httpx.Client], value: str) -> None:
    response = clients["viewer"].get(site.path("shown_videos", "on_disk", "video"), headers={"Range": value})

    assert response.status_code == 200
    assert response.content == (site.media / "on_disk.mp4").read_bytes()


def test_page_of_large_batch_shows_a_part_of_its_rows(site: Site, clients: dict[str | None, httpx.Client]) -> None:
    path = site.path("forged_videos", "large")
    pages = {number: clients["viewer"].get(path, params={"page": number}) for number in (1, MANY_ROWS // 24 + 1, 10**6)}

    assert [response.text.count("<article") for response in pages.values()] == [24, MANY_ROWS % 24, 0]
    for response in pages.values():
        assert response.status_code == 200
        assert f"{MANY_ROWS:,} rows" in response.text
        assert len(response.content) < 100_000
        assert leaks(response) == set()
    found = clients["viewer"].get(path, params={"search": f"key-{MANY_ROWS - 1:05}"})
    assert found.text.count("<article") == 1


def test_forged_texts_are_shown_as_texts(tab: Page, site: Site) -> None:
    for path in ("/toapis/videos/", *(site.path("forged_videos", task_id) for task_id in STATES["forged_videos"])):
        tab.open(site.airflow.url + path)
        assert tab.evaluate("document.scripts.length") == 1
        assert tab.evaluate("document.querySelectorAll('[onerror], [href^=javascript], [src^=javascript]').length") == 0
    tab.open(site.airflow.url + site.path("forged_videos", "videos"))
    assert "{{ 7 * 7 }}" in text_of(tab, "h1")
    # Forged files are missing. A script, a dialog or a violation of the policy would cause another message.
    assert {text for text in tab.complaints() if not MISSING_FILE.match(text)} == set()


@pytest.mark.parametrize("name", ["list", "spend", "on_disk", "failing", "batch", "large"])
def test_page_fits_phone_and_is_readable_in_both_schemes(page: Page, site: Site, name: str) -> None:
    paths = {
        "list": "/toapis/videos/",
        "spend": "/toapis/videos/spend",
        "on_disk": site.path("shown_videos", "on_disk"),
        "failing": site.path("shown_videos", "failing"),
        "batch": site.path("reviewed_videos", "make_videos"),
        "large": site.path("forged_videos", "large"),
    }
    page.resize(390, 844)
    grounds = set()
    for scheme in SCHEMES:
        page.prefer(scheme)
        page.open(site.airflow.url + paths[name])
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate(LOWEST_CONTRAST) >= 4.5
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2
