"""From an HTTP answer to the error it means. The service has several envelopes and several words for one thing."""

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
    ToAPIsNotFoundError,
    ToAPIsQuotaError,
    ToAPIsRateLimitError,
    ToAPIsRequestError,
    ToAPIsServerError,
    ToAPIsTaskFailedError,
    ToAPIsTaskRejectedError,
)
from airflow_provider_toapis.redaction import redacted

#: Code of an order that names an address for webhooks where the account has none.
WEBHOOK_NOT_CONFIGURED = "webhook_not_configured"
#: What ``Retry-After`` may ask for. Its unit is not documented; anything longer is clamped.
LONGEST_RETRY_AFTER = 300.0
_EPOCH_THRESHOLD = 1e9
#: Characters; a shorter prompt gives nothing away, and replacing it would leave nothing of the message.
_SHORTEST_PRIVATE = 4
#: Characters in a row that are a quotation, not chance.
_SHORTEST_QUOTE = 16
#: Characters of the vendor's text that are looked at; far fewer are shown.
_LONGEST_READ = 2000

#: A status word of the vendor that may be quoted: not a sentence, which could repeat a prompt.
_PLAIN_WORD = re.compile(r"[\w.-]{1,32}")
_UNKNOWN_TASK = ("task_not_exist", "task_not_found", "not_found_error", "task not found")
_NO_MONEY = ("quota is not enough", "quota_not_enough", "insufficient_quota", "insufficient_user_quota")
_CONTENT_POLICY = ("sensitivecontent", "content_policy", "content policy", "moderation", "privacyinformation")
#: What vendors say of an image or a parameter that cannot be used (upstream codes leak through; seen in other clients).
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

#: Which error an answer means, by its status and by what it says, the most specific first. What is not here (5xx, 408,
#: 425, a redirect) says nothing about the request: for a POST it means that the outcome is unknown.
_KINDS: tuple[tuple[Container[int], tuple[str, ...], type[ToAPIsError]], ...] = (
    ((401, 403), (), ToAPIsAuthError),
    ((402,), (), ToAPIsQuotaError),
    ((429,), (), ToAPIsRateLimitError),
    ((422,), (), ToAPIsContentPolicyError),
    ((503,), ("rate_limit_unavailable",), ToAPIsRateLimitError),
    ((404, 503), _NOT_OFFERED, ToAPIsRequestError),
    ((404, 410), (), ToAPIsNotFoundError),
    ((400,), _UNKNOWN_TASK, ToAPIsNotFoundError),
    ((400,), _NO_MONEY, ToAPIsQuotaError),
    ((400,), _CONTENT_POLICY, ToAPIsContentPolicyError),
    # 409: the key exists, so an earlier POST may have been accepted.
    ((408, 409, 425), (), ToAPIsServerError),
    (range(400, 500), (), ToAPIsRequestError),
)
#: What the service says in JSON (documented). Cloudflare, which stands before it, and proxies say the same words about
#: themselves (seen in other clients), in pages that tell nothing about a key or an id.
_SAID_BY_OTHERS_TOO = (403, 404, 410)
#: No server says so of a path and method that it has.
_NOT_IMPLEMENTED = 501
#: Not followed: the key would go along.
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class HttpResponse:
    """An answer, read to its end.

    :param headers: Names in lower case.
    :param via: The connection and the host that the request went by, as messages name them in brackets.
    :param base_url: The address of the API, against which relative result URLs are resolved.
    """

    status_code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    via: str = ""
    base_url: str = ""

    @property
    def is_success(self) -> bool:
        """Whether the status is one of 2xx."""
        return 200 <= self.status_code < 300  # noqa: PLR2004

    def json_object(self) -> dict[str, Any] | None:
        """Return the body as a JSON object, or None: HTML pages and cut bodies occur."""
        try:
            parsed = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return parsed if isinstance(parsed, dict) else None

    @property
    def may_be_own_trouble(self) -> bool:
        """Whether a body that is not what was asked for may be the service's: cut off, or its words for a failure."""
        parsed = self.json_object()
        if parsed is None:
            return self.body.lstrip().startswith(b"{")
        return not parsed.keys().isdisjoint(("success", "error"))

    @property
    def is_foreign(self) -> bool:
        """Whether the body is not the service's, which answers in JSON. An empty 403 may be its own."""
        if not self.body.strip():
            return self.status_code != 403  # noqa: PLR2004
        return self.json_object() is None


def error_for(
    response: HttpResponse, asked: str, private: Iterable[str] | None = (), *, is_submission: bool = False
) -> ToAPIsError:
    """Return the error that an answer without success means.

    :param asked: What was asked, for the message, for example ``POST /v1/videos/generations``.
    :param is_submission: Whether it was a submission: only what a rejected one cost can be told from the response.
    :param private: Texts that the vendor's message may quote and that must not be shown (the prompt). None shows none
        of the message.
    """
    detail = _error_detail(response)
    quoted = TaskError(detail.code, "") if private is None else detail
    status = response.status_code
    kind = _kind_of(status, _said(detail))
    advice = _advice(kind, detail)
    if status in _SAID_BY_OTHERS_TOO and response.is_foreign:
        kind, advice = ToAPIsServerError, _FOREIGN_ADVICE
    if status in _REDIRECTS:
        advice = _REDIRECT_ADVICE
    has_error_object = isinstance((response.json_object() or {}).get("error"), Mapping)
    is_own = has_error_object or says_unknown_task(response)
    if not is_own and kind in _ANYBODYS_KINDS and "{via}" not in advice:
        advice += _ANYBODYS_ADVICE
    error = kind(
        f"{asked} was answered with {status}{shown_detail(quoted, private or ())}.{advice.format(via=response.via)}",
        cost=_COST.get(kind, "") if is_submission else "",
        http_status=status,
        code=detail.code,
        retry_after=retry_after_seconds(response.headers),
    )
    if kind is ToAPIsNotFoundError or status == _NOT_IMPLEMENTED:
        error.by_service = is_own
    return error


def says_unknown_task(response: HttpResponse) -> bool:
    """Whether a response says, in the service's own words, that it does not know a task, whatever its HTTP status."""
    return _mentions(_said(_error_detail(response)), _UNKNOWN_TASK)


def is_caused_by_input(error: TaskError | None) -> bool:
    """Whether a generation failed because of its prompt, image or parameters: the same request would fail again."""
    if error is None:
        return False
    code = (error.code or "").lower()
    return (
        is_content_policy(error)
        or code.startswith(_UNUSABLE_INPUT_CODES)
        or _UNUSABLE_INPUT.search(_said(error)) is not None
    )


def is_content_policy(error: TaskError | None) -> bool:
    """Whether a generation failed because of its content, so that the same request would fail again."""
    return error is not None and _mentions(_said(error), _CONTENT_POLICY)


def retry_after_seconds(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Read ``Retry-After``: seconds, an epoch or an HTTP date; clamped to 0 .. 300. None without a usable one."""
    given = headers.get("retry-after", "").strip()
    if not given:
        return None
    now = clock.time() if now is None else now
    try:
        seconds = float(given)
        if seconds > _EPOCH_THRESHOLD:
            seconds -= now
    except ValueError:
        try:
            seconds = parsedate_to_datetime(given).timestamp() - now
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, min(LONGEST_RETRY_AFTER, seconds)) if math.isfinite(seconds) else None


def date_of(response: HttpResponse) -> float | None:
    """Return the time at which a response was made, by the clock of its sender, in epoch seconds."""
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def shown_detail(detail: TaskError, private: Iterable[str] = ()) -> str:
    """Return `` (code): message`` in the vendor's words, fit for our messages; see :func:`without_private`."""
    code = f" ({without_private(detail.code, private)})" if detail.code else ""
    message = without_private(detail.message, private).rstrip(". ")
    return f"{code}: {message}" if message else code


def without_private(text: str, private: Iterable[str]) -> str:
    """Return the vendor's ``text`` fit for a message: shortened, without keys, links' queries and ``private`` texts."""
    text = text[:_LONGEST_READ]
    for secret in filter(lambda text: len(text) >= _SHORTEST_PRIVATE, map(str.strip, private)):
        text = _without_quotes(text.replace(secret, "***"), secret)
    return redacted(text)


def _without_quotes(text: str, secret: str) -> str:
    """Replace the pieces of ``secret`` in ``text``: a vendor shortens and escapes what it quotes."""
    while True:
        quote = SequenceMatcher(None, text, secret, autojunk=False).find_longest_match()
        if quote.size < _SHORTEST_QUOTE:
            return text
        text = f"{text[: quote.a]}***{text[quote.a + quote.size :]}"


def _error_detail(response: HttpResponse) -> TaskError:
    body = response.json_object()
    if body is None:
        return TaskError(code=None, message="a body that is not JSON" if response.body else "")
    return parse_error_detail(body.get("error") or body)


def _kind_of(status: int, said: str) -> type[ToAPIsError]:
    """Decide by status and by what was said (lower case)."""
    for statuses, words, kind in _KINDS:
        if status in statuses and (not words or _mentions(said, words)):
            return kind
    return ToAPIsServerError


def _said(detail: TaskError) -> str:
    return f"{detail.code or ''} {detail.message}".lower()


def _mentions(said: str, words: Iterable[str]) -> bool:
    return any(word in said for word in words)


def _advice(kind: type[ToAPIsError], detail: TaskError) -> str:
    if detail.code == WEBHOOK_NOT_CONFIGURED:
        return (
            " The console of ToAPIs shows no webhook for this key: enter the receiver's URL there, generate the secret,"
            " enable and save it (docs/webhooks.md), or order with webhook='auto' or webhook=False."
        )
    if kind is ToAPIsRequestError and _mentions(_said(detail), _NOT_OFFERED):
        return (
            " The service does not offer this model to this key: GET /v1/models?type=video lists those that it offers"
            " (for grok-video-1.5-preview use its successor, grok-video-1.5)."
        )
    return _ADVICE.get(kind, "")


_FOREIGN_ADVICE = (
    " That is not an answer of ToAPIs but of something before it (a firewall, a proxy), and says nothing about key or"
    " video. If it stays so, check the connection's host and proxy{via}."
)
#: What any HTTP server may answer, and what to do where it is not the service.
_ANYBODYS_KINDS = (ToAPIsRequestError, ToAPIsNotFoundError, ToAPIsServerError)
_ANYBODYS_ADVICE = " If another service answers in the place of ToAPIs, check the connection's host and proxy{via}."
_REDIRECT_ADVICE = " The address redirects to another one: check the connection's host and its scheme (https){via}."
_ADVICE: dict[type[ToAPIsError], str] = {
    ToAPIsRequestError: " The same request would be refused again.",
    ToAPIsAuthError: " Check the API key in the connection's password{via}.",
    ToAPIsQuotaError: " The account has not enough money for this video{via}: top it up and run again.",
    ToAPIsContentPolicyError: " The service refuses this content, and would again.",
    ToAPIsRateLimitError: " A retry asks again.",
}
#: What a rejected submission itself cost.
_COST: dict[type[ToAPIsError], str] = {
    ToAPIsRequestError: "Nothing was paid.",
    ToAPIsAuthError: "Nothing was paid.",
    ToAPIsQuotaError: "Nothing was paid.",
    ToAPIsContentPolicyError: "Nothing was paid.",
    ToAPIsNotFoundError: "Nothing was paid.",
    ToAPIsRateLimitError: "Nothing was created and nothing was paid.",
}


def failure_message(task: VideoTask, private: Iterable[str] = ()) -> str:
    """Say why a video failed and whether it was paid.

    :param private: Texts that the vendor's message may quote and that must not be shown (the prompt).
    """
    reason = shown_detail(task.error, private) if task.error else ""
    return f"Video {task.id} failed{reason}. {_money(task)}"


def task_failed(task: VideoTask, max_generations: int, private: Iterable[str] = ()) -> ToAPIsTaskFailedError:
    """Return the error of a failed generation, which says what a retry would do."""
    text = failure_message(task, private)
    if is_content_policy(task.error):
        return ToAPIsTaskRejectedError(f"{text} The service refuses this content, and would again.", task=task)
    if is_caused_by_input(task.error):
        return ToAPIsTaskRejectedError(
            f"{text} It failed because of its input (image or parameters), and the same request would fail again."
            " Correct the input; a changed request is submitted as a new video.",
            task=task,
        )
    return ToAPIsTaskFailedError(
        f"{text} A retry orders a new video, newly paid, unless all {max_generations} (max_generations) are used up.",
        task=task,
    )


def timeout_message(video_id: str, within: float | None = None, *, last_word: str | None = None) -> str:
    """Say that a video was not ready ``within`` the seconds of a timeout, and what has become of it.

    :param last_word: The status that the service reported last; None where no poll was answered.
    """
    when = "in time" if within is None else f"within {within:.0f} s (timeout)"
    if last_word is None:
        state = "It is submitted and billed."
    elif is_final_word(last_word):
        state = f"Its last status was {last_word.strip()}, without a result URL; it is billed."
    elif is_documented(last_word):
        state = f"Its last status was {last_word.strip() or 'empty'}: it is still being made and is billed."
    else:
        quoted = f" {last_word!r}" if _PLAIN_WORD.fullmatch(last_word) else ""
        state = f"Its last status was a word that is not documented{quoted}; it is billed."
    return f"Video {video_id} was not ready {when}. {state}"


def missing_url_message(video_id: str) -> str:
    """Say that a video has nothing that could be fetched."""
    return f"Video {video_id} is reported as completed, but without a link to it. It is paid."


def _money(task: VideoTask) -> str:
    status = str((task.billing or {}).get("status") or "")
    if status == "refunded":
        return "The service reports it as refunded."
    if task.cost_usd:
        return f"The service reports {task.cost_usd} USD for it ({status or 'no billing status'})."
    return "The service did not say whether it is refunded."
