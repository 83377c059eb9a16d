"""Refuses a page of the documentation that would load something from elsewhere: the site works without a network."""

from __future__ import annotations

import logging
import re
from html.parser import HTMLParser
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

# What is logged below it counts as a warning of the build, which `--strict` makes an error.
log = logging.getLogger("mkdocs.hooks.docs_offline")

#: The attributes that make a browser load something at once; a link to click on is none.
_LOADING = {
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "image": "href",
    "img": "src",
    "link": "href",
    "object": "data",
    "script": "src",
    "source": "src",
    "video": "src",
}
_FOREIGN = re.compile(r"(https?:)?//", re.I)
_FOREIGN_IN_STYLE = re.compile(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")]+)", re.I)


class _Loaded(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(_LOADING.get(tag, "")) or ""
        if _FOREIGN.match(address):
            self.foreign.append(address)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:  # noqa: ARG001 - the names are MkDocs'
    """Look at each page as it will be written."""
    loaded = _Loaded()
    loaded.feed(output)
    for address in loaded.foreign:
        log.warning("%s loads %s from elsewhere", page.file.src_uri, address)
    return output


def on_post_build(config: MkDocsConfig) -> None:
    """Look at the style sheets and the drawings that the pages load."""
    for file in sorted(Path(config.site_dir).rglob("*")):
        if file.suffix in {".css", ".svg"}:
            for address in _FOREIGN_IN_STYLE.findall(file.read_text(encoding="utf-8")):
                log.warning("%s loads %s from elsewhere", file.relative_to(config.site_dir), address)
