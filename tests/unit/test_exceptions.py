"""Errors: which ones Airflow retries, and their attributes."""

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

#: Permanent errors: a retry cannot help.
FAIL_FAST = {
    "ToAPIsRequestError",
    "ToAPIsFileError",
    "ToAPIsModelNotOfferedError",
    "ToAPIsAuthError",
    "ToAPIsQuotaError",
    "ToAPIsContentPolicyError",
    "ToAPIsTaskRejectedError",
    "ToAPIsFinalFailureError",
    "ToAPIsVideoCheckError",
}
#: Retryable errors: a retry can help, or a billed video must not be lost.
RETRYABLE = {
    "ToAPIsBatchError",
    "ToAPIsError",
    "ToAPIsRateLimitError",
    "ToAPIsServerError",
    "ToAPIsConnectionError",
    "ToAPIsNotFoundError",
    "ToAPIsUnavailableError",
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


def make_error(name: str) -> exceptions.ToAPIsError:
    error = getattr(exceptions, name)("what happened")
    assert isinstance(error, exceptions.ToAPIsError)
    return error


class TestHierarchy:
    def test_every_error_is_permanent_or_retryable(self) -> None:
        names = {
            name
            for name, member in vars(exceptions).items()
            if inspect.isclass(member) and issubclass(member, exceptions.ToAPIsError)
        }
        assert names == FAIL_FAST | RETRYABLE == set(exceptions.__all__)

    @each_fail_fast
    def test_permanent_error_fails_the_task_at_once(self, name: str) -> None:
        assert issubclass(getattr(exceptions, name), AirflowFailException)

    @each_retryable
    def test_other_error_is_retryable(self, name: str) -> None:
        assert not issubclass(getattr(exceptions, name), AirflowFailException)

    def test_file_error_is_a_request_error(self) -> None:
        assert issubclass(exceptions.ToAPIsFileError, exceptions.ToAPIsRequestError)

    def test_task_rejected_error_is_task_failed_and_content_policy_error(self) -> None:
        assert issubclass(exceptions.ToAPIsTaskRejectedError, exceptions.ToAPIsTaskFailedError)
        assert issubclass(exceptions.ToAPIsTaskRejectedError, exceptions.ToAPIsContentPolicyError)

    def test_final_failure_error_is_task_failed_error(self) -> None:
        assert issubclass(exceptions.ToAPIsFinalFailureError, exceptions.ToAPIsTaskFailedError)


class TestAttributes:
    @each_error
    def test_error_has_its_message(self, name: str) -> None:
        assert str(make_error(name)) == "what happened"

    @pytest.mark.parametrize(
        "error_class", [exceptions.ToAPIsRequestError, exceptions.ToAPIsAuthError, exceptions.ToAPIsServerError]
    )
    def test_error_has_its_attributes(self, error_class: type[exceptions.ToAPIsError]) -> None:
        error = error_class("no", http_status=429, code="c", video_id="video_1", retry_after=7.0)
        assert (error.http_status, error.code, error.video_id, error.retry_after) == (429, "c", "video_1", 7.0)

    @pytest.mark.parametrize(
        "error_class",
        [exceptions.ToAPIsTaskFailedError, exceptions.ToAPIsTaskRejectedError, exceptions.ToAPIsFinalFailureError],
    )
    def test_task_failed_error_has_its_task(self, error_class: type[exceptions.ToAPIsTaskFailedError]) -> None:
        error = error_class("no", task=FAILED)
        assert isinstance(error, exceptions.ToAPIsTaskFailedError)
        assert (error.task, error.code, error.video_id) == (FAILED, "generation_failed", "video_1")

    def test_connection_error_has_its_sent_flag(self) -> None:
        for sent in (True, False):
            error = exceptions.ToAPIsConnectionError("no", sent=sent)
            assert isinstance(error, exceptions.ToAPIsConnectionError)
            assert error.sent is sent

    def test_connection_error_is_sent_by_default(self) -> None:
        assert exceptions.ToAPIsConnectionError("no").sent

    def test_error_has_field_and_value_as_shown_in_the_message(self) -> None:
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
    def test_error_has_no_field_by_default(self, name: str) -> None:
        assert (make_error(name).field, make_error(name).value) == (None, None)

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
    def test_error_survives_pickling(self, name: str) -> None:
        error = make_error(name)
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
