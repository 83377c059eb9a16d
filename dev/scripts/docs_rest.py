"""Convert the reStructuredText in docstrings to Markdown, for the API reference."""

from __future__ import annotations

import re
from typing import Any

import griffe

#: References to pages of the documentation. In the result, links begin with ``../``, because the API reference is in a
#: subdirectory.
_PAGE = re.compile(r"``docs/([\w/-]+)\.md``")
_SEE_ALSO = re.compile(r"^\s*\.\. seealso:: (.*)$", re.M)
_ROLE = re.compile(r":(?:class|exc|func|meth|mod):`~?([^`]+)`")


class MarkdownDocstrings(griffe.Extension):
    """Converts the roles and directives that griffe's Sphinx-style parser does not convert."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - griffe's signature
        """Convert the docstring of one object."""
        if obj.docstring:
            text = _SEE_ALSO.sub(r"See \1.", obj.docstring.value)
            text = _PAGE.sub(r"[\1](../\1.md)", text)
            obj.docstring.value = _ROLE.sub(r"`\1`", text)
