"""What the person on call reads about a video that failed or is not to be had: why, and what that means for money."""

from __future__ import annotations

import re
from collections.abc import Iterable

from airflow_provider_toapis.api.error_mapping import is_caused_by_input, is_content_policy, shown_detail
from airflow_provider_toapis.api.models import VideoTask
from airflow_provider_toapis.api.status_words import is_documented, is_final_word
from airflow_provider_toapis.exceptions import ToAPIsTaskFailedError, ToAPIsTaskRejectedError

#: A status word of the vendor that may be quoted: not a sentence, which could repeat a prompt.
_PLAIN_WORD = re.compile(r"[\w.-]{1,32}")


def failure_text(task: VideoTask, private: Iterable[str] = ()) -> str:
    """Say why a video failed and whether it was paid.

    :param private: Texts that the vendor's message may quote and that must not be shown (the prompt).
    """
    reason = shown_detail(task.error, private) if task.error else ""
    return f"Video {task.id} failed{reason}. {_money(task)}"


def task_failed(task: VideoTask, max_generations: int, private: Iterable[str] = ()) -> ToAPIsTaskFailedError:
    """Return the error of a failed generation, which says what a retry would do."""
    text = failure_text(task, private)
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


def not_ready_text(video_id: str, within: float | None = None, *, last_word: str | None = None) -> str:
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


def without_link_text(video_id: str) -> str:
    """Say that a video has nothing that could be fetched."""
    return f"Video {video_id} is reported as completed, but without a link to it. It is paid."


def _money(task: VideoTask) -> str:
    status = str((task.billing or {}).get("status") or "")
    if status == "refunded":
        return "The service reports it as refunded."
    if task.cost_usd:
        return f"The service reports {task.cost_usd} USD for it ({status or 'no billing status'})."
    return "The service did not say whether it is refunded."
