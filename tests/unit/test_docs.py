from __future__ import annotations

from scripts import render_models


def test_model_page_says_what_the_catalogue_says() -> None:
    assert render_models.PAGE.read_text(encoding="utf-8") == render_models.page()
