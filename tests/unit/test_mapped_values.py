"""Text of a feed is data: Airflow does not render it, however it reaches an operator."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, literal, task

from airflow_provider_toapis.decorators.batch import toapis_video_batch_task
from airflow_provider_toapis.decorators.video import toapis_video_task
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.files import ToAPIsDownloadVideoOperator, ToAPIsUploadFileOperator
from airflow_provider_toapis.operators.video import ToAPIsRemixVideoOperator, ToAPIsSubmitVideoOperator
from airflow_provider_toapis.sensors.video import ToAPIsVideoSensor
from tests.airflow_task import FakeTaskInstance

#: A template that shows whether it was rendered, and text that is an invalid template.
HOSTILE = ["{{ conn.other_system.password }} {{ run_id }}", "50 % off %} {# now", "{% for %}"]
RUN = FakeTaskInstance().run_id


class Feed:
    """A DAG with a task whose output is the feed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **default_args: Any) -> None:
        self.dag = DAG(
            "videos",
            schedule=None,
            start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            default_args={"retries": 0} | default_args,
        )
        self._monkeypatch = monkeypatch

    def rows(self, rows: list[Any]) -> Any:
        """Return the output of a task that returns ``rows``, as another task receives it."""

        @task
        def read() -> list[Any]:
            return []

        output: Any = read()
        self._monkeypatch.setattr(type(output), "resolve", lambda *_, **__: rows)
        return output

    def rendered(self, mapped: Any, map_index: int = 0) -> Any:
        """Render a task as a worker does, and return the rendered operator."""
        operator = getattr(mapped, "operator", mapped)
        ti = FakeTaskInstance(task_id=operator.task_id, map_index=map_index)
        dag_run = SimpleNamespace(conf={})
        context: Any = {
            "ti": ti,
            "task": operator,
            "dag": self.dag,
            "dag_run": dag_run,
            "run_id": RUN,
            "params": {},
        }
        operator.render_template_fields(context)
        return context["task"]


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Feed:
    return Feed(monkeypatch)


@pytest.mark.parametrize("text", HOSTILE)
class TestExpandKwargs:
    def test_text_of_another_task_is_not_rendered(self, feed: Feed, text: str) -> None:
        with feed.dag:
            mapped = ToAPIsSubmitVideoOperator.partial(
                task_id="video", model="model of {{ run_id }}", output_path="/videos/{{ task.identity }}.mp4"
            ).expand_kwargs(
                feed.rows([{"sku": "A-1", "text": text}]).map(
                    lambda row: {
                        "identity": row["sku"],
                        "prompt": row["text"],
                        "parameters": {"negative_prompt": row["text"], "list": [row["text"]]},
                    }
                )
            )
        operator = feed.rendered(mapped)
        assert (operator.prompt, operator.identity) == (text, "A-1")
        assert operator.parameters == {"negative_prompt": text, "list": [text]}
        assert (operator.model, operator.output_path) == (f"model of {RUN}", "/videos/A-1.mp4")

    @pytest.mark.parametrize(
        ("make", "field"),
        [
            (lambda: ToAPIsRemixVideoOperator.partial(task_id="video", video_id="video_1"), "prompt"),
            (lambda: ToAPIsUploadFileOperator.partial(task_id="video"), "source"),
            (lambda: ToAPIsDownloadVideoOperator.partial(task_id="video", video_id="video_1"), "output_path"),
            (lambda: ToAPIsVideoSensor.partial(task_id="video"), "video_id"),
            (lambda: ToAPIsVideoBatchOperator.partial(task_id="video", requests="f.csv"), "output_path"),
        ],
    )
    def test_no_operator_renders_text_of_another_task(
        self, feed: Feed, text: str, make: Callable[[], Any], field: str
    ) -> None:
        with feed.dag:
            mapped = make().expand_kwargs(feed.rows([{field: text}]))
        assert getattr(feed.rendered(mapped), field) == text

    def test_function_argument_from_another_task_is_not_rendered(self, feed: Feed, text: str) -> None:
        with feed.dag:
            described: Any = toapis_video_task(
                lambda description, product, directory: None, task_id="video", output_path="/videos/{{ run_id }}.mp4"
            )
            mapped = described.partial(directory="{{ run_id }}").expand_kwargs(
                feed.rows([{"description": text, "product": {"name": text}}])
            )
        operator = feed.rendered(mapped)
        assert operator.op_kwargs == {"description": text, "product": {"name": text}, "directory": RUN}
        assert operator.output_path == f"/videos/{RUN}.mp4"

    def test_batch_function_argument_from_another_task_is_not_rendered(self, feed: Feed, text: str) -> None:
        with feed.dag:
            described: Any = toapis_video_batch_task(lambda path: path, task_id="video", output_path="/videos/")
            mapped = described.expand_kwargs(feed.rows([{"path": text}]))
        assert feed.rendered(mapped).op_kwargs == {"path": text}

    def test_one_output_per_task_is_not_rendered(self, feed: Feed, text: str) -> None:
        with feed.dag:
            mapped = ToAPIsSubmitVideoOperator.partial(task_id="video").expand_kwargs(
                [{"prompt": "{{ run_id }}"}, feed.rows({"prompt": text})]  # type: ignore[arg-type, list-item]
            )
        assert feed.rendered(mapped, 0).prompt == RUN
        assert feed.rendered(mapped, 1).prompt == text


class TestTemplates:
    def test_template_is_rendered_next_to_text_of_another_task(self, monkeypatch: pytest.MonkeyPatch) -> None:
        feed = Feed(monkeypatch, output_path="/videos/{{ run_id }}/")
        with feed.dag:
            mapped = ToAPIsSubmitVideoOperator.partial(task_id="video").expand_kwargs(
                feed.rows([{"prompt": "{{ run_id }}"}])
            )
        operator = feed.rendered(mapped)
        assert (operator.prompt, operator.output_path) == ("{{ run_id }}", f"/videos/{RUN}/")

    def test_mapped_list_is_rendered(self, feed: Feed) -> None:
        with feed.dag:
            by_kwargs = ToAPIsSubmitVideoOperator.partial(task_id="a").expand_kwargs([{"prompt": "{{ run_id }}"}])
            by_field = ToAPIsSubmitVideoOperator.partial(task_id="b").expand(prompt=["{{ run_id }}"])
        assert [feed.rendered(mapped).prompt for mapped in (by_kwargs, by_field)] == [RUN, RUN]

    def test_literals_are_resolved(self, feed: Feed) -> None:
        with feed.dag:
            mapped = ToAPIsSubmitVideoOperator.partial(task_id="video").expand_kwargs(
                feed.rows([HOSTILE[1]]).map(lambda text: {"prompt": literal(text)})
            )
        assert feed.rendered(mapped).prompt == HOSTILE[1]


class TestBatchRows:
    def render(self, requests: Any) -> Any:
        operator = ToAPIsVideoBatchOperator(task_id="videos", requests=requests, output_path="/videos/{{ run_id }}/")
        ti = FakeTaskInstance()
        context: Any = {"ti": ti, "task": operator, "run_id": ti.run_id, "params": {}}
        operator.render_template_fields(context)
        assert operator.output_path == f"/videos/{RUN}/"
        return operator.requests

    @pytest.mark.parametrize("text", HOSTILE)
    def test_batch_rows_are_not_rendered(self, text: str) -> None:
        rows = [{"key": "a", "prompt": text, "image": [text], "parameters": {"note": text}, "duration": 6}]
        assert self.render(rows) == rows

    def test_path_of_a_feed_is_rendered(self) -> None:
        assert self.render("/feeds/{{ run_id }}.csv") == f"/feeds/{RUN}.csv"

    def test_output_of_a_task_in_a_row_is_resolved(self, feed: Feed) -> None:
        with feed.dag:
            rows = [{"key": "a", "image": feed.rows(["{{ run_id }}"])}]
        assert self.render(rows) == [{"key": "a", "image": ["{{ run_id }}"]}]
