from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import pendulum
import pytest

from airflow_provider_toapis.api.flows import RecordSubmission
from airflow_provider_toapis.api.responses import TaskStatus, VideoTask
from airflow_provider_toapis.api.submit_spec import IdempotencyKeys, PriorSubmission, RequestIdentity, Submission
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsError
from airflow_provider_toapis.operators.submission_record import RECORD_KEY, SubmissionRecord, reason_of
from tests.airflow_task import FakeTaskInstance, stored_json

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

RETRIES = 2
SHOE = RequestIdentity("af-shoe", "request of shoe", "image of shoe")
BOOT = RequestIdentity("af-boot", "request of boot", "image of boot")
#: Keys of another request. They match no recorded key, because the tests record keys such as ``af-1``.
KEYS = IdempotencyKeys.from_author("other")
INTENT = RecordSubmission("af-1", video_id=None, posted_at=100.0)
REJECTED = RecordSubmission("af-1", video_id=None, rejected=True)


def accepted(key: str = "af-1", video_id: str = "video_1", generation: int = 0, **fields: Any) -> RecordSubmission:
    return RecordSubmission(key, video_id, generation=generation, task=video(video_id, **fields))


def video(video_id: str = "video_1", status: TaskStatus = TaskStatus.QUEUED, **fields: Any) -> VideoTask:
    return VideoTask(video_id, status, str(status), **fields)


class StateStore:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.is_down = False

    def get(self, key: str) -> Any:
        self._check_up()
        return self.values.get(key)

    def set(self, key: str, value: Any) -> None:
        self._check_up()
        self.values[key] = stored_json(value)

    def _check_up(self) -> None:
        if self.is_down:
            raise RuntimeError("the API server is down")


@pytest.fixture
def ti() -> FakeTaskInstance:
    return FakeTaskInstance(max_tries=RETRIES)


@pytest.fixture
def store() -> StateStore:
    return StateStore()


def record(ti: FakeTaskInstance, store: StateStore | None, retries: int = RETRIES) -> SubmissionRecord:
    context = cast("Context", {**ti.context, **({} if store is None else {"task_state_store": store})})
    return SubmissionRecord(context, retries)


class TestPriorSubmission:
    def test_first_attempt_has_no_earlier_submission(self, ti: FakeTaskInstance, store: StateStore) -> None:
        assert record(ti, store).earlier(SHOE, KEYS) is None
        assert record(ti, None).earlier(SHOE, KEYS) is None

    def test_retry_reads_the_intent_of_the_previous_attempt(self, ti: FakeTaskInstance, store: StateStore) -> None:
        record(ti, store).remember(INTENT, SHOE)
        assert record(ti.next_attempt(), store).earlier(SHOE, KEYS) == PriorSubmission(
            "af-1", posted_at=100.0, unknown_posts=1, is_current_revision=True
        )

    def test_retry_reads_the_video_of_the_previous_attempt(self, ti: FakeTaskInstance, store: StateStore) -> None:
        first = record(ti, store)
        first.remember(INTENT, SHOE)
        first.remember(accepted(), SHOE)
        assert record(ti.next_attempt(), store).earlier(SHOE, KEYS) == PriorSubmission(
            "af-1", "video_1", posted_at=100.0, is_current_revision=True
        )

    def test_records_of_different_requests_are_independent(self, ti: FakeTaskInstance, store: StateStore) -> None:
        first = record(ti, store)
        first.remember(INTENT, SHOE)
        first.remember(accepted(), SHOE)
        second = record(ti.next_attempt(), store)
        assert second.earlier(BOOT, KEYS) is None
        second.remember(RecordSubmission("af-2", None, posted_at=200.0), BOOT)
        third = record(ti.next_attempt(), store)
        current = PriorSubmission(is_current_revision=True)
        assert third.earlier(SHOE, KEYS) == replace(
            current, client_business_id="af-1", video_id="video_1", posted_at=100.0
        )
        assert third.earlier(BOOT, KEYS) == replace(
            current, client_business_id="af-2", posted_at=200.0, unknown_posts=1
        )

    def test_rejected_submission_is_removed_from_the_record(self, ti: FakeTaskInstance, store: StateStore) -> None:
        first = record(ti, store)
        first.remember(INTENT, SHOE)
        first.remember(REJECTED, SHOE)
        assert record(ti.next_attempt(), store).earlier(SHOE, KEYS) is None
        assert record(ti.cleared(), store).earlier(SHOE, KEYS) is None

    def test_rejected_submission_does_not_hide_the_earlier_video(self, ti: FakeTaskInstance, store: StateStore) -> None:
        first = record(ti, store)
        first.remember(accepted("af-0", "video_0"), SHOE)
        first.remember(INTENT, SHOE)
        first.remember(REJECTED, SHOE)
        earlier = record(ti.next_attempt(), store).earlier(SHOE, KEYS)
        assert earlier is not None
        assert (earlier.client_business_id, earlier.video_id) == ("af-0", "video_0")

    def test_unknown_outcomes_add_up_until_a_clear(self, ti: FakeTaskInstance, store: StateStore) -> None:
        for _ in range(3):
            record(ti, store).remember(INTENT, SHOE)
            ti.next_attempt()
        earlier = record(ti, store).earlier(SHOE, KEYS)
        assert earlier is not None
        assert earlier.unknown_posts == 3
        assert record(ti.cleared(), store).earlier(SHOE, KEYS) == PriorSubmission("af-1", posted_at=100.0)

    def test_failed_generations_are_distinguished_from_expired_ones(
        self, ti: FakeTaskInstance, store: StateStore
    ) -> None:
        first = record(ti, store)
        first.remember(accepted("af-0", "video_0", 0, status=TaskStatus.COMPLETED), SHOE)
        first.remember(accepted("af-1", "video_1", 1, status=TaskStatus.FAILED), SHOE)
        first.remember(accepted("af-2", "video_2", 2), SHOE)
        earlier = record(ti.next_attempt(), store).earlier(SHOE, KEYS)
        assert earlier is not None
        assert (earlier.client_business_id, earlier.failed) == ("af-2", 1)

    def test_whether_the_model_is_found_by_key_is_recorded(self, ti: FakeTaskInstance, store: StateStore) -> None:
        record(ti, store).remember(RecordSubmission("af-1", "video_1", found_by_key=True), SHOE)
        earlier = record(ti.next_attempt(), store).earlier(SHOE, KEYS)
        assert earlier is not None
        assert earlier.found_by_key

    def test_retry_without_a_record_accepts_only_not_found_of_the_service(
        self, ti: FakeTaskInstance, store: StateStore
    ) -> None:
        assert record(ti.next_attempt(), store).earlier(SHOE, KEYS) == PriorSubmission(posted_at=0.0)

    def test_possible_submission_before_a_clear_survives_a_rejected_one(
        self, ti: FakeTaskInstance, store: StateStore
    ) -> None:
        record(ti, store).remember(INTENT, SHOE)
        cleared = record(ti.cleared(), store)
        cleared.remember(INTENT, SHOE)
        cleared.remember(REJECTED, SHOE)
        earlier = record(ti.next_attempt(), store).earlier(SHOE, KEYS)
        assert earlier is not None
        assert earlier.client_business_id == "af-1"

    def test_full_record_is_incomplete(self, ti: FakeTaskInstance, store: StateStore) -> None:
        first = record(ti, store)
        for number in range(61):
            first.remember(accepted(f"af-{number}", f"video_{number}"), BOOT)
        assert record(ti.next_attempt(), store).earlier(SHOE, KEYS) == PriorSubmission()

    def test_reattached_video_has_its_creation_time_as_submission_time(
        self, ti: FakeTaskInstance, store: StateStore
    ) -> None:
        created_at = pendulum.datetime(2026, 10, 1)
        record(ti, store).attach(Submission(video(created_at=created_at), "af-1", 0, reattached=True), SHOE)
        earlier = record(ti.next_attempt(), store).earlier(SHOE, KEYS)
        assert earlier is not None
        assert earlier.posted_at == created_at.timestamp()

    def test_retry_without_a_store_assumes_a_possible_earlier_submission(self, ti: FakeTaskInstance) -> None:
        assert record(ti.next_attempt(), None).earlier(SHOE, KEYS) == PriorSubmission()

    def test_clear_with_an_empty_store_assumes_a_possible_earlier_submission(
        self, ti: FakeTaskInstance, store: StateStore
    ) -> None:
        after = record(ti.cleared(), store)
        assert after.earlier(SHOE, KEYS) == PriorSubmission()
        after.remember(accepted("af-2", "video_2"), BOOT)
        assert record(ti.next_attempt(), store).earlier(SHOE, KEYS) == PriorSubmission()

    @pytest.mark.parametrize("invalid", [{}, {"version": 9, "submissions": 5}, "text", {"submissions": [{"id": 1}]}])
    def test_unparsable_record_falls_back_to_a_lookup(
        self, ti: FakeTaskInstance, store: StateStore, invalid: object
    ) -> None:
        store.values[RECORD_KEY] = invalid
        assert record(ti.next_attempt(), store).earlier(SHOE, KEYS) == PriorSubmission()

    def test_fields_of_a_newer_version_are_ignored(self, ti: FakeTaskInstance, store: StateStore) -> None:
        record(ti, store).remember(INTENT, SHOE)
        stored_record = store.values[RECORD_KEY]
        stored_record["new"] = 1
        stored_record["submissions"][0]["new"] = 1
        assert record(ti.next_attempt(), store).earlier(SHOE, KEYS) is not None


class TestRevision:
    def test_clear_raises_the_revision_and_a_retry_does_not(self, ti: FakeTaskInstance, store: StateStore) -> None:
        first = record(ti, store)
        first.remember(INTENT, SHOE)
        assert record(ti.next_attempt(), store).revision(SHOE.request) == first.revision(SHOE.request) == RETRIES
        assert record(ti.cleared(), store).revision(SHOE.request) > first.revision(SHOE.request)

    def test_revision_never_decreases_when_retries_change(self, ti: FakeTaskInstance, store: StateStore) -> None:
        ti.max_tries = 3
        record(ti, store).remember(INTENT, SHOE)
        revisions = [3]
        for max_tries in (3 + 1, 2 + 1, 3 + 1):
            ti.next_attempt()
            ti.max_tries = max_tries
            after = record(ti, store, retries=1)
            after.remember(INTENT, SHOE)
            revisions.append(after.revision(SHOE.request))
        assert revisions == sorted(set(revisions))

    def test_clear_of_a_finished_task_raises_the_revision_with_equal_max_tries(
        self, ti: FakeTaskInstance, store: StateStore
    ) -> None:
        first = record(ti, store)
        first.remember(accepted(), SHOE)
        first.finish(result())
        assert record(ti.next_attempt(), store).revision(SHOE.request) == first.revision(SHOE.request) + 1

    def test_reattached_revision_is_kept_until_the_next_clear(self, ti: FakeTaskInstance, store: StateStore) -> None:
        first = record(ti, store)
        first.remember(accepted(), SHOE)
        cleared = record(ti.cleared(), store)
        cleared.attach(Submission(video(), "af-1", 0, reattached=True), SHOE)
        record(ti.next_attempt(), store).attach(Submission(video(), "af-1", 0, reattached=True), SHOE)
        assert record(ti.next_attempt(), store).revision(SHOE.request) == first.revision(SHOE.request)
        assert record(ti, store).revision(BOOT.request) > first.revision(SHOE.request)
        assert record(ti.cleared(), store).revision(SHOE.request) > cleared.revision(BOOT.request)

    def test_clears_are_counted(self, ti: FakeTaskInstance, store: StateStore) -> None:
        record(ti, store).remember(INTENT, SHOE)
        for clears in (1, 2):
            after = record(ti.cleared(), store)
            after.remember(INTENT, SHOE)
            assert after.clears == clears
            assert record(ti.next_attempt(), store).clears == clears

    def test_clears_are_estimated_without_a_store(self, ti: FakeTaskInstance) -> None:
        assert record(ti, None).clears == 0
        assert record(ti.next_attempt(), None).clears == 0
        assert record(ti.cleared(), None).clears == 2


class TestStoreErrors:
    def test_unreadable_record_ends_the_attempt(self, ti: FakeTaskInstance, store: StateStore) -> None:
        store.is_down = True
        with pytest.raises(ToAPIsConnectionError):
            record(ti, store)

    def test_unreadable_record_after_a_deferral_is_not_overwritten(
        self, ti: FakeTaskInstance, store: StateStore
    ) -> None:
        record(ti, store).remember(INTENT, SHOE)
        store.is_down = True
        context = cast("Context", {**ti.context, "task_state_store": store})
        resumed = SubmissionRecord(context, RETRIES, resumed=True)
        store.is_down = False
        resumed.remember(accepted("af-2", "video_2"), BOOT)
        assert record(ti.next_attempt(), store).earlier(SHOE, KEYS) is not None

    def test_unrecordable_submission_is_not_sent(self, ti: FakeTaskInstance, store: StateStore) -> None:
        first = record(ti, store)
        store.is_down = True
        with pytest.raises(ToAPIsConnectionError):
            first.remember(INTENT, SHOE)

    def test_unrecordable_video_logs_a_warning(
        self, ti: FakeTaskInstance, store: StateStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = record(ti, store)
        first.remember(INTENT, SHOE)
        store.is_down = True
        first.remember(accepted(), SHOE)
        first.update(video(status=TaskStatus.IN_PROGRESS))
        first.finish(result())
        assert {record.levelname for record in caplog.records} == {"WARNING"}


class TestLostRevisions:
    def test_record_that_a_clear_deleted_has_lost_revisions(self, ti: FakeTaskInstance) -> None:
        ti.next_attempt()
        after = record(ti.cleared(), StateStore())
        assert list(after.lost_revisions) == [3, 2, 1, 0, 9, 8, 7, 6, 5]

    @pytest.mark.parametrize("retries", [0, 1, 5])
    def test_changed_retries_do_not_hide_a_clear(self, ti: FakeTaskInstance, retries: int) -> None:
        after = record(ti.cleared(), StateStore(), retries)
        assert RETRIES in after.lost_revisions
        assert after.may_have_submitted

    def test_kept_record_and_retry_have_none(self, ti: FakeTaskInstance, store: StateStore) -> None:
        record(ti, store).remember(INTENT, SHOE)
        assert list(record(ti.next_attempt(), store).lost_revisions) == []
        assert list(record(ti.next_attempt(), StateStore()).lost_revisions) == []
        assert list(record(ti.cleared(), store).lost_revisions) == []

    def test_number_of_lost_revisions_is_limited(self, ti: FakeTaskInstance) -> None:
        ti.retries = 1000
        assert list(record(ti.cleared(), StateStore()).lost_revisions)[:40] == list(range(1000, 960, -1))

    def test_video_of_a_lost_revision_is_kept_until_the_next_clear(
        self, ti: FakeTaskInstance, store: StateStore
    ) -> None:
        after = record(ti.cleared(), store)
        found = Submission(video(), "af-old", 0, reattached=True, earlier_revision=2)
        after.attach(found, SHOE)
        assert after.revision(SHOE.request) == record(ti.next_attempt(), store).revision(SHOE.request) == 2
        assert record(ti.cleared(), store).revision(SHOE.request) == ti.max_tries


class TestSeveralModels:
    def test_failed_generations_are_counted_for_the_model_of_the_newest(
        self, ti: FakeTaskInstance, store: StateStore
    ) -> None:
        models = IdempotencyKeys.from_author("a"), IdempotencyKeys.from_author("b")
        first = record(ti, store)
        first.remember(RecordSubmission("a", None, posted_at=1.0), SHOE)
        first.remember(RecordSubmission("a", None, rejected=True), SHOE)
        for generation in (0, 1):
            key = models[1].for_generation(generation)
            first.remember(accepted(key, f"video_{generation}", generation), SHOE)
        earlier = record(ti.next_attempt(), store).earlier(SHOE, *models)
        assert earlier is not None
        assert (earlier.client_business_id, earlier.failed, earlier.is_known) == ("b-1", 1, True)


class TestReason:
    def test_text_of_the_provider_is_kept_and_storable(self) -> None:
        assert reason_of(ToAPIsError("no \0GPU \ud83d here")) == "no ?GPU ? here"

    def test_text_of_an_unexpected_error_is_left_out(self) -> None:
        assert "sk-secret" not in reason_of(ValueError("sk-secret"))


class TestVideos:
    def test_videos_list_each_generation_with_its_cost(self, ti: FakeTaskInstance, store: StateStore) -> None:
        first = record(ti, store)
        first.remember(RecordSubmission("af-0", video_id=None, posted_at=100.0), SHOE)
        first.remember(
            accepted("af-0", "video_0", status=TaskStatus.FAILED, model="m", billing={"cost_usd": "0.5"}), SHOE
        )
        created_at = pendulum.datetime(2026, 9, 21, 14, 13, 20)
        first.remember(accepted("af-1", "video_1", 1, model="m", created_at=created_at), SHOE)
        first.set_price("video_1", Decimal("0.10"))
        first.set_price("video_0", None)
        first.set_price("video_of_another_task", Decimal(7))
        first.update(video("video_1", model="m", created_at=created_at))
        assert record(ti.next_attempt(), store).videos("It is late.") == [
            {
                "id": "video_0",
                "status": "failed",
                "model": "m",
                "generation": 0,
                "client_business_id": "af-0",
                "submitted_at": "1970-01-01T00:01:40+00:00",
                "cost_usd": 0.5,
                "price_usd": None,
                "output_path": None,
                "reason": None,
                "identity": None,
            },
            {
                "id": "video_1",
                "status": "queued",
                "model": "m",
                "generation": 1,
                "client_business_id": "af-1",
                "submitted_at": "2026-09-21T14:13:20+00:00",
                "cost_usd": None,
                "price_usd": 0.1,
                "output_path": None,
                "reason": "It is late.",
                "identity": None,
            },
        ]

    def test_result_completes_the_entry_of_the_video(self, ti: FakeTaskInstance, store: StateStore) -> None:
        first = record(ti, store)
        first.remember(accepted(), SHOE)
        first.finish(result(billing={"cost_usd": "0.25"}, output_path="/videos/1.mp4"))
        (listed_video,) = first.videos()
        assert (listed_video["status"], listed_video["cost_usd"], listed_video["output_path"]) == (
            "completed",
            0.25,
            "/videos/1.mp4",
        )

    def test_resumed_worker_without_a_store_reads_the_xcom(self, ti: FakeTaskInstance) -> None:
        first = record(ti, None)
        first.remember(accepted(), SHOE)
        ti.xcom_push("toapis_video", first.videos())
        resumed = record(ti, None)
        resumed.update(video(status=TaskStatus.FAILED, billing={"cost_usd": "0.1"}))
        (listed_video,) = resumed.videos()
        assert (listed_video["id"], listed_video["status"], listed_video["cost_usd"]) == ("video_1", "failed", 0.1)

    def test_submission_of_unknown_outcome_is_not_listed(self, ti: FakeTaskInstance, store: StateStore) -> None:
        first = record(ti, store)
        first.remember(INTENT, SHOE)
        assert first.videos() == []


def result(**fields: Any) -> dict[str, Any]:
    return {
        "id": "video_1",
        "client_business_id": "af-1",
        "status": "completed",
        "model": "m",
        "billing": None,
        "output_path": None,
        **fields,
    }
