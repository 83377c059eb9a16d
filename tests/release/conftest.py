from __future__ import annotations

from pathlib import Path

import pytest

from tests.release.source import Distributions, build, copy_source

#: Untracked files that development leaves in a checkout.
LEFTOVERS = (
    "airflow_provider_toapis/__pycache__/exceptions.cpython-311.pyc",
    "tests/unit/__pycache__/test_readme.cpython-311.pyc",
    ".mypy_cache/CACHEDIR.TAG",
    ".venv/pyvenv.cfg",
    "demo-output/sneaker.mp4",
    "dist/old.whl",
    "notes.txt",
)


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Wheel and sdist, built in a checkout with untracked files."""
    source = copy_source(tmp_path_factory.mktemp("worked-in"))
    for name in LEFTOVERS:
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left over")
    return build(source, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def wheel(distributions: Distributions) -> Path:
    return distributions.wheel
