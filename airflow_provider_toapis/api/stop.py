"""A signal that ends an attempt: after it nothing more is uploaded or submitted."""

from __future__ import annotations

from airflow_provider_toapis.exceptions import ToAPIsWaitInterruptedError


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
