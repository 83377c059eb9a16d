"""Mapped tasks that name the same video are rejected when the DAG file is parsed."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, BaseOperator

from airflow_provider_toapis.operators.video import ToAPIsExtendVideoOperator, ToAPIsSubmitVideoOperator
from tests.errors import rejects

IMAGE = "https://example.com/a.jpg"


@pytest.fixture(autouse=True)
def dag() -> Iterator[DAG]:
    with DAG("videos", schedule=None, start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) as dag:
        yield dag


def partial(**fields: Any) -> Any:
    return ToAPIsSubmitVideoOperator.partial(task_id="video", prompt="p", **fields)


@pytest.mark.parametrize("field", ["identity", "client_business_id"])
@pytest.mark.parametrize("values", [["a", "b", "a"], ("a", "a")])
def test_equal_literals_of_a_mapped_list_break_the_dag_file(field: str, values: Any) -> None:
    with rejects(field, "a") as rejected:
        partial(image=IMAGE).expand(**{field: values})
    assert isinstance(rejected.value, AirflowFailException)
    derived: Any = ToAPIsExtendVideoOperator.partial(task_id="longer", prompt="p", video_id="video_1")
    with rejects(field, "a"):
        derived.expand(**{field: values})


def test_fixed_client_business_id_of_mapped_tasks_breaks_the_dag_file() -> None:
    with rejects("client_business_id", "teaser"):
        partial(client_business_id="teaser").expand(image=[IMAGE, "b.jpg"])
    with rejects("client_business_id", "teaser"):
        partial(client_business_id="teaser").expand_kwargs([{"image": IMAGE}])


def test_equal_client_business_ids_in_expand_kwargs_break_the_dag_file() -> None:
    with rejects("client_business_id", "a"):
        partial().expand_kwargs([{"client_business_id": "a", "image": image} for image in (IMAGE, "b.jpg")])


def test_equal_arguments_with_equal_identity_break_the_dag_file() -> None:
    with rejects("identity", "a"):
        partial().expand_kwargs([{"identity": "a", "image": IMAGE}, {"image": IMAGE, "identity": "a"}])


def test_values_known_only_at_run_time_are_not_checked(dag: DAG) -> None:
    upstream: Any = BaseOperator(task_id="list")
    partial(image=IMAGE).expand(identity=["{{ ti.map_index }}", "{{ ti.map_index }}"])
    mappings = [
        ("identities", "expand", {"identity": upstream.output}),
        ("ids", "expand", {"client_business_id": ["a", "b"], "identity": [None, None]}),
    ]
    for task_id, method, mapped in mappings:
        partial_operator: Any = ToAPIsSubmitVideoOperator.partial(task_id=task_id, prompt="p")
        getattr(partial_operator, method)(**mapped)
    items = [{"identity": "a", "image": IMAGE}, {"identity": "a", "image": "b.jpg"}]
    videos: Any = ToAPIsSubmitVideoOperator.partial(
        task_id="videos", prompt="p", client_business_id="{{ ti.map_index }}"
    )
    videos.expand_kwargs(items)
    templated: Any = ToAPIsSubmitVideoOperator.partial(task_id="templated")
    templated.expand_kwargs([{"identity": "a", "prompt": "{{ ti.map_index }}"}] * 2)
    listed: Any = ToAPIsSubmitVideoOperator.partial(task_id="listed", prompt="p")
    listed.expand_kwargs(upstream.output)
    assert {"video", "identities", "ids", "videos", "templated", "listed"} < set(dag.task_dict)


def test_only_an_unexpanded_partial_causes_a_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        partial().expand(image=[IMAGE])
        partial_operator = partial()
        del partial_operator
    assert [str(warning.message) for warning in caught] == ["Task 'video' was never mapped!"]
