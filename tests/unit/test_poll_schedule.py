"""When a video is polled: rarely while it cannot be ready, often when it is likely to be."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import mean, median

import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_toapis.api.poll_schedule import (
    INTERVALS_BEFORE_START,
    INTERVALS_ON_ONE_READING,
    LIKELY_SHARE,
    MAX_INTERRUPTED,
    ModelHistory,
    PollMemory,
    ResumedSchedule,
    Schedule,
)
from airflow_provider_toapis.api.responses import TaskStatus, VideoTask

NOW = 1_790_000_000.0
MODEL = "grok-video-1.5-preview"
HOUR = 3600.0
#: Seconds for which the schedule trusts a single progress value if the poll interval is 10 s.
TRUSTED_SECONDS = INTERVALS_ON_ONE_READING * 10
#: Seconds between two polls of a queued video if the poll interval is 10 s.
QUEUED_SECONDS = INTERVALS_BEFORE_START * 10
INTERVALS = st.floats(min_value=0.01, max_value=HOUR)
JITTERS = st.floats(min_value=0, max_value=1, exclude_max=True)
#: Progress, and seconds since the previous response.
RESPONSES = st.lists(st.tuples(st.none() | st.integers(0, 100), st.floats(-60, 600)), min_size=1, max_size=20)


def video(
    progress: int | None = None, created: float | None = 0.0, *, status: TaskStatus = TaskStatus.IN_PROGRESS
) -> VideoTask:
    """Return a video that was created ``created`` seconds after ``NOW``."""
    created_at = None if created is None else pendulum.from_timestamp(NOW + created)
    return VideoTask("video_1", status, "", model=MODEL, progress=progress, created_at=created_at)


def completed(seconds: float, model: str | None = MODEL) -> VideoTask:
    """Return a completed video that took ``seconds``."""
    return VideoTask(
        "video_1",
        TaskStatus.COMPLETED,
        "",
        model=model,
        created_at=pendulum.from_timestamp(NOW),
        completed_at=pendulum.from_timestamp(NOW + seconds),
    )


def history(*durations: float, model: str = MODEL) -> ModelHistory:
    known = ModelHistory(random.Random(1).random)
    for seconds in durations:
        known.record(completed(seconds, model))
    return known


def schedule(poll_interval: float = 10.0, known: ModelHistory | None = None, *, jitter: float = 0.5) -> Schedule:
    return Schedule(poll_interval, known, jitter=lambda: jitter)


def delays(poll_schedule: Schedule, *responses: tuple[float, int | None], created: float | None = 0.0) -> list[float]:
    """Return the delay after each response. A response is a pair of seconds after ``NOW`` and progress."""
    return [poll_schedule.after_response(video(progress, created), NOW + now) for now, progress in responses]


class TestFirstPoll:
    @pytest.mark.parametrize(
        ("poll_interval", "jitter", "delay"),
        [(10, 0.0, 5), (10, 0.5, 7.5), (10, 1.0, 10), (60, 1.0, 60), (5, 0.7, 5), (0.1, 0.7, 5)],
    )
    def test_first_poll_is_between_five_seconds_and_the_interval(
        self, poll_interval: float, jitter: float, delay: float
    ) -> None:
        assert schedule(poll_interval, jitter=jitter).first_delay(0.0) == delay


class TestMemory:
    def test_interrupted_schedule_continues_with_its_next_poll(self) -> None:
        memory = PollMemory()
        earlier = memory.schedule("video_1", 10)
        earlier.interrupted(NOW + 40)
        memory.add("video_1", 10, earlier)
        continued = memory.schedule("video_1", 10)
        assert continued is earlier
        assert [continued.first_delay(NOW + seconds) for seconds in (10, 35, -3600)] == [30, 5, 120]

    @pytest.mark.parametrize("seconds", [35.1, 40, 100])
    def test_poll_that_is_due_or_may_have_been_sent_is_delayed_at_random(self, seconds: float) -> None:
        delays = []
        for jitter in (0.0, 0.5, 1.0):
            due = schedule(jitter=jitter)
            due.interrupted(NOW + 40)
            delays.append(due.first_delay(NOW + seconds))
        assert delays == [5, 7.5, 10]

    def test_schedule_is_new_for_another_video_another_interval_and_a_second_wait(self) -> None:
        memory = PollMemory()
        earlier = memory.schedule("video_1", 10)
        memory.add("video_1", 10, earlier)
        assert memory.schedule("video_2", 10) is not earlier
        assert memory.schedule("video_1", 300) is not earlier
        memory.add("video_1", 10, earlier)
        assert memory.schedule("video_1", 10) is earlier
        assert memory.schedule("video_1", 10) is not earlier

    def test_oldest_schedule_is_dropped(self) -> None:
        memory = PollMemory()
        schedules = [Schedule(10) for _ in range(MAX_INTERRUPTED + 1)]
        for number, earlier in enumerate(schedules):
            memory.add(f"video_{number}", 10, earlier)
        assert memory.schedule("video_0", 10) is not schedules[0]
        assert memory.schedule("video_1", 10) is schedules[1]


class TestWithoutProgress:
    @pytest.mark.parametrize("progress", [None, 0])
    def test_video_is_polled_at_the_interval(self, progress: int | None) -> None:
        assert delays(schedule(), (7, progress), (17, progress), (500, progress)) == [10, 10, 10]

    @pytest.mark.parametrize(("jitter", "delay"), [(0.0, 9), (0.5, 10), (1.0, 11)])
    def test_delays_vary_by_up_to_a_tenth(self, jitter: float, delay: float) -> None:
        assert delays(schedule(jitter=jitter), (7, None)) == [pytest.approx(delay)]

    def test_default_jitter_varies_the_delays(self) -> None:
        poll_schedule = Schedule(10.0)
        assert len({*delays(poll_schedule, *[(7.0, None)] * 20)}) > 1


class TestBeforeTheStart:
    """A video without progress may wait in a queue, or its service may report no progress."""

    QUEUED = TaskStatus.QUEUED

    def test_queued_video_is_polled_rarely(self) -> None:
        assert schedule().after_response(video(0, status=self.QUEUED), NOW + 7) == QUEUED_SECONDS

    def test_video_of_a_model_with_moving_progress_is_polled_rarely_until_it_starts(self) -> None:
        known = ModelHistory()
        for progress in (12, 40, 77):
            delays(schedule(known=known), (60, progress))
        assert delays(schedule(known=known), (7, 0), (57, None)) == [QUEUED_SECONDS] * 2

    def test_constant_progress_of_a_model_does_not_count_as_moving(self) -> None:
        known = ModelHistory()
        for _ in range(100):
            delays(schedule(known=known), (60, 10))
        assert delays(schedule(known=known), (7, 0)) == [10]

    def test_queued_video_is_polled_at_the_interval_once_videos_of_the_model_can_be_ready(self) -> None:
        known = history(*[100.0] * 20)
        assert schedule(known=known).after_response(video(0, status=self.QUEUED), NOW + 110) == LIKELY_SHARE * 10

    def test_queued_video_is_not_polled_before_videos_of_a_model_with_progress_can_be_ready(self) -> None:
        known = history(*[100.0] * 20)
        for progress in (12, 40, 77):
            delays(schedule(known=known), (60, progress))
        assert delays(schedule(known=known), (7, 0), (100, 0)) == [93, QUEUED_SECONDS]

    def test_video_that_is_queued_again_is_polled_at_the_interval(self) -> None:
        poll_schedule = schedule()
        delays(poll_schedule, (7, 30))
        assert poll_schedule.after_response(video(0, status=self.QUEUED), NOW + 40) == 10


class TestProgress:
    @pytest.mark.parametrize(
        ("now", "progress", "delay"),
        [(7, 1, TRUSTED_SECONDS), (7, 12, 23.1), (7, 40, 5), (90, 20, TRUSTED_SECONDS), (60, 99, 5), (60, 100, 5)],
    )
    def test_single_progress_value_is_trusted_for_a_few_intervals(
        self, now: float, progress: int, delay: float
    ) -> None:
        assert delays(schedule(), (now, progress)) == [pytest.approx(delay, abs=0.1)]

    def test_single_progress_value_is_trusted_longer_if_the_progress_of_the_model_moves(self) -> None:
        known = ModelHistory()
        for progress in (12, 40, 77):
            delays(schedule(known=known), (60, progress))
        assert delays(schedule(known=known), (7, 1)) == [2 * TRUSTED_SECONDS]

    def test_single_progress_value_is_trusted_for_at_most_two_minutes(self) -> None:
        assert delays(schedule(100), (7, 1)) == [120]

    def test_single_progress_value_of_a_video_of_unknown_age_is_polled_at_the_interval(self) -> None:
        assert delays(schedule(), (7, 40), created=None) == [10]

    @pytest.mark.parametrize("stuck_at", [10, 37, 99])
    def test_constant_progress_is_polled_at_the_interval(self, stuck_at: int) -> None:
        assert delays(schedule(), *[(now, stuck_at) for now in (7, 47, 57, 67, 77)])[1:] == [10] * 4

    def test_coarse_step_is_waited_for(self) -> None:
        known = ModelHistory()
        for progress in (10, 30, 60, 90):
            delays(schedule(known=known), (60, progress))
        # The video was created 80 s ago and has reached at least 30 % and at most 60 %.
        assert 20 <= delays(schedule(known=known), (40, 10), (80, 30), (90, 30))[-1] <= 4 * 10

    def test_video_that_is_stuck_at_a_coarse_step_is_polled_every_few_intervals(self) -> None:
        known = ModelHistory()
        for progress in (10, 30, 60, 90):
            delays(schedule(known=known), (60, progress))
        readings = [(40.0 * number, 30) for number in range(1, 100)]
        assert all(10 <= delay <= 4 * 10 for delay in delays(schedule(known=known), *readings)[1:])

    def test_decreasing_progress_resets_the_estimate(self) -> None:
        readings = (10, 21), (30, 62), (40, 5), (60, 22)
        # The progress moved by 17 percent in 20 s, so the remaining 78 percent take 92 s.
        assert delays(schedule(), *readings)[-2:] == [10, pytest.approx(92, rel=0.1)]

    @pytest.mark.parametrize("missing", [None, 0])
    def test_missing_progress_resets_the_estimate(self, missing: int | None) -> None:
        assert delays(schedule(), (10, 20), (30, 60), (40, missing), (50, 20))[-2:] == [10, 10]

    def test_imprecise_estimate_is_refined_soon_after_the_earliest_end(self) -> None:
        # The progress moved by more than 9 and less than 11 percent in 12 s. The video ends in 51 to 64 s.
        assert delays(schedule(), (100, 42), (112, 52), created=-1000)[-1] == pytest.approx(51 + 13 / 4, abs=1)

    def test_estimate_is_trusted_for_twice_the_age_of_the_wait(self) -> None:
        assert delays(schedule(), (7, 21), (12, 36), created=-1)[-1] == pytest.approx(20, abs=6)

    @pytest.mark.parametrize("duration", [40.0, 61.3, 90.0, 100.0])
    def test_poll_after_a_precise_estimate_lands_just_after_the_end(self, duration: float) -> None:
        def percent(now: float) -> int:
            return int(100 * now / duration)

        reading = 0.7 * duration
        next_poll = reading + delays(schedule(), (7, percent(7)), (reading, percent(reading)))[-1]
        if duration - reading > 5:
            assert duration < next_poll <= duration + 3.5

    def test_hundred_percent_without_completion_is_polled_at_the_interval(self) -> None:
        assert delays(schedule(), (10, 50), (20, 100), (25, 100), (35, 100)) == [5, 5, 10, 10]

    def test_clock_set_back_does_not_break_the_estimate(self) -> None:
        assert delays(schedule(), (100, 21), (40, 62)) == [TRUSTED_SECONDS, pytest.approx(11, abs=1)]


class TestHistory:
    def test_too_short_history_is_not_used(self) -> None:
        assert history(*[100.0] * 19).earliest(MODEL) is None
        assert history(*[100.0] * 20).earliest(MODEL) == 100

    def test_history_is_per_model(self) -> None:
        known = history(*[100.0] * 20)
        assert known.earliest("sora-2") is None
        assert known.earliest(None) is None

    def test_earliest_time_is_the_tenth_percentile(self) -> None:
        assert history(*(float(seconds) for seconds in range(200, 0, -1))).earliest(MODEL) == 21

    def test_history_samples_fast_videos_of_a_large_batch_too(self) -> None:
        # The videos finish in the order of their durations; a tenth of them took at most 1000 s.
        known = history(*map(float, range(1, 10_001)))
        assert known.earliest(MODEL) == pytest.approx(1000, rel=0.5)

    def test_faster_videos_replace_the_history(self) -> None:
        known = history(*[100.0] * 10_000)
        for _ in range(1000):
            known.record(completed(10))
        assert known.earliest(MODEL) == 10

    @pytest.mark.parametrize("seconds", [0, -5])
    def test_video_without_positive_duration_is_ignored(self, seconds: float) -> None:
        assert history(*[seconds] * 20).earliest(MODEL) is None

    def test_schedule_records_finished_videos_in_the_history(self) -> None:
        known = ModelHistory()
        for _ in range(20):
            schedule(known=known).finished(completed(100))
        assert known.earliest(MODEL) == 100

    def test_first_poll_waits_until_a_video_of_the_model_can_be_ready(self) -> None:
        known = history(*[100.0] * 20)
        assert delays(schedule(known=known), (7, None)) == [93]

    def test_polls_are_closer_once_a_video_can_be_ready(self) -> None:
        known = history(*[100.0] * 20)
        assert delays(schedule(known=known), (97, None), (106, None)) == [pytest.approx(LIKELY_SHARE * 10)] * 2

    def test_delay_is_at_most_two_minutes_despite_exact_estimate(self) -> None:
        assert delays(schedule(20), (20, None), (100, 1), (180, 40))[-1] == 120

    def test_delay_is_at_most_two_minutes(self) -> None:
        assert delays(schedule(known=history(*[HOUR] * 20)), (7, None)) == [120]

    def test_other_models_are_polled_at_the_interval(self) -> None:
        known = history(*[100.0] * 20, model="sora-2")
        assert delays(schedule(known=known), (7, None)) == [10]

    def test_progress_overrides_history(self) -> None:
        known = history(*[100.0] * 20)
        assert delays(schedule(known=known), (7, 40)) == delays(schedule(), (7, 40))


class TestFailedPolls:
    def test_failed_polls_back_off(self) -> None:
        waits = [schedule().delay_without_progress(failures) for failures in range(6)]
        assert waits == [10, 20, 40, 80, 120, 120]
        assert schedule().delay_without_progress(10_000) == 120

    def test_poll_interval_above_the_maximum_is_kept(self) -> None:
        assert schedule(600).delay_without_progress(3) == 600

    @pytest.mark.parametrize(("retry_after", "delay"), [(0, 10), (1, 10), (77, 77), (300, 300)])
    def test_retry_after_extends_but_does_not_shorten_the_delay(self, retry_after: float, delay: float) -> None:
        assert schedule().delay_without_progress(at_least=retry_after) == delay


class TestBounds:
    @given(
        poll_interval=INTERVALS,
        jitter=JITTERS,
        responses=RESPONSES,
        created=st.none() | st.floats(-2 * HOUR, 2 * HOUR),
        duration=st.none() | st.floats(1, 2 * HOUR),
    )
    def test_delay_after_a_response_is_bounded(
        self,
        poll_interval: float,
        jitter: float,
        responses: list[tuple[int | None, float]],
        *,
        created: float | None,
        duration: float | None,
    ) -> None:
        poll_schedule = schedule(poll_interval, history(*[duration] * 20) if duration else None, jitter=jitter)
        now = poll_schedule.first_delay(0.0)
        assert 5 <= now <= max(5, poll_interval)
        for progress, extra in responses:
            (delay,) = delays(poll_schedule, (now, progress), created=created)
            assert 5 <= delay <= max(120, 1.1 * poll_interval)
            now += delay + extra

    @given(failures=st.integers(0, 10_000), retry_after=st.floats(0, 300), poll_interval=INTERVALS, jitter=JITTERS)
    def test_delay_after_failures_is_bounded(
        self, failures: int, retry_after: float, poll_interval: float, jitter: float
    ) -> None:
        delay = schedule(poll_interval, jitter=jitter).delay_without_progress(failures, retry_after)
        assert max(5, retry_after) <= delay <= max(retry_after, 1.1 * max(120, poll_interval))

    @given(poll_interval=INTERVALS, jitter=JITTERS, responses=RESPONSES)
    def test_equal_responses_and_jitter_give_equal_delays(
        self, poll_interval: float, jitter: float, responses: list[tuple[int | None, float]]
    ) -> None:
        readings = [(now, progress) for progress, now in responses]
        assert delays(schedule(poll_interval, jitter=jitter), *readings) == delays(
            schedule(poll_interval, jitter=jitter), *readings
        )


#: Returns the progress in percent from the age of a video and its duration; None if the service reports none.
Progress = Callable[[float, float], int | None]


def linear(now: float, duration: float) -> int:
    return int(100 * now / duration)


def after_queue(now: float, duration: float) -> int:
    """The video waits in a queue for a tenth to a half of its duration."""
    start = duration * (0.1 + 0.4 * (duration * 0.618 % 1))
    return max(0, int(100 * (now - start) / (duration - start)))


def in_steps(now: float, duration: float) -> int:
    return max(step for step in (0, 10, 30, 60, 90) if step <= 100 * now / duration)


def silent(now: float, duration: float) -> None:
    """The service reports no progress."""


def stuck_at_ten(now: float, duration: float) -> int:
    return 10


def stuck_at_99(now: float, duration: float) -> int:
    return min(99, int(200 * now / duration))


def slower_and_slower(now: float, duration: float) -> int:
    return int(100 - 100 * (1 - now / duration) ** 2)


class TestSimulation:
    """Simulate 300 videos of one to five minutes."""

    DURATIONS = tuple(map(random.Random(1).uniform, [60] * 300, [300] * 300))

    @staticmethod
    def simulate(
        poll_schedule: Schedule, duration: float, progress: Progress, *, clocks_differ_by: float = 0.0
    ) -> tuple[int, float]:
        """Return the number of polls, and the seconds between the end of a video and its last poll."""
        now, polls = poll_schedule.first_delay(0.0), 1
        while now < duration:
            percent = progress(now, duration)
            status = TaskStatus.IN_PROGRESS if percent else TaskStatus.QUEUED
            task = video(percent, clocks_differ_by, status=TaskStatus.IN_PROGRESS if progress is silent else status)
            now += poll_schedule.after_response(task, NOW + now)
            polls += 1
        poll_schedule.finished(completed(duration))
        return polls, now - duration

    def simulate_all(
        self, progress: Progress, known: ModelHistory | None = None, *, clocks_differ_by: float = 0.0, seed: int = 2
    ) -> tuple[float, float, float]:
        """Return the mean and maximum number of polls, and the median delay in seconds."""
        rng = random.Random(seed)
        outcomes = [
            self.simulate(
                Schedule(10.0, known, jitter=rng.random), duration, progress, clocks_differ_by=clocks_differ_by
            )
            for duration in self.DURATIONS
        ]
        polls, lags = zip(*outcomes, strict=True)
        return mean(polls), max(polls), median(lags)

    @pytest.mark.parametrize(("clocks_differ_by", "polls"), [(0, 6), (-HOUR, 6), (HOUR, 7)])
    def test_linear_progress_needs_four_polls_and_loses_two_seconds(self, clocks_differ_by: float, polls: int) -> None:
        mean_polls, max_polls, lag = self.simulate_all(linear, clocks_differ_by=clocks_differ_by)
        assert mean_polls <= (5.5 if clocks_differ_by else 4)
        assert max_polls <= polls
        assert lag <= (2 if clocks_differ_by else 1.5)

    @pytest.mark.parametrize(
        ("progress", "polls", "seconds"),
        [(linear, 3.6, 1.5), (after_queue, 4.3, 2), (in_steps, 5, 8)],
    )
    def test_known_model_needs_few_polls(self, progress: Progress, polls: float, seconds: float) -> None:
        known = ModelHistory(random.Random(3).random)
        self.simulate_all(progress, known)
        mean_polls, _, lag = self.simulate_all(progress, known)
        assert mean_polls <= polls
        assert lag <= seconds

    @pytest.mark.parametrize(("progress", "polls"), [(linear, 4), (after_queue, 5), (in_steps, 10)])
    def test_unknown_model_needs_few_polls(self, progress: Progress, polls: float) -> None:
        mean_polls, _, _ = self.simulate_all(progress)
        assert mean_polls <= polls

    @pytest.mark.parametrize("clocks_differ_by", [0, -HOUR, HOUR])
    @pytest.mark.parametrize("known", [None, history(*DURATIONS)], ids=["no history", "history"])
    def test_missing_progress_loses_half_an_interval_despite_clock_differences(
        self, known: ModelHistory | None, clocks_differ_by: float
    ) -> None:
        _, _, lag = self.simulate_all(silent, known, clocks_differ_by=clocks_differ_by)
        assert lag <= 5.5

    @pytest.mark.parametrize("progress", [stuck_at_ten, stuck_at_99, slower_and_slower])
    def test_wrong_progress_costs_no_more_than_polling_at_the_interval(self, progress: Progress) -> None:
        known = ModelHistory(random.Random(3).random)
        for _ in range(2):
            polls, _, lag = self.simulate_all(progress, known)
            assert polls <= 20
            assert lag <= 7

    def test_history_saves_a_quarter_of_the_polls_without_delay(self) -> None:
        known = history(*self.DURATIONS)
        informed, naive = (
            [self.simulate_all(silent, model, seed=seed) for seed in range(5)] for model in (known, None)
        )
        assert mean(polls for polls, _, _ in informed) <= 0.75 * mean(polls for polls, _, _ in naive)
        assert mean(lag for _, _, lag in informed) <= mean(lag for _, _, lag in naive)


class TestResumed:
    """The schedule of look-ups after a wait, when the video is probably ready."""

    def test_first_failures_are_retried_soon_and_later_ones_back_off(self) -> None:
        schedule = ResumedSchedule(10, jitter=lambda: 0.5)
        delays = [schedule.delay_without_progress(failures) for failures in range(1, 11)]
        assert delays == [1, 2, 4, 8, 15, 20, 40, 80, 120, 120]

    def test_retry_after_is_the_minimum_delay(self) -> None:
        schedule = ResumedSchedule(10, jitter=lambda: 0.5)
        assert [schedule.delay_without_progress(failures, at_least=61) for failures in (0, 1, 6)] == [61, 61, 61]
