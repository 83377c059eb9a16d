"""Waiting that a signal ends."""

from __future__ import annotations

import time

import pytest

from airflow_provider_toapis.api.clock import Clock, StopSignal
from airflow_provider_toapis.exceptions import ToAPIsWaitInterruptedError


class TestSleep:
    def test_lasts_as_long_as_asked(self) -> None:
        began = time.monotonic()
        Clock().sleep(0.6)
        assert time.monotonic() - began >= 0.6

    @pytest.mark.parametrize("checks", [0, 1, 2])
    def test_ends_soon_after_the_signal(self, checks: int) -> None:
        stop = StopSignal()
        done: list[float] = []

        def check() -> None:
            if len(done) == checks:
                stop.set()
            done.append(time.monotonic())
            stop.check()

        began = time.monotonic()
        with pytest.raises(ToAPIsWaitInterruptedError):
            Clock().sleep(60, check)
        assert len(done) == checks + 1
        assert time.monotonic() - began < 5
