"""MkDocs hook: if a line is only a link to a file outside docs/, replace the line with the content of the file.

GitHub can follow such a link, but the site does not contain the file.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_LINK = re.compile(r"^\[[^\]]+\]\((?P<path>\.\./[\w./]+\.(?P<kind>py|md))\)$", re.M)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - the names are MkDocs'
    """Insert the linked files into a page before MkDocs checks its links.

    :raises FileNotFoundError: A linked file does not exist.
    """
    directory = Path(config.docs_dir, page.file.src_uri).parent

    def content(link: re.Match[str]) -> str:
        text = (directory / link["path"]).read_text(encoding="utf-8")
        return f"```python\n{text}```" if link["kind"] == "py" else text

    return _LINK.sub(content, markdown)
