from __future__ import annotations

import pytest

from dev.scripts.check_release import problems

CHANGELOG = "# Changelog\n\n## 1.2.3 - 2026-11-27\n\n### Added\n\n## 1.2.2\n"


def test_matching_tag_with_dated_changelog_is_accepted() -> None:
    assert problems("v1.2.3", "1.2.3", CHANGELOG) == []


@pytest.mark.parametrize("tag", ["", "1.2.3", "v1.2.4", "v1.2.3-rc1", "v1.2.30"])
def test_other_tag_is_rejected(tag: str) -> None:
    (problem,) = problems(tag, "1.2.3", CHANGELOG)
    assert repr(tag) in problem
    assert "'v1.2.3'" in problem


@pytest.mark.parametrize("version", ["1.2.2", "1.2", "2.0.0"])
def test_changelog_without_release_date_is_rejected(version: str) -> None:
    (problem,) = problems(f"v{version}", version, CHANGELOG)
    assert f"## {version} - YYYY-MM-DD" in problem
