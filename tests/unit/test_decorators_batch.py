"""``@task.toapis_video_batch``: the function returns the rows at the start and at each resume."""

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
def used_requests(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the operator's methods, and return a list of the operator's ``requests`` in each call."""
    requests: list[Any] = []
    for method in ("execute", "resume_execution"):
        monkeypatch.setattr(ToAPIsVideoBatchOperator, method, lambda self, *_: requests.append(self.requests))
    return requests


def decorated(function: Callable[..., Any], *args: Any, **fields: Any) -> Any:
    decorator: Any = toapis_video_batch_task(function, task_id="videos", output_path="/videos/", **fields)
    return decorator(*args).operator


@pytest.mark.parametrize("returned", [ROWS, "s3://shop/feed.jsonl"], ids=["rows", "path of a feed"])
def test_operator_uses_the_returned_feed(used_requests: list[Any], returned: object) -> None:
    decorated(lambda: returned).execute(FakeTaskInstance().context)
    assert used_requests == [returned]


def test_generator_function_yields_rows(used_requests: list[Any]) -> None:
    def rows(prefix: str) -> Iterator[dict[str, Any]]:
        yield {"key": f"{prefix}-1", "prompt": "A shoe"}

    decorated(rows, "SKU").execute(FakeTaskInstance().context)
    assert list(used_requests[0]) == [{"key": "SKU-1", "prompt": "A shoe"}]


def test_resume_calls_the_function_again_with_rendered_arguments(used_requests: list[Any]) -> None:
    ti = FakeTaskInstance()
    operator = decorated(lambda day: f"s3://shop/{day}.csv", "{{ run_id }}")
    context: Any = {**ti.context, "run_id": ti.run_id, "params": {}, "task": operator}
    operator.render_template_fields(context)
    operator.resume_execution("execute_complete", {"event": {}}, context)
    assert used_requests == ["s3://shop/scheduled__2026-01-01.csv"]


def test_airflow_registers_the_task_decorator() -> None:
    with DAG("catalog", schedule=None):

        @task.toapis_video_batch(output_path="/videos/", max_active=7)
        def videos(feed: str) -> str:
            return feed

        defined: Any = videos("feed.csv")
    result = defined.operator
    assert ToAPIsVideoBatchOperator in type(result).mro()
    assert (result.task_id, result.output_path, result.max_active) == ("videos", "/videos/", 7)
    assert result.custom_operator_name == "@task.toapis_video_batch"
    assert set(result.template_fields) == {"op_args", "op_kwargs", *ToAPIsVideoBatchOperator.template_fields}


def test_requests_argument_of_the_decorator_is_rejected() -> None:
    with pytest.raises(TypeError, match="requests"):
        decorated(lambda: ROWS, requests=ROWS)
