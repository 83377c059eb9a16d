"""What the status words of the service mean."""

from __future__ import annotations

from typing import Literal

Meaning = Literal["queued", "in_progress", "completed", "failed"]

#: The documented words of polls and of webhooks, and those for "not begun" that the first response may hold.
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
#: Words that clients in the field have met or expect.
_SUCCESS = frozenset(("complete", "done", "finished", "ready", "succeed", "succeeded", "successful"))
_FAILURE = frozenset(
    ("aborted", "canceled", "cancelled", "error", "expired", "fail", "rejected", "timed_out", "timeout")
)


def is_documented(word: str) -> bool:
    """Whether the service documents a status word."""
    return _plain(word) in _DOCUMENTED


def is_final_word(word: str) -> bool:
    """Whether a status word is documented as final."""
    return _DOCUMENTED.get(_plain(word)) in ("completed", "failed")


def meaning(word: str, *, has_url: bool, has_error: bool) -> Meaning:
    """Return what a status word means.

    An undocumented word of success is final only beside a result URL, one of failure only beside an error. Any other
    word means that the video is in progress.

    :param has_url: The response holds a usable result URL.
    :param has_error: The response holds an error.
    """
    word = _plain(word)
    if word in _SUCCESS and has_url:
        return "completed"
    if word in _FAILURE and has_error:
        return "failed"
    return _DOCUMENTED.get(word, "in_progress")


def _plain(word: str) -> str:
    return word.strip().lower()
