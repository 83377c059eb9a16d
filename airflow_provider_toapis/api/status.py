"""What the status words of the service mean."""

from __future__ import annotations

from enum import StrEnum


class TaskStatus(StrEnum):
    """State of a video task; the last two are final."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"


#: The documented words of polls and of webhooks, and those for "not begun" that the first response may hold.
_DOCUMENTED = {
    "": TaskStatus.QUEUED,
    "queued": TaskStatus.QUEUED,
    "pending": TaskStatus.QUEUED,
    "submitted": TaskStatus.QUEUED,
    "in_progress": TaskStatus.IN_PROGRESS,
    "completed": TaskStatus.COMPLETED,
    "success": TaskStatus.COMPLETED,
    "failed": TaskStatus.FAILED,
    "failure": TaskStatus.FAILED,
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
    return _DOCUMENTED.get(_plain(word)) in (TaskStatus.COMPLETED, TaskStatus.FAILED)


def task_status(word: str, *, has_url: bool, has_error: bool) -> TaskStatus:
    """Return what a status word means.

    An undocumented word of success is final only beside a result URL, one of failure only beside an error. Any other
    word means that the video is in progress.

    :param has_url: The response holds a usable result URL.
    :param has_error: The response holds an error.
    """
    word = _plain(word)
    if word in _SUCCESS and has_url:
        return TaskStatus.COMPLETED
    if word in _FAILURE and has_error:
        return TaskStatus.FAILED
    return _DOCUMENTED.get(word, TaskStatus.IN_PROGRESS)


def _plain(word: str) -> str:
    return word.strip().lower()
