"""Time that passes without anybody waiting: an event loop that jumps to its next timer."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import pytest

from airflow_provider_toapis.api.clock import clock

P = ParamSpec("P")
T = TypeVar("T")

#: Epoch seconds at which a loop's own time is 0.
START = 1_790_000_000.0
#: Real seconds that a thread may take; a loop without timers that waits longer would wait for ever.
RETRY_TIMEOUT = 10.0


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(RETRY_TIMEOUT if timeout is None else 0)
        if not ready:
            assert timeout is not None, "nothing will ever happen"
            self.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Sleeps of an hour are over at once, and in the right order."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def now() -> float:
    """Return the seconds since the running loop was made."""
    return asyncio.get_running_loop().time()


def epoch_now() -> float:
    return START + now()


def patch_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the provider go by the time of the running loop."""
    monkeypatch.setattr(clock, "time", epoch_now)
    monkeypatch.setattr(clock, "monotonic", now)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Do what ``asyncio.run`` does, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on a loop of its own, in virtual time."""

    @functools.wraps(test)
    def run_test(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return run_test
