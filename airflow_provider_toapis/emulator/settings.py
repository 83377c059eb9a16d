"""Options of one emulator process, which are set on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Settings:
    """The emulator's options; ``docs/emulator.md`` and ``--help`` describe them.

    :param origin: Scheme, host and port of the emulator. The URLs in its responses begin with it.
    :param data_dir: Directory for the state, the uploads and the videos.
    """

    origin: str
    data_dir: Path
    latency: float = 5.0
    latency_spread: float = 0.3
    api_key: str | None = None
    lookup_lag: float = 0.0
    replay: bool = True
    remix_ids: bool = True
    report_progress: bool = True
    expiry: float = 86400.0
    balance: Decimal = Decimal(100)
    submit_rps: float = 5.0
    query_rps: float = 50.0
    webhook_url: str | None = None
    webhook_secret: str | None = None
    webhook_retry_scale: float = 1.0
    seed: int = 0

    def own_path(self, url: str) -> str | None:
        """Return the path of ``url`` if it is a URL of this emulator; else None."""
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS and port_of(parts) == urlsplit(self.origin).port:
            return parts.path
        return None


def port_of(parts: SplitResult) -> int | None:
    """Return the port of a URL, or the scheme's default port; None if the port is invalid or the scheme unknown."""
    try:
        return parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
