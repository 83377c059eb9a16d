"""What thousands of waiting videos mean for the garbage collector."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_toapis.triggers import poller
from airflow_provider_toapis.triggers.poller import MANY_WAITERS, shared_poller


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the collector."""
    done: list[str] = []
    collector: Any = SimpleNamespace(
        get_freeze_count=lambda: done.count("freeze"),
        freeze=lambda: done.append("freeze"),
    )
    monkeypatch.setattr(poller, "gc", collector)
    return done


async def enter(waiters: int) -> None:
    members = [shared_poller("toapis_default") for _ in range(waiters)]
    for member in members:
        await member.__aenter__()
    for member in members:
        await member.__aexit__(None, None, None)


def test_it_is_left_alone_while_few_wait(done: list[str]) -> None:
    asyncio.run(enter(MANY_WAITERS - 1))
    assert done == []


def test_it_is_spared_what_stays_once_in_a_process(done: list[str]) -> None:
    for _ in range(2):
        asyncio.run(enter(MANY_WAITERS + 1))
    assert done == ["freeze"]
