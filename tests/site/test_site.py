"""The documentation site that ``make docs`` has built, opened from disk in a browser."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dev.demo.browser import Page

PROJECT = Path(__file__).parents[2]
SITE = PROJECT / "site"
HOME = (SITE / "index.html").as_uri()


def all_pages() -> list[Path]:
    return sorted(SITE.rglob("*.html"))


def committed_pages() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "docs/*.md"]
    files = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return [str(Path(file).relative_to("docs").with_suffix(".html")) for file in files]


def test_every_page_of_the_documentation_is_built() -> None:
    built = {str(page.relative_to(SITE)) for page in all_pages()}
    assert built >= set(committed_pages())


def test_search_finds_a_page_without_a_server(page: Page) -> None:
    page.open(HOME)
    page.click(".md-search__input")
    page.type("receip")
    page.press("t")  # the search starts with a key, not with inserted text
    page.wait_until("document.querySelector('.md-search-result__link')", "results of the search")
    links = page.evaluate("[...document.querySelectorAll('.md-search-result__link')].map((link) => link.href)")
    assert any("data.html" in link for link in links)


def test_switch_changes_from_light_to_dark(page: Page) -> None:
    page.prefer("light")
    page.open(HOME)
    scheme = "document.body.getAttribute('data-md-color-scheme')"
    for expected in ("default", "slate"):
        page.click("form[data-md-component=palette] label:not([hidden])")
        page.wait_until(f"{scheme} === '{expected}'", f"the scheme {expected}")


def test_copy_button_copies_the_command_alone(page: Page) -> None:
    page.run_at_start("""document.addEventListener("copy", () => {
        window.copied = document.activeElement.value || String(getSelection());
    }, true)""")
    page.open((SITE / "quickstart.html").as_uri())
    button = "[id='start-the-emulator'] ~ .language-sh button"
    page.wait_until(f'document.querySelector("{button}")', "a copy button")
    page.click(button)
    page.wait_until("window.copied", "the copied text")
    assert page.evaluate("window.copied.trim()") == "python -m airflow_provider_toapis.emulator --port 8790"


def test_no_command_block_has_a_prompt_or_output(page: Page) -> None:
    for built in all_pages():
        page.open(built.as_uri())
        blocks = page.evaluate("[...document.querySelectorAll('.language-sh code')].map((code) => code.innerText)")
        assert [text for text in blocks if text.lstrip().startswith("$")] == [], built


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone(page: Page, scheme: str) -> None:
    page.prefer("light" if scheme == "light" else "dark")
    page.resize(390, 844)
    too_wide = {}
    for built in all_pages():
        page.open(built.as_uri())
        width = page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
        if width > 390:
            too_wide[str(built.relative_to(SITE))] = width
    assert too_wide == {}


def test_no_page_reports_an_error(page: Page) -> None:
    for built in all_pages():
        page.open(built.as_uri())
    assert page.complaints() == []
