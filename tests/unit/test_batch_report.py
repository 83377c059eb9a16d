from __future__ import annotations

import base64
import hashlib
import re
import tracemalloc
from collections.abc import Iterable
from decimal import Decimal
from html import unescape
from pathlib import Path

import pytest

from airflow_provider_toapis.batch.manifest_entry import ManifestEntry
from airflow_provider_toapis.batch.report import catalog_page, catalog_pages, total_price
from tests.catalog_entries import entry, saved, submission

MADE_AT = "2026-02-03T06:30:00+02:00"


def page(entries: Iterable[ManifestEntry], title: str = "Spring catalog") -> str:
    return "".join(catalog_page(entries, title=title, made_at=MADE_AT))


def test_rows_that_need_action_come_first_then_feed_order() -> None:
    states = ["removed", "saved", "pending", "postponed", "submitted", "interrupted", "rejected", "failed"]
    rows = [entry(f"{state}-{row}", state, row=row) for state in states for row in (2, 1)]

    keys = re.findall("<h3><bdi>(.+?)</bdi>", page(rows))

    assert keys == [f"{state}-{row}" for state in reversed(states) for row in (1, 2)]


def test_each_state_is_counted_once() -> None:
    html = page([entry("a", "failed"), entry("b"), entry("c"), entry("d", "failed", in_feed=False)])

    assert re.findall(r"(\w+) <b>(\d+)</b></label>", html) == [("Failed", "1"), ("Saved", "2"), ("Removed", "1")]


@pytest.mark.parametrize(
    ("row", "fragments"),
    [
        (entry("a"), ["<b>$0.30</b></span>", "1.4 MB", "2026-02-03 02:14 UTC", "grok-video-1.5-preview"]),
        (entry("a", saved=saved("a", price_usd="0.027034", size=999)), ["<b>$0.027034</b>", "999 B"]),
        (entry("a", saved=saved("a", billed=False, size=2_000_000_000)), ["<b>$0.30</b> expected", "2.0 GB"]),
        (entry("a", saved=saved("a", price_usd=None)), ["Price unknown"]),
        (entry("a", "submitted"), ["<b>$0.30</b> expected", "The video is billed and in progress."]),
        (
            entry("a", "failed", submission=submission("failed", reason="No memory")),
            ["No memory", "No video", "submits this row again"],
        ),
        (entry("a", "failed", saved=saved("a")), ["Failed", "The video shown is the earlier one.", 'src="./a.mp4"']),
        (entry("a", saved=saved("a", file="50% #1?.mp4")), ['src="./50%25%20%231%3F.mp4"']),
        (entry("a", saved=saved("a", file="//elsewhere/a.mp4")), ['src=".///elsewhere/a.mp4"']),
        (entry("a", saved=saved("a", file="javascript:a()")), ['src="./javascript%3Aa%28%29"']),
    ],
)
def test_card_shows_known_facts(row: ManifestEntry, fragments: list[str]) -> None:
    html = page([row])
    for fragment in fragments:
        assert fragment in html


def test_failed_row_shows_no_expected_price() -> None:
    assert "expected" not in page([entry("a", "failed")])


def test_total_adds_saved_videos_and_videos_in_progress() -> None:
    rows = [
        entry("billed"),
        entry("not billed", saved=saved("b", billed=False, price_usd="0.1")),
        entry("another generation in progress", "submitted", saved=saved("c")),
        entry("late", "interrupted"),
        entry("failed", "failed"),
        entry("rejected", "rejected"),
        entry("pending", "pending"),
        entry("unknown", saved=saved("d", price_usd=None)),
        entry("removed", "removed"),
    ]

    total = total_price(rows)

    assert total.amount == 5 * Decimal("0.3") + Decimal("0.1")
    assert total.expected == 2 * Decimal("0.3") + Decimal("0.1")
    assert total.unknown == 1
    html = page(rows)
    expected = "$0.70 of this is expected, because the billed price is not known yet"
    for fragments in ("$1.60", expected, "Not included: 1 video with unknown price"):
        assert fragments in html


def test_total_has_separators_and_empty_catalog_shows_a_message() -> None:
    assert "$12,345.60" in page([entry("a", saved=saved("a", price_usd="12345.6"))])
    html = page([])
    assert "$0.00" in html
    assert '<p class="end" id="nothing">Nothing to show.</p>' in html


@pytest.mark.parametrize(
    ("image", "url"),
    [
        ("https://shop.example/a.jpg?b=1&c=2", "https://shop.example/a.jpg?b=1&amp;c=2"),
        ("http://shop.example/a.jpg", "http://shop.example/a.jpg"),
        ("/shop/a b#1.jpg", "file:///shop/a%20b%231.jpg"),
        ("a.jpg", f"{Path.cwd().as_uri()}/a.jpg"),
        ("file:///shop/a%20b.jpg", "file:///shop/a%20b.jpg"),
        ("local:///shop/a.jpg", "file:///shop/a.jpg"),
        ("file://localhost/shop/a.jpg", "file:///shop/a.jpg"),
    ],
)
def test_image_that_a_browser_can_open_is_shown(image: str, url: str) -> None:
    html = page([entry("a", images=(image,))])
    assert f'<img src="{url}" alt="Image of a" loading="lazy"' in html
    assert f'<a href="{url}">' in html


@pytest.mark.parametrize(
    "image",
    [
        "s3://bucket/a.jpg",
        "javascript:alert(1)",
        " java\nscript:alert(1)",
        "javascript://%0aalert(1)",
        "data:image/svg+xml,<svg onload=alert(1)>",
        "blob:https://shop.example/1",
        "file://elsewhere.example/share/a.jpg",
        "//elsewhere.example/share/a.jpg",
        "file:////elsewhere.example/share/a.jpg",
        "file:///%2Felsewhere.example/share/a.jpg",
        "http://[",
        "~nobody-of-that-name/a.jpg",
        "/shop/\ud800.jpg",
    ],
)
def test_other_images_are_named_and_not_requested(image: str) -> None:
    html = page([entry("a", "pending", images=(image,))])
    assert "<img" not in html
    assert "href=" not in html
    assert "<dt>Image</dt>" in html


def test_first_displayable_image_is_shown() -> None:
    html = page([entry("a", images=("s3://bucket/a.jpg", "https://shop.example/b.jpg", "https://shop.example/c.jpg"))])
    assert re.findall('<img src="(.+?)"', html) == ["https://shop.example/b.jpg"]
    assert html.count("<dt>Image</dt>") == 3


def test_markup_in_a_row_is_escaped() -> None:
    hostile = """</script><script>alert(1)</script>"><img src=x onerror='alert(1)'>{{ 7919 * 7907 }}{% raw %}"""
    row = entry(
        hostile,
        "failed",
        prompt=hostile,
        images=(hostile,),
        model=hostile,
        saved=saved("a", file=hostile, video_id=hostile, run_id=hostile),
        submission=submission("failed", reason=hostile, video_id=hostile, run_id=hostile),
    )

    html = page([row], title=hostile)

    assert len(re.findall("<script", html)) == len(re.findall("</script", html)) == 1
    assert len(re.findall("<img", html)) == 1
    assert "{{ 7919 * 7907 }}{% raw %}" in html
    assert str(7919 * 7907) not in html


def test_control_characters_and_surrogates_are_replaced() -> None:
    row = entry("a\0b", prompt="\ud83d\x1b\x7f\x85\uffff \N{ATHLETIC SHOE}\u202e\t\n")
    html = page([row])
    assert "a\u2400b" in html
    assert "\ufffd\u241b\u2421\ufffd\ufffd \N{ATHLETIC SHOE}\u202e\t\n" in html
    html.encode()


def test_content_security_policy_allows_only_own_script_and_style() -> None:
    html = page([entry("a")])
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="(.+?)"', html)
    directives = dict(directive.split(maxsplit=1) for directive in unescape(policy).split("; "))
    assert directives == {
        "default-src": "'none'",
        "script-src": hash_of("script", html),
        "style-src": hash_of("style", html),
        "img-src": "https: http: file: 'self'",
        "media-src": "'self' file:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def hash_of(tag: str, html: str) -> str:
    (source,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def test_large_catalog_has_several_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_toapis.batch.report.ROWS_PER_PAGE", 2)
    rows = [entry(f"saved-{row}", row=row) for row in range(4)] + [entry("failed-9", "failed", row=9)]

    pages = {name: "".join(html) for name, html in catalog_pages(reversed(rows), title="Large", made_at=MADE_AT)}

    assert list(pages) == ["index-3.html", "index-2.html", "index.html"]
    keys = {name: re.findall("<h3><bdi>(.+?)</bdi>", html) for name, html in pages.items()}
    assert keys["index.html"] == ["failed-9", "saved-0"]
    assert (keys["index-2.html"], keys["index-3.html"]) == (["saved-1", "saved-2"], ["saved-3"])
    for name, html in pages.items():
        assert "5 rows as of" in html
        assert "$1.20" in html
        assert html.count('aria-current="page"') == 2
        assert f'<a href="./{name}" aria-current="page">' in html
        assert set(re.findall(r'<a href="\./(index.*?)"', html)) == pages.keys()


def test_small_catalog_has_one_page_without_links() -> None:
    ((name, html),) = [(name, "".join(html)) for name, html in catalog_pages([], title="Empty", made_at=MADE_AT)]
    assert (name, "<nav" in html, "on this page" in html) == ("index.html", False, False)


def test_page_is_streamed_in_pieces() -> None:
    rows = [entry(f"key-{number}", row=number, prompt="x" * 1000) for number in range(3000)]
    tracemalloc.start()
    try:
        size = sum(map(len, catalog_page(rows, title="Large", made_at=MADE_AT)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 5_000_000
    assert peak < size / 2
