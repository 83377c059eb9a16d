"""The clock's sleep, and the stop signal that ends it."""

from __future__ import annotations

import time

import pytest

from airflow_provider_toapis.api.clock import Clock, StopSignal
from airflow_provider_toapis.exceptions import ToAPIsWaitInterruptedError


class TestSleep:
    def test_sleep_lasts_the_requested_time(self) -> None:
        started = time.monotonic()
        Clock().sleep(0.6)
        assert time.monotonic() - started >= 0.6

    @pytest.mark.parametrize("checks", [0, 1, 2])
    def test_sleep_ends_soon_after_the_stop_signal(self, checks: int) -> None:
        stop = StopSignal()
        done: list[float] = []

        def check() -> None:
            if len(done) == checks:
                stop.set()
            done.append(time.monotonic())
            stop.check()

        started = time.monotonic()
        with pytest.raises(ToAPIsWaitInterruptedError):
            Clock().sleep(60, check)
        assert len(done) == checks + 1
        assert time.monotonic() - started < 5
