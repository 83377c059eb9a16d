"""Virtual time: an event loop that jumps to its next timer instead of waiting."""

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

#: Epoch seconds at which a loop's time is 0.
START = 1_790_000_000.0
#: Maximum real seconds to wait for a thread. A loop without timers that waits longer would wait forever.
RETRY_TIMEOUT = 10.0


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(RETRY_TIMEOUT if timeout is None else 0)
        if not ready:
            assert timeout is not None, "The event loop has no timer and would wait forever."
            self.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Event loop whose sleeps end immediately, in the right order."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def now() -> float:
    """Return the seconds since the creation of the running loop."""
    return asyncio.get_running_loop().time()


def epoch_now() -> float:
    return START + now()


def patch_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the provider's clock with the time of the running loop."""
    monkeypatch.setattr(clock, "time", epoch_now)
    monkeypatch.setattr(clock, "monotonic", now)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine like ``asyncio.run``, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on its own event loop, in virtual time."""

    @functools.wraps(test)
    def run_test(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return run_test
