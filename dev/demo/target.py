"""Who makes the demo's videos: the emulator, or the real ToAPIs when its key is given."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

SERVICE_URL = "https://toapis.com"


@dataclass(frozen=True)
class Service:
    """The maker of the videos.

    :param api_key: Key of the real service; None for the emulator.
    """

    api_key: str | None = field(repr=False)

    @classmethod
    def from_environment(cls) -> Service:
        """Return the real service when ``TOAPIS_API_KEY`` is set, else the emulator."""
        return cls(os.environ.get("TOAPIS_API_KEY") or None)

    @property
    def emulated(self) -> bool:
        """Whether no real money is spent."""
        return self.api_key is None

    @property
    def name(self) -> str:
        """What people call it."""
        return "the ToAPIs emulator" if self.emulated else "ToAPIs"

    @property
    def product_feed(self) -> str:
        """Where the shop lists its products.

        The real service cannot fetch pictures from this machine; the feed then gives them as files, which are uploaded.
        """
        return "shop/products" if self.emulated else "shop/products?images=files"

    def connections(self, emulator_url: str) -> dict[str, dict[str, Any]]:
        """Return the Airflow connections that the example DAGs use; the shop always is the emulator's."""
        return {
            "toapis_default": {
                "conn_type": "toapis",
                "password": self.api_key or "sk-emulator",
                **_host_and_port(emulator_url if self.emulated else SERVICE_URL),
            },
            "shop_api": {"conn_type": "http", "host": emulator_url},
        }


def _host_and_port(url: str) -> dict[str, Any]:
    """Return an address with its port apart: the Test button of Airflow 3.3.2 refuses a connection without a port."""
    parts = urlsplit(url)
    return {"host": f"{parts.scheme}://{parts.hostname}", "port": parts.port or 443}
