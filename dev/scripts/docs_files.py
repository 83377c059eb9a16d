"""Shows a file where a line of a page is only a link to it: GitHub follows the link, the site has no such file."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_LINK = re.compile(r"^\[[^\]]+\]\((?P<path>\.\./[\w./]+\.(?P<kind>py|md))\)$", re.M)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - the names are MkDocs'
    """Put the files into the page, before anything looks at its links.

    :raises FileNotFoundError: There is no such file.
    """
    folder = Path(config.docs_dir, page.file.src_uri).parent

    def shown(link: re.Match[str]) -> str:
        text = (folder / link["path"]).read_text(encoding="utf-8")
        return f"```python\n{text}```" if link["kind"] == "py" else text

    return _LINK.sub(shown, markdown)
