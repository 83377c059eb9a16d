from __future__ import annotations

import re
from pathlib import Path

from scripts import render_models

TESTS = Path(__file__).parent.parent
DOCS = TESTS.parent / "docs"


def test_model_page_says_what_the_catalogue_says() -> None:
    assert render_models.PAGE.read_text(encoding="utf-8") == render_models.page()


def test_reliability_page_names_tests_that_exist() -> None:
    page = (DOCS / "reliability.md").read_text(encoding="utf-8")
    source = "".join(file.read_text(encoding="utf-8") for file in TESTS.rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named
    assert {name for name in named if f"def {name}(" not in source} == set()
    assert {name for name in re.findall(r"tests/[\w/]+\.py", page) if not (TESTS.parent / name).is_file()} == set()
