"""Request the ETag of an image from the image's host, without the API key."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from airflow_provider_toapis.api.clock import backoff
from airflow_provider_toapis.api.error_responses import HttpResponse
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsRequestError, ToAPIsServerError

#: Maximum requests for one image.
MAX_ATTEMPTS = 3
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500


def image_etag(
    url: str, head: Callable[[str], HttpResponse | ToAPIsConnectionError], sleep: Callable[[float], None]
) -> str:
    """Return the ETag of an image as its host sends it.

    A missing ETag is an error. Without it, the image would be treated as changed, and its video would be billed again.

    :param head: Sends a HEAD request and follows redirects.
    :raises ToAPIsRequestError: The host does not have the image, or sends no ETag.
    :raises ToAPIsServerError: The host's last response was 429 or 5xx. A retry can succeed.
    :raises ToAPIsConnectionError: The host did not respond to the last request. A retry can succeed.
    """
    for attempt in range(MAX_ATTEMPTS):
        if attempt:
            sleep(backoff(attempt - 1))
        response = head(url)
        if isinstance(response, HttpResponse) and not _is_temporary(response.status_code):
            return _etag(response, url)
    if isinstance(response, ToAPIsConnectionError):
        raise response
    raise ToAPIsServerError(
        f"Cannot check whether image {_shown(url)} has changed: its host responded with {response.status_code}. A"
        " retry requests it again.",
        http_status=response.status_code,
    )


def _is_temporary(status_code: int) -> bool:
    return status_code == _TOO_MANY_REQUESTS or status_code >= _SERVER_ERROR


def _etag(response: HttpResponse, url: str) -> str:
    etag = response.headers.get("etag", "").strip()
    if response.is_success and etag:
        return etag
    problem = f"responded with {response.status_code}" if not response.is_success else "sent no ETag"
    raise ToAPIsRequestError.for_field(
        "image",
        _shown(url),
        f"image_etag=True requires an ETag, but the host {problem}. Set image_etag=False only if the image at this"
        " URL never changes, because a change would not be detected",
    )


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}{parts.path}"
