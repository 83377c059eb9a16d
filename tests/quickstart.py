"""The commands and the DAG file in the README's section "The smallest DAG"."""

from __future__ import annotations

import re
from pathlib import Path

_README = Path(__file__).parent.parent / "README.md"
_SECTION = re.compile(r"^## The smallest DAG\n(.*?)^## ", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def dag_file() -> str:
    """Return the only Python block."""
    (text,) = [text for language, text in _blocks() if language == "python"]
    return text


def commands() -> list[str]:
    """Return the lines of all shell blocks."""
    return [line for language, text in _blocks() if language == "sh" for line in text.splitlines()]


def _blocks() -> list[tuple[str, str]]:
    (section,) = _SECTION.findall(_README.read_text(encoding="utf-8"))
    return [(language, text) for language, text in _BLOCK.findall(section)]
