"""Makes Markdown of the little reStructuredText in our docstrings, for the API reference."""

from __future__ import annotations

import re
from typing import Any

import griffe

_SEE_ALSO = re.compile(r"^\s*\.\. seealso:: (.*)$", re.M)
_ROLE = re.compile(r":(?:class|exc|func|meth|mod):`~?([^`]+)`")


class MarkdownDocstrings(griffe.Extension):
    """Rewrites roles and directives that the Sphinx-style parser leaves in the text."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - griffe's signature
        """Rewrite the docstring of one object."""
        if obj.docstring:
            text = _SEE_ALSO.sub(r"See \1.", obj.docstring.value)
            obj.docstring.value = _ROLE.sub(r"`\1`", text)
