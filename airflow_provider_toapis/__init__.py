"""Apache Airflow provider for ToAPIs, the gateway for AI video generation."""

from __future__ import annotations

from airflow_provider_toapis.get_provider_info import get_provider_info

__version__ = "0.1.0"

__all__ = ["__version__", "get_provider_info"]
