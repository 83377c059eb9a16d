"""When a video is asked for again: rarely while it cannot be ready, closely when it is likely to be."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import mean, median

import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_toapis.api.poll_schedule import (
    INTERVALS_ON_ONE_READING,
    LIKELY_SHARE,
    ModelHistory,
    ResumedSchedule,
    Schedule,
)
from airflow_provider_toapis.api.responses import TaskStatus, VideoTask

NOW = 1_790_000_000.0
MODEL = "grok-video-1.5-preview"
HOUR = 3600.0
#: Seconds that a reading of progress is trusted for at an interval of ten.
TRUSTED = INTERVALS_ON_ONE_READING * 10
INTERVALS = st.floats(min_value=0.01, max_value=HOUR)
JITTERS = st.floats(min_value=0, max_value=1, exclude_max=True)
#: Progress, and seconds since the answer before.
ANSWERS = st.lists(st.tuples(st.none() | st.integers(0, 100), st.floats(-60, 600)), min_size=1, max_size=20)


def video(progress: int | None = None, created: float | None = 0.0, model: str | None = MODEL) -> VideoTask:
    """Return a video in the making that was created so many seconds after ``NOW``."""
    created_at = None if created is None else pendulum.from_timestamp(NOW + created)
    return VideoTask("video_1", TaskStatus.IN_PROGRESS, "", model=model, progress=progress, created_at=created_at)


def completed(seconds: float, model: str | None = MODEL) -> VideoTask:
    """Return a video that took so many seconds."""
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


def delays(chosen: Schedule, *answers: tuple[float, int | None], created: float | None = 0.0) -> list[float]:
    """Return the waits after answers, each of them a number of seconds after ``NOW`` and a progress."""
    return [chosen.after_response(video(progress, created), NOW + moment) for moment, progress in answers]


class TestFirstPoll:
    @pytest.mark.parametrize(
        ("poll_interval", "jitter", "delay"),
        [(10, 0.0, 5), (10, 0.5, 7.5), (10, 1.0, 10), (60, 1.0, 60), (5, 0.7, 5), (0.1, 0.7, 5)],
    )
    def test_comes_between_five_seconds_and_the_interval(
        self, poll_interval: float, jitter: float, delay: float
    ) -> None:
        assert schedule(poll_interval, jitter=jitter).first_delay() == delay


class TestWithoutProgress:
    @pytest.mark.parametrize("progress", [None, 0])
    def test_it_is_asked_at_the_interval(self, progress: int | None) -> None:
        assert delays(schedule(), (7, progress), (17, progress), (500, progress)) == [10, 10, 10]

    @pytest.mark.parametrize(("jitter", "delay"), [(0.0, 9), (0.5, 10), (1.0, 11)])
    def test_waits_are_off_by_up_to_a_tenth(self, jitter: float, delay: float) -> None:
        assert delays(schedule(jitter=jitter), (7, None)) == [pytest.approx(delay)]

    def test_by_itself_it_waits_differently_each_time(self) -> None:
        chosen = Schedule(10.0)
        assert len({*delays(chosen, *[(7.0, None)] * 20)}) > 1


class TestProgress:
    @pytest.mark.parametrize(
        ("moment", "progress", "delay"),
        [(7, 1, TRUSTED), (7, 10, TRUSTED), (7, 40, 7.25), (90, 20, TRUSTED), (60, 99, 5), (60, 100, 5)],
    )
    def test_single_reading_is_trusted_for_a_few_intervals_only(
        self, moment: float, progress: int, delay: float
    ) -> None:
        assert delays(schedule(), (moment, progress)) == [pytest.approx(delay, abs=0.1)]

    def test_single_reading_of_a_slow_poll_is_not_trusted_for_longer_than_two_minutes(self) -> None:
        assert delays(schedule(100), (7, 1)) == [120]

    def test_model_that_says_ten_percent_from_first_to_last_is_asked_at_the_interval(self) -> None:
        assert delays(schedule(), *[(moment, 10) for moment in (7, 27, 37, 47, 57)])[1:] == [10] * 4

    def test_pace_is_measured_from_the_moment_when_it_began_to_move(self) -> None:
        standing, moving = schedule(), schedule()
        delays(standing, *[(moment, 10) for moment in (7, 27, 37, 47)])
        delays(moving, (47, 10))
        assert delays(standing, (57, 30)) == delays(moving, (57, 30))

    def test_progress_that_falls_back_starts_anew(self) -> None:
        fallen, young = schedule(), schedule()
        delays(fallen, (10, 20), (30, 60))
        assert delays(fallen, (40, 5), (60, 20)) == delays(young, (40, 5), (60, 20))

    @pytest.mark.parametrize("nothing", [None, 0])
    def test_progress_that_is_missing_once_starts_anew(self, nothing: int | None) -> None:
        interrupted = schedule()
        assert delays(interrupted, (10, 20), (30, 60), (40, nothing))[-1] == 10
        assert delays(interrupted, (50, 20)) == delays(schedule(), (50, 20))

    @pytest.mark.parametrize(
        ("first", "second", "rest"),
        [((10, 10), (20, 20), 80), ((100, 50), (110, 56), 72), ((10, 10), (15, 30), 17)],
        ids=["far from the end", "imprecise", "too early"],
    )
    def test_estimate_is_refined_before_the_end(
        self, first: tuple[float, int], second: tuple[float, int], rest: float
    ) -> None:
        assert 0.5 * rest <= delays(schedule(), first, second)[-1] <= 0.8 * rest

    def test_estimate_is_trusted_for_twice_the_age_of_the_wait(self) -> None:
        assert delays(schedule(), (7, 1), (12, 2), created=None)[-1] == 10

    @pytest.mark.parametrize("duration", [40.0, 61.3, 100.0, 150.0])
    def test_poll_after_a_precise_estimate_lands_just_after_the_end(self, duration: float) -> None:
        def percent(moment: float) -> int:
            return int(100 * moment / duration)

        reading = 0.7 * duration
        next_poll = reading + delays(schedule(), (7, percent(7)), (reading, percent(reading)))[-1]
        if duration - reading > 5:
            assert duration < next_poll <= duration + 3.5

    def test_hundred_percent_without_an_end_is_asked_at_the_interval(self) -> None:
        assert delays(schedule(), (10, 50), (20, 100), (25, 100), (35, 100)) == [
            pytest.approx(7, abs=0.2),
            5,
            10,
            10,
        ]

    def test_clock_that_is_set_back_meanwhile_starts_anew(self) -> None:
        assert delays(schedule(), (100, 20), (40, 60)) == [TRUSTED, 10]


class TestHistory:
    def test_too_little_of_it_is_not_used(self) -> None:
        assert history(*[100.0] * 19).earliest(MODEL) is None
        assert history(*[100.0] * 20).earliest(MODEL) == 100

    def test_it_is_kept_by_model(self) -> None:
        known = history(*[100.0] * 20)
        assert known.earliest("sora-2") is None
        assert known.earliest(None) is None

    def test_one_video_of_twenty_may_be_ready_before_it_is_asked_for(self) -> None:
        assert history(*(float(seconds) for seconds in range(200, 0, -1))).earliest(MODEL) == 11

    def test_of_many_that_were_ordered_at_once_not_only_the_slowest_are_remembered(self) -> None:
        # They end, and are seen, in the order of what they took; the twentieth part of them took up to 500 s.
        known = history(*map(float, range(1, 10_001)))
        assert known.earliest(MODEL) == pytest.approx(500, rel=0.5)

    def test_videos_that_become_faster_are_believed_in_the_end(self) -> None:
        known = history(*[100.0] * 10_000)
        for _ in range(1000):
            known.record(completed(10))
        assert known.earliest(MODEL) == 10

    @pytest.mark.parametrize("seconds", [0, -5])
    def test_video_that_took_no_time_is_not_believed(self, seconds: float) -> None:
        assert history(*[seconds] * 20).earliest(MODEL) is None

    def test_schedule_learns_from_the_end_of_a_video(self) -> None:
        known = ModelHistory()
        for _ in range(20):
            schedule(known=known).finished(completed(100))
        assert known.earliest(MODEL) == 100

    def test_no_poll_before_a_video_of_the_model_can_be_ready(self) -> None:
        known = history(*[100.0] * 20)
        assert delays(schedule(known=known), (7, None)) == [93]

    def test_from_then_on_it_is_asked_a_little_more_closely(self) -> None:
        known = history(*[100.0] * 20)
        assert delays(schedule(known=known), (97, None), (106, None)) == [pytest.approx(LIKELY_SHARE * 10)] * 2

    def test_no_wait_is_longer_than_two_minutes_even_when_the_end_is_known_exactly(self) -> None:
        assert delays(schedule(20), (20, None), (100, 1), (180, 40))[-1] == 120

    def test_no_wait_is_longer_than_two_minutes(self) -> None:
        assert delays(schedule(known=history(*[HOUR] * 20)), (7, None)) == [120]

    def test_other_models_are_asked_at_the_interval(self) -> None:
        known = history(*[100.0] * 20, model="sora-2")
        assert delays(schedule(known=known), (7, None)) == [10]

    def test_progress_tells_more(self) -> None:
        known = history(*[100.0] * 20)
        assert delays(schedule(known=known), (7, 40)) == delays(schedule(), (7, 40))


class TestTrouble:
    def test_service_in_trouble_is_asked_less_and_less_often(self) -> None:
        waits = [schedule().delay_without_progress(failures) for failures in range(6)]
        assert waits == [10, 20, 40, 80, 120, 120]
        assert schedule().delay_without_progress(10_000) == 120

    def test_interval_above_the_longest_one_is_kept(self) -> None:
        assert schedule(600).delay_without_progress(3) == 600

    @pytest.mark.parametrize(("told", "delay"), [(0, 10), (1, 10), (77, 77), (300, 300)])
    def test_service_may_ask_for_more_but_not_for_less(self, told: float, delay: float) -> None:
        assert schedule().delay_without_progress(at_least=told) == delay


class TestBounds:
    @given(
        poll_interval=INTERVALS,
        jitter=JITTERS,
        answers=ANSWERS,
        created=st.none() | st.floats(-2 * HOUR, 2 * HOUR),
        took=st.none() | st.floats(1, 2 * HOUR),
    )
    def test_no_video_is_asked_for_more_often_than_every_five_seconds_nor_forgotten(
        self,
        poll_interval: float,
        jitter: float,
        answers: list[tuple[int | None, float]],
        *,
        created: float | None,
        took: float | None,
    ) -> None:
        chosen = schedule(poll_interval, history(*[took] * 20) if took else None, jitter=jitter)
        moment = chosen.first_delay()
        assert 5 <= moment <= max(5, poll_interval)
        for progress, passed in answers:
            (delay,) = delays(chosen, (moment, progress), created=created)
            assert 5 <= delay <= max(120, 1.1 * poll_interval)
            moment += delay + passed

    @given(failures=st.integers(0, 10_000), told=st.floats(0, 300), poll_interval=INTERVALS, jitter=JITTERS)
    def test_nor_when_nothing_is_learned_about_it(
        self, failures: int, told: float, poll_interval: float, jitter: float
    ) -> None:
        delay = schedule(poll_interval, jitter=jitter).delay_without_progress(failures, told)
        assert max(5, told) <= delay <= max(told, 1.1 * max(120, poll_interval))

    @given(poll_interval=INTERVALS, jitter=JITTERS, answers=ANSWERS)
    def test_same_answers_and_dice_mean_the_same_waits(
        self, poll_interval: float, jitter: float, answers: list[tuple[int | None, float]]
    ) -> None:
        readings = [(moment, progress) for progress, moment in answers]
        assert delays(schedule(poll_interval, jitter=jitter), *readings) == delays(
            schedule(poll_interval, jitter=jitter), *readings
        )


class TestSimulation:
    """Three hundred videos of one to five minutes, one after the other."""

    DURATIONS = tuple(map(random.Random(1).uniform, [60] * 300, [300] * 300))

    @staticmethod
    def watched(
        chosen: Schedule, duration: float, *, honest: bool = False, clocks_differ_by: float = 0.0
    ) -> tuple[int, float]:
        """Return how often a video was asked for, and how long it was ready before that was known."""
        moment, polls = chosen.first_delay(), 1
        while moment < duration:
            task = video(int(100 * moment / duration) if honest else None, created=clocks_differ_by)
            moment += chosen.after_response(task, NOW + moment)
            polls += 1
        chosen.finished(completed(duration))
        return polls, moment - duration

    def all_watched(self, make: Callable[[random.Random], Schedule], **how: float) -> tuple[float, float, float]:
        """Return the mean number of polls, the most, and the median of the seconds lost."""
        dice = random.Random(2)
        outcomes = [self.watched(make(dice), duration, **how) for duration in self.DURATIONS]  # type: ignore[arg-type]
        polls, lags = zip(*outcomes, strict=True)
        return mean(polls), max(polls), median(lags)

    @pytest.mark.parametrize(("clocks_differ_by", "polls"), [(0, 6), (-HOUR, 6), (HOUR, 7)])
    def test_honest_progress_needs_few_polls_and_loses_two_seconds(self, clocks_differ_by: float, polls: int) -> None:
        _, most, lag = self.all_watched(
            lambda dice: Schedule(10.0, jitter=dice.random), honest=True, clocks_differ_by=clocks_differ_by
        )
        assert most <= polls
        assert lag <= 2

    @pytest.mark.parametrize("clocks_differ_by", [0, -HOUR, HOUR])
    @pytest.mark.parametrize("known", [None, history(*DURATIONS)], ids=["no history", "history"])
    def test_without_progress_half_an_interval_is_lost_however_the_clocks_differ(
        self, known: ModelHistory | None, clocks_differ_by: float
    ) -> None:
        _, _, lag = self.all_watched(
            lambda dice: Schedule(10.0, known, jitter=dice.random), clocks_differ_by=clocks_differ_by
        )
        assert lag <= 5.5

    def test_history_saves_a_fifth_of_the_polls_and_no_time_is_lost(self) -> None:
        known = history(*self.DURATIONS)
        polls, _, lag = self.all_watched(lambda dice: Schedule(10.0, known, jitter=dice.random))
        naive_polls, _, naive_lag = self.all_watched(lambda dice: Schedule(10.0, jitter=dice.random))
        assert polls <= 0.8 * naive_polls
        assert lag <= naive_lag


class TestResumed:
    """The look-up after a wait: the video is probably ready."""

    def test_first_failures_are_retried_soon_and_later_ones_less_and_less_often(self) -> None:
        schedule = ResumedSchedule(10, jitter=lambda: 0.5)
        delays = [schedule.delay_without_progress(failures) for failures in range(1, 11)]
        assert delays == [1, 2, 4, 8, 15, 20, 40, 80, 120, 120]

    def test_waits_at_least_as_long_as_the_service_asks_for(self) -> None:
        schedule = ResumedSchedule(10, jitter=lambda: 0.5)
        assert [schedule.delay_without_progress(failures, at_least=61) for failures in (0, 1, 6)] == [61, 61, 61]
