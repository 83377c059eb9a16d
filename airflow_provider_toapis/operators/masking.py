"""What lets somebody in is kept out of logs and rendered fields."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import mask_secret

from airflow_provider_toapis.api.presigned import secrets_in


def mask_links(*values: object) -> None:
    """Let Airflow mask the signature of each presigned link anywhere in ``values``."""
    for value in values:
        for secret in secrets_in(value):
            mask_secret(secret)
