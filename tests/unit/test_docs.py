from __future__ import annotations

import re
from pathlib import Path

import pytest

import airflow_provider_toapis
from airflow_provider_toapis import exceptions
from airflow_provider_toapis.api.model_catalog import video_models
from airflow_provider_toapis.get_provider_info import CONFIG_OPTIONS
from dev.scripts import render_models, render_snippets

PACKAGE = Path(airflow_provider_toapis.__file__).parent
TESTS = Path(__file__).parent.parent
DOCS = TESTS.parent / "docs"


def test_model_page_matches_the_model_catalog() -> None:
    assert render_models.PAGE.read_text(encoding="utf-8") == render_models.page()


def test_model_page_lists_parameters_in_catalog_order() -> None:
    names = render_models.parameter_names()
    assert list(names) == [model.id for model in video_models() if model.id in names]


@pytest.mark.parametrize("page", render_snippets.PAGES, ids=lambda page: page.name)
def test_page_shows_current_example_code(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == render_snippets.rendered(text)


def test_each_section_of_an_example_is_shown() -> None:
    shown = re.findall(
        r"^<!-- (\w+) -->$", "\n".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")), re.M
    )
    assert sorted(shown) == sorted(render_snippets.sections())


def test_reliability_page_names_tests_that_exist() -> None:
    page = (DOCS / "reliability.md").read_text(encoding="utf-8")
    source = "".join(file.read_text(encoding="utf-8") for file in TESTS.rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named
    assert {name for name in named if f"def {name}(" not in source} == set()
    assert {name for name in re.findall(r"tests/[\w/]+\.py", page) if not (TESTS.parent / name).is_file()} == set()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_top_level_page_links_to_files_that_exist(name: str) -> None:
    page = TESTS.parent / name
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")) if "://" not in link]
    assert links
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_make_commands_of_pages_are_in_the_makefile() -> None:
    pages = [page.read_text(encoding="utf-8") for page in (*TESTS.parent.glob("*.md"), *DOCS.rglob("*.md"))]
    named = {target for page in pages for target in re.findall(r"(?:`|^)make ([a-z-]+)", page, re.MULTILINE)}
    assert named
    makefile = (TESTS.parent / "Makefile").read_text(encoding="utf-8")
    assert named - set(re.findall(r"^([a-z-]+):.* ## ", makefile, re.MULTILINE)) == set()


def test_code_names_pages_that_exist() -> None:
    sources = [file for file in PACKAGE.rglob("*") if file.suffix in {".py", ".toml", ".jinja"}]
    named = {page for file in sources for page in re.findall(r"docs/[\w/-]+\.md", file.read_text(encoding="utf-8"))}
    assert named
    assert {page for page in named if not (TESTS.parent / page).is_file()} == set()


def test_examples_page_has_every_example_dag() -> None:
    page = (DOCS / "examples.md").read_text(encoding="utf-8")
    assert {f.name for f in (TESTS.parent / "example_dags").glob("*.py")} == set(re.findall(r"example_\w+\.py", page))


def test_errors_page_explains_every_error() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    error_classes = {name for name in exceptions.__all__ if name.endswith("Error")}
    assert set(re.findall(r"^\| `(\w+)`", page, re.M)) | {"ToAPIsError"} == error_classes


def test_operations_page_shows_every_configuration_option_with_its_default() -> None:
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    table = page.partition("| Option of `[toapis]` |")[2].partition("\n\n")[0]
    shown = dict(re.findall(r"^\| `(\w+)` \| ([\w.]+) \|", table, re.MULTILINE))
    assert shown == {option: described["default"] or "none" for option, described in CONFIG_OPTIONS.items()}
