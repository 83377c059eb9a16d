"""``@task.toapis_video_batch``: the function gives the rows, at the start and whenever the task wakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_toapis.decorators.batch import toapis_video_batch_task
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from tests.airflow_task import FakeTaskInstance

ROWS = [{"key": "SKU-1", "prompt": "A shoe {{ var.value.api_key }}"}, {"key": "SKU-2", "prompt": "A boot"}]


@pytest.fixture(autouse=True)
def worked_on(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stop before the operator's own work, and return what it was to work on so far."""
    requests: list[Any] = []
    for method in ("execute", "resume_execution"):
        monkeypatch.setattr(ToAPIsVideoBatchOperator, method, lambda self, *_: requests.append(self.requests))
    return requests


def decorated(function: Callable[..., Any], *args: Any, **fields: Any) -> Any:
    decorator: Any = toapis_video_batch_task(function, task_id="videos", output_path="/videos/", **fields)
    return decorator(*args).operator


@pytest.mark.parametrize("returned", [ROWS, "s3://shop/feed.jsonl"], ids=["rows", "path of a feed"])
def test_operator_works_on_what_is_returned(worked_on: list[Any], returned: object) -> None:
    decorated(lambda: returned).execute(FakeTaskInstance().context)
    assert worked_on == [returned]


def test_rows_may_be_given_one_by_one(worked_on: list[Any]) -> None:
    def rows(prefix: str) -> Iterator[dict[str, Any]]:
        yield {"key": f"{prefix}-1", "prompt": "A shoe"}

    decorated(rows, "SKU").execute(FakeTaskInstance().context)
    assert list(worked_on[0]) == [{"key": "SKU-1", "prompt": "A shoe"}]


def test_function_is_asked_again_when_the_task_wakes_with_its_arguments_rendered(worked_on: list[Any]) -> None:
    ti = FakeTaskInstance()
    operator = decorated(lambda day: f"s3://shop/{day}.csv", "{{ run_id }}")
    context: Any = {**ti.context, "run_id": ti.run_id, "params": {}, "task": operator}
    operator.render_template_fields(context)
    operator.resume_execution("execute_complete", {"event": {}}, context)
    assert worked_on == ["s3://shop/scheduled__2026-01-01.csv"]


def test_airflow_offers_it_as_a_task_decorator() -> None:
    with DAG("catalog", schedule=None):

        @task.toapis_video_batch(output_path="/videos/", max_active=7)
        def videos(feed: str) -> str:
            return feed

        defined: Any = videos("feed.csv")
    made = defined.operator
    assert ToAPIsVideoBatchOperator in type(made).mro()
    assert (made.task_id, made.output_path, made.max_active) == ("videos", "/videos/", 7)
    assert made.custom_operator_name == "@task.toapis_video_batch"
    assert set(made.template_fields) == {"op_args", "op_kwargs", *ToAPIsVideoBatchOperator.template_fields}


def test_rows_cannot_be_given_to_the_decorator_as_well() -> None:
    with pytest.raises(TypeError, match="requests"):
        decorated(lambda: ROWS, requests=ROWS)
