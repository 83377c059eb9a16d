"""Errors of this provider.

::

    ToAPIsError
    ├── ToAPIsRequestError*           nothing was billed: a value, a model or a request is rejected
    │   └── ToAPIsFileError*          ... a file, a directory or a bucket
    ├── ToAPIsAuthError*              nothing was billed: the API key is missing, wrong or lacks a permission
    ├── ToAPIsQuotaError*             nothing was billed: the balance is too low
    ├── ToAPIsContentPolicyError*     nothing was billed: the service rejects this content
    ├── ToAPIsRateLimitError          too many requests; retry later
    ├── ToAPIsServerError             the service sent no usable response
    ├── ToAPIsConnectionError         the service sent no response
    ├── ToAPIsNotFoundError           the service does not know this id
    ├── ToAPIsWaitInterruptedError    a billed video cannot be polled or saved right now
    ├── ToAPIsTaskFailedError         the generation failed
    │   ├── ToAPIsTaskRejectedError*  ... because of its content (also a ToAPIsContentPolicyError)
    │   └── ToAPIsFinalFailureError*  ... and no new one can be submitted
    ├── ToAPIsTimeoutError            a billed video is still rendering when the wait ends
    ├── ToAPIsDownloadError           a finished video could not be saved
    └── ToAPIsBatchError              too many rows of a batch failed; the other videos are saved

Errors marked with * also derive from ``AirflowFailException``: Airflow does not retry them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_toapis.redaction import redacted

if TYPE_CHECKING:
    from airflow_provider_toapis.api.responses import VideoTask

__all__ = [
    "ToAPIsAuthError",
    "ToAPIsBatchError",
    "ToAPIsConnectionError",
    "ToAPIsContentPolicyError",
    "ToAPIsDownloadError",
    "ToAPIsError",
    "ToAPIsFileError",
    "ToAPIsFinalFailureError",
    "ToAPIsNotFoundError",
    "ToAPIsQuotaError",
    "ToAPIsRateLimitError",
    "ToAPIsRequestError",
    "ToAPIsServerError",
    "ToAPIsTaskFailedError",
    "ToAPIsTaskRejectedError",
    "ToAPIsTimeoutError",
    "ToAPIsWaitInterruptedError",
]

#: The cost of a value that is rejected before a request is sent.
_NOTHING_BILLED = "Nothing was submitted."


class ToAPIsError(Exception):
    """Root of all errors of this provider.

    :param message: What is wrong, what is expected, what it cost, and what to do.
    :param cost: What the failed request itself cost, as a sentence. It ends the message. It is left out where the error
        is raised again and something else may be billed: see ``without_cost``.
    :param http_status: HTTP status of the response, if there was one.
    :param code: The service's error code, as a string.
    :param video_id: The id of the video, if one exists.
    :param retry_after: Seconds to wait, as the service requested.
    :param field: The parameter or connection field that caused the error; None if there is none.
    :param value: Its value as the message shows it, shortened and without secrets; None if the message shows none.
    """

    #: Whether the response can be the service's own. A response of another service, such as a proxy, proves nothing.
    by_service = True

    def __init__(
        self,
        message: str,
        *,
        cost: str = "",
        http_status: int | None = None,
        code: str | None = None,
        video_id: str | None = None,
        retry_after: float | None = None,
        field: str | None = None,
        value: str | None = None,
    ) -> None:
        super().__init__(f"{message} {cost}" if cost else message)
        #: The message without ``cost``: only a process that sent nothing before can claim that nothing was billed.
        self.without_cost = message
        self.http_status = http_status
        self.code = code
        self.video_id = video_id
        self.retry_after = retry_after
        self.field = field
        self.value = value

    def amend(self, *, before: str = "", after: str = "") -> None:
        """Add text ``before`` and ``after`` the message, for example where it happened and what to do."""
        self.args = (f"{before}{self}{after}",)
        self.without_cost = f"{before}{self.without_cost}{after}"


class ToAPIsRequestError(ToAPIsError, AirflowFailException):
    """The request was rejected, by this provider or by the service (400, 404 for a model). Nothing was billed."""

    @classmethod
    def for_field(cls, field: str, value: object, reason: str) -> Self:
        """Return the error of an invalid ``value`` for ``field``.

        The error has ``field``, and ``value`` as the message shows it: its ``repr``, shortened and without secrets.

        :param reason: What the value must be, or why it is rejected; a clause without a period.
        """
        shown = redacted(repr(value))
        return cls(f"Invalid {field}={shown}: {reason}.", cost=_NOTHING_BILLED, field=field, value=shown)


class ToAPIsFileError(ToAPIsRequestError):
    """A file, directory or bucket cannot be used. Another worker may be able to use it."""


class ToAPIsAuthError(ToAPIsError, AirflowFailException):
    """The API key is missing, invalid, or lacks permission (401, 403). Nothing was billed."""


class ToAPIsQuotaError(ToAPIsError, AirflowFailException):
    """The balance is too low (402, or 400 with such a code). Nothing was billed."""


class ToAPIsContentPolicyError(ToAPIsError, AirflowFailException):
    """The service rejected the content (422, or 400 with such a code). Nothing was billed."""


class ToAPIsRateLimitError(ToAPIsError):
    """Too many requests (429), or the limiter is down (503 ``rate_limit_unavailable``). Nothing was created."""


class ToAPIsServerError(ToAPIsError):
    """The response does not tell what became of the request: 408, 5xx, an HTML page, or an unexpected body."""


class ToAPIsConnectionError(ToAPIsError):
    """A connection to the service, a disk, a bucket or Airflow failed, broke or timed out.

    :param sent: Whether the request may have reached the service. Only then can it have had an effect.
    :param lasting: Whether a retry is unlikely to help: an invalid certificate, a proxy that rejects requests.
    """

    def __init__(
        self,
        message: str,
        *,
        sent: bool = True,
        lasting: bool = False,
        video_id: str | None = None,
        field: str | None = None,
        value: str | None = None,
    ) -> None:
        super().__init__(message, video_id=video_id, field=field, value=value)
        self.sent = sent
        self.lasting = lasting


class ToAPIsNotFoundError(ToAPIsError):
    """The service does not find this id (404, 410, or 400 ``task_not_exist``)."""


class ToAPIsWaitInterruptedError(ToAPIsError):
    """A billed video cannot be polled, downloaded or saved right now: the key, the connection or the storage fails.

    The service keeps making it. A retry re-attaches to it.
    """

    @classmethod
    def for_video(cls, video_id: str, error: ToAPIsError) -> ToAPIsWaitInterruptedError:
        """Return the error for ``video_id``, which is submitted and cannot be reached because of ``error``."""
        return cls(
            f"Cannot look up video {video_id} right now: {error.without_cost}\n"
            "The video is submitted and billed. A retry looks it up again before it submits anything.",
            http_status=error.http_status,
            code=error.code,
            video_id=video_id,
            retry_after=error.retry_after,
            field=error.field,
            value=error.value,
        )

    @classmethod
    def for_unknown_submission(cls, error: ToAPIsError) -> ToAPIsWaitInterruptedError:
        """Return the error for ``error`` after a submission of this or an earlier attempt whose outcome is unknown."""
        return cls(
            f"The state of this video is unknown: {error.without_cost}\n"
            "This attempt or an earlier one may have submitted it. If so, it is billed and still rendering.\n"
            "A retry looks it up before submitting again.",
            http_status=error.http_status,
            code=error.code,
            retry_after=error.retry_after,
            field=error.field,
            value=error.value,
        )


class ToAPIsTaskFailedError(ToAPIsError):
    """The service reported that the generation failed.

    :param task: The failed task as the service reported it.
    """

    def __init__(self, message: str, *, task: VideoTask | None = None) -> None:
        super().__init__(
            message,
            code=task.error.code if task and task.error else None,
            video_id=task.id if task else None,
        )
        self.task = task


class ToAPIsTaskRejectedError(ToAPIsTaskFailedError, ToAPIsContentPolicyError):
    """The generation failed because of its input. The same request would fail again, and might be billed again."""


class ToAPIsFinalFailureError(ToAPIsTaskFailedError, AirflowFailException):
    """The generation failed and no retry submits another one: ``max_generations`` is used up, or a sensor waited."""


class ToAPIsTimeoutError(ToAPIsError):
    """The timeout passed before the video was ready. It is billed and still rendering. A retry re-attaches to it."""


class ToAPIsDownloadError(ToAPIsError):
    """A finished video could not be saved. It is billed. A retry downloads it again and submits nothing.

    :param is_lost: Whether the result expired before it was saved. Only a new video can replace it.
    """

    def __init__(self, message: str, *, video_id: str | None = None, is_lost: bool = False) -> None:
        super().__init__(message, video_id=video_id)
        self.is_lost = is_lost


class ToAPIsBatchError(ToAPIsError):
    """More rows of a batch failed than ``max_failures``. Finished videos are saved; a retry makes the missing ones."""


def unknown_video(video_id: str) -> ToAPIsRequestError:
    """Return the error of a task that only waits for a video, if the service does not find its id."""
    return ToAPIsRequestError(
        f"Video not found: the service does not know video_id={video_id!r}. Check the id. This task submits nothing.",
        video_id=video_id,
        field="video_id",
        value=repr(video_id),
    )


#: The service rejects the API key, or the account's balance is too low.
ACCOUNT_ERRORS = (ToAPIsAuthError, ToAPIsQuotaError)
#: Also an invalid value in a connection, an output directory or a feed, and a connection that does not exist.
PERMANENT_ERRORS = (*ACCOUNT_ERRORS, ToAPIsRequestError, ToAPIsConnectionError)


@contextmanager
def keep_retryable(
    interrupted: Callable[[ToAPIsError], ToAPIsWaitInterruptedError],
    *,
    when: Callable[[], object] = lambda: True,
    errors: tuple[type[ToAPIsError], ...] = PERMANENT_ERRORS,
) -> Iterator[None]:
    """Turn permanent errors into retryable ones once a video is or may be billed.

    :param interrupted: Returns the error to raise instead.
    :param when: Called after an error; returns whether a video is or may be billed (default: always).
    :param errors: The errors that are replaced.
    """
    try:
        yield
    except errors as error:
        if isinstance(error, ToAPIsWaitInterruptedError) or not when():
            raise
        raise interrupted(error) from error
