"""The errors of this provider: one tree, and the only place where it joins Airflow's class of permanent errors.

::

    ToAPIsError
    ├── ToAPIsRequestError*           nothing was paid: a value, a model or a body that is refused
    │   └── ToAPIsFileError*          ... a file, a directory or a bucket
    ├── ToAPIsAuthError*              nothing was paid: the key is missing, wrong or not allowed to do this
    ├── ToAPIsQuotaError*             nothing was paid: there is not enough money
    ├── ToAPIsContentPolicyError*     nothing was paid: the service refuses this content
    ├── ToAPIsRateLimitError          wait and ask again
    ├── ToAPIsServerError             the service answered, but not with an answer
    ├── ToAPIsConnectionError         the service did not answer
    ├── ToAPIsNotFoundError           the service does not know this id
    ├── ToAPIsWaitInterruptedError    a paid video cannot be asked about right now
    ├── ToAPIsTaskFailedError         the generation ended as failed
    │   ├── ToAPIsTaskRejectedError*  ... because of its content (also a ToAPIsContentPolicyError)
    │   └── ToAPIsFinalFailureError*  ... and no new one may or can be ordered
    ├── ToAPIsTimeoutError            a paid video is still being made, the wait for it is over
    ├── ToAPIsDownloadError           a finished video could not be kept
    └── ToAPIsBatchError              too many rows of a batch failed; the others are kept

Those marked with * also are ``AirflowFailException``: no retry can help, and Airflow fails the task at once.
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

#: How every error ends that refuses an author's value.
_NOTHING_BILLED = "Nothing was sent and nothing was paid."


class ToAPIsError(Exception):
    """Root of all errors of this provider.

    :param message: What happened to the remote video, what it means for money, and what a retry will do.
    :param cost: A sentence on what the failed request itself cost. It ends the message, unless the error is raised
        again where something else may be billed: see ``without_cost``.
    :param http_status: HTTP status of the answer, where there was one.
    :param code: The vendor's error code, as a string.
    :param video_id: The video concerned, where one exists.
    :param retry_after: Seconds the service asked to wait.
    :param field: The parameter or connection field that is the cause; None where no field is.
    :param value: Its value as the message shows it, shortened and without secrets; None where the message shows none.
    """

    #: Whether the response may be the service's own. What another service answers may mean anything.
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
        #: The message less ``cost``: only the process that sent nothing before can claim that nothing was billed.
        self.without_cost = message
        self.http_status = http_status
        self.code = code
        self.video_id = video_id
        self.retry_after = retry_after
        self.field = field
        self.value = value

    def amend(self, *, before: str = "", after: str = "") -> None:
        """Say more: where it happened ``before`` the message, what to do ``after`` it."""
        self.args = (f"{before}{self}{after}",)
        self.without_cost = f"{before}{self.without_cost}{after}"


class ToAPIsRequestError(ToAPIsError, AirflowFailException):
    """The request is refused, here or by the service (400, 404 on a model). Nothing was paid."""

    @classmethod
    def for_field(cls, field: str, value: object, allowed: str) -> Self:
        """Say which ``field`` is wrong, the ``value`` given and what is ``allowed``.

        The error carries ``field``, and ``value`` as the message shows it: its ``repr``, shortened, without secrets.
        """
        shown = redacted(repr(value))
        return cls(f"{field}={shown} is not possible: {allowed}.", cost=_NOTHING_BILLED, field=field, value=shown)


class ToAPIsFileError(ToAPIsRequestError):
    """A file, a directory or a bucket that cannot be used as it is. Another worker may see it otherwise."""


class ToAPIsAuthError(ToAPIsError, AirflowFailException):
    """The API key is missing, wrong, or not allowed to do this (401, 403). Nothing was paid."""


class ToAPIsQuotaError(ToAPIsError, AirflowFailException):
    """Not enough money (402, and the 400 forms of it). Nothing was paid."""


class ToAPIsContentPolicyError(ToAPIsError, AirflowFailException):
    """The service refuses this content (422, and the 400 forms of it). Nothing was paid."""


class ToAPIsRateLimitError(ToAPIsError):
    """Too many requests (429) or the submit limiter is down (503 ``rate_limit_unavailable``). Created nothing."""


class ToAPIsServerError(ToAPIsError):
    """An answer that says nothing about the request: 408, 5xx, an HTML page, a body that is not what was asked for."""


class ToAPIsConnectionError(ToAPIsError):
    """No answer, by the service or by what is asked here (a disk, a bucket, Airflow): failed, broke or timed out.

    :param sent: Whether the request may have reached the service. Only then can it have had an effect.
    :param lasting: Whether time alone hardly cures it: a certificate, a proxy that rejects us.
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
    """The service does not know this id (404, 410, or 400 ``task_not_exist``)."""


class ToAPIsWaitInterruptedError(ToAPIsError):
    """A paid video cannot be asked about, fetched or kept right now (the key, the connection, the place it is to lie).

    It lives on; a retry adopts it.
    """

    @classmethod
    def for_video(cls, video_id: str, error: ToAPIsError) -> ToAPIsWaitInterruptedError:
        """Say that ``error`` keeps us from a video, ``video_id``, that is ordered and paid."""
        return cls(
            f"Video {video_id} cannot be asked for. It is ordered and paid, and lives on at the service; a retry looks"
            f" for it again before anything new is ordered. {error.without_cost}",
            http_status=error.http_status,
            code=error.code,
            video_id=video_id,
            retry_after=error.retry_after,
            field=error.field,
            value=error.value,
        )

    @classmethod
    def for_unknown_submission(cls, error: ToAPIsError) -> ToAPIsWaitInterruptedError:
        """Say that ``error`` came after an order whose outcome is not known, by this attempt or an earlier one."""
        return cls(
            "This may have been ordered already, and what became of that cannot be told now. What was ordered is paid"
            " and lives on at the service; a retry looks for it before anything new is ordered."
            f" {error.without_cost}",
            http_status=error.http_status,
            code=error.code,
            retry_after=error.retry_after,
            field=error.field,
            value=error.value,
        )


class ToAPIsTaskFailedError(ToAPIsError):
    """The generation ended as failed.

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
    """The generation failed because of its content; the same request would fail, and might be paid, again."""


class ToAPIsFinalFailureError(ToAPIsTaskFailedError, AirflowFailException):
    """The generation failed and a retry cannot order a new one: a sensor's video, or ``max_generations`` used up."""


class ToAPIsTimeoutError(ToAPIsError):
    """The wait is over, the video is not: it is still being made and billed, and a retry adopts it."""


class ToAPIsDownloadError(ToAPIsError):
    """A finished video could not be kept. It is paid; a retry downloads it again and never orders a new one.

    :param is_lost: Whether the result expired before it was kept: only a new video can take its place.
    """

    def __init__(self, message: str, *, video_id: str | None = None, is_lost: bool = False) -> None:
        super().__init__(message, video_id=video_id)
        self.is_lost = is_lost


class ToAPIsBatchError(ToAPIsError):
    """More rows of a batch failed than may. The videos that were made are kept; a retry makes only what is missing."""


def unknown_video(video_id: str) -> ToAPIsRequestError:
    """Return the error of a task that only asks for a video, and whose id the service does not know."""
    return ToAPIsRequestError(
        f"video_id={video_id!r}: the service knows no such video. Check the id. This task orders nothing.",
        video_id=video_id,
        field="video_id",
        value=repr(video_id),
    )


#: The service rejects the API key, or the account's balance is too low.
ACCOUNT_ERRORS = (ToAPIsAuthError, ToAPIsQuotaError)
#: Also a wrong value in a connection, an output directory or a feed; and a connection that is not found, whose own
#: message does not say what is billed.
PERMANENT_ERRORS = (*ACCOUNT_ERRORS, ToAPIsRequestError, ToAPIsConnectionError)


@contextmanager
def keep_retryable(
    interrupted: Callable[[ToAPIsError], ToAPIsWaitInterruptedError],
    *,
    when: Callable[[], object] = lambda: True,
    errors: tuple[type[ToAPIsError], ...] = PERMANENT_ERRORS,
) -> Iterator[None]:
    """Turn permanent errors into retryable ones once a video is or may be billed.

    :param interrupted: Makes the error that is raised instead.
    :param when: Called when an error has occurred: whether a video is or may be billed (default: always).
    :param errors: The errors that are replaced.
    """
    try:
        yield
    except errors as error:
        if isinstance(error, ToAPIsWaitInterruptedError) or not when():
            raise
        raise interrupted(error) from error
