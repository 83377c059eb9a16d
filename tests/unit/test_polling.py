"""Whether a video is asked for again, and how a wait ends; how soon is in ``test_poll_schedule``."""

from __future__ import annotations

import logging
import math
from typing import Any

import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_toapis.api.poll_schedule import MAX_INTERVAL, ModelHistory, Schedule
from airflow_provider_toapis.api.polling import (
    Decision,
    KeepWaiting,
    VideoWait,
    WaitResult,
    WaitStatus,
    poll_interval_after,
    wait_outcome,
)
from airflow_provider_toapis.api.responses import TaskError, TaskStatus, VideoTask
from airflow_provider_toapis.api.settings import require_seconds
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsConnectionError,
    ToAPIsContentPolicyError,
    ToAPIsError,
    ToAPIsNotFoundError,
    ToAPIsQuotaError,
    ToAPIsRateLimitError,
    ToAPIsRequestError,
    ToAPIsServerError,
)
from tests.errors import rejects

NOW = 1_790_000_000.0
URL = "https://files.toapis.com/videos/abc/out.mp4"
SECRET = "a red shoe at https://bucket/a.jpg?X-Amz-Signature=0123456789"


def video(status: TaskStatus = TaskStatus.IN_PROGRESS, **fields: Any) -> VideoTask:
    return VideoTask(**{"id": "video_1", "status": status, "raw_status": str(status), **fields})


RUNNING = video()
READY = video(TaskStatus.COMPLETED, urls=(URL,))
WITHOUT_URL = video(TaskStatus.COMPLETED)
FAILED = video(TaskStatus.FAILED, error=TaskError("generation_failed", SECRET))
SERVER_ERROR = ToAPIsServerError("GET returned 502.", http_status=502)
DENIED = ToAPIsNotFoundError("GET returned 404.", http_status=404)
UNAUTHORIZED = ToAPIsAuthError("GET returned 401.", http_status=401)
RATE_LIMITED = ToAPIsRateLimitError("GET returned 429.", http_status=429)
#: Whoever rotates the key needs a moment to tell Airflow.
READ_AGAIN = KeepWaiting(10.0, fresh_connection=True)
BEGAN, ENDED = pendulum.from_timestamp(NOW - 90), pendulum.from_timestamp(NOW)


def wait(*, poll_interval: float = 10, end_time: float | None = None, jitter: float = 0.5) -> VideoWait:
    return VideoWait("video_1", Schedule(poll_interval, jitter=lambda: jitter), end_time=end_time)


def seconds(decision: Decision) -> float:
    assert isinstance(decision, KeepWaiting), decision
    return decision.seconds


def ending(decision: Decision) -> WaitStatus:
    assert isinstance(decision, WaitResult), decision
    return decision.status


class TestFirstPoll:
    """Whoever begins to wait has just asked."""

    @pytest.mark.parametrize(("jitter", "delay"), [(0.0, 5), (0.5, 12.5), (1.0, 20)])
    def test_comes_between_five_seconds_and_the_interval(self, jitter: float, delay: float) -> None:
        assert wait(poll_interval=20, jitter=jitter).begin(NOW) == KeepWaiting(delay)

    @pytest.mark.parametrize(("left", "delay"), [(600, 7.5), (6, 6), (0.5, 0.5), (0, 0), (-600, 0)])
    def test_comes_at_the_deadline_at_the_latest(self, left: float, delay: float) -> None:
        assert wait(end_time=NOW + left).begin(NOW) == KeepWaiting(delay)


class TestAnswers:
    def test_answer_is_a_video_or_why_there_is_none(self) -> None:
        assert ending(wait().on_response(READY, NOW)) == "success"
        assert seconds(wait().on_response(SERVER_ERROR, NOW)) == 20

    @pytest.mark.parametrize("status", [TaskStatus.QUEUED, TaskStatus.IN_PROGRESS])
    def test_video_in_the_making_is_waited_for(self, status: TaskStatus) -> None:
        assert seconds(wait().on_task(video(status), NOW)) == 10

    def test_ready_video_ends_the_wait(self) -> None:
        assert wait().on_task(READY, NOW) == WaitResult("success", "Video video_1 is ready.")

    def test_failed_video_ends_the_wait_with_the_vendors_code_and_without_its_text(self) -> None:
        assert wait().on_task(FAILED, NOW) == WaitResult("failed", "Video video_1 failed with code generation_failed.")

    @pytest.mark.parametrize("code", [None, "", SECRET, "a b", "x" * 81, "c\n"])
    def test_code_that_is_a_sentence_is_not_told(self, code: str | None) -> None:
        decision = wait().on_task(video(TaskStatus.FAILED, error=TaskError(code, SECRET)), NOW)
        assert decision == WaitResult("failed", "Video video_1 failed.")

    def test_failed_video_without_a_reason(self) -> None:
        assert wait().on_task(video(TaskStatus.FAILED), NOW) == WaitResult("failed", "Video video_1 failed.")

    def test_status_may_go_back(self) -> None:
        waiting = wait()
        waiting.on_task(video(progress=80), NOW)
        assert seconds(waiting.on_task(video(TaskStatus.QUEUED, progress=0), NOW)) == 10

    def test_progress_governs_the_waits(self) -> None:
        waiting = wait()
        waiting.on_task(video(progress=25), NOW)
        # A quarter took 16 s, so that the half that is left takes 32 s.
        assert seconds(waiting.on_task(video(progress=50), NOW + 16)) == pytest.approx(32, abs=3)

    def test_what_a_ready_video_took_is_remembered(self) -> None:
        history = ModelHistory()
        for _ in range(20):
            VideoWait("video_1", Schedule(10, history), end_time=None).on_task(
                video(TaskStatus.COMPLETED, urls=(URL,), model="m", created_at=BEGAN, completed_at=ENDED), NOW
            )
        assert history.earliest("m") == 90

    def test_completed_without_a_link_is_asked_for_a_few_times_and_then_is_an_error(self) -> None:
        waiting = wait()
        decisions = [waiting.on_task(WITHOUT_URL, NOW) for _ in range(5)]
        assert decisions[:4] == [KeepWaiting(10)] * 4
        assert ending(decisions[-1]) == "error"

    def test_link_that_comes_late_is_taken(self) -> None:
        waiting = wait()
        waiting.on_task(WITHOUT_URL, NOW)
        assert ending(waiting.on_task(READY, NOW)) == "success"

    def test_news_are_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        waiting = wait()
        with caplog.at_level(logging.INFO):
            for progress in (0, 11, 12, 19, 25):
                waiting.on_task(video(progress=progress), NOW)
        assert [record.args for record in caplog.records] == [
            ("video_1", "in_progress"),
            ("video_1", "in_progress, 10 %"),
            ("video_1", "in_progress, 20 %"),
        ]

    def test_unknown_status_word_is_logged_without_secrets(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            wait().on_task(video(raw_status="https://bucket/a?X-Amz-Signature=0123456789"), NOW)
        assert "0123456789" not in caplog.text


class TestUnansweredPolls:
    @pytest.mark.parametrize(
        "error",
        [
            SERVER_ERROR,
            ToAPIsRateLimitError("429"),
            ToAPIsConnectionError("timed out"),
            ToAPIsConnectionError("not connected", sent=False),
            ToAPIsRequestError("400"),
            ToAPIsContentPolicyError("422"),
            DENIED,
            ToAPIsError("anything"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_never_fail_a_paid_video(self, error: ToAPIsError) -> None:
        decision = wait().on_error(error, NOW)
        assert isinstance(decision, KeepWaiting)
        assert not decision.fresh_connection

    def test_are_asked_again_without_end_where_there_is_no_deadline(self) -> None:
        waiting = wait()
        for attempt in range(5000):
            assert isinstance(waiting.on_error(SERVER_ERROR, NOW + attempt), KeepWaiting)

    def test_service_in_trouble_is_asked_less_and_less_often(self) -> None:
        waiting = wait()
        delays = [seconds(waiting.on_error(SERVER_ERROR, NOW)) for _ in range(6)]
        assert delays == [20, 40, 80, 120, 120, 120]

    def test_answer_ends_the_backing_off(self) -> None:
        waiting = wait()
        waiting.on_error(SERVER_ERROR, NOW)
        assert seconds(waiting.on_task(RUNNING, NOW)) == 10
        assert seconds(waiting.on_error(SERVER_ERROR, NOW)) == 20

    def test_interval_above_the_longest_one_is_kept(self) -> None:
        waiting = wait(poll_interval=600)
        assert seconds(waiting.on_error(SERVER_ERROR, NOW)) == 600

    @pytest.mark.parametrize(("told", "delay"), [(77, 77), (1, 20)])
    def test_waits_as_long_as_told_and_not_less(self, told: float, delay: float) -> None:
        assert seconds(wait().on_error(ToAPIsServerError("503", retry_after=told), NOW)) == delay

    @pytest.mark.parametrize(
        "error",
        [ToAPIsRequestError("GET returned 400."), ToAPIsConnectionError("no connection", sent=False)],
        ids=["refused", "nothing sent"],
    )
    def test_what_the_service_has_no_part_in_is_a_warning(
        self, caplog: pytest.LogCaptureFixture, error: ToAPIsError
    ) -> None:
        waiting = wait()
        for _ in range(3):
            waiting.on_error(error, NOW)
        assert [(record.levelname, record.args) for record in caplog.records] == [("WARNING", ("video_1", error))]

    def test_trouble_is_logged_once_per_spell(self, caplog: pytest.LogCaptureFixture) -> None:
        waiting = wait()
        with caplog.at_level(logging.INFO):
            for _ in range(3):
                waiting.on_error(SERVER_ERROR, NOW)
        assert [record.args for record in caplog.records] == [("video_1", SERVER_ERROR)]


class TestRateLimit:
    """It says nothing about the video, and hundreds of videos may meet the same one."""

    @pytest.mark.parametrize(("told", "delay"), [(None, 10), (1, 10), (77, 77)])
    def test_keeps_the_pace_unless_the_service_asks_for_more(self, told: float | None, delay: float) -> None:
        waiting = wait()
        error = ToAPIsRateLimitError("429", retry_after=told)
        assert [seconds(waiting.on_error(error, NOW)) for _ in range(5)] == [delay] * 5

    def test_is_no_failure_to_be_counted(self) -> None:
        waiting = wait()
        waiting.on_error(RATE_LIMITED, NOW)
        assert seconds(waiting.on_error(SERVER_ERROR, NOW)) == 20

    def test_does_not_end_the_backing_off(self) -> None:
        waiting = wait()
        waiting.on_error(SERVER_ERROR, NOW)
        waiting.on_error(RATE_LIMITED, NOW)
        assert seconds(waiting.on_error(SERVER_ERROR, NOW)) == 40

    def test_long_pause_is_logged_once_when_it_begins(self, caplog: pytest.LogCaptureFixture) -> None:
        waiting = wait()
        with caplog.at_level(logging.INFO):
            for moment in (0, 5, 119):
                waiting.on_error(ToAPIsRateLimitError("429", retry_after=120), NOW + moment)
            assert [record.args for record in caplog.records] == [("video_1", 120)]
            waiting.on_error(ToAPIsRateLimitError("429", retry_after=60), NOW + 121)
        assert [record.args for record in caplog.records] == [("video_1", 120), ("video_1", 60)]

    def test_short_pause_is_not_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            wait().on_error(ToAPIsRateLimitError("429", retry_after=5), NOW)
        assert caplog.messages == []

    @pytest.mark.parametrize("retry_after", [None, 10.0])
    def test_short_pauses_are_logged_once_when_they_last_30_s_in_all(
        self, caplog: pytest.LogCaptureFixture, retry_after: float | None
    ) -> None:
        waiting = wait()
        with caplog.at_level(logging.INFO):
            for moment in range(0, 120, 10):
                waiting.on_error(ToAPIsRateLimitError("429", retry_after=retry_after), NOW + moment)
            assert [record.args for record in caplog.records] == [("video_1", 30)]
            waiting.on_error(SERVER_ERROR, NOW + 120)
            caplog.clear()
            for moment in range(130, 160, 10):
                waiting.on_error(ToAPIsRateLimitError("429", retry_after=retry_after), NOW + moment)
        assert caplog.messages == []

    def test_is_not_news_of_the_video(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            wait().on_error(RATE_LIMITED, NOW)
        assert caplog.messages == []


class TestRefusedKey:
    @pytest.mark.parametrize(
        "error",
        [
            UNAUTHORIZED,
            ToAPIsAuthError("GET returned 403.", http_status=403),
            ToAPIsQuotaError("GET returned 402.", http_status=402),
        ],
        ids=str,
    )
    def test_is_read_again_once_and_then_ends_the_wait(self, error: ToAPIsError) -> None:
        waiting = wait()
        assert waiting.on_error(error, NOW) == READ_AGAIN
        assert ending(waiting.on_error(error, NOW)) == "error"

    def test_is_told_once_with_its_reason(self, caplog: pytest.LogCaptureFixture) -> None:
        waiting = wait()
        for _ in range(2):
            waiting.on_error(UNAUTHORIZED, NOW)
        assert [(record.levelname, record.args) for record in caplog.records] == [
            ("WARNING", ("video_1", UNAUTHORIZED))
        ]

    def test_is_no_warning_of_each_wait_where_one_task_waits_for_many(self, caplog: pytest.LogCaptureFixture) -> None:
        waiting = VideoWait("video_1", Schedule(10), end_time=None, log_level=logging.DEBUG)
        for error in (UNAUTHORIZED, ToAPIsRequestError("400"), ToAPIsConnectionError("no connection", sent=False)):
            waiting.on_error(error, NOW)
        assert caplog.records == []

    def test_message_names_video_and_status_only(self) -> None:
        waiting = wait()
        error = ToAPIsAuthError(SECRET, http_status=403, code=SECRET)
        waiting.on_error(error, NOW)
        result = waiting.on_error(error, NOW)
        assert isinstance(result, WaitResult)
        assert result.status == "error"
        for named in ("video_1", "403"):
            assert named in result.message
        assert SECRET not in result.message

    def test_key_that_works_again_may_be_refused_again_later(self) -> None:
        waiting = wait()
        waiting.on_error(UNAUTHORIZED, NOW)
        waiting.on_task(RUNNING, NOW)
        assert waiting.on_error(UNAUTHORIZED, NOW) == READ_AGAIN

    @pytest.mark.parametrize("between", [SERVER_ERROR, DENIED, RATE_LIMITED], ids=["trouble", "denial", "rate limit"])
    def test_rejections_end_the_wait_only_when_they_follow_each_other(self, between: ToAPIsError) -> None:
        waiting = wait()
        for moment in range(5):
            assert waiting.on_error(UNAUTHORIZED, NOW + moment) == READ_AGAIN
            waiting.on_error(between, NOW + moment)
        waiting.on_error(UNAUTHORIZED, NOW)
        assert ending(waiting.on_error(UNAUTHORIZED, NOW)) == "error"

    def test_missing_key_is_waited_for_as_a_missing_connection_is(self, caplog: pytest.LogCaptureFixture) -> None:
        waiting = wait(end_time=NOW + 1000)
        missing = ToAPIsAuthError("No API key.")
        assert [seconds(waiting.on_error(missing, NOW)) for _ in range(3)] == [20, 40, 80]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert ending(waiting.on_error(missing, NOW + 1000)) == "timeout"


class TestDenials:
    @staticmethod
    def denied(waiting: VideoWait, *moments: float) -> list[type[Decision]]:
        return [type(waiting.on_error(DENIED, NOW + moment)) for moment in moments]

    def test_five_in_a_row_over_two_minutes_end_the_wait(self) -> None:
        waiting = wait()
        assert self.denied(waiting, 0, 30, 60, 90) == [KeepWaiting] * 4
        assert waiting.on_error(DENIED, NOW + 120) == WaitResult("error", "The service no longer finds video video_1.")

    def test_five_in_less_than_two_minutes_do_not(self) -> None:
        assert self.denied(wait(), 0, 30, 60, 90, 119.9) == [KeepWaiting] * 5

    def test_four_over_two_minutes_do_not(self) -> None:
        assert self.denied(wait(), 0, 60, 120, 180) == [KeepWaiting] * 4

    @pytest.mark.parametrize("between", [RUNNING, SERVER_ERROR, RATE_LIMITED], ids=["answer", "trouble", "rate limit"])
    def test_anything_else_in_between_starts_the_count_anew(self, between: VideoTask | ToAPIsError) -> None:
        waiting = wait()
        self.denied(waiting, 0, 30, 60, 90)
        waiting.on_response(between, NOW + 100)
        assert self.denied(waiting, 130, 160, 190, 220) == [KeepWaiting] * 4
        assert self.denied(waiting, 250) == [WaitResult]


class TestDeadline:
    END = NOW + 100

    def test_last_poll_is_asked_at_the_deadline_not_before_it(self) -> None:
        assert seconds(wait(end_time=self.END).on_task(RUNNING, self.END - 7)) == 7
        assert seconds(wait(end_time=self.END).on_task(RUNNING, self.END - 0.5)) == 0.5
        assert seconds(wait(end_time=self.END).on_error(SERVER_ERROR, self.END - 7)) == 7
        assert seconds(wait(end_time=self.END).on_error(ToAPIsRateLimitError("", retry_after=300), NOW)) == 100

    @pytest.mark.parametrize("late", [0, 0.001, 1e6])
    @pytest.mark.parametrize(
        ("unfinished", "state"),
        [
            (RUNNING, "Its last status was in_progress. It is billed and still rendering."),
            (
                video(TaskStatus.QUEUED, raw_status=""),
                "Its last status was empty. It is billed and still rendering.",
            ),
            (WITHOUT_URL, "Its last status was completed, without a result URL. It is billed."),
            (
                video(raw_status="moderating"),
                "Its last status was an undocumented word 'moderating'. It is billed.",
            ),
            (video(raw_status=SECRET), "Its last status was an undocumented word. It is billed."),
        ],
        ids=["in progress", "queued", "no URL", "unknown word", "sentence"],
    )
    def test_unfinished_video_at_the_deadline_is_a_timeout_that_quotes_the_last_word(
        self, unfinished: VideoTask, state: str, late: float
    ) -> None:
        assert wait(end_time=self.END).on_task(unfinished, self.END + late) == WaitResult(
            "timeout", f"Video video_1 was not ready in time. {state}"
        )

    def test_last_word_is_quoted_when_the_last_poll_is_not_answered(self) -> None:
        waiting = wait(end_time=self.END)
        waiting.on_task(video(raw_status="moderating"), NOW)
        timed_out = waiting.on_error(SERVER_ERROR, self.END)
        assert isinstance(timed_out, WaitResult)
        assert "'moderating'" in timed_out.message

    @pytest.mark.parametrize("error", [SERVER_ERROR, DENIED, ToAPIsRateLimitError("", retry_after=30)], ids=str)
    def test_poll_not_answered_at_the_deadline_is_a_timeout(self, error: ToAPIsError) -> None:
        assert ending(wait(end_time=self.END).on_error(error, self.END)) == "timeout"

    @pytest.mark.parametrize(("task", "status"), [(READY, "success"), (FAILED, "failed")], ids=["ready", "failed"])
    def test_final_video_counts_after_the_deadline_too(self, task: VideoTask, status: WaitStatus) -> None:
        assert ending(wait(end_time=self.END).on_task(task, self.END + 1e6)) == status

    def test_key_refused_at_the_deadline_is_read_again_before_anyone_is_failed(self) -> None:
        assert wait(end_time=self.END).on_error(UNAUTHORIZED, self.END) == READ_AGAIN

    def test_without_a_deadline_nothing_times_out(self) -> None:
        assert seconds(wait(end_time=None).on_task(RUNNING, 1e12)) == 10


class TestPace:
    @pytest.mark.parametrize(("asked", "used"), [(0.1, 5), (1, 5), (5, 5), (6, 6), (10, 10), (600, 600)])
    def test_no_video_is_asked_for_more_often_than_every_five_seconds(self, asked: float, used: float) -> None:
        assert seconds(wait(poll_interval=asked).on_task(RUNNING, NOW)) == used

    @given(
        poll_interval=st.floats(min_value=0.01, max_value=3600),
        jitter=st.floats(min_value=0, max_value=1, exclude_max=True),
        answers=st.lists(st.sampled_from([RUNNING, SERVER_ERROR, DENIED, RATE_LIMITED]), max_size=20),
    )
    def test_every_wait_lies_between_five_seconds_and_what_was_asked_for_or_two_minutes(
        self, poll_interval: float, jitter: float, answers: list[VideoTask | ToAPIsError]
    ) -> None:
        waiting = wait(poll_interval=poll_interval, jitter=jitter)
        for given_answer in answers:
            assert 5 <= seconds(waiting.on_response(given_answer, NOW)) <= 1.1 * max(MAX_INTERVAL, poll_interval)


class TestVerdictAfterWait:
    """What holds is what the service says now; the event is a hint."""

    END = NOW + 100

    @pytest.mark.parametrize("hint", ["success", "failed", "timeout", "error"])
    @pytest.mark.parametrize("now", [NOW, END, END + 1])
    @pytest.mark.parametrize(("task", "verdict"), [(READY, "success"), (FAILED, "failed")], ids=["ready", "failed"])
    def test_final_video_decides_whatever_the_event_said(
        self, task: VideoTask, verdict: WaitStatus, now: float, hint: WaitStatus
    ) -> None:
        assert wait_outcome(task, hint, self.END, now) == verdict

    @pytest.mark.parametrize("hint", ["success", "failed", "timeout", "error"])
    @pytest.mark.parametrize("task", [RUNNING, video(TaskStatus.QUEUED)], ids=["in progress", "queued"])
    def test_unfinished_video_is_waited_for_until_the_deadline(self, task: VideoTask, hint: WaitStatus) -> None:
        assert wait_outcome(task, hint, self.END, self.END - 0.001) is None
        assert wait_outcome(task, hint, self.END, self.END) == "timeout"
        assert wait_outcome(task, hint, None, 1e12) is None

    @pytest.mark.parametrize(("interval", "after_error"), [(5, 300), (600, 600)])
    def test_wait_that_goes_on_after_an_error_asks_rarely(self, interval: float, after_error: float) -> None:
        assert poll_interval_after("error", interval) == after_error
        assert poll_interval_after("success", interval) == poll_interval_after("timeout", interval) == interval

    def test_missing_link_ends_a_wait_only_when_the_wait_said_so(self) -> None:
        assert wait_outcome(WITHOUT_URL, "error", self.END, NOW) == "error"
        assert wait_outcome(WITHOUT_URL, "success", self.END, NOW) is None
        assert wait_outcome(WITHOUT_URL, "success", self.END, self.END) == "timeout"


class TestSeconds:
    @pytest.mark.parametrize("value", [1, 0.5, 1800])
    def test_positive_numbers(self, value: float) -> None:
        assert require_seconds("timeout", value) == float(value)

    @pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, False, "10", None, [], 1j])
    def test_anything_else_is_refused_by_name(self, value: object) -> None:
        with rejects("timeout", value):
            require_seconds("timeout", value)


@given(st.text(min_size=20, max_size=60).map("a {}".format))
def test_no_words_of_the_vendor_get_into_how_a_wait_ended(text: str) -> None:
    errors: list[ToAPIsError] = [ToAPIsAuthError(text, code=text, http_status=401)] * 2
    waiting = wait(end_time=NOW)
    results: list[Decision] = [waiting.on_error(error, NOW) for error in errors]
    results += [
        wait(end_time=NOW).on_error(ToAPIsServerError(text, code=text), NOW),
        wait(end_time=NOW).on_task(video(raw_status=text, model=text), NOW),
        wait().on_task(video(TaskStatus.FAILED, error=TaskError(None, text)), NOW),
        wait().on_task(video(TaskStatus.COMPLETED, urls=(text,)), NOW),
    ]
    messages = " ".join(result.message for result in results if isinstance(result, WaitResult))
    assert messages.count("video_1") == 5
    assert text not in messages
