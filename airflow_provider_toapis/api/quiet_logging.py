"""Keeps signed links out of the log: httpx writes every URL at INFO, httpcore every redirect's target at DEBUG.

Only requests of this package are silenced; other users of httpx in the same process log as before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_HTTP_LOGGERS = [
    logging.getLogger(name)
    for name in (
        "httpx",
        "httpcore.connection",
        "httpcore.http11",
        "httpcore.http2",
        "httpcore.proxy",
        "httpcore.socks",
    )
]
_silent: ContextVar[bool] = ContextVar("airflow_provider_toapis_silent_http", default=False)


class _OnlyOthers(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        return not _silent.get()


_only_others = _OnlyOthers()


@contextmanager
def silent_http() -> Iterator[None]:
    """Drop what httpx and httpcore log inside the block."""
    for logger in _HTTP_LOGGERS:
        # A no-op when it is there already; logging may have been configured anew in between.
        logger.addFilter(_only_others)
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)
