"""Two mapped tasks that name one video are rejected where the DAG file shows it."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, BaseOperator

from airflow_provider_toapis.operators.video import ToAPIsExtendVideoOperator, ToAPIsSubmitVideoOperator
from tests.errors import rejects

PICTURE = "https://example.com/a.jpg"


@pytest.fixture(autouse=True)
def dag() -> Iterator[DAG]:
    with DAG("videos", schedule=None, start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) as dag:
        yield dag


def partial(**fields: Any) -> Any:
    return ToAPIsSubmitVideoOperator.partial(task_id="video", prompt="p", **fields)


@pytest.mark.parametrize("field", ["identity", "client_business_id"])
@pytest.mark.parametrize("values", [["a", "b", "a"], ("a", "a")])
def test_equal_literals_of_one_list_break_the_dag_file(field: str, values: Any) -> None:
    with rejects(field, "a") as rejected:
        partial(image=PICTURE).expand(**{field: values})
    assert isinstance(rejected.value, AirflowFailException)
    derived: Any = ToAPIsExtendVideoOperator.partial(task_id="longer", prompt="p", video_id="video_1")
    with rejects(field, "a"):
        derived.expand(**{field: values})


def test_fixed_id_of_several_tasks_breaks_the_dag_file() -> None:
    with rejects("client_business_id", "teaser"):
        partial(client_business_id="teaser").expand(image=[PICTURE, "b.jpg"])
    with rejects("client_business_id", "teaser"):
        partial(client_business_id="teaser").expand_kwargs([{"image": PICTURE}])


def test_equal_id_in_a_list_of_arguments_breaks_the_dag_file() -> None:
    with rejects("client_business_id", "a"):
        partial().expand_kwargs([{"client_business_id": "a", "image": image} for image in (PICTURE, "b.jpg")])


def test_equal_arguments_of_one_identity_break_the_dag_file() -> None:
    with rejects("identity", "a"):
        partial().expand_kwargs([{"identity": "a", "image": PICTURE}, {"image": PICTURE, "identity": "a"}])


def test_what_only_a_run_knows_is_left_to_it(dag: DAG) -> None:
    upstream: Any = BaseOperator(task_id="list")
    partial(image=PICTURE).expand(identity=["{{ ti.map_index }}", "{{ ti.map_index }}"])
    kinds = [
        ("identities", "expand", {"identity": upstream.output}),
        ("ids", "expand", {"client_business_id": ["a", "b"], "identity": [None, None]}),
    ]
    for task_id, method, mapped in kinds:
        begun: Any = ToAPIsSubmitVideoOperator.partial(task_id=task_id, prompt="p")
        getattr(begun, method)(**mapped)
    items = [{"identity": "a", "image": PICTURE}, {"identity": "a", "image": "b.jpg"}]
    videos: Any = ToAPIsSubmitVideoOperator.partial(
        task_id="videos", prompt="p", client_business_id="{{ ti.map_index }}"
    )
    videos.expand_kwargs(items)
    templated: Any = ToAPIsSubmitVideoOperator.partial(task_id="templated")
    templated.expand_kwargs([{"identity": "a", "prompt": "{{ ti.map_index }}"}] * 2)
    listed: Any = ToAPIsSubmitVideoOperator.partial(task_id="listed", prompt="p")
    listed.expand_kwargs(upstream.output)
    assert {"video", "identities", "ids", "videos", "templated", "listed"} < set(dag.task_dict)


def test_only_a_partial_that_is_never_expanded_is_warned_of() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        partial().expand(image=[PICTURE])
        begun = partial()
        del begun
    assert [str(warning.message) for warning in caught] == ["Task 'video' was never mapped!"]
