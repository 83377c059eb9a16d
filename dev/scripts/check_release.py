"""Check that a tag can be released: ``TAG=v1.2.3 python -m dev.scripts.check_release``."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import airflow_provider_toapis

_CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"


def problems(tag: str, version: str, changelog: str) -> list[str]:
    """Return the problems that prevent the release of a tag; empty if it can be released.

    :param tag: Name of the tag.
    :param version: Version of the package.
    :param changelog: Text of the changelog.
    """
    found = []
    if tag != f"v{version}":
        found.append(f"Invalid tag {tag!r}: version {version} must be released with the tag 'v{version}'.")
    if not re.search(rf"^## {re.escape(version)} - \d{{4}}-\d{{2}}-\d{{2}}$", changelog, re.MULTILINE):
        found.append(f"CHANGELOG.md has no heading '## {version} - YYYY-MM-DD'.")
    return found


if __name__ == "__main__":
    found = problems(
        os.environ.get("TAG", ""), airflow_provider_toapis.__version__, _CHANGELOG.read_text(encoding="utf-8")
    )
    sys.exit("\n".join(found) or 0)
