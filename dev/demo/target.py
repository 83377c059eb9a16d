"""The service that generates the demo's videos: the emulator, or ToAPIs with ``REAL=1``."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

SERVICE_URL = "https://toapis.com"


class TargetError(Exception):
    """The environment variables select ToAPIs, but contain no API key."""


@dataclass(frozen=True)
class Service:
    """The service that generates the videos.

    :param api_key: API key of ToAPIs; None for the emulator.
    """

    api_key: str | None = field(repr=False)

    @classmethod
    def from_environment(cls) -> Service:
        """Return ToAPIs if ``REAL=1`` is set, else the emulator. An API key alone does not select ToAPIs.

        :raises TargetError: ``REAL=1`` is set without ``TOAPIS_API_KEY``.
        """
        api_key = os.environ.get("TOAPIS_API_KEY") or None
        is_real = os.environ.get("REAL") == "1"
        if is_real and api_key is None:
            raise TargetError("REAL=1 needs the API key in TOAPIS_API_KEY.")
        return cls(api_key if is_real else None)

    @property
    def emulated(self) -> bool:
        """Whether the service is the emulator, which bills nothing."""
        return self.api_key is None

    @property
    def name(self) -> str:
        """Name of the service in the demo's output."""
        return "the ToAPIs emulator" if self.emulated else "ToAPIs"

    @property
    def product_feed(self) -> str:
        """Path of the shop's product feed.

        ToAPIs cannot fetch images from this machine. The feed for ToAPIs therefore lists files, which are uploaded.
        """
        return "shop/products" if self.emulated else "shop/products?images=files"

    def connections(self, emulator_url: str) -> dict[str, dict[str, Any]]:
        """Return the Airflow connections that the example DAGs use. The shop is always part of the emulator."""
        return {
            "toapis_default": {
                "conn_type": "toapis",
                "password": self.api_key or "sk-emulator",
                **_host_and_port(emulator_url if self.emulated else SERVICE_URL),
            },
            "shop_api": {"conn_type": "http", "host": emulator_url},
            "alerts": {"conn_type": "http", "host": f"{emulator_url}/shop"},
        }


def _host_and_port(url: str) -> dict[str, Any]:
    """Split a URL into host and port, because the Test button of Airflow 3.3.2 rejects a connection without a port."""
    parts = urlsplit(url)
    return {"host": f"{parts.scheme}://{parts.hostname}", "port": parts.port or 443}
