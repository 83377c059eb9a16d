"""The errors that the hook, the operators and the sensor raise. Import them from here only.

The tree is that of :mod:`airflow_provider_toapis.api.errors`. Errors that no retry can help, and that cost nothing,
also are ``AirflowFailException`` here: Airflow then fails the task at once, whatever its ``retries``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_toapis.api import errors
from airflow_provider_toapis.api.download import ResultLostError
from airflow_provider_toapis.api.errors import (
    ToAPIsBatchError,
    ToAPIsConnectionError,
    ToAPIsDownloadError,
    ToAPIsError,
    ToAPIsNotFoundError,
    ToAPIsRateLimitError,
    ToAPIsServerError,
    ToAPIsTaskFailedError,
    ToAPIsTimeoutError,
    ToAPIsWaitInterruptedError,
)

__all__ = [
    "ToAPIsAuthError",
    "ToAPIsBatchError",
    "ToAPIsConnectionError",
    "ToAPIsContentPolicyError",
    "ToAPIsDownloadError",
    "ToAPIsError",
    "ToAPIsFinalFailureError",
    "ToAPIsNotFoundError",
    "ToAPIsQuotaError",
    "ToAPIsRateLimitError",
    "ToAPIsRequestError",
    "ToAPIsServerError",
    "ToAPIsTaskFailedError",
    "ToAPIsTaskRefusedError",
    "ToAPIsTimeoutError",
    "ToAPIsWaitInterruptedError",
]


class ToAPIsRequestError(errors.ToAPIsRequestError, AirflowFailException):
    """The request is refused, here or by the service. Nothing was paid; a retry cannot help."""


class ToAPIsAuthError(errors.ToAPIsAuthError, AirflowFailException):
    """The API key is missing, wrong, or not allowed to do this. Nothing was paid."""


class ToAPIsQuotaError(errors.ToAPIsQuotaError, AirflowFailException):
    """The account has not enough money. Nothing was paid."""


class ToAPIsContentPolicyError(errors.ToAPIsContentPolicyError, AirflowFailException):
    """The service refuses this content. Nothing was paid; a retry cannot help."""


class ToAPIsTaskRefusedError(errors.ToAPIsTaskRefusedError, ToAPIsContentPolicyError):
    """The generation failed because of its content: the same request would fail, and might be paid, again."""


class ToAPIsFinalFailureError(errors.ToAPIsFinalFailureError, AirflowFailException):
    """The generation failed and a retry cannot order a new one: a sensor's video, or ``max_generations`` used up."""


#: What users see of the API layer's errors; the others are public themselves.
_PUBLIC: dict[type[ToAPIsError], type[ToAPIsError]] = {
    errors.ToAPIsRequestError: ToAPIsRequestError,
    errors.ToAPIsFileError: ToAPIsRequestError,
    errors.ToAPIsAuthError: ToAPIsAuthError,
    errors.ToAPIsQuotaError: ToAPIsQuotaError,
    errors.ToAPIsContentPolicyError: ToAPIsContentPolicyError,
    errors.ToAPIsTaskRefusedError: ToAPIsTaskRefusedError,
    errors.ToAPIsFinalFailureError: ToAPIsFinalFailureError,
    ResultLostError: ToAPIsDownloadError,
}


def unknown_video(video_id: str) -> ToAPIsRequestError:
    """Return the error of a task that only asks for a video, and whose id the service does not know."""
    return ToAPIsRequestError(
        f"video_id={video_id!r}: the service knows no such video. Check the id. This task orders nothing.",
        video_id=video_id,
    )


@contextmanager
def airflow_errors() -> Iterator[None]:
    """Raise the API layer's errors as those of this module."""
    try:
        yield
    except ToAPIsError as error:
        public = _PUBLIC.get(type(error))
        if public is None:
            raise
        twin = public.__new__(public, *error.args)
        twin.__dict__.update(error.__dict__)
        # The chain would show the same message twice.
        raise twin.with_traceback(error.__traceback__) from None
