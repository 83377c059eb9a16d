"""``@task.toapis_video`` over real HTTP: the function is asked once per attempt, and its video is paid once."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_toapis.decorators.video import toapis_video_task
from airflow_provider_toapis.exceptions import ToAPIsRequestError, ToAPIsTaskFailedError
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from tests.airflow_task import FakeTaskInstance, attempt, deferral
from tests.integration.conftest import API_KEY, PROMPT, Clock, posts
from tests.integration.emulator_process import EmulatorProcess

BOTH_WAYS = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "in the worker"])


class Author:
    """Decorates a function, which counts how often it was called."""

    def __init__(self, picture: str) -> None:
        self.picture = picture
        self.ti = FakeTaskInstance()
        self.calls = 0

    def writes(self, returned: Callable[[], Any], **fields: Any) -> Callable[[], Any]:
        def describe() -> Any:
            self.calls += 1
            return returned()

        fields = {"task_id": "video", "deferrable": False} | fields
        decorated: Any = toapis_video_task(describe, **fields)
        return lambda: decorated().operator

    def runs(self, returned: Callable[[], Any], ti: FakeTaskInstance | None = None, **fields: Any) -> Any:
        return attempt(self.writes(returned, **fields), ti or self.ti)

    def describes(self, **request: Any) -> Callable[[], dict[str, Any]]:
        """Return a function that says the same whenever it is asked."""
        return lambda: {"prompt": PROMPT, "image": self.picture, **request}

    def changes_its_mind(self, **request: Any) -> Callable[[], dict[str, Any]]:
        """Return a function that says something else each time, as a language model may."""
        versions: Iterator[int] = iter(range(100))
        return lambda: {"prompt": f"{PROMPT}, version {next(versions)}", "image": self.picture, **request}


@pytest.fixture
def author(picture: str) -> Author:
    return Author(picture)


def ordered(service: EmulatorProcess) -> int:
    return int(service.ledger()["posted"])


def test_video_is_the_one_that_the_operator_orders_for_the_same_request(
    service: EmulatorProcess, author: Author
) -> None:
    request = author.describes(duration=15, aspect_ratio="9:16", model="grok-video-1.0", parameters={"seed": 7})
    made = author.runs(request, wait_for_completion=False)
    assert made["model"] == "grok-video-1.0"
    fields = {"task_id": "video", "wait_for_completion": False, **request()}
    told = attempt(lambda: ToAPIsSubmitVideoOperator(**fields), author.ti.next_attempt())
    assert told["id"] == made["id"]
    assert ordered(service) == 1


@BOTH_WAYS
def test_function_is_asked_once_per_attempt_and_the_rest_of_it_goes_by_what_it_said_then(
    service: EmulatorProcess, author: Author, tmp_path: Path, deferrable: bool
) -> None:
    place = tmp_path / "first.mp4"
    requests = iter([author.describes(output_path=place)(), author.describes(output_path=tmp_path / "second.mp4")()])
    made = author.runs(lambda: next(requests), deferrable=deferrable)
    assert author.calls == 1
    assert made["output_path"] == str(place)
    assert place.stat().st_size == made["size"]
    assert len(posts(service)) == 1


@BOTH_WAYS
def test_retry_with_the_same_request_adopts(service: EmulatorProcess, author: Author, deferrable: bool) -> None:
    author.runs(author.describes(), wait_for_completion=False)
    made = author.runs(author.describes(), author.ti.next_attempt(), deferrable=deferrable)
    assert made["status"] == "completed"
    assert (author.calls, ordered(service)) == (2, 1)


def test_retry_with_another_request_orders_another_video_whatever_the_identity(
    service: EmulatorProcess, author: Author
) -> None:
    returned = author.changes_its_mind(identity="SKU-1")
    author.runs(returned)
    author.runs(returned, author.ti.next_attempt())
    assert ordered(service) == 2


@BOTH_WAYS
def test_chosen_id_names_the_same_video_whatever_a_retry_says(
    service: EmulatorProcess, author: Author, deferrable: bool
) -> None:
    returned = author.changes_its_mind(client_business_id="sku-1")
    first = author.runs(returned, deferrable=deferrable)
    again = author.runs(returned, author.ti.next_attempt(), deferrable=deferrable)
    assert again["id"] == first["id"]
    assert ordered(service) == 1


def test_kept_video_is_returned_without_asking_or_paying(
    service: EmulatorProcess, author: Author, tmp_path: Path
) -> None:
    first = author.runs(author.describes(output_path=str(tmp_path)))
    service.clear_requests()
    again = author.runs(author.describes(output_path=str(tmp_path)), author.ti.next_attempt())
    assert again["id"] == first["id"]
    assert service.requests() == []


def test_returned_identity_stays_with_its_product_when_the_mapped_list_is_reordered(
    service: EmulatorProcess, author: Author
) -> None:
    def run(products: list[str]) -> dict[str, str]:
        return {
            product: author.runs(author.describes(identity=product), FakeTaskInstance(map_index=index))["id"]
            for index, product in enumerate(products)
        }

    assert run(["a", "b"]) == run(["b", "a"])
    assert ordered(service) == 2


@pytest.mark.parametrize("returned", [None, {"promt": PROMPT}, {"prompt": PROMPT, "duration": 7.5}, {"image": 5}])
def test_bad_request_is_refused_before_anything_is_sent(
    service: EmulatorProcess, author: Author, returned: object
) -> None:
    with pytest.raises(ToAPIsRequestError):
        author.runs(lambda: returned, deferrable=True)
    assert service.requests() == []


def test_airflow_s_own_timeout_asks_for_the_truth_and_keeps_the_video_where_the_function_said(
    service: EmulatorProcess, author: Author, tmp_path: Path
) -> None:
    operator = author.writes(author.describes(output_path=str(tmp_path / "a.mp4")), deferrable=True)
    deferral(lambda: operator().execute(author.ti.context))
    service.finish(author.ti.xcoms["video_id"])
    operator().resume_execution("__fail__", {"error": "Trigger timeout"}, author.ti.context)
    assert (tmp_path / "a.mp4").exists()
    assert author.calls == 1


@BOTH_WAYS
def test_log_and_errors_hold_no_key_no_prompt_and_no_signature(
    service: EmulatorProcess,
    author: Author,
    tmp_path: Path,
    clock: Clock,
    logged: Callable[[], str],
    *,
    deferrable: bool,
) -> None:
    signed = "X-Amz-Algorithm=A&X-Amz-Credential=C&X-Amz-Signature=0123456789abcdef0123456789"
    request = author.describes(image=f"{author.picture}?{signed}", output_path=str(tmp_path))
    author.runs(request, deferrable=deferrable)
    service.add_fault(on="submit", kind="task_failed", message=f"{PROMPT} {author.picture}?{signed} {API_KEY}")
    with pytest.raises(ToAPIsTaskFailedError) as failed:
        author.runs(request, FakeTaskInstance(map_index=7), deferrable=deferrable)
    assert "Saved video" in logged()
    for text in (logged(), repr(failed.value), "".join(traceback.format_exception(failed.value))):
        for private in (API_KEY, PROMPT, "X-Amz-Signature", "0123456789abcdef0123456789"):
            assert private not in text
