"""Webhooks that were dealt with: delivered again, or replayed by somebody, they change nothing."""

from __future__ import annotations

from collections.abc import Callable

from cachetools import TTLCache

from airflow_provider_toapis.api.webhook import MAX_SKEW_SECONDS

#: A replay that is older, or newer, is refused for its timestamp.
_REMEMBERED_SECONDS = 2 * MAX_SKEW_SECONDS
_REMEMBERED_EVENTS = 50_000


class SeenEvents:
    """Remembers for some minutes, in this process only: what is forgotten is a hint once more, and costs a question.

    :param clock: Gives seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._seen: TTLCache[tuple[str, str], None] = TTLCache(_REMEMBERED_EVENTS, _REMEMBERED_SECONDS, clock)

    def __contains__(self, event: tuple[str, str]) -> bool:
        return event in self._seen

    def add(self, event: tuple[str, str]) -> None:
        """Remember a connection's event."""
        self._seen[event] = None
