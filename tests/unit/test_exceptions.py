"""Which errors Airflow retries, and what an error carries from the API layer to the task's log."""

from __future__ import annotations

import copy
import inspect
import pickle
import traceback

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_toapis import exceptions
from airflow_provider_toapis.api import errors
from airflow_provider_toapis.api.download import ResultLostError
from airflow_provider_toapis.api.models import TaskError, TaskStatus, VideoTask
from airflow_provider_toapis.exceptions import airflow_errors

#: No retry can help.
FAIL_FAST = {
    "ToAPIsRequestError",
    "ToAPIsAuthError",
    "ToAPIsQuotaError",
    "ToAPIsContentPolicyError",
    "ToAPIsTaskRefusedError",
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


def raised(error: errors.ToAPIsError) -> errors.ToAPIsError:
    """Return what comes out where the API layer raised ``error``."""
    with pytest.raises(errors.ToAPIsError) as caught, airflow_errors():
        raise error
    return caught.value


def made(tree: object, name: str) -> errors.ToAPIsError:
    error = getattr(tree, name)("what happened")
    assert isinstance(error, errors.ToAPIsError)
    return error


class TestTree:
    def test_every_error_of_the_api_layer_is_one_or_the_other(self) -> None:
        names = {
            name
            for name, thing in vars(errors).items()
            if inspect.isclass(thing) and issubclass(thing, errors.ToAPIsError)
        }
        assert names == FAIL_FAST | RETRYABLE | {"ToAPIsFileError"}
        assert set(exceptions.__all__) == names - {"ToAPIsFileError"}

    def test_what_is_wrong_with_a_file_is_a_refusal_as_any(self) -> None:
        assert type(raised(errors.ToAPIsFileError("no such file"))) is exceptions.ToAPIsRequestError

    @each_fail_fast
    def test_what_no_retry_can_help_fails_the_task_at_once(self, name: str) -> None:
        assert isinstance(raised(made(errors, name)), AirflowFailException)
        assert issubclass(getattr(exceptions, name), AirflowFailException)

    @each_retryable
    def test_everything_else_is_retried(self, name: str) -> None:
        assert not isinstance(raised(made(errors, name)), AirflowFailException)
        assert not issubclass(getattr(exceptions, name), AirflowFailException)

    @each_error
    def test_what_comes_out_is_caught_by_its_public_name_and_by_the_root(self, name: str) -> None:
        error = raised(made(errors, name))
        assert isinstance(error, getattr(exceptions, name))
        assert isinstance(error, exceptions.ToAPIsError)

    @each_error
    def test_api_layer_knows_nothing_of_airflow(self, name: str) -> None:
        assert not isinstance(made(errors, name), AirflowException)

    def test_refused_content_is_a_failed_task_and_a_content_policy_error(self) -> None:
        error = raised(errors.ToAPIsTaskRefusedError("no", task=FAILED))
        assert isinstance(error, exceptions.ToAPIsTaskFailedError)
        assert isinstance(error, exceptions.ToAPIsContentPolicyError)
        assert isinstance(error, exceptions.ToAPIsTaskRefusedError)

    def test_final_failure_is_a_failed_task(self) -> None:
        assert isinstance(raised(errors.ToAPIsFinalFailureError("no", task=FAILED)), exceptions.ToAPIsTaskFailedError)


class TestWhatAnErrorCarries:
    @each_error
    def test_message(self, name: str) -> None:
        assert str(raised(made(errors, name))) == "what happened"

    @pytest.mark.parametrize("kind", [errors.ToAPIsRequestError, errors.ToAPIsAuthError, errors.ToAPIsServerError])
    def test_facts(self, kind: type[errors.ToAPIsError]) -> None:
        error = raised(kind("no", http_status=429, code="c", video_id="video_1", retry_after=7.0))
        assert (error.http_status, error.code, error.video_id, error.retry_after) == (429, "c", "video_1", 7.0)

    @pytest.mark.parametrize(
        "kind",
        [errors.ToAPIsTaskFailedError, errors.ToAPIsTaskRefusedError, errors.ToAPIsFinalFailureError],
    )
    def test_failed_task(self, kind: type[errors.ToAPIsTaskFailedError]) -> None:
        error = raised(kind("no", task=FAILED))
        assert isinstance(error, errors.ToAPIsTaskFailedError)
        assert (error.task, error.code, error.video_id) == (FAILED, "generation_failed", "video_1")

    def test_whether_a_request_was_sent(self) -> None:
        for sent in (True, False):
            error = raised(errors.ToAPIsConnectionError("no", sent=sent))
            assert isinstance(error, errors.ToAPIsConnectionError)
            assert error.sent is sent

    def test_failed_connection_may_have_had_an_effect_unless_known_otherwise(self) -> None:
        assert errors.ToAPIsConnectionError("no").sent

    @pytest.mark.parametrize("tree", [errors, exceptions], ids=["api", "airflow"])
    @each_error
    def test_survives_pickling(self, tree: object, name: str) -> None:
        error = made(tree, name)
        error.code = "c"
        error.video_id = "video_1"
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(again) is type(error)
            assert str(again) == "what happened"
            assert vars(again) == vars(error)

    def test_failed_task_survives_pickling(self) -> None:
        again = pickle.loads(pickle.dumps(raised(errors.ToAPIsTaskRefusedError("no", task=FAILED))))
        assert again.task == FAILED
        assert again.video_id == "video_1"


class TestTranslation:
    @each_fail_fast
    def test_error_that_is_airflows_already_stays_the_same(self, name: str) -> None:
        error = made(exceptions, name)
        assert raised(error) is error

    @each_retryable
    def test_error_that_is_retried_stays_the_same(self, name: str) -> None:
        error = made(errors, name)
        assert raised(error) is error

    def test_lost_result_is_a_public_error(self) -> None:
        error = raised(ResultLostError("its result expired", video_id="video_1"))
        assert type(error) is exceptions.ToAPIsDownloadError
        assert vars(error)["video_id"] == "video_1"

    def test_twice_is_once(self) -> None:
        with pytest.raises(exceptions.ToAPIsRequestError), airflow_errors(), airflow_errors():
            raise errors.ToAPIsRequestError("no")

    def test_message_is_shown_once_with_the_place_it_comes_from(self) -> None:
        def deep_in_the_api_layer() -> None:
            raise errors.ToAPIsRequestError("what happened")

        with pytest.raises(exceptions.ToAPIsRequestError) as caught, airflow_errors():
            deep_in_the_api_layer()
        shown = "".join(traceback.format_exception(caught.value))
        assert shown.count("Error: what happened") == 1
        assert "deep_in_the_api_layer" in shown

    def test_chain_shows_nothing_that_was_hidden(self) -> None:
        hidden = errors.ToAPIsAuthError("no")
        hidden.__context__ = ValueError("https://bucket/a.jpg?X-Amz-Signature=secret")
        assert "secret" not in "".join(traceback.format_exception(raised(hidden)))

    def test_other_errors_pass_through(self) -> None:
        with pytest.raises(ZeroDivisionError), airflow_errors():
            raise ZeroDivisionError

    def test_without_an_error_nothing_happens(self) -> None:
        with airflow_errors():
            pass
