"""Whether a video is polled again, and how a wait ends. ``test_poll_schedule`` tests when it is polled."""

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
NOT_FOUND = ToAPIsNotFoundError("GET returned 404.", http_status=404)
UNAUTHORIZED = ToAPIsAuthError("GET returned 401.", http_status=401)
RATE_LIMITED = ToAPIsRateLimitError("GET returned 429.", http_status=429)
#: A rotated key reaches the Airflow connection with a delay.
REREAD_CONNECTION = KeepWaiting(10.0, fresh_connection=True)
STARTED, ENDED = pendulum.from_timestamp(NOW - 90), pendulum.from_timestamp(NOW)


def wait(*, poll_interval: float = 10, end_time: float | None = None, jitter: float = 0.5) -> VideoWait:
    return VideoWait("video_1", Schedule(poll_interval, jitter=lambda: jitter), end_time=end_time)


def seconds(decision: Decision) -> float:
    assert isinstance(decision, KeepWaiting), decision
    return decision.seconds


def end_status(decision: Decision) -> WaitStatus:
    assert isinstance(decision, WaitResult), decision
    return decision.status


class TestFirstPoll:
    """The video was looked up just before the wait starts."""

    @pytest.mark.parametrize(("jitter", "delay"), [(0.0, 5), (0.5, 12.5), (1.0, 20)])
    def test_first_poll_is_between_five_seconds_and_the_interval(self, jitter: float, delay: float) -> None:
        assert wait(poll_interval=20, jitter=jitter).begin(NOW) == KeepWaiting(delay)

    @pytest.mark.parametrize(("left", "delay"), [(600, 7.5), (6, 6), (0.5, 0.5), (0, 0), (-600, 0)])
    def test_first_poll_is_not_after_the_deadline(self, left: float, delay: float) -> None:
        assert wait(end_time=NOW + left).begin(NOW) == KeepWaiting(delay)


class TestResponses:
    def test_response_is_a_task_or_an_error(self) -> None:
        assert end_status(wait().on_response(READY, NOW)) == "success"
        assert seconds(wait().on_response(SERVER_ERROR, NOW)) == 20

    @pytest.mark.parametrize(("status", "delay"), [(TaskStatus.QUEUED, 50), (TaskStatus.IN_PROGRESS, 10)])
    def test_unfinished_video_is_waited_for(self, status: TaskStatus, delay: float) -> None:
        assert seconds(wait().on_task(video(status), NOW)) == delay

    def test_ready_video_ends_the_wait(self) -> None:
        assert wait().on_task(READY, NOW) == WaitResult("success", "Video video_1 is ready.")

    def test_failed_video_ends_the_wait_with_code_and_without_message(self) -> None:
        assert wait().on_task(FAILED, NOW) == WaitResult("failed", "Video video_1 failed with code generation_failed.")

    @pytest.mark.parametrize("code", [None, "", SECRET, "a b", "x" * 81, "c\n"])
    def test_code_that_is_a_sentence_is_omitted(self, code: str | None) -> None:
        decision = wait().on_task(video(TaskStatus.FAILED, error=TaskError(code, SECRET)), NOW)
        assert decision == WaitResult("failed", "Video video_1 failed.")

    def test_failed_video_without_error_ends_the_wait(self) -> None:
        assert wait().on_task(video(TaskStatus.FAILED), NOW) == WaitResult("failed", "Video video_1 failed.")

    def test_status_can_go_back(self) -> None:
        waiting = wait()
        waiting.on_task(video(progress=80), NOW)
        assert seconds(waiting.on_task(video(TaskStatus.QUEUED, progress=0), NOW)) == 10

    def test_progress_determines_the_delay(self) -> None:
        waiting = wait()
        waiting.on_task(video(progress=26), NOW)
        # A quarter took 16 s, so the remaining half takes 32 s.
        assert seconds(waiting.on_task(video(progress=51), NOW + 16)) == pytest.approx(32, abs=3)

    def test_duration_of_a_ready_video_is_recorded(self) -> None:
        history = ModelHistory()
        for _ in range(20):
            VideoWait("video_1", Schedule(10, history), end_time=None).on_task(
                video(TaskStatus.COMPLETED, urls=(URL,), model="m", created_at=STARTED, completed_at=ENDED), NOW
            )
        assert history.earliest("m") == 90

    def test_completed_without_url_is_polled_a_few_times_and_then_an_error(self) -> None:
        waiting = wait()
        decisions = [waiting.on_task(WITHOUT_URL, NOW) for _ in range(5)]
        assert decisions[:4] == [KeepWaiting(10)] * 4
        assert end_status(decisions[-1]) == "error"

    def test_late_result_url_ends_the_wait(self) -> None:
        waiting = wait()
        waiting.on_task(WITHOUT_URL, NOW)
        assert end_status(waiting.on_task(READY, NOW)) == "success"

    def test_changes_are_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        waiting = wait()
        with caplog.at_level(logging.INFO):
            for progress in (0, 11, 12, 19, 25):
                waiting.on_task(video(progress=progress), NOW)
        assert [record.args for record in caplog.records] == [
            ("video_1", "in_progress"),
            ("video_1", "in_progress, 10 %"),
            ("video_1", "in_progress, 20 %"),
        ]

    def test_unknown_status_is_logged_without_secrets(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            wait().on_task(video(raw_status="https://bucket/a?X-Amz-Signature=0123456789"), NOW)
        assert "0123456789" not in caplog.text


class TestFailedPolls:
    @pytest.mark.parametrize(
        "error",
        [
            SERVER_ERROR,
            ToAPIsRateLimitError("429"),
            ToAPIsConnectionError("timed out"),
            ToAPIsConnectionError("not connected", sent=False),
            ToAPIsRequestError("400"),
            ToAPIsContentPolicyError("422"),
            NOT_FOUND,
            ToAPIsError("anything"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_failed_poll_never_fails_a_billed_video(self, error: ToAPIsError) -> None:
        decision = wait().on_error(error, NOW)
        assert isinstance(decision, KeepWaiting)
        assert not decision.fresh_connection

    def test_failed_polls_are_retried_forever_without_a_deadline(self) -> None:
        waiting = wait()
        for attempt in range(5000):
            assert isinstance(waiting.on_error(SERVER_ERROR, NOW + attempt), KeepWaiting)

    def test_failed_polls_back_off(self) -> None:
        waiting = wait()
        delays = [seconds(waiting.on_error(SERVER_ERROR, NOW)) for _ in range(6)]
        assert delays == [20, 40, 80, 120, 120, 120]

    def test_response_resets_the_backoff(self) -> None:
        waiting = wait()
        waiting.on_error(SERVER_ERROR, NOW)
        assert seconds(waiting.on_task(RUNNING, NOW)) == 10
        assert seconds(waiting.on_error(SERVER_ERROR, NOW)) == 20

    def test_poll_interval_above_the_maximum_is_kept(self) -> None:
        waiting = wait(poll_interval=600)
        assert seconds(waiting.on_error(SERVER_ERROR, NOW)) == 600

    @pytest.mark.parametrize(("retry_after", "delay"), [(77, 77), (1, 20)])
    def test_retry_after_is_the_minimum_delay(self, retry_after: float, delay: float) -> None:
        assert seconds(wait().on_error(ToAPIsServerError("503", retry_after=retry_after), NOW)) == delay

    @pytest.mark.parametrize(
        "error",
        [ToAPIsRequestError("GET returned 400."), ToAPIsConnectionError("no connection", sent=False)],
        ids=["rejected", "nothing sent"],
    )
    def test_client_side_error_is_logged_as_a_warning(
        self, caplog: pytest.LogCaptureFixture, error: ToAPIsError
    ) -> None:
        waiting = wait()
        for _ in range(3):
            waiting.on_error(error, NOW)
        assert [(record.levelname, record.args) for record in caplog.records] == [("WARNING", ("video_1", error))]

    def test_consecutive_errors_are_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        waiting = wait()
        with caplog.at_level(logging.INFO):
            for _ in range(3):
                waiting.on_error(SERVER_ERROR, NOW)
        assert [record.args for record in caplog.records] == [("video_1", SERVER_ERROR)]


class TestRateLimit:
    """A rate limit is not about one video; it can affect hundreds of polls at once."""

    @pytest.mark.parametrize(("retry_after", "delay"), [(None, 10), (1, 10), (77, 77)])
    def test_rate_limit_keeps_the_interval_unless_retry_after_is_longer(
        self, retry_after: float | None, delay: float
    ) -> None:
        waiting = wait()
        error = ToAPIsRateLimitError("429", retry_after=retry_after)
        assert [seconds(waiting.on_error(error, NOW)) for _ in range(5)] == [delay] * 5

    def test_rate_limit_is_not_counted_as_a_failure(self) -> None:
        waiting = wait()
        waiting.on_error(RATE_LIMITED, NOW)
        assert seconds(waiting.on_error(SERVER_ERROR, NOW)) == 20

    def test_rate_limit_does_not_reset_the_backoff(self) -> None:
        waiting = wait()
        waiting.on_error(SERVER_ERROR, NOW)
        waiting.on_error(RATE_LIMITED, NOW)
        assert seconds(waiting.on_error(SERVER_ERROR, NOW)) == 40

    def test_long_pause_is_logged_once_when_it_starts(self, caplog: pytest.LogCaptureFixture) -> None:
        waiting = wait()
        with caplog.at_level(logging.INFO):
            for elapsed in (0, 5, 119):
                waiting.on_error(ToAPIsRateLimitError("429", retry_after=120), NOW + elapsed)
            assert [record.args for record in caplog.records] == [("video_1", 120)]
            waiting.on_error(ToAPIsRateLimitError("429", retry_after=60), NOW + 121)
        assert [record.args for record in caplog.records] == [("video_1", 120), ("video_1", 60)]

    def test_short_pause_is_not_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            wait().on_error(ToAPIsRateLimitError("429", retry_after=5), NOW)
        assert caplog.messages == []

    @pytest.mark.parametrize("retry_after", [None, 10.0])
    def test_short_pauses_are_logged_once_after_30_s_in_total(
        self, caplog: pytest.LogCaptureFixture, retry_after: float | None
    ) -> None:
        waiting = wait()
        with caplog.at_level(logging.INFO):
            for elapsed in range(0, 120, 10):
                waiting.on_error(ToAPIsRateLimitError("429", retry_after=retry_after), NOW + elapsed)
            assert [record.args for record in caplog.records] == [("video_1", 30)]
            waiting.on_error(SERVER_ERROR, NOW + 120)
            caplog.clear()
            for elapsed in range(130, 160, 10):
                waiting.on_error(ToAPIsRateLimitError("429", retry_after=retry_after), NOW + elapsed)
        assert caplog.messages == []

    def test_rate_limit_is_not_logged_for_the_video(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            wait().on_error(RATE_LIMITED, NOW)
        assert caplog.messages == []


class TestRejectedKey:
    @pytest.mark.parametrize(
        "error",
        [
            UNAUTHORIZED,
            ToAPIsAuthError("GET returned 403.", http_status=403),
            ToAPIsQuotaError("GET returned 402.", http_status=402),
        ],
        ids=str,
    )
    def test_rejected_key_is_reread_once_and_then_ends_the_wait(self, error: ToAPIsError) -> None:
        waiting = wait()
        assert waiting.on_error(error, NOW) == REREAD_CONNECTION
        assert end_status(waiting.on_error(error, NOW)) == "error"

    def test_rejected_key_is_logged_once_with_its_reason(self, caplog: pytest.LogCaptureFixture) -> None:
        waiting = wait()
        for _ in range(2):
            waiting.on_error(UNAUTHORIZED, NOW)
        assert [(record.levelname, record.args) for record in caplog.records] == [
            ("WARNING", ("video_1", UNAUTHORIZED))
        ]

    def test_wait_with_debug_log_level_logs_no_warnings(self, caplog: pytest.LogCaptureFixture) -> None:
        waiting = VideoWait("video_1", Schedule(10), end_time=None, log_level=logging.DEBUG)
        for error in (UNAUTHORIZED, ToAPIsRequestError("400"), ToAPIsConnectionError("no connection", sent=False)):
            waiting.on_error(error, NOW)
        assert caplog.records == []

    def test_rejected_key_message_names_only_video_and_status(self) -> None:
        waiting = wait()
        error = ToAPIsAuthError(SECRET, http_status=403, code=SECRET)
        waiting.on_error(error, NOW)
        result = waiting.on_error(error, NOW)
        assert isinstance(result, WaitResult)
        assert result.status == "error"
        for expected in ("video_1", "403"):
            assert expected in result.message
        assert SECRET not in result.message

    def test_key_rejected_again_after_a_success_is_reread(self) -> None:
        waiting = wait()
        waiting.on_error(UNAUTHORIZED, NOW)
        waiting.on_task(RUNNING, NOW)
        assert waiting.on_error(UNAUTHORIZED, NOW) == REREAD_CONNECTION

    @pytest.mark.parametrize(
        "between", [SERVER_ERROR, NOT_FOUND, RATE_LIMITED], ids=["server error", "not found", "rate limit"]
    )
    def test_only_consecutive_rejections_end_the_wait(self, between: ToAPIsError) -> None:
        waiting = wait()
        for elapsed in range(5):
            assert waiting.on_error(UNAUTHORIZED, NOW + elapsed) == REREAD_CONNECTION
            waiting.on_error(between, NOW + elapsed)
        waiting.on_error(UNAUTHORIZED, NOW)
        assert end_status(waiting.on_error(UNAUTHORIZED, NOW)) == "error"

    def test_missing_key_is_retried_until_the_deadline(self, caplog: pytest.LogCaptureFixture) -> None:
        waiting = wait(end_time=NOW + 1000)
        missing = ToAPIsAuthError("No API key.")
        assert [seconds(waiting.on_error(missing, NOW)) for _ in range(3)] == [20, 40, 80]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert end_status(waiting.on_error(missing, NOW + 1000)) == "timeout"


class TestNotFound:
    @staticmethod
    def not_found(waiting: VideoWait, *moments: float) -> list[type[Decision]]:
        return [type(waiting.on_error(NOT_FOUND, NOW + elapsed)) for elapsed in moments]

    def test_five_consecutive_404_over_two_minutes_end_the_wait(self) -> None:
        waiting = wait()
        assert self.not_found(waiting, 0, 30, 60, 90) == [KeepWaiting] * 4
        assert waiting.on_error(NOT_FOUND, NOW + 120) == WaitResult(
            "error", "The service no longer finds video video_1."
        )

    def test_five_404_in_less_than_two_minutes_do_not_end_the_wait(self) -> None:
        assert self.not_found(wait(), 0, 30, 60, 90, 119.9) == [KeepWaiting] * 5

    def test_four_404_over_two_minutes_do_not_end_the_wait(self) -> None:
        assert self.not_found(wait(), 0, 60, 120, 180) == [KeepWaiting] * 4

    @pytest.mark.parametrize(
        "between", [RUNNING, SERVER_ERROR, RATE_LIMITED], ids=["response", "server error", "rate limit"]
    )
    def test_other_response_resets_the_404_count(self, between: VideoTask | ToAPIsError) -> None:
        waiting = wait()
        self.not_found(waiting, 0, 30, 60, 90)
        waiting.on_response(between, NOW + 100)
        assert self.not_found(waiting, 130, 160, 190, 220) == [KeepWaiting] * 4
        assert self.not_found(waiting, 250) == [WaitResult]


class TestDeadline:
    END = NOW + 100

    def test_last_poll_is_at_the_deadline(self) -> None:
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
        ids=["in progress", "queued", "no URL", "unknown status", "sentence"],
    )
    def test_unfinished_video_at_the_deadline_times_out_with_last_status(
        self, unfinished: VideoTask, state: str, late: float
    ) -> None:
        assert wait(end_time=self.END).on_task(unfinished, self.END + late) == WaitResult(
            "timeout", f"Video video_1 was not ready before the timeout. {state}"
        )

    def test_timeout_names_last_status_if_the_last_poll_fails(self) -> None:
        waiting = wait(end_time=self.END)
        waiting.on_task(video(raw_status="moderating"), NOW)
        timed_out = waiting.on_error(SERVER_ERROR, self.END)
        assert isinstance(timed_out, WaitResult)
        assert "'moderating'" in timed_out.message

    @pytest.mark.parametrize("error", [SERVER_ERROR, NOT_FOUND, ToAPIsRateLimitError("", retry_after=30)], ids=str)
    def test_failed_poll_at_the_deadline_is_a_timeout(self, error: ToAPIsError) -> None:
        assert end_status(wait(end_time=self.END).on_error(error, self.END)) == "timeout"

    @pytest.mark.parametrize(("task", "status"), [(READY, "success"), (FAILED, "failed")], ids=["ready", "failed"])
    def test_final_video_is_accepted_after_the_deadline(self, task: VideoTask, status: WaitStatus) -> None:
        assert end_status(wait(end_time=self.END).on_task(task, self.END + 1e6)) == status

    def test_key_rejected_at_the_deadline_is_reread_before_the_wait_ends(self) -> None:
        assert wait(end_time=self.END).on_error(UNAUTHORIZED, self.END) == REREAD_CONNECTION

    def test_wait_without_deadline_never_times_out(self) -> None:
        assert seconds(wait(end_time=None).on_task(RUNNING, 1e12)) == 10


class TestPace:
    @pytest.mark.parametrize(("configured", "effective"), [(0.1, 5), (1, 5), (5, 5), (6, 6), (10, 10), (600, 600)])
    def test_video_is_polled_at_most_every_five_seconds(self, configured: float, effective: float) -> None:
        assert seconds(wait(poll_interval=configured).on_task(RUNNING, NOW)) == effective

    @given(
        poll_interval=st.floats(min_value=0.01, max_value=3600),
        jitter=st.floats(min_value=0, max_value=1, exclude_max=True),
        responses=st.lists(st.sampled_from([RUNNING, SERVER_ERROR, NOT_FOUND, RATE_LIMITED]), max_size=20),
    )
    def test_every_delay_is_between_five_seconds_and_interval_or_two_minutes(
        self, poll_interval: float, jitter: float, responses: list[VideoTask | ToAPIsError]
    ) -> None:
        waiting = wait(poll_interval=poll_interval, jitter=jitter)
        for response in responses:
            assert 5 <= seconds(waiting.on_response(response, NOW)) <= 1.1 * max(MAX_INTERVAL, poll_interval)


class TestWaitOutcome:
    """The API is authoritative; the event is only advisory."""

    END = NOW + 100

    @pytest.mark.parametrize("event_status", ["success", "failed", "timeout", "error"])
    @pytest.mark.parametrize("now", [NOW, END, END + 1])
    @pytest.mark.parametrize(("task", "expected"), [(READY, "success"), (FAILED, "failed")], ids=["ready", "failed"])
    def test_final_video_overrides_the_event(
        self, task: VideoTask, expected: WaitStatus, now: float, event_status: WaitStatus
    ) -> None:
        assert wait_outcome(task, event_status, self.END, now) == expected

    @pytest.mark.parametrize("event_status", ["success", "failed", "timeout", "error"])
    @pytest.mark.parametrize("task", [RUNNING, video(TaskStatus.QUEUED)], ids=["in progress", "queued"])
    def test_unfinished_video_is_waited_for_until_the_deadline(self, task: VideoTask, event_status: WaitStatus) -> None:
        assert wait_outcome(task, event_status, self.END, self.END - 0.001) is None
        assert wait_outcome(task, event_status, self.END, self.END) == "timeout"
        assert wait_outcome(task, event_status, None, 1e12) is None

    @pytest.mark.parametrize(("interval", "after_error"), [(5, 300), (600, 600)])
    def test_wait_after_an_error_polls_rarely(self, interval: float, after_error: float) -> None:
        assert poll_interval_after("error", interval) == after_error
        assert poll_interval_after("success", interval) == poll_interval_after("timeout", interval) == interval

    def test_missing_url_ends_the_wait_only_after_an_error_event(self) -> None:
        assert wait_outcome(WITHOUT_URL, "error", self.END, NOW) == "error"
        assert wait_outcome(WITHOUT_URL, "success", self.END, NOW) is None
        assert wait_outcome(WITHOUT_URL, "success", self.END, self.END) == "timeout"


class TestSeconds:
    @pytest.mark.parametrize("value", [1, 0.5, 1800])
    def test_positive_seconds_are_accepted(self, value: float) -> None:
        assert require_seconds("timeout", value) == float(value)

    @pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, False, "10", None, [], 1j])
    def test_other_seconds_are_rejected_by_name(self, value: object) -> None:
        with rejects("timeout", value):
            require_seconds("timeout", value)


@given(st.text(min_size=20, max_size=60).map("a {}".format))
def test_wait_messages_contain_no_text_of_the_service(text: str) -> None:
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
