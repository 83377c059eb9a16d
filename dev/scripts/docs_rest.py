"""Makes Markdown of the little reStructuredText in our docstrings, for the API reference."""

from __future__ import annotations

import re
from typing import Any

import griffe

#: The API's pages lie in a folder of their own.
_PAGE = re.compile(r"``docs/([\w/-]+)\.md``")
_SEE_ALSO = re.compile(r"^\s*\.\. seealso:: (.*)$", re.M)
_ROLE = re.compile(r":(?:class|exc|func|meth|mod):`~?([^`]+)`")


class MarkdownDocstrings(griffe.Extension):
    """Rewrites roles and directives that the Sphinx-style parser leaves in the text."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - griffe's signature
        """Rewrite the docstring of one object."""
        if obj.docstring:
            text = _SEE_ALSO.sub(r"See \1.", obj.docstring.value)
            text = _PAGE.sub(r"[\1](../\1.md)", text)
            obj.docstring.value = _ROLE.sub(r"`\1`", text)
