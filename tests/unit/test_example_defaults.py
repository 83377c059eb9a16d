"""Default parameters of the example DAGs: their inputs exist in ``make up``, and no two DAGs share an output."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dev.demo.environment import EXAMPLE_DAGS, prepare_home

_DEFAULT = re.compile(r'"(?P<name>\w+)": Param\(\s*str\(Path\.home\(\) / "(?P<file>[^"]+)"\)')


def defaults() -> list[tuple[str, str]]:
    return [
        (found["name"], found["file"])
        for example in sorted(EXAMPLE_DAGS.glob("*.py"))
        for found in _DEFAULT.finditer(example.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("name", ["image", "feed"])
def test_home_contains_every_input(tmp_path: Path, name: str) -> None:
    home = prepare_home(tmp_path / "home")
    inputs = [file for parameter, file in defaults() if parameter == name]
    assert inputs
    assert [file for file in inputs if not (home / file).is_file()] == []


def test_no_two_examples_write_to_the_same_place() -> None:
    outputs = [file for name, file in defaults() if name.startswith("output")]
    assert len(outputs) == len(set(outputs)) == 7


def test_no_example_needs_an_image_from_the_network() -> None:
    for example in EXAMPLE_DAGS.glob("*.py"):
        assert "https://example.com" not in example.read_text(encoding="utf-8")
