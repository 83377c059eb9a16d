"""Replace the provider's clock in tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from airflow_provider_toapis.api.clock import clock


def replace_clock(
    patch: pytest.MonkeyPatch, now: Callable[[], float], sleep: Callable[[float], object] = lambda _: None
) -> None:
    """Make ``now`` the provider's clock, and pass its waits to ``sleep``."""

    def checked(seconds: float, check: Callable[[], object] = lambda: None) -> None:
        check()
        sleep(seconds)
        check()

    async def on_loop(seconds: float) -> None:
        await asyncio.sleep(0)
        sleep(seconds)

    patch.setattr(clock, "time", now)
    patch.setattr(clock, "monotonic", now)
    patch.setattr(clock, "sleep", checked)
    patch.setattr(clock, "sleep_async", on_loop)
