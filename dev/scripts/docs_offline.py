"""Reject pages of the documentation that load anything from the network, so that the site works offline."""

from __future__ import annotations

import logging
import re
from html.parser import HTMLParser
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

# A warning of a logger below `mkdocs` fails the build with `--strict`.
log = logging.getLogger("mkdocs.hooks.docs_offline")

#: Attributes with URLs that a browser loads without a click, by element.
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
#: Script that the search needs in pages that are opened from disk. Material loads it from the network, so docs/assets
#: has a copy.
_SHIM = "https://unpkg.com/iframe-worker/shim"
_SHIM_COPY = "assets/iframe-worker.js"

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
    """Make a page load the copy of the search's script. Warn about everything else that is loaded from the network."""
    output = output.replace(_SHIM, get_relative_url(_SHIM_COPY, page.url))
    loaded = _Loaded()
    loaded.feed(output)
    for address in loaded.foreign:
        log.warning("%s loads %s from the network", page.file.src_uri, address)
    return output


def on_post_build(config: MkDocsConfig) -> None:
    """Remove 404.html, which only a server needs. Warn about style sheets and drawings that load from the network."""
    Path(config.site_dir, "404.html").unlink()
    for file in sorted(Path(config.site_dir).rglob("*")):
        if file.suffix in {".css", ".svg"}:
            for address in _FOREIGN_IN_STYLE.findall(file.read_text(encoding="utf-8")):
                log.warning("%s loads %s from the network", file.relative_to(config.site_dir), address)
