"""submit_once bills no video twice, for random sequences of responses and losses."""

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
    Response,
    rejection,
    response,
    task,
)
from tests.unit.submissions import (
    EXPIRED,
    FAILED,
    INCONCLUSIVE_LOOKUPS,
    NOTHING_CREATED,
    PERMANENT_REJECTIONS,
    UNKNOWN_OUTCOMES,
    submit,
)

LOOKUP_RESPONSES: dict[str, Response] = {
    **INCONCLUSIVE_LOOKUPS,
    "not found": NOT_FOUND,
    "gone": rejection(410, "task_not_found"),
    "not exist": rejection(400, "task_not_exist"),
    "queued": task(),
    "failed": FAILED,
    "expired": EXPIRED,
}
SUBMISSION_RESPONSES: dict[str, Response] = {
    **UNKNOWN_OUTCOMES,
    **NOTHING_CREATED,
    **{name: rejected for name, (rejected, _) in PERMANENT_REJECTIONS.items()},
    "created": task(),
}
ALLOWING_RESPONSES = {"not found", "gone", "not exist", *NOTHING_CREATED}


@dataclass
class RandomService:
    """Responds at random, and fails the test at a submission that is not allowed."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    clock: float = 0.0
    last_responses: dict[str, str] = field(default_factory=dict)
    unknown_outcomes: int = 0
    steps: int = 0

    def respond(self, request: HttpRequest) -> Response:
        self.steps += 1
        assert self.steps < 2000, "the flow does not end"
        if request.method == "GET":
            key = request.path.removeprefix(LOOK_UP)
            name = self.draw(st.sampled_from(sorted(LOOKUP_RESPONSES)))
            self.last_responses[key] = name
            return LOOKUP_RESPONSES[name]
        assert request.json is not None
        key = request.json["client_business_id"]
        assert self.last_responses.get(key) in ALLOWING_RESPONSES
        name = self.draw(st.sampled_from(sorted(SUBMISSION_RESPONSES)))
        self.last_responses[key] = name
        self.unknown_outcomes += name in UNKNOWN_OUTCOMES
        assert self.unknown_outcomes <= 3
        return SUBMISSION_RESPONSES[name]

    def sleep(self, seconds: float) -> None:
        assert seconds <= 300
        self.clock += seconds

    def slot(self) -> None:
        self.clock += self.draw(st.sampled_from([0, 0, 0, 10]))

    def try_url(self, _: str) -> Response:
        return response(self.draw(st.sampled_from([200, 403, 404])))

    def record(self, record: RecordSubmission) -> None:
        """Ignore the record."""


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_submission_is_sent_only_if_the_last_response_allows_it(data: st.DataObject) -> None:
    try:
        submission = submit(RandomService(data.draw), retry_timeout=100)
    except ToAPIsError:
        return
    assert submission.task.id


@dataclass
class LaggingService:
    """Creates a new video even for a known idempotency key. Look-ups find a video ``lag`` seconds later."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    lag: float
    clock: float = 0.0
    created: list[tuple[str, float]] = field(default_factory=list)
    recorded: PriorSubmission | None = None
    posts: int = 0

    def respond(self, request: HttpRequest) -> Response:
        if request.method == "GET":
            return self._look_up(request.path.removeprefix(LOOK_UP))
        assert request.json is not None
        outcome = self.draw(st.sampled_from(["created", "created and lost", "lost", "not created"]))
        if outcome.startswith("created"):
            self.created.append((request.json["client_business_id"], self.clock))
        if outcome == "not created":
            return self.draw(st.sampled_from(list(NOTHING_CREATED.values())))  # type: ignore[no-any-return]
        return task() if outcome == "created" else self.draw(st.sampled_from(list(UNKNOWN_OUTCOMES.values())))

    def _look_up(self, key: str) -> Response:
        if self.draw(st.integers(0, 3)) == 0:
            return self.draw(st.sampled_from(list(INCONCLUSIVE_LOOKUPS.values())))  # type: ignore[no-any-return]
        wanted_key = "id-0" if key == "video_1" else key
        visible = [created for created, at in self.created if created == wanted_key and self.clock >= at + self.lag]
        return task("in_progress") if visible else NOT_FOUND

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def slot(self) -> None:
        self.clock += self.draw(st.sampled_from([0, 0, 10]))

    def record(self, record: RecordSubmission) -> None:
        if record.is_intent:
            self.posts += 1
        self.recorded = PriorSubmission(record.client_business_id, record.video_id, unknown_posts=self.posts)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.floats(min_value=0, max_value=170), st.booleans())
def test_consecutive_attempts_are_billed_once_despite_lost_responses(
    data: st.DataObject,
    lag: float,
    with_record: bool,
) -> None:
    service = LaggingService(data.draw, lag)
    for _ in range(3):
        with suppress(ToAPIsError):
            submit(service, retry_timeout=100, earlier=service.recorded if with_record else None)
        # Without a record, the next attempt finds a lagging video only because Airflow's retry_delay has passed.
        service.sleep(0 if with_record else 170)
    assert len(service.created) <= 1
