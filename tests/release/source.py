"""A copy of the project's source, and the distributions that are built from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

PROJECT = Path(__file__).parents[2]
CONSTRAINTS = PROJECT / "constraints.txt"


@dataclass(frozen=True)
class Distributions:
    """A wheel and an sdist."""

    wheel: Path
    sdist: Path


def source_files() -> set[str]:
    """Return all files under version control, and new files that are not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    return {name for name in listing.split("\0") if name and (PROJECT / name).is_file()}


def copy_source(destination: Path) -> Path:
    """Copy the project without ignored files."""
    for name in source_files():
        target = destination / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, target)
    return destination


def build(source: Path, output: Path, environment: Mapping[str, str] | None = None) -> Distributions:
    """Build as ``make dist`` does: the sdist, and the wheel from the sdist."""
    constrained = ["--build-constraints", str(CONSTRAINTS), "--python", sys.executable]
    command = [find_uv_bin(), "build", "--quiet", *constrained, "--out-dir", str(output), str(source)]
    subprocess.run(command, check=True, env={**os.environ, **(environment or {})})
    (wheel,) = output.glob("*.whl")
    (sdist,) = output.glob("*.tar.gz")
    return Distributions(wheel, sdist)
