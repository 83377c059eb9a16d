"""Errors of this provider.

::

    ToAPIsError
    ├── ToAPIsRequestError*           nothing was billed: a value, a model or a request is rejected
    │   ├── ToAPIsFileError*          ... because a file, a directory or a bucket cannot be used
    │   └── ToAPIsModelNotOfferedError*  ... because the service does not offer the model
    ├── ToAPIsAuthError*              nothing was billed: the API key is missing, invalid or lacks a permission
    ├── ToAPIsQuotaError*             nothing was billed: the balance is too low
    ├── ToAPIsContentPolicyError*     nothing was billed: the service rejects this content
    ├── ToAPIsRateLimitError          too many requests; retry later
    ├── ToAPIsServerError             the response is not usable; the outcome is unknown
    ├── ToAPIsConnectionError         the service, a storage or a connection cannot be reached
    ├── ToAPIsNotFoundError           the service does not know this id
    ├── ToAPIsUnavailableError        the service accepts no submission now, and the task is rescheduled
    ├── ToAPIsWaitInterruptedError    a billed video cannot be polled or saved right now
    ├── ToAPIsTaskFailedError         the generation failed
    │   ├── ToAPIsTaskRejectedError*  ... because of its input (also a ToAPIsContentPolicyError)
    │   └── ToAPIsFinalFailureError*  ... and no retry submits another generation
    ├── ToAPIsTimeoutError            a billed video is still rendering when the wait ends
    ├── ToAPIsDownloadError           a finished video could not be saved
    └── ToAPIsBatchError              too many rows of a batch failed; the other videos are saved

Errors marked with * also derive from ``AirflowFailException``, so Airflow does not retry the task.
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
    "ToAPIsModelNotOfferedError",
    "ToAPIsNotFoundError",
    "ToAPIsQuotaError",
    "ToAPIsRateLimitError",
    "ToAPIsRequestError",
    "ToAPIsServerError",
    "ToAPIsTaskFailedError",
    "ToAPIsTaskRejectedError",
    "ToAPIsTimeoutError",
    "ToAPIsUnavailableError",
    "ToAPIsVideoCheckError",
    "ToAPIsWaitInterruptedError",
]

#: Sentence about the cost, for a value that is rejected before a request is sent.
_NOTHING_BILLED = "Nothing was submitted."


class ToAPIsError(Exception):
    """Root of all errors of this provider.

    :param message: What is wrong, what is expected, what it cost, and what to do.
    :param cost: Sentence about the cost of the failed request, at the end of the message. ``without_cost`` is the
        message without it.
    :param http_status: HTTP status of the response; None without a response.
    :param code: Error code that the service returned, as a string.
    :param video_id: The id of the video; None if it is not known.
    :param retry_after: Seconds that the service requested to wait before a retry.
    :param field: Name of the parameter or connection field that caused the error; None if none did.
    :param value: Value of ``field`` as in the message, shortened and without secrets; None if the message shows none.
    """

    #: Whether the response can be from ToAPIs. A response of another server, such as a proxy, proves nothing about a
    #: video.
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
        #: The message without ``cost``. It is used if an earlier request may be billed, because the message must not
        #: claim then that nothing was billed.
        self.without_cost = message
        self.http_status = http_status
        self.code = code
        self.video_id = video_id
        self.retry_after = retry_after
        self.field = field
        self.value = value

    def amend(self, *, before: str = "", after: str = "") -> None:
        """Add text ``before`` and ``after`` the message, for example the name of the connection."""
        self.args = (f"{before}{self}{after}",)
        self.without_cost = f"{before}{self.without_cost}{after}"


class ToAPIsRequestError(ToAPIsError, AirflowFailException):
    """This provider or the service (400, or 404 for a model) rejected the request. Nothing was billed."""

    @classmethod
    def for_field(cls, field: str, value: object, reason: str) -> Self:
        """Return the error of an invalid ``value`` for ``field``.

        The error has the attributes ``field`` and ``value``. Its ``value`` is the ``repr`` of the invalid value,
        shortened and without secrets, as in the message.

        :param reason: What the value must be, or why it is rejected; a clause without a period.
        """
        shown = redacted(repr(value))
        return cls(f"Invalid {field}={shown}: {reason}.", cost=_NOTHING_BILLED, field=field, value=shown)


class ToAPIsFileError(ToAPIsRequestError):
    """A file, directory or bucket cannot be used. Another worker may be able to use it."""


class ToAPIsModelNotOfferedError(ToAPIsRequestError):
    """The service does not offer the model, or has no free channel for it. Nothing was billed."""


class ToAPIsAuthError(ToAPIsError, AirflowFailException):
    """The API key is missing, invalid, or lacks permission (401, 403). Nothing was billed."""


class ToAPIsQuotaError(ToAPIsError, AirflowFailException):
    """The balance is too low (402, or 400 with an error code for it). Nothing was billed."""


class ToAPIsContentPolicyError(ToAPIsError, AirflowFailException):
    """The service rejected the content (422, or 400 with an error code for it). Nothing was billed."""


class ToAPIsRateLimitError(ToAPIsError):
    """Too many requests (429), or the rate limiter is down (503 ``rate_limit_unavailable``).

    The service created no video. A retry sends the request again.
    """


class ToAPIsServerError(ToAPIsError):
    """The response does not show whether the request succeeded: 408, 5xx, an HTML page, or an unexpected body."""


class ToAPIsConnectionError(ToAPIsError):
    """The service, a disk, a bucket or an Airflow connection cannot be reached, or the response was lost.

    :param sent: Whether the request may have reached the service. If not, it had no effect.
    :param lasting: Whether a retry is unlikely to help, for example after an invalid certificate or a rejection by a
        proxy.
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


class ToAPIsUnavailableError(ToAPIsError):
    """The service accepts no submission right now. It created nothing, and nothing was billed.

    Raised in place of a :class:`ToAPIsQuotaError`, :class:`ToAPIsRateLimitError` or
    :class:`ToAPIsModelNotOfferedError` if the task's retry policy reschedules the task (Airflow 3.4+), and if it is
    certain that no video was submitted.
    """

    @classmethod
    def because_of(cls, error: ToAPIsError) -> Self:
        """Return the error to raise in place of ``error``."""
        return cls(str(error), http_status=error.http_status, code=error.code, retry_after=error.retry_after)


class ToAPIsWaitInterruptedError(ToAPIsError):
    """A video that is or may be billed cannot be looked up, downloaded or saved right now.

    Causes are, for example, a rejected API key, an outage of the service or a full disk. The service continues to
    render the video, and a retry re-attaches to it.
    """

    @classmethod
    def for_video(cls, video_id: str, error: ToAPIsError) -> ToAPIsWaitInterruptedError:
        """Return the error for the submitted video ``video_id``, which cannot be reached because of ``error``."""
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
        """Return the error to raise instead of ``error`` if this or an earlier attempt may have submitted the video."""
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
    """The generation failed, and a retry submits no other generation.

    Either ``max_generations`` is used up, or the task is a sensor, which submits nothing.
    """


class ToAPIsTimeoutError(ToAPIsError):
    """The timeout passed before the video was ready. The video is billed. A retry re-attaches to it."""


class ToAPIsDownloadError(ToAPIsError):
    """A finished video could not be saved. It is billed. A retry downloads it again and submits nothing.

    :param is_lost: Whether the result expired before it was saved. If so, only a new video can replace it.
    """

    def __init__(self, message: str, *, video_id: str | None = None, is_lost: bool = False) -> None:
        super().__init__(message, video_id=video_id)
        self.is_lost = is_lost


class ToAPIsVideoCheckError(ToAPIsError, AirflowFailException):
    """A saved video is not what was requested, and ``check`` is ``fail``. The video is billed, and its file stays.

    A retry or a clear checks the same video and submits nothing.

    :param warnings: The deviations, each a code, a colon and a text.
    :param path: Path or URI of the saved video.
    """

    def __init__(
        self, message: str, *, video_id: str | None = None, warnings: tuple[str, ...] = (), path: str | None = None
    ) -> None:
        super().__init__(message, video_id=video_id)
        self.warnings = warnings
        self.path = path

    @classmethod
    def for_video(cls, video_id: str, path: str, warnings: tuple[str, ...]) -> ToAPIsVideoCheckError:
        """Return the error for the saved video ``video_id``.

        :param warnings: The deviations, each a code, a colon and a text.
        :param path: Path or URI of the saved video.
        """
        return cls(
            f"Video {video_id} is not what was requested: {'; '.join(warnings)}.\n"
            f"It is billed and saved at {path}. Nothing was submitted again.\n"
            "To accept it, set check='warn' and clear the task. To get another video, change the request.",
            video_id=video_id,
            warnings=warnings,
            path=path,
        )


class ToAPIsBatchError(ToAPIsError):
    """More rows of a batch failed than ``max_failures`` allows.

    Finished videos are saved. A retry processes only rows whose video is not saved.
    """


def unknown_video(video_id: str) -> ToAPIsRequestError:
    """Return the error of a task that submits nothing itself and whose ``video_id`` the service does not find."""
    return ToAPIsRequestError(
        f"Video not found: the service does not know video_id={video_id!r}. Check the id. This task submits nothing.",
        video_id=video_id,
        field="video_id",
        value=repr(video_id),
    )


#: Errors that mean that the service rejects the API key, or that the account's balance is too low.
ACCOUNT_ERRORS = (ToAPIsAuthError, ToAPIsQuotaError)
#: Errors of a submission that the service can accept later, without a change of the task.
RESCHEDULABLE_ERRORS = (ToAPIsQuotaError, ToAPIsRateLimitError, ToAPIsModelNotOfferedError)
#: Errors that usually last until the account, a connection, an output path or a feed is corrected.
#: ``ToAPIsConnectionError`` is one of them, because it is also raised if Airflow does not find a connection.
PERMANENT_ERRORS = (*ACCOUNT_ERRORS, ToAPIsRequestError, ToAPIsConnectionError)


@contextmanager
def keep_retryable(
    interrupted: Callable[[ToAPIsError], ToAPIsError],
    *,
    when: Callable[[], object] = lambda: True,
    errors: tuple[type[ToAPIsError], ...] = PERMANENT_ERRORS,
) -> Iterator[None]:
    """Replace permanent errors with retryable ones, usually because a video is or may be billed.

    :param interrupted: Returns the error to raise instead.
    :param when: Called after an error. Returns whether to replace the error (default: always true).
    :param errors: Classes of the errors that are replaced.
    """
    try:
        yield
    except errors as error:
        if isinstance(error, ToAPIsWaitInterruptedError) or not when():
            raise
        raise interrupted(error) from error
