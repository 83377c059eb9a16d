"""The changelog has the form of Keep a Changelog."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.version import Version

CHANGELOG = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
RELEASES = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)


def test_unreleased_section_comes_first_then_newest_release() -> None:
    released = [name for name in RELEASES if name != "Unreleased"]
    assert RELEASES in (released, ["Unreleased", *released])
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d{2}-\d{2}", name) for name in released)
    versions = [Version(name.split()[0]) for name in released]
    assert versions == sorted(versions, reverse=True)
    assert RELEASES


def test_changelog_uses_only_known_sections() -> None:
    sections = re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE)
    assert sections
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
