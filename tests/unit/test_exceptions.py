"""Which errors Airflow retries, and what an error carries from the API layer to the task's log."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from functools import partial

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_toapis import exceptions
from airflow_provider_toapis.api.responses import TaskError, TaskStatus, VideoTask

#: No retry can help.
FAIL_FAST = {
    "ToAPIsRequestError",
    "ToAPIsFileError",
    "ToAPIsAuthError",
    "ToAPIsQuotaError",
    "ToAPIsContentPolicyError",
    "ToAPIsTaskRejectedError",
    "ToAPIsFinalFailureError",
}
#: A retry may help, or a video that is paid must not be thrown away.
RETRYABLE = {
    "ToAPIsBatchError",
    "ToAPIsError",
    "ToAPIsRateLimitError",
    "ToAPIsServerError",
    "ToAPIsConnectionError",
    "ToAPIsNotFoundError",
    "ToAPIsWaitInterruptedError",
    "ToAPIsTaskFailedError",
    "ToAPIsTimeoutError",
    "ToAPIsDownloadError",
}
each_fail_fast = pytest.mark.parametrize("name", sorted(FAIL_FAST))
each_retryable = pytest.mark.parametrize("name", sorted(RETRYABLE))
each_error = pytest.mark.parametrize("name", sorted(FAIL_FAST | RETRYABLE))

FAILED = VideoTask(
    id="video_1", status=TaskStatus.FAILED, raw_status="failed", error=TaskError("generation_failed", "no GPU")
)


def made(name: str) -> exceptions.ToAPIsError:
    error = getattr(exceptions, name)("what happened")
    assert isinstance(error, exceptions.ToAPIsError)
    return error


class TestTree:
    def test_every_error_is_permanent_or_worth_a_retry(self) -> None:
        names = {
            name
            for name, thing in vars(exceptions).items()
            if inspect.isclass(thing) and issubclass(thing, exceptions.ToAPIsError)
        }
        assert names == FAIL_FAST | RETRYABLE == set(exceptions.__all__)

    @each_fail_fast
    def test_what_no_retry_can_help_fails_the_task_at_once(self, name: str) -> None:
        assert issubclass(getattr(exceptions, name), AirflowFailException)

    @each_retryable
    def test_everything_else_is_retried(self, name: str) -> None:
        assert not issubclass(getattr(exceptions, name), AirflowFailException)

    def test_file_that_cannot_be_used_is_a_rejected_request(self) -> None:
        assert issubclass(exceptions.ToAPIsFileError, exceptions.ToAPIsRequestError)

    def test_rejected_content_is_a_failed_task_and_a_content_policy_error(self) -> None:
        assert issubclass(exceptions.ToAPIsTaskRejectedError, exceptions.ToAPIsTaskFailedError)
        assert issubclass(exceptions.ToAPIsTaskRejectedError, exceptions.ToAPIsContentPolicyError)

    def test_final_failure_is_a_failed_task(self) -> None:
        assert issubclass(exceptions.ToAPIsFinalFailureError, exceptions.ToAPIsTaskFailedError)


class TestWhatAnErrorCarries:
    @each_error
    def test_message(self, name: str) -> None:
        assert str(made(name)) == "what happened"

    @pytest.mark.parametrize(
        "kind", [exceptions.ToAPIsRequestError, exceptions.ToAPIsAuthError, exceptions.ToAPIsServerError]
    )
    def test_facts(self, kind: type[exceptions.ToAPIsError]) -> None:
        error = kind("no", http_status=429, code="c", video_id="video_1", retry_after=7.0)
        assert (error.http_status, error.code, error.video_id, error.retry_after) == (429, "c", "video_1", 7.0)

    @pytest.mark.parametrize(
        "kind",
        [exceptions.ToAPIsTaskFailedError, exceptions.ToAPIsTaskRejectedError, exceptions.ToAPIsFinalFailureError],
    )
    def test_failed_task(self, kind: type[exceptions.ToAPIsTaskFailedError]) -> None:
        error = kind("no", task=FAILED)
        assert isinstance(error, exceptions.ToAPIsTaskFailedError)
        assert (error.task, error.code, error.video_id) == (FAILED, "generation_failed", "video_1")

    def test_whether_a_request_was_sent(self) -> None:
        for sent in (True, False):
            error = exceptions.ToAPIsConnectionError("no", sent=sent)
            assert isinstance(error, exceptions.ToAPIsConnectionError)
            assert error.sent is sent

    def test_failed_connection_may_have_had_an_effect_unless_known_otherwise(self) -> None:
        assert exceptions.ToAPIsConnectionError("no").sent

    def test_field_and_its_value_as_the_message_shows_it(self) -> None:
        error = exceptions.ToAPIsFileError.for_field(
            "image", "https://shop.example/a.jpg?sig=secret" + "x" * 300, "a file"
        )
        assert (error.field, error.value) == ("image", "'https://shop.example/a.jpg'")
        assert f"image={error.value}" in str(error)

    def test_long_value_is_shortened(self) -> None:
        error = exceptions.ToAPIsRequestError.for_field("prompt", "shoe " * 200, "a text")
        assert error.value is not None
        assert len(error.value) < 210
        assert f"prompt={error.value}" in str(error)

    @each_error
    def test_no_field_is_named_unless_one_is_the_cause(self, name: str) -> None:
        assert (made(name).field, made(name).value) == (None, None)

    def test_field_survives_pickling_and_amending(self) -> None:
        error = exceptions.ToAPIsFileError.for_field("image", "/shoe.jpg", "a file")
        error.amend(before="Row 2: ", after=" Check it.")
        for again in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(again) is exceptions.ToAPIsFileError
            assert (again.field, again.value) == ("image", "'/shoe.jpg'")
            assert str(again).startswith("Row 2: ")
            assert vars(again) == vars(error)

    @pytest.mark.parametrize(
        "interrupted",
        [
            partial(exceptions.ToAPIsWaitInterruptedError.for_video, "video_1"),
            exceptions.ToAPIsWaitInterruptedError.for_unknown_submission,
        ],
    )
    def test_retryable_error_keeps_the_field_of_the_permanent_one(
        self, interrupted: Callable[[exceptions.ToAPIsError], exceptions.ToAPIsWaitInterruptedError]
    ) -> None:
        error = exceptions.ToAPIsFileError.for_field("image", "/shoe.jpg", "a file")
        with pytest.raises(exceptions.ToAPIsWaitInterruptedError) as raised, exceptions.keep_retryable(interrupted):
            raise error
        assert (raised.value.field, raised.value.value) == ("image", "'/shoe.jpg'")

    @each_error
    def test_survives_pickling(self, name: str) -> None:
        error = made(name)
        error.code = "c"
        error.video_id = "video_1"
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(again) is type(error)
            assert str(again) == "what happened"
            assert vars(again) == vars(error)

    def test_failed_task_survives_pickling(self) -> None:
        again = pickle.loads(pickle.dumps(exceptions.ToAPIsTaskRejectedError("no", task=FAILED)))
        assert again.task == FAILED
        assert again.video_id == "video_1"
