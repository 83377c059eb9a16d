"""Convert HTTP error responses and failed tasks to errors. The service's error formats and error codes vary."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from email.utils import parsedate_to_datetime
from typing import Any

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.responses import TaskError, VideoTask, parse_error_detail
from airflow_provider_toapis.api.status_words import is_documented, is_final_word
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsContentPolicyError,
    ToAPIsError,
    ToAPIsModelNotOfferedError,
    ToAPIsNotFoundError,
    ToAPIsQuotaError,
    ToAPIsRateLimitError,
    ToAPIsRequestError,
    ToAPIsServerError,
    ToAPIsTaskFailedError,
    ToAPIsTaskRejectedError,
)
from airflow_provider_toapis.redaction import redacted

#: Error code with which the service rejects a callback URL if the account has no webhook.
WEBHOOK_NOT_CONFIGURED = "webhook_not_configured"
#: Maximum seconds of ``Retry-After``. A larger value is reduced to it, because the unit is not documented.
MAX_RETRY_AFTER = 300.0
#: A larger ``Retry-After`` is an epoch time, not a number of seconds.
_EPOCH_THRESHOLD = 1e9
#: Minimum characters of a sensitive text that is redacted. A shorter text discloses nothing, and replacing it would
#: garble the message.
_MIN_PRIVATE_LENGTH = 4
#: Minimum characters of a quoted part of a sensitive text. A shorter quoted part is not redacted.
_MIN_QUOTE_LENGTH = 16
#: Maximum characters of the vendor's text that are processed. Messages show far fewer.
_MAX_READ_LENGTH = 2000

#: A status that a message can quote: a single word. A sentence is not quoted, because it could repeat a prompt.
_PLAIN_WORD = re.compile(r"[\w.-]{1,32}")
_UNKNOWN_TASK = ("task_not_exist", "task_not_found", "not_found_error", "task not found")
_LOW_BALANCE = ("quota is not enough", "quota_not_enough", "insufficient_quota", "insufficient_user_quota")
_CONTENT_POLICY = ("sensitivecontent", "content_policy", "content policy", "moderation", "privacyinformation")
#: Error codes and texts of an unusable image or parameter. Some are codes of upstream providers, which the service
#: passes on (seen in other clients).
_UNUSABLE_INPUT_CODES = ("invalid", "unsupported", "badrequest", "bad_request")
_UNUSABLE_INPUT = re.compile(
    r"invalid[ _](?:param|image|input|argument|url)"
    r"|(?:image|picture|parameter|input)\b.{0,60}"
    r"\b(?:invalid|unsupported|not supported|corrupt|too (?:large|small)|must )"
    r"|(?:unsupported|corrupt(?:ed)?|unreadable) (?:image|input|format)"
    r"|(?:unable|fail(?:ed)?|failure|cannot|could not) (?:to )?(?:download|fetch|load|read|decode|open|process|access)"
    r" .{0,40}(?:image|picture|input)"
)
_NOT_OFFERED = ("model_not_found", "no available channel", "channelcapability", "未配置渠道能力", "所有渠道都失败")

#: Error type by status and by words in the code or message. The first match wins. For any other response (5xx, a
#: redirect), the type is ToAPIsServerError: the response says nothing about the request, so the outcome of a POST is
#: unknown.
_ERROR_TYPES: tuple[tuple[Container[int], tuple[str, ...], type[ToAPIsError]], ...] = (
    ((401, 403), (), ToAPIsAuthError),
    ((402,), (), ToAPIsQuotaError),
    ((429,), (), ToAPIsRateLimitError),
    ((422,), (), ToAPIsContentPolicyError),
    ((503,), ("rate_limit_unavailable",), ToAPIsRateLimitError),
    ((404, 503), _NOT_OFFERED, ToAPIsModelNotOfferedError),
    ((404, 410), (), ToAPIsNotFoundError),
    ((400,), _UNKNOWN_TASK, ToAPIsNotFoundError),
    ((400,), _LOW_BALANCE, ToAPIsQuotaError),
    ((400,), _CONTENT_POLICY, ToAPIsContentPolicyError),
    ((400,), _NOT_OFFERED, ToAPIsModelNotOfferedError),
    # 409: the idempotency key is in use, so an earlier POST may have been accepted.
    ((408, 409, 425), (), ToAPIsServerError),
    (range(400, 500), (), ToAPIsRequestError),
)
#: Statuses that can be from ToAPIs or from another server. ToAPIs sends them with a JSON body (documented). Proxies,
#: and Cloudflare in front of ToAPIs, send them with another body (seen in other clients). A response with another body
#: says nothing about an API key or an id.
_AMBIGUOUS_STATUSES = (403, 404, 410)
#: The server does not implement the request. ToAPIs implements all requests of this package, so the response can be
#: from another server.
_NOT_IMPLEMENTED = 501
#: Statuses of redirects. They are not followed, because that would forward the API key.
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class HttpResponse:
    """A response whose body was read completely.

    :param headers: Names in lower case.
    :param via: The connection and its host in parentheses, for messages.
    :param base_url: Base URL for relative result URLs.
    """

    status_code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    via: str = ""
    base_url: str = ""

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status_code < 300  # noqa: PLR2004

    def json_object(self) -> dict[str, Any] | None:
        """Return the body as a JSON object; None for anything else, such as an HTML page or a truncated body."""
        try:
            parsed = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return parsed if isinstance(parsed, dict) else None

    @property
    def may_be_service_error(self) -> bool:
        """Whether an unexpected body can be from ToAPIs: truncated JSON, or an object with ``success`` or ``error``."""
        parsed = self.json_object()
        if parsed is None:
            return self.body.lstrip().startswith(b"{")
        return not parsed.keys().isdisjoint(("success", "error"))

    @property
    def is_foreign(self) -> bool:
        """Whether the body is not from ToAPIs, because it is not a JSON object.

        An empty body with status 403 can be from ToAPIs; an empty body with another status cannot.
        """
        if not self.body.strip():
            return self.status_code != 403  # noqa: PLR2004
        return self.json_object() is None


def error_for(
    response: HttpResponse, request_label: str, private: Iterable[str] | None = (), *, is_submission: bool = False
) -> ToAPIsError:
    """Return the error for an unsuccessful response.

    :param request_label: Name of the request, for the message, for example ``POST /v1/videos/generations``.
    :param private: Sensitive texts, such as the prompt, that are redacted where the vendor's message quotes them. If
        None, the vendor's message is left out.
    :param is_submission: Whether the request was a submission. Only the message of a rejected submission states the
        cost.
    """
    detail = _error_detail(response)
    quoted = TaskError(detail.code, "") if private is None else detail
    status = response.status_code
    kind = _error_type(status, _searchable(detail))
    if kind is ToAPIsModelNotOfferedError and not is_submission:
        kind = ToAPIsRequestError
    advice = _advice(kind, detail)
    if status in _AMBIGUOUS_STATUSES and response.is_foreign:
        kind, advice = ToAPIsServerError, _FOREIGN_ADVICE
    if status in _REDIRECTS:
        advice = _REDIRECT_ADVICE
    has_error_object = isinstance((response.json_object() or {}).get("error"), Mapping)
    is_own = has_error_object or reports_unknown_task(response)
    if not is_own and kind in _GENERIC_ERRORS and "{via}" not in advice:
        advice += _OTHER_SERVICE_ADVICE
    error = kind(
        f"{request_label} returned {status}{shown_detail(quoted, private or ())}.{advice.format(via=response.via)}",
        cost=_COST.get(kind, "") if is_submission else "",
        http_status=status,
        code=detail.code,
        retry_after=retry_after_seconds(response.headers),
    )
    if kind in (ToAPIsNotFoundError, ToAPIsModelNotOfferedError) or status == _NOT_IMPLEMENTED:
        error.by_service = is_own
    return error


def reports_unknown_task(response: HttpResponse) -> bool:
    """Return whether a response contains the service's code or text for an unknown task, whatever its status."""
    return _contains_any(_searchable(_error_detail(response)), _UNKNOWN_TASK)


def is_caused_by_input(error: TaskError | None) -> bool:
    """Return whether a generation failed because of its prompt, image or parameters.

    If so, the same request would fail again.
    """
    if error is None:
        return False
    code = (error.code or "").lower()
    return (
        is_content_policy(error)
        or code.startswith(_UNUSABLE_INPUT_CODES)
        or _UNUSABLE_INPUT.search(_searchable(error)) is not None
    )


def is_content_policy(error: TaskError | None) -> bool:
    """Return whether a generation failed because of its content. If so, the same request would fail again."""
    return error is not None and _contains_any(_searchable(error), _CONTENT_POLICY)


def retry_after_seconds(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return the seconds of ``Retry-After``, limited to 0 to 300; None if it is missing or invalid.

    The header can contain seconds, an epoch time or an HTTP date.
    """
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    now = clock.time() if now is None else now
    try:
        seconds = float(value)
        if seconds > _EPOCH_THRESHOLD:
            seconds -= now
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, min(MAX_RETRY_AFTER, seconds)) if math.isfinite(seconds) else None


def date_of(response: HttpResponse) -> float | None:
    """Return the ``Date`` header in epoch seconds; None if it is missing or invalid."""
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def shown_detail(detail: TaskError, private: Iterable[str] = ()) -> str:
    """Return the vendor's error as `` (code): message``, redacted with :func:`without_private`."""
    code = f" ({without_private(detail.code, private)})" if detail.code else ""
    message = without_private(detail.message, private).rstrip(". ")
    return f"{code}: {message}" if message else code


def without_private(text: str, private: Iterable[str]) -> str:
    """Return the vendor's ``text`` shortened, without API keys, query strings of URLs and ``private`` texts."""
    text = text[:_MAX_READ_LENGTH]
    for secret in filter(lambda text: len(text) >= _MIN_PRIVATE_LENGTH, map(str.strip, private)):
        text = _without_quotes(text.replace(secret, "***"), secret)
    return redacted(text)


def _without_quotes(text: str, secret: str) -> str:
    """Redact the parts of ``secret`` that occur in ``text``.

    The whole secret may not occur, because the vendor can shorten and escape a quotation.
    """
    while True:
        quote = SequenceMatcher(None, text, secret, autojunk=False).find_longest_match()
        if quote.size < _MIN_QUOTE_LENGTH:
            return text
        text = f"{text[: quote.a]}***{text[quote.a + quote.size :]}"


def _error_detail(response: HttpResponse) -> TaskError:
    body = response.json_object()
    if body is None:
        return TaskError(code=None, message="a body that is not JSON" if response.body else "")
    return parse_error_detail(body.get("error") or body)


def _error_type(status: int, text: str) -> type[ToAPIsError]:
    """Return the error type for a status and the code and message in lower case."""
    for statuses, words, kind in _ERROR_TYPES:
        if status in statuses and (not words or _contains_any(text, words)):
            return kind
    return ToAPIsServerError


def _searchable(detail: TaskError) -> str:
    """Return code and message in lower case."""
    return f"{detail.code or ''} {detail.message}".lower()


def _contains_any(text: str, words: Iterable[str]) -> bool:
    return any(word in text for word in words)


def _advice(kind: type[ToAPIsError], detail: TaskError) -> str:
    if detail.code == WEBHOOK_NOT_CONFIGURED:
        return (
            " This API key has no webhook. Enter the receiver's URL in the ToAPIs console, generate the secret, enable"
            " the webhook and save it. Or submit with webhook='auto' or webhook=False."
        )
    return _ADVICE.get(kind, "")


_FOREIGN_ADVICE = (
    " The response is not from ToAPIs but from a firewall or proxy in front of it. It says nothing about the API key or"
    " the video. If the error persists, check the connection's host and proxy{via}."
)
#: If a response can be from another server than ToAPIs, this advice is added to errors of these types.
_GENERIC_ERRORS = (ToAPIsRequestError, ToAPIsModelNotOfferedError, ToAPIsNotFoundError, ToAPIsServerError)
_OTHER_SERVICE_ADVICE = " If another service responds in place of ToAPIs, check the connection's host and proxy{via}."
_REDIRECT_ADVICE = " The URL redirects to another one. Check the connection's host and its scheme (https){via}."
_ADVICE: dict[type[ToAPIsError], str] = {
    ToAPIsRequestError: " The same request would be rejected again.",
    ToAPIsModelNotOfferedError: (
        " The service does not offer this model to this API key. GET /v1/models?type=video lists the models that it"
        " offers, and fallback_models names models to use instead. The successor of grok-video-1.5-preview is"
        " grok-video-1.5."
    ),
    ToAPIsAuthError: " Check the API key in the connection's password{via}.",
    ToAPIsQuotaError: " The balance is too low for this video{via}. Top it up and run the task again.",
    ToAPIsContentPolicyError: " The service rejected the content. The same request would be rejected again.",
    ToAPIsRateLimitError: " A retry sends the request again.",
}
#: Sentences about the cost of a rejected submission.
_COST: dict[type[ToAPIsError], str] = {
    ToAPIsRequestError: "Nothing was billed.",
    ToAPIsModelNotOfferedError: "Nothing was billed.",
    ToAPIsAuthError: "Nothing was billed.",
    ToAPIsQuotaError: "Nothing was billed.",
    ToAPIsContentPolicyError: "Nothing was billed.",
    ToAPIsNotFoundError: "Nothing was billed.",
    ToAPIsRateLimitError: "Nothing was created or billed.",
}


def failure_message(task: VideoTask, private: Iterable[str] = ()) -> str:
    """Return the message for a failed video: why it failed, and whether it was billed.

    :param private: Sensitive texts, such as the prompt, that are redacted where the vendor's message quotes them.
    """
    reason = shown_detail(task.error, private) if task.error else ""
    return f"Video {task.id} failed{reason}. {_billing_summary(task)}"


def task_failed(task: VideoTask, max_generations: int, private: Iterable[str] = ()) -> ToAPIsTaskFailedError:
    """Return the error of a failed generation. Its message states what a retry would do.

    :param private: See :func:`failure_message`.
    """
    text = failure_message(task, private)
    if is_content_policy(task.error):
        return ToAPIsTaskRejectedError(
            f"{text}\nThe service rejected the content. The same request would fail again.", task=task
        )
    if is_caused_by_input(task.error):
        return ToAPIsTaskRejectedError(
            f"{text}\nIt failed because of its input (image or parameters). The same request would fail again."
            " Correct the input; a changed request is submitted as a new video.",
            task=task,
        )
    return ToAPIsTaskFailedError(
        f"{text}\nA retry submits a new video, which is billed, unless max_generations={max_generations} is used up.",
        task=task,
    )


def timeout_message(video_id: str, within: float | None = None, *, last_status: str | None = None) -> str:
    """Return the message for a video that was not ready before the timeout, with the video's last status.

    :param within: The timeout in seconds, if known.
    :param last_status: The service's last status word; None if no poll got a response.
    """
    when = "before the timeout" if within is None else f"within {within:.0f} s (timeout)"
    if last_status is None:
        state = "It is submitted and billed."
    elif is_final_word(last_status):
        state = f"Its last status was {last_status.strip()}, without a result URL. It is billed."
    elif is_documented(last_status):
        state = f"Its last status was {last_status.strip() or 'empty'}. It is billed and still rendering."
    else:
        quoted = f" {last_status!r}" if _PLAIN_WORD.fullmatch(last_status) else ""
        state = f"Its last status was an undocumented word{quoted}. It is billed."
    return f"Video {video_id} was not ready {when}. {state}"


def missing_url_message(video_id: str) -> str:
    """Return the message for a completed video without a result URL."""
    return f"Video {video_id} is reported as completed, but without a result URL. It is billed."


def _billing_summary(task: VideoTask) -> str:
    status = str((task.billing or {}).get("status") or "")
    if status == "refunded":
        return "The service reports it as refunded."
    if task.cost_usd:
        return f"The service reports a cost of {task.cost_usd} USD ({status or 'no billing status'})."
    return "The service does not report whether it is refunded."
