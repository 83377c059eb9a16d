"""Never pay twice, whatever sequence of answers and losses comes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_toapis.api.flows import HttpRequest, RecordSubmission
from airflow_provider_toapis.api.submit_spec import PriorSubmission
from airflow_provider_toapis.exceptions import (
    ToAPIsError,
)
from tests.unit.scripted_service import (
    LOOK_UP,
    NOT_FOUND,
    Answer,
    answer,
    refusal,
    task,
)
from tests.unit.submissions import (
    CREATED_NOTHING,
    DEFINITE_REFUSALS,
    EXPIRED,
    FAILED,
    UNANSWERED,
    UNKNOWN_OUTCOMES,
    submit,
)

LOOK_UP_ANSWERS: dict[str, Answer] = {
    **UNANSWERED,
    "not found": NOT_FOUND,
    "gone": refusal(410, "task_not_found"),
    "not exist": refusal(400, "task_not_exist"),
    "queued": task(),
    "failed": FAILED,
    "expired": EXPIRED,
}
POST_ANSWERS: dict[str, Answer] = {
    **UNKNOWN_OUTCOMES,
    **CREATED_NOTHING,
    **{name: refused for name, (refused, _) in DEFINITE_REFUSALS.items()},
    "created": task(),
}
LICENSES_TO_POST = {"not found", "gone", "not exist", *CREATED_NOTHING}


@dataclass
class Watchman:
    """Answers at random, and stops the test at an order that nothing allowed."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    clock: float = 0.0
    last_news: dict[str, str] = field(default_factory=dict)
    unknown_outcomes: int = 0
    steps: int = 0

    def answer(self, request: HttpRequest) -> Answer:
        self.steps += 1
        assert self.steps < 2000, "it does not end"
        if request.method == "GET":
            business_id = request.path.removeprefix(LOOK_UP)
            news = self.draw(st.sampled_from(sorted(LOOK_UP_ANSWERS)))
            self.last_news[business_id] = news
            return LOOK_UP_ANSWERS[news]
        assert request.json is not None
        business_id = request.json["client_business_id"]
        assert self.last_news.get(business_id) in LICENSES_TO_POST
        news = self.draw(st.sampled_from(sorted(POST_ANSWERS)))
        self.last_news[business_id] = news
        self.unknown_outcomes += news in UNKNOWN_OUTCOMES
        assert self.unknown_outcomes <= 3
        return POST_ANSWERS[news]

    def sleep(self, seconds: float) -> None:
        assert seconds <= 300
        self.clock += seconds

    def slot(self) -> None:
        self.clock += self.draw(st.sampled_from([0, 0, 0, 10]))

    def try_link(self, _: str) -> Answer:
        return answer(self.draw(st.sampled_from([200, 403, 404])))

    def remember(self, note: RecordSubmission) -> None:
        """The notes are not this test's concern."""


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_order_is_sent_unless_the_last_news_was_that_there_is_none(data: st.DataObject) -> None:
    try:
        submission = submit(Watchman(data.draw), retry_timeout=100)
    except ToAPIsError:
        return
    assert submission.task.id


@dataclass
class HonestService:
    """Makes a video for every order that reaches it, even for an id it knows, and shows it ``lag`` seconds later."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    lag: float
    clock: float = 0.0
    made: list[tuple[str, float]] = field(default_factory=list)
    noted: PriorSubmission | None = None
    posts: int = 0

    def answer(self, request: HttpRequest) -> Answer:
        if request.method == "GET":
            return self._look_up(request.path.removeprefix(LOOK_UP))
        assert request.json is not None
        fate = self.draw(st.sampled_from(["made", "made and lost", "lost", "turned away"]))
        if fate.startswith("made"):
            self.made.append((request.json["client_business_id"], self.clock))
        if fate == "turned away":
            return self.draw(st.sampled_from(list(CREATED_NOTHING.values())))  # type: ignore[no-any-return]
        return task() if fate == "made" else self.draw(st.sampled_from(list(UNKNOWN_OUTCOMES.values())))

    def _look_up(self, business_id: str) -> Answer:
        if self.draw(st.integers(0, 3)) == 0:
            return self.draw(st.sampled_from(list(UNANSWERED.values())))  # type: ignore[no-any-return]
        sought = "id-0" if business_id == "video_1" else business_id
        shown = [made for made, at in self.made if made == sought and self.clock >= at + self.lag]
        return task("in_progress") if shown else NOT_FOUND

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def slot(self) -> None:
        self.clock += self.draw(st.sampled_from([0, 0, 10]))

    def remember(self, note: RecordSubmission) -> None:
        if note.is_intent:
            self.posts += 1
        self.noted = PriorSubmission(note.client_business_id, note.video_id, unknown_posts=self.posts)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.floats(min_value=0, max_value=170), st.booleans())
def test_attempts_one_after_the_other_pay_once_whatever_is_lost(
    data: st.DataObject,
    lag: float,
    remembering: bool,
) -> None:
    service = HonestService(data.draw, lag)
    for _ in range(3):
        with suppress(ToAPIsError):
            submit(service, retry_timeout=100, earlier=service.noted if remembering else None)
        # Without a note it takes Airflow's retry_delay for a look-up that lags behind to catch up.
        service.sleep(0 if remembering else 170)
    assert len(service.made) <= 1
