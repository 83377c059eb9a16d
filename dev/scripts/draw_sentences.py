"""Print docstrings and messages of the package at random: ``python -m dev.scripts.draw_sentences``.

A reader who does not know the code marks the sentences that need a second reading.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "airflow_provider_toapis"
_LOG_METHODS = frozenset({"debug", "info", "warning", "error", "exception"})
_MIN_WORDS = 4


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of a module, its classes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            text := ast.get_docstring(node)
        ):
            yield text


def messages(tree: ast.Module) -> Iterator[str]:
    """Yield the texts of errors and log lines. Values are shown as ``{...}``."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name.endswith("Error") or name in {"for_field", *_LOG_METHODS}:
            yield from (text for argument in node.args if len((text := _text(argument)).split()) >= _MIN_WORDS)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[-.\d]*[srdf]", "{...}", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "{...}" for part in node.values)
    return ""


def main() -> None:
    """Draw the texts and print them with numbers."""
    parser = argparse.ArgumentParser(prog="python -m dev.scripts.draw_sentences")
    parser.add_argument("--number", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in sorted(PACKAGE.rglob("*.py"))]
    draw = random.Random(options.seed)  # noqa: S311
    for title, extract in (("Docstrings", docstrings), ("Messages", messages)):
        texts = sorted({text for tree in trees for text in extract(tree)})
        print(f"# {title} ({options.number} of {len(texts)})\n")
        for number, text in enumerate(draw.sample(texts, min(options.number, len(texts))), start=1):
            print(f"{number}. {text}\n")


if __name__ == "__main__":
    main()
