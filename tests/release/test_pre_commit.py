"""The hooks of ``.pre-commit-config.yaml``, in a separate repository."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.release.source import copy_source

#: Each hook with a file that it must reject. Strings are split so that the hooks accept this file.
FAULTY_FILES = {
    "trailing-whitespace": ("page.md", "text \n"),
    "end-of-file": ("page.md", "text"),
    "large-files": ("film.mp4", "0" * 1_100_000),
    "merge-conflict": ("page.md", "<" * 7 + " ours\n" + "=" * 7 + "\n" + ">" * 7 + " theirs\n"),
    "private-key": ("key.pem", "-----BEGIN RSA" + " PRIVATE KEY-----\n"),
    "toml": ("page.toml", "a =\n"),
    "yaml": ("page.yml", "a: [\n"),
    "ruff-check": ("module.py", '"""A module."""\n\nimport os\n'),
    "ruff-format": ("module.py", "a = 'b'\n"),
    "codespell": ("page.md", "t" + "eh end\n"),
    "actionlint": (".github/workflows/page.yml", "on: push\njobs: {a: {steps: [{run: make}]}}\n"),
    "zizmor": (
        ".github/workflows/page.yml",
        "on: push\njobs: {a: {runs-on: ubuntu-24.04, steps: [{uses: actions/checkout@v7}]}}\n",
    ),
}


@dataclass(frozen=True)
class Repository:
    """A git repository with the project's files, and its own pre-commit store."""

    directory: Path
    store: Path

    def git(self, *arguments: str) -> None:
        subprocess.run(
            ["git", *arguments], cwd=self.directory, env=self._environment(), check=True, capture_output=True
        )

    def pre_commit(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pre_commit", "run", *arguments],
            cwd=self.directory,
            env=self._environment() | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def _environment(self) -> dict[str, str]:
        # Git sets these variables for its child processes, such as these tests; they name another repository.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        return environment | {"PRE_COMMIT_HOME": str(self.store)}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    made = Repository(copy_source(tmp_path_factory.mktemp("repository")), tmp_path_factory.mktemp("store"))
    made.git("init", "--quiet")
    (made.directory / ".venv").symlink_to(sys.prefix)
    (made.directory / ".git" / "info" / "exclude").write_text(".venv\n", encoding="utf-8")
    made.git("add", "--all")
    return made


def test_every_hook_passes_on_the_project(repository: Repository) -> None:
    # mypy takes a minute, and `make lint` runs it.
    run = repository.pre_commit("--all-files", SKIP="mypy")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("Passed") == len(FAULTY_FILES)


@pytest.mark.parametrize("hook", FAULTY_FILES)
def test_hook_rejects_its_faulty_file(repository: Repository, hook: str) -> None:
    name, content = FAULTY_FILES[hook]
    (repository.directory / name).write_text(content, encoding="utf-8")
    repository.git("add", name)
    try:
        run = repository.pre_commit(hook, "--files", name)
        assert run.returncode == 1
        assert "Failed" in run.stdout
    finally:
        repository.git("rm", "--force", "--quiet", name)
