"""Fixtures of all unit tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def unchecked_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not measure saved videos by default: the files of most tests are no videos, and each check takes 0.2 s."""
    monkeypatch.setenv("AIRFLOW__TOAPIS__CHECK", "off")
