"""Keeps signatures out of logs and rendered fields."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import mask_secret

from airflow_provider_toapis.api.presigned import secrets_in

#: Airflow compiles all its patterns again with each new one: 60 of long tokens took five seconds.
MAX_PATTERNS = 20


def mask_query(url: object) -> None:
    """Let Airflow mask the query of a result's link, whoever signed it."""
    query = str(url or "").partition("?")[2].partition("#")[0]
    if query:
        mask_secret(query)


def mask_links(*values: object) -> bool:
    """Let Airflow mask the signature of each presigned URL anywhere in ``values``, if they are few.

    Return whether that is done; otherwise nothing is masked.
    """
    secrets = list(dict.fromkeys(secrets_in(values)))
    if len(secrets) > MAX_PATTERNS:
        return False
    for secret in secrets:
        # A lone surrogate is rejected later; Airflow 2 cannot mask it.
        mask_secret(secret.encode(errors="ignore").decode())
    return True
