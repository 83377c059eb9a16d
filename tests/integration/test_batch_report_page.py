"""The report page of a batch in a real browser, from disk and from a web server."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image

from airflow_provider_toapis.batch.manifest_entry import ManifestEntry
from airflow_provider_toapis.batch.report import catalog_page, catalog_pages
from airflow_provider_toapis.emulator.rendering import Shot, render
from dev.demo.browser import Page
from tests.catalog_entries import TIME, entry, saved, submission
from tests.integration.loopback_server import LoopbackServer

STATES = ("failed", "rejected", "interrupted", "submitted", "pending", "saved", "removed")
#: Texts that would set ``window.ran`` or break the layout if the page did not escape them.
ATTACKS = (
    "<script>window.ran = 1</script>",
    "</script><script>window.ran = 1</script>",
    '"><img src=x onerror="window.ran = 1">',
    "'><svg/onload=window.ran=1>",
    "</template></p></article><iframe srcdoc='<script>parent.ran = 1</script>'></iframe>",
    "--><style>* { display: none }</style><!--",
    "javascript:window.ran=1",
    "data:text/html,<script>window.ran=1</script>",
    "{{ 7 * 7 }} {% for a in b %} ${window.ran=1} &lt;b&gt; &#0;",
    "\u202eright to left \u2066never closed \u05d0\u05d1\u05d2",
    "NUL \0 and escape \x1b",
    "W" * 10_000,
    "many words " * 1_000,
    "lines\n" * 100,
    "Z" + "\u0301\u0335" * 200,
)
#: Minimum contrast ratio of WCAG 2.1, level AA, for text of any size.
CONTRAST = 4.5
#: Console messages about resources that could not be loaded, which the tests ignore.
NOT_LOADED = ("Failed to load resource", "Not allowed to load local resource")

CONTRASTS = """(() => {
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = (color) => {
        const [r, g, b] = channels(color).slice(0, 3).map((channel) => channel / 255)
            .map((channel) => channel <= .04045 ? channel / 12.92 : ((channel + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const opaque = (color) => (channels(color)[3] ?? 1) === 1;
    const ground = (element) => {
        const color = getComputedStyle(element).backgroundColor;
        return opaque(color) ? color : ground(element.parentElement);
    };
    const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const written = [...document.body.querySelectorAll("*")].filter((element) =>
        [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()));
    return written.map((element) => [
        `${element.tagName}.${element.className}: ${element.textContent.trim().slice(0, 30)}`,
        ratio(luminance(getComputedStyle(element).color), luminance(ground(element))),
    ]);
})()"""


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (320, 320), "coral").save(content, "JPEG")
    return content.getvalue()


@pytest.fixture(scope="module")
def video(jpeg: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("video") / "video.mp4"
    render(jpeg, Shot("image", 1, "16:9", "push_in"), file, stopped=lambda: False)
    return file.read_bytes()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LoopbackServer]:
    """Serve the directory of the test."""
    directory = str(tmp_path)
    # Every browser requests this file.
    (tmp_path / "favicon.ico").touch()

    class Handler(_QuietHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=directory)

    with LoopbackServer(Handler) as server:
        yield server


@pytest.fixture(params=["file", "http"])
def base_url(request: pytest.FixtureRequest, server: LoopbackServer, tmp_path: Path) -> str:
    """Base URL of the test's directory. Each test runs with a file URL and with the URL of a web server."""
    return tmp_path.as_uri() if request.param == "file" else server.url


def write(directory: Path, entries: Iterable[ManifestEntry]) -> str:
    """Write the page and return its file URL."""
    file = directory / "index.html"
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(catalog_page(entries, title="Spring catalog", made_at=TIME))
    return file.as_uri()


def one_of_each() -> list[ManifestEntry]:
    return [entry(f"{state}-row", state, row=number) for number, state in enumerate(STATES)]


def hostile() -> list[ManifestEntry]:
    return [
        entry(
            f"{text}{number}",
            row=number,
            prompt=text,
            images=(text, f"https://127.0.0.1:9/{text}"),
            model=text,
            in_feed=state != "removed",
            saved=saved("a", file=f"{text}.mp4", video_id=text, run_id=text) if number % 2 else None,
            submission=submission(state, reason=text, video_id=text, run_id=text)
            if state in STATES[:4]
            else submission("pending"),
        )
        for number, text in enumerate(ATTACKS)
        for state in [STATES[number % len(STATES)]]
    ]


def visible(text: str) -> str:
    """Return a text as the page shows it, with symbols for characters that HTML does not allow."""
    return text.replace("\0", "\u2400").replace("\x1b", "\u241b")


def shown(page: Page) -> list[str]:
    """Return the keys of the visible cards."""
    keys: list[str] = page.evaluate(
        "[...document.querySelectorAll('h3')].filter((key) => key.checkVisibility()).map((key) => key.textContent)"
    )
    return keys


def status(page: Page) -> str:
    text: str = page.evaluate("document.querySelector('[role=status]').textContent")
    return text


def rightmost(page: Page) -> float:
    """Return the rightmost position of all elements, in CSS pixels."""
    reach: float = page.evaluate("""Math.max(document.documentElement.scrollWidth, document.body.scrollWidth,
        ...[...document.body.querySelectorAll("*")].map((element) => element.getBoundingClientRect().right))""")
    return reach


def wait_for_images(page: Page) -> None:
    """Wait until each image near the viewport is loaded or has failed."""
    page.evaluate("""Promise.all([...document.images].map((image) => image.complete || new Promise((done) => {
        image.addEventListener("load", done);
        image.addEventListener("error", done);
    })))""")


def open_all(page: Page) -> None:
    """Open the details of every card, and lay out cards outside the viewport too."""
    page.evaluate("""document.querySelectorAll("details").forEach((details) => { details.open = true; })""")
    page.evaluate(
        """document.querySelectorAll(".card").forEach((card) => { card.style.contentVisibility = "visible"; })"""
    )


@pytest.fixture
def hostile_page(page: Page, tmp_path: Path) -> Page:
    page.open(write(tmp_path, hostile()))
    return page


def test_texts_of_a_hostile_feed_are_shown_unchanged(hostile_page: Page) -> None:
    texts = hostile_page.evaluate("""[...document.querySelectorAll(".card")].map((card) =>
        [".prompt", "h3", ".reason", ".facts", "details"].map((part) => card.querySelector(part)?.textContent))""")

    by_prompt = {text[0]: text[1:] for text in texts}
    assert by_prompt.keys() == set(map(visible, ATTACKS))
    for number, text in enumerate(map(visible, ATTACKS)):
        key, reason, facts, details = by_prompt[text]
        assert key == f"{text}{number}"
        assert reason == (text if STATES[number % len(STATES)] in STATES[:4] else None)
        assert text in facts
        assert f"https://127.0.0.1:9/{text}" in details


def test_texts_of_a_hostile_feed_run_no_script_and_create_no_element(hostile_page: Page) -> None:
    open_all(hostile_page)

    counts = hostile_page.evaluate("""({
        ran: window.ran ?? 0,
        scripts: document.scripts.length,
        styles: document.querySelectorAll("style, link, [style]:not(.card)").length,
        foreign: document.querySelectorAll("iframe, object, embed, svg, form, b b, .text .card").length,
        handlers: [...document.querySelectorAll("*")].flatMap((element) => element.getAttributeNames())
            .filter((name) => name.startsWith("on")).length,
        schemes: [...new Set([...document.querySelectorAll("[href], [src]")]
            .map((element) => new URL(element.href || element.src).protocol))].sort(),
    })""")

    assert counts == {
        "ran": 0,
        "scripts": 1,
        "styles": 1,
        "foreign": 0,
        "handlers": 0,
        "schemes": ["file:", "https:"],
    }
    assert [text for text in hostile_page.complaints() if not text.startswith(NOT_LOADED)] == []


@pytest.mark.parametrize(
    ("attempt", "blocked"),
    [
        ("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))", "inline"),
        ("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')", "inline"),
        ("document.body.insertAdjacentHTML('beforeend', '<style>* {display: none}</style>')", "inline"),
        (
            "document.body.insertAdjacentHTML('beforeend', '<iframe src=\"https://127.0.0.1:9\">')",
            "https://127.0.0.1:9",
        ),
        ("location = 'javascript:window.ran = 1'", "inline"),
        ("fetch('https://127.0.0.1:9/').catch(() => {})", "https://127.0.0.1:9/"),
        ("new Image().src = 'data:image/png;base64,AA'", "data"),
    ],
)
def test_content_security_policy_blocks_injected_content(
    page: Page, tmp_path: Path, attempt: str, blocked: str
) -> None:
    page.open(write(tmp_path, one_of_each()))

    stopped = page.evaluate(f"""new Promise((done) => {{
        addEventListener("securitypolicyviolation", (event) => done(event.blockedURI));
        {attempt};
    }})""")

    assert stopped.rstrip("/") == blocked.rstrip("/")
    assert page.evaluate("window.ran") is None


def test_page_loads_only_its_directory_and_the_images(
    page: Page, server: LoopbackServer, tmp_path: Path, jpeg: bytes
) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg)
    write(tmp_path, [*one_of_each(), entry("pictured", images=(f"{server.url}/a.jpg",))])

    page.open(f"{server.url}/index.html")
    wait_for_images(page)

    loaded = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {*loaded} - {f"{server.url}/favicon.ico"} == {f"{server.url}/a.jpg"}
    assert page.complaints() == []


def test_images_are_shown_and_a_missing_image_is_replaced_by_text(
    page: Page, server: LoopbackServer, tmp_path: Path, jpeg: bytes
) -> None:
    (tmp_path / "it's 100%.jpg").write_bytes(jpeg)
    local, linked = str(tmp_path / "it's 100%.jpg"), f"{server.url}/it's%20100%25.jpg"
    rows = [entry(key, "pending", images=(image,)) for key, image in (("local", local), ("linked", linked))]
    page.open(write(tmp_path, [*rows, entry("gone", "pending", images=(f"{server.url}/gone.jpg",))]))

    wait_for_images(page)
    widths = page.evaluate("[...document.images].map((image) => [image.alt, image.naturalWidth])")

    assert widths == [["Image of local", 320], ["Image of linked", 320]]
    assert page.evaluate("[...document.querySelectorAll('.nothing')].at(-1).textContent") == "No video"


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_video_plays_in_its_card(
    page: Page, base_url: str, tmp_path: Path, video: bytes, how: Literal["mouse", "keyboard"]
) -> None:
    (tmp_path / "50% #1?.mp4").write_bytes(video)
    write(tmp_path, [entry("lamp", saved=saved("lamp", file="50% #1?.mp4")), entry("other", row=2)])
    page.open(f"{base_url}/index.html")

    if how == "mouse":
        page.click(".play")
    else:
        page.evaluate("document.querySelector('.filter input').focus()")
        page.press("Tab")
        page.press("Enter")

    played = page.evaluate("""new Promise((done, failed) => {
        const video = document.querySelector("video");
        video.addEventListener("error", () => failed(video.error));
        video.addEventListener("ended", () => done({
            key: video.closest(".card").querySelector("h3").textContent,
            name: video.ariaLabel,
            ready: video.readyState >= 2,
            size: [video.videoWidth, video.videoHeight],
            focus: document.activeElement === video,
            controls: video.controls,
            players: document.querySelectorAll("video").length,
        }));
    })""")
    size = played.pop("size")
    assert size[0] * 9 == size[1] * 16
    assert played == {
        "key": "lamp",
        "name": "Video of lamp",
        "ready": True,
        "focus": True,
        "controls": True,
        "players": 1,
    }
    assert page.complaints() == []


def test_filters_show_the_rows_of_their_states(page: Page, tmp_path: Path) -> None:
    page.open(write(tmp_path, [*one_of_each(), entry("saved-too", row=9)]))
    assert shown(page) == [*(f"{state}-row" for state in STATES[:6]), "saved-too", "removed-row"]

    page.click("[value=saved]")
    assert shown(page) == ["saved-row", "saved-too"]
    page.click("[value=failed]")
    assert shown(page) == ["failed-row", "saved-row", "saved-too"]
    assert status(page) == "3 of 8 shown"
    assert page.evaluate("[...document.querySelectorAll('h2')].filter((h) => h.checkVisibility()).length") == 2

    page.click("[value=saved]")
    page.click("[value=failed]")
    assert status(page) == "8 of 8 shown"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("MUG", ["mug-1", "Mug-2"]),
        ("mug-1", ["mug-1"]),
        ("steam rises", ["mug-1", "lamp"]),
        ("rises mug", ["mug-1"]),
        ("  ", ["mug-1", "Mug-2", "lamp", ".*"]),
        (".*", [".*"]),
        ("grok", []),
        ("\N{LATIN CAPITAL LETTER A WITH DIAERESIS}pfel", ["lamp"]),
    ],
)
def test_search_finds_words_of_key_and_prompt(page: Page, tmp_path: Path, text: str, keys: list[str]) -> None:
    rows = [("mug-1", "Steam rises"), ("Mug-2", None), ("lamp", "The steam\nrises from \xe4pfel"), (".*", "")]
    page.open(write(tmp_path, [entry(key, prompt=prompt, row=number) for number, (key, prompt) in enumerate(rows)]))

    page.click("#search")
    page.type(text)

    assert shown(page) == keys
    assert status(page) == f"{len(keys)} of 4 shown"
    assert page.evaluate("document.getElementById('nothing').checkVisibility()") == (not keys)


def test_search_and_filter_work_together_and_by_keyboard(page: Page, tmp_path: Path) -> None:
    page.open(write(tmp_path, [*one_of_each(), entry("saved-too", row=9)]))

    page.press("Tab")
    page.type("row")
    page.press("Tab")
    page.press("Space")
    assert shown(page) == ["failed-row"]
    for _ in range(5):
        page.press("Tab")
    page.press("Space")
    assert shown(page) == ["failed-row", "saved-row"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_texts_have_enough_contrast(page: Page, tmp_path: Path, scheme: Literal["light", "dark"]) -> None:
    page.prefer(scheme)
    page.open(write(tmp_path, [*one_of_each(), entry("again", "failed", saved=saved("a"), images=("s3://b/a.jpg",))]))
    open_all(page)
    page.click("[value=saved]")
    page.click("[value=saved]")
    page.click("[value=failed]")

    contrasts = page.evaluate(CONTRASTS)

    assert len(contrasts) > 80
    assert [(text, ratio) for text, ratio in contrasts if ratio < CONTRAST] == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(16, 18, 20)") == (scheme == "dark")


@pytest.mark.parametrize("width", [320, 375, 768, 1920])
def test_no_element_is_wider_than_the_viewport(page: Page, tmp_path: Path, width: int) -> None:
    page.resize(width, 800)
    page.open(write(tmp_path, [*one_of_each(), *hostile()]))
    assert rightmost(page) <= width
    open_all(page)
    assert rightmost(page) <= width


def test_hostile_text_stays_within_its_card(hostile_page: Page) -> None:
    """Closed cards have about the same height, and open cards contain all of their text."""
    hostile_page.evaluate(
        "document.querySelectorAll('.card').forEach((c) => { c.style.contentVisibility = 'visible'; })"
    )
    heights = "[...document.querySelectorAll('.card')].map((card) => card.getBoundingClientRect().height)"
    assert max(hostile_page.evaluate(heights)) < 1000
    open_all(hostile_page)
    cut = """[...document.querySelectorAll(".prompt")].filter((text) => text.scrollHeight > text.clientHeight + 200)"""
    assert hostile_page.evaluate(f"{cut}.length") == 0


def roles_and_names(page: Page) -> list[tuple[str, str | None]]:
    """Return the roles and names that a screen reader gets."""
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    return [(node["role"]["value"], node.get("name", {}).get("value")) for node in tree if not node["ignored"]]


def test_page_is_accessible_to_screen_readers(page: Page, tmp_path: Path) -> None:
    page.open(write(tmp_path, [*one_of_each(), *(entry(f"lamp-{number}", row=10 + number) for number in range(50))]))

    assert [name for role, name in roles_and_names(page) if role == "article"][-2:] == ["lamp-49", "removed-row"]
    open_all(page)
    roles = roles_and_names(page)
    assert ("RootWebArea", "Spring catalog") in roles
    assert ("searchbox", "Search key and prompt") in roles
    assert ("group", "Show only") in roles
    assert ("checkbox", "Submitted 1") in roles
    assert ("link", "Play the video of lamp-49") in roles
    assert ("region", "Needs attention") in roles
    assert {role for role, _ in roles} >= {"main", "search", "status", "banner"}
    assert page.evaluate("document.documentElement.lang") == "en"
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((heading) => Number(heading.tagName[1]))")
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_ten_thousand_rows_are_shown_and_searched(
    page: Page, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    rows = (entry(f"SKU-{number:05}", "saved" if number % 100 else "failed", row=number) for number in range(10_000))
    url = write(tmp_path, rows)
    started = time.monotonic()
    page.open(url)
    record_property("seconds_to_open", time.monotonic() - started)
    record_property("bytes", (tmp_path / "index.html").stat().st_size)

    page.click("#search")
    page.type("sku-01234")

    assert shown(page) == ["SKU-01234"]
    assert status(page) == "1 of 10,000 shown"


def test_pages_of_a_large_catalog_are_linked(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_toapis.batch.report.ROWS_PER_PAGE", 2)
    rows = [entry(f"lamp-{number}", row=number) for number in range(5)]
    for name, html in catalog_pages(rows, title="Spring catalog", made_at=TIME):
        (tmp_path / name).write_text("".join(html), encoding="utf-8")
    page.open((tmp_path / "index.html").as_uri())

    assert (shown(page), status(page)) == (["lamp-0", "lamp-1"], "2 of 2 shown on this page")
    assert ("searchbox", "Search key and prompt on this page") in roles_and_names(page)
    third: str = page.evaluate("document.querySelectorAll('nav a')[2].href")
    page.open(third)
    assert (shown(page), status(page)) == (["lamp-4"], "1 of 1 shown on this page")
    assert [role for role, _ in roles_and_names(page)].count("navigation") == 2
