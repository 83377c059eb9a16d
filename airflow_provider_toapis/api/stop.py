"""A signal that ends an attempt: after it nothing more is uploaded or submitted."""

from __future__ import annotations

import time

from airflow_provider_toapis.exceptions import ToAPIsWaitInterruptedError

#: Seconds between two looks at the signal during a pause. Airflow kills the process 5 s after it has asked it to end.
_SLICE = 0.5


class StopSignal:
    """Set by ``on_kill``, read by the client before each request that has an effect.

    A plain flag, not an event of ``threading``: Airflow calls ``on_kill`` in a signal handler, in the thread that
    waits, where a lock could be held already.
    """

    def __init__(self) -> None:
        self._is_set = False

    @property
    def is_set(self) -> bool:
        """Whether the attempt must end."""
        return self._is_set

    def set(self) -> None:
        """End the attempt."""
        self._is_set = True

    def check(self) -> None:
        """Pass on, unless the attempt must end.

        :raises ToAPIsWaitInterruptedError: It must.
        """
        if self._is_set:
            raise ToAPIsWaitInterruptedError(
                "The task was killed. Nothing more is uploaded or submitted. Videos that were submitted before stay"
                " billed; a later attempt re-attaches to them."
            )

    def sleep(self, seconds: float) -> None:
        """Wait, but no longer than until the signal is set.

        :raises ToAPIsWaitInterruptedError: It was set.
        """
        end = time.monotonic() + seconds
        self.check()
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE))
            self.check()
