"""Map the status words of the service to statuses."""

from __future__ import annotations

from typing import Literal

Meaning = Literal["queued", "in_progress", "completed", "failed"]

#: The documented status words of polls and webhooks, and the words for "not started" in the response to a submission.
_DOCUMENTED: dict[str, Meaning] = {
    "": "queued",
    "queued": "queued",
    "pending": "queued",
    "submitted": "queued",
    "in_progress": "in_progress",
    "completed": "completed",
    "success": "completed",
    "failed": "failed",
    "failure": "failed",
}
#: Status words that other clients have seen or expect, with or without ``_PREFIX``. A word with the prefix is not
#: documented, even if the word without the prefix is.
_SUCCESS = frozenset(
    (
        "complete",
        "completed",
        "done",
        "finish",
        "finished",
        "ok",
        "ready",
        "succeed",
        "succeeded",
        "success",
        "successful",
    )
)
_FAILURE = frozenset(
    (
        "aborted",
        "canceled",
        "cancelled",
        "error",
        "expired",
        "fail",
        "failed",
        "failure",
        "rejected",
        "time_out",
        "timed_out",
        "timedout",
        "timeout",
    )
)
_PREFIX = "task_status_"


def is_documented(word: str) -> bool:
    """Return whether the service documents a status word."""
    return _plain(word) in _DOCUMENTED


def is_final_word(word: str) -> bool:
    """Return whether a status word is documented as final."""
    return _DOCUMENTED.get(_plain(word)) in ("completed", "failed")


def is_failure_word(word: str) -> bool:
    """Return whether a status word means a failure. The word can be undocumented."""
    return _bare(word) in _FAILURE


def meaning(word: str, *, has_url: bool, has_error: bool) -> Meaning:
    """Return the status that a status word means.

    An undocumented word means:

    - ``completed``: if it is a success word and the response contains a result URL.
    - ``failed``: if the response contains an error, and the word is a failure word or a success word without a URL.
    - ``in_progress``: in all other cases.

    :param has_url: Whether the response contains a usable result URL.
    :param has_error: Whether the response contains an error.
    """
    if is_documented(word):
        return _DOCUMENTED[_plain(word)]
    if has_url and _bare(word) in _SUCCESS:
        return "completed"
    if has_error and _bare(word) in _SUCCESS | _FAILURE:
        return "failed"
    return "in_progress"


def _plain(word: str) -> str:
    return word.strip().lower()


def _bare(word: str) -> str:
    return _plain(word).removeprefix(_PREFIX)
