"""Checks of templated ``output_path`` values."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.files import ToAPIsDownloadVideoOperator
from airflow_provider_toapis.operators.results import file_name, require_inside
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from tests.airflow_task import FakeTaskInstance
from tests.errors import rejects

EVERY_OPERATOR = pytest.mark.parametrize(
    ("operator_class", "arguments"),
    [
        (ToAPIsSubmitVideoOperator, {"prompt": "p"}),
        (ToAPIsDownloadVideoOperator, {"video_id": "video_1"}),
        (ToAPIsVideoBatchOperator, {"requests": []}),
    ],
    ids=["submit", "download", "batch"],
)


def rendered(operator: Any, map_index: int = -1, **values: Any) -> str:
    ti = FakeTaskInstance(map_index=map_index)
    context = {"ti": ti, "task": operator, "run_id": ti.run_id, "params": {}, **values}
    operator.render_template_fields(context)
    return str(context["task"].output_path)


class TestTemplate:
    @EVERY_OPERATOR
    @pytest.mark.parametrize("sku", ["../../x", "..", "a/../../b"])
    def test_template_that_leaves_its_directory_is_rejected(
        self, operator_class: Any, arguments: dict[str, Any], sku: str
    ) -> None:
        operator = operator_class(task_id="video", output_path="/data/videos/{{ sku }}/v", **arguments)
        with rejects("output_path", f"/data/videos/{sku}/v") as raised:
            rendered(operator, sku=sku)
        assert "file_name" in str(raised.value)
        assert isinstance(raised.value, AirflowFailException)

    @pytest.mark.parametrize("scheme", ["file://", "local://"])
    def test_template_that_leaves_its_directory_by_uri_encoding_is_rejected(self, scheme: str) -> None:
        operator = ToAPIsSubmitVideoOperator(task_id="v", prompt="p", output_path=scheme + "/data/{{ sku }}/v.mp4")
        with pytest.raises(ToAPIsRequestError):
            rendered(operator, sku="%2e%2e%2fx")

    @pytest.mark.parametrize(
        ("template", "sku", "path"),
        [
            ("../videos/{{ sku }}.mp4", "A-1", "../videos/A-1.mp4"),
            ("/data/{{ sku }}.mp4", "a..b", "/data/a..b.mp4"),
            ("/data/{{ sku }}.mp4", "A/1", "/data/A/1.mp4"),
            ("s3://bucket/{{ sku }}", "x", "s3://bucket/x"),
        ],
    )
    def test_template_inside_its_directory_is_unchanged(self, template: str, sku: str, path: str) -> None:
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="p", output_path=template)
        assert rendered(operator, sku=sku) == path

    @EVERY_OPERATOR
    @pytest.mark.parametrize("sku", ["../../x", "A/1", "..", "naïve shoe", "a\nb", "C:\\x"])
    def test_file_name_filter_makes_one_name_of_any_text(
        self, operator_class: Any, arguments: dict[str, Any], sku: str
    ) -> None:
        operator = operator_class(task_id="video", output_path="/data/videos/{{ sku | file_name }}.mp4", **arguments)
        path = Path(rendered(operator, sku=sku))
        assert path.resolve().parent == Path("/data/videos")

    @pytest.mark.parametrize("sku", [None, "", "None"])
    def test_file_name_filter_rejects_empty_values(self, sku: Any) -> None:
        operator = ToAPIsSubmitVideoOperator(
            task_id="video", prompt="p", output_path="/data/videos/{{ sku | file_name }}.mp4"
        )
        with rejects("output_path"):
            rendered(operator, sku=sku)


class TestMappedTask:
    @staticmethod
    def rendered_path(dag: DAG, mapped: Any, map_index: int, **values: Any) -> str:
        return rendered(mapped, map_index, dag=dag, dag_run=SimpleNamespace(conf={}), **values)

    @pytest.fixture
    def dag(self) -> DAG:
        return DAG("videos", schedule=None, start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))

    def test_mapped_template_is_checked_and_can_use_the_filter(self, dag: DAG) -> None:
        with dag:
            mapped = ToAPIsSubmitVideoOperator.partial(
                task_id="video", prompt="p", output_path="/data/{{ task.identity | file_name }}.mp4"
            ).expand(identity=["a-1", "../x"])
            unsafe = ToAPIsSubmitVideoOperator.partial(
                task_id="unsafe", prompt="p", output_path="/data/{{ task.identity }}/v.mp4"
            ).expand(identity=["A-1", "../x"])
        assert self.rendered_path(dag, mapped, 0) == "/data/a-1.mp4"
        assert Path(self.rendered_path(dag, mapped, 1)).parent == Path("/data")
        assert self.rendered_path(dag, unsafe, 0) == "/data/A-1/v.mp4"
        with rejects("output_path"):
            self.rendered_path(dag, unsafe, 1)

    def test_mapped_literal_can_leave_the_directory(self, dag: DAG) -> None:
        with dag:
            mapped = ToAPIsSubmitVideoOperator.partial(task_id="video", prompt="p").expand(
                output_path=["../a.mp4", "../{{ sku }}/b.mp4"]
            )
        assert self.rendered_path(dag, mapped, 0) == "../a.mp4"
        with rejects("output_path"):
            self.rendered_path(dag, mapped, 1, sku="..")

    @pytest.mark.parametrize("as_kwargs", [False, True])
    def test_value_of_another_task_cannot_leave_the_directory(
        self, dag: DAG, monkeypatch: pytest.MonkeyPatch, as_kwargs: bool
    ) -> None:
        paths = ["/data/a.mp4", "/data/../b.mp4"]
        with dag:
            feed = ToAPIsDownloadVideoOperator(task_id="feed", video_id="v", output_path="/o")
            partial = ToAPIsSubmitVideoOperator.partial(task_id="video", prompt="p")
            mapped: Any = partial.expand_kwargs(feed.output) if as_kwargs else partial.expand(output_path=feed.output)
        monkeypatch.setattr(
            mapped,
            "_expand_mapped_kwargs",
            lambda context, *_, **__: ({"output_path": paths[context["ti"].map_index]}, set()),
        )
        assert self.rendered_path(dag, mapped, 0) == "/data/a.mp4"
        with rejects("output_path"):
            self.rendered_path(dag, mapped, 1)


class TestFileName:
    @pytest.mark.parametrize("text", ["shoe", "SKU-1_a.b", "2026", "-x"])
    def test_plain_text_is_unchanged(self, text: str) -> None:
        assert file_name(text) == text

    def test_number_is_converted_to_text(self) -> None:
        assert file_name(7) == "7"

    @pytest.mark.parametrize(
        "pair",
        [("A/1", "A-1"), ("a b", "a-b"), ("..", "..."), ("ä", "ö"), ("a/1", file_name("a/1"))],
    )
    def test_different_texts_have_different_names(self, pair: tuple[str, str]) -> None:
        assert file_name(pair[0]).lower() != file_name(pair[1]).lower()

    def test_lone_surrogate_is_rejected_by_field(self) -> None:
        with rejects("output_path"):
            file_name("shoe \ud83d")

    @given(st.text(min_size=1, max_size=200).filter(lambda text: text != "None"))
    def test_file_name_is_always_one_name_in_its_directory(self, text: str) -> None:
        name = file_name(text)
        path = Path(f"/videos/{name}.mp4")
        assert path.resolve() == Path("/videos") / f"{name}.mp4"
        assert len(name) <= 100


def test_returned_path_cannot_leave_the_directory() -> None:
    with pytest.raises(ToAPIsRequestError):
        require_inside(None, "/data/../x.mp4")
    require_inside(None, "/data/x.mp4")
    require_inside(None, None)
