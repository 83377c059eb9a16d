"""``@task.toapis_video``: the accepted return values, and their handling before the submission."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, task

from airflow_provider_toapis.decorators.video import toapis_video_task
from airflow_provider_toapis.exceptions import ToAPIsRequestError, ToAPIsWaitInterruptedError
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from tests.airflow_task import FakeTaskInstance
from tests.errors import claims_nothing_was_billed, rejects

SIGNATURE = "0123456789abcdef0123456789abcdef"
SIGNED_URL = (
    "https://bucket.s3.amazonaws.com/shoe.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    f"&X-Amz-Credential=AKIAEXAMPLEEXAMPLE%2F20260101&X-Amz-Signature={SIGNATURE}"
)
SECRET = "A secret shoe"
#: All fields that a function can return.
ALL_FIELDS = {
    "prompt": "A shoe",
    "image": ["https://example.com/a.jpg"],
    "model": "grok-video-1.0",
    "duration": 6,
    "aspect_ratio": "9:16",
    "parameters": {"seed": 7},
    "identity": "SKU-1",
    "client_business_id": "sku-1",
    "output_path": "/videos/a.mp4",
}


@pytest.fixture(autouse=True)
def executed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the operator's ``execute``, and return a list of the operators that were executed."""
    operators: list[Any] = []
    monkeypatch.setattr(ToAPIsSubmitVideoOperator, "execute", lambda self, _: operators.append(self))
    return operators


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    secrets: list[str] = []
    monkeypatch.setattr("airflow_provider_toapis.operators.rendered_fields.mask_secret", secrets.append)
    return secrets


def operator(returned: object = "A shoe", **fields: Any) -> Any:
    """Return the operator of a decorated function that returns ``returned``."""
    return decorated(lambda: returned, **fields)


def decorated(function: Callable[..., Any], *args: Any, _with: dict[str, Any] | None = None, **fields: Any) -> Any:
    return toapis_video_task(function, **{"task_id": "video"} | fields)(*args, **_with or {}).operator


def run(operator: Any, ti: FakeTaskInstance | None = None) -> Any:
    operator.execute((ti or FakeTaskInstance()).context)
    return operator


def render(operator: Any, map_index: int = -1, **values: Any) -> Any:
    ti = FakeTaskInstance(map_index=map_index)
    context: Any = {"ti": ti, "task": operator, "run_id": ti.run_id, "params": {}, **values}
    operator.render_template_fields(context)
    return context["task"]


class TestReturned:
    def test_text_is_the_prompt(self) -> None:
        assert run(operator("A shoe", duration=6)).prompt == "A shoe"

    def test_returned_fields_override_decorator_arguments(self) -> None:
        result = run(operator(ALL_FIELDS, **dict.fromkeys(ALL_FIELDS, "something else")))
        assert {name: getattr(result, name) for name in ALL_FIELDS} == ALL_FIELDS

    def test_missing_and_none_fields_use_decorator_arguments(self) -> None:
        result = run(operator({"prompt": "A shoe", "duration": None}, duration=6, aspect_ratio="9:16"))
        assert (result.prompt, result.duration, result.aspect_ratio) == ("A shoe", 6, "9:16")
        assert result.model == "grok-video-1.5-preview"

    def test_paths_and_tuples_are_normalized_as_in_xcom(self) -> None:
        ti = FakeTaskInstance()
        images = (Path("/pictures/a.jpg"), "/pictures/b.jpg")
        result = run(operator({"image": images, "output_path": Path("/videos/a.mp4")}), ti)
        assert (result.image, result.output_path) == (["/pictures/a.jpg", "/pictures/b.jpg"], "/videos/a.mp4")
        assert ti.xcoms["request"] == {"image": result.image, "output_path": result.output_path}

    def test_returned_text_is_not_rendered(self) -> None:
        text = "{{ var.value.api_key }} {{ run_id }}"
        result = run(render(operator(text, output_path="/videos/{{ run_id }}.mp4")))
        assert result.prompt == text
        assert result.output_path == "/videos/scheduled__2026-01-01.mp4"

    @pytest.mark.parametrize(
        ("field", "suggested"),
        [("promt", "prompt"), ("Prompt", "prompt"), ("images", "image"), ("aspectRatio", "aspect_ratio")],
    )
    def test_misspelled_field_is_rejected_with_a_suggestion(self, field: str, suggested: str) -> None:
        with rejects(field) as rejected:
            run(operator({field: SECRET}))
        assert str(rejected.value).count(repr(suggested)) == 1

    @pytest.mark.parametrize("field", ["seed", "deferrable", 5, None])
    def test_unknown_field_is_rejected_with_the_known_fields(self, field: object) -> None:
        with rejects(str(field)) as rejected:
            run(operator({"prompt": "p", field: SECRET}))
        for known in ("prompt", "image", "parameters"):
            assert known in str(rejected.value)

    @pytest.mark.parametrize(
        ("returned", "type_name"),
        [(None, "None"), ([{"prompt": SECRET}], "list"), (5, "int"), (SECRET.encode(), "bytes")],
    )
    def test_other_return_type_is_rejected_with_its_type(self, returned: object, type_name: str) -> None:
        with rejects(None) as rejected:
            run(operator(returned))
        assert type_name in str(rejected.value)

    @pytest.mark.parametrize(
        ("field", "value", "type_name"),
        [
            ("output_path", 5, "int"),
            ("identity", [SECRET], "list"),
            ("prompt", {SECRET}, "set"),
            ("parameters", {"at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}, "dict"),
        ],
    )
    def test_unserializable_value_is_rejected_with_field_and_type(
        self, field: str, value: object, type_name: str
    ) -> None:
        with rejects(field) as rejected:
            run(operator({field: value}))
        assert type_name in rejected.value.value

    @pytest.mark.parametrize("returned", [{"promt": SECRET}, [SECRET], {"prompt": {SECRET}}, {"identity": [SECRET]}])
    def test_rejection_bills_nothing_pushes_no_xcom_and_shows_no_prompt(
        self, returned: object, executed: list[Any]
    ) -> None:
        ti = FakeTaskInstance()
        with pytest.raises(ToAPIsRequestError) as rejected:
            run(operator(returned), ti)
        assert claims_nothing_was_billed(rejected.value)
        assert isinstance(rejected.value, AirflowFailException)
        assert SECRET not in str(rejected.value)
        assert (executed, ti.xcoms) == ([], {})

    def test_signed_urls_are_masked(self, masked: list[str]) -> None:
        run(operator({"image": "https://example.com/a.jpg?size=large", "parameters": {"seed": 7}}))
        assert masked == []
        run(operator({"image": [SIGNED_URL]}))
        assert SIGNATURE in masked
        masked.clear()
        run(operator({"parameters": {"metadata": {"image_list": [{"image_url": SIGNED_URL}]}}}))
        assert SIGNATURE in masked


class TestFunction:
    def test_arguments_are_rendered_and_context_is_passed_by_name(self) -> None:
        def describe(product: str, *, color: str, ti: Any = None) -> str:
            return f"{product}, {color}, {ti.task_id}"

        result = render(decorated(describe, "shoe of {{ run_id }}", _with={"color": "{{ color }}"}), color="red")
        assert run(result).prompt == "shoe of scheduled__2026-01-01, red, video"

    def test_error_of_the_function_is_not_changed(self, executed: list[Any]) -> None:
        def describe() -> str:
            raise LookupError("no such product")

        with pytest.raises(LookupError, match="no such product"):
            run(decorated(describe))
        assert executed == []

    def test_signed_url_in_an_argument_is_masked(self, masked: list[str]) -> None:
        render(decorated(lambda image: image, "{{ url }}"), url=SIGNED_URL)
        assert SIGNATURE in masked
        masked.clear()
        render(decorated(lambda product: product, _with={"product": {"image": "{{ url }}"}}), url=SIGNED_URL)
        assert SIGNATURE in masked

    def test_each_mapped_task_gets_its_own_arguments(self, masked: list[str]) -> None:
        with DAG("videos", schedule=None, start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) as dag:
            described: Any = toapis_video_task(
                lambda image, prompt: {"image": image, "prompt": prompt}, task_id="video", identity="{{ ti.map_index }}"
            )
            mapped: Any = described.partial(prompt="of {{ run_id }}").expand(
                image=["https://a.example/a.jpg", SIGNED_URL]
            )
        result = [
            run(render(mapped.operator, index, dag=dag, dag_run=SimpleNamespace(conf={})), FakeTaskInstance())
            for index in (0, 1)
        ]
        assert [each.image for each in result] == ["https://a.example/a.jpg", SIGNED_URL]
        assert [each.prompt for each in result] == ["of scheduled__2026-01-01"] * 2
        assert [each.identity for each in result] == ["0", "1"]
        assert SIGNATURE in masked

    def test_return_annotation_sets_multiple_outputs(self) -> None:
        def mapping() -> dict[str, Any]:
            return {}

        def text() -> str:
            return ""

        assert decorated(mapping).multiple_outputs is True
        assert decorated(text).multiple_outputs is False
        assert decorated(mapping, multiple_outputs=False).multiple_outputs is False


class TestResume:
    def test_resume_uses_the_returned_request_and_does_not_call_the_function(
        self, monkeypatch: pytest.MonkeyPatch, masked: list[str]
    ) -> None:
        monkeypatch.setattr(ToAPIsSubmitVideoOperator, "execute_complete", lambda self, _context, event: self)
        ti = FakeTaskInstance()
        run(operator({**ALL_FIELDS, "image": SIGNED_URL}), ti)
        masked.clear()
        resumed = decorated(lambda: pytest.fail("the function was called again")).resume_execution(
            "execute_complete", {"event": {}}, ti.context
        )
        assert {name: getattr(resumed, name) for name in ALL_FIELDS} == {**ALL_FIELDS, "image": SIGNED_URL}
        assert SIGNATURE in masked

    def test_resume_without_saved_request_raises_wait_interrupted_with_video_id(self) -> None:
        ti = FakeTaskInstance()
        ti.xcom_push("video_id", "video_1")
        with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
            operator().resume_execution("execute_complete", {"event": {}}, ti.context)
        assert interrupted.value.video_id == "video_1"
        assert not isinstance(interrupted.value, AirflowFailException)


class TestDefinition:
    def test_airflow_registers_the_task_decorator(self) -> None:
        with DAG("videos", schedule=None):

            @task.toapis_video(output_path="/videos/")
            def describe(product: str) -> str:
                """Describe a product."""
                return product

            defined: Any = describe("shoe")
        result = defined.operator
        assert ToAPIsSubmitVideoOperator in type(result).mro()
        assert (result.task_id, result.output_path, result.doc_md) == ("describe", "/videos/", "Describe a product.")
        assert result.custom_operator_name == "@task.toapis_video"

    def test_decorator_accepts_and_rejects_operator_arguments(self) -> None:
        result = operator(timeout=60, retries=3, on_clear="regenerate")
        assert (result.timeout, result.retries, result.on_clear) == (60.0, 3, "regenerate")
        with rejects("on_clear", "delete"):
            operator(on_clear="delete")
        with pytest.raises(TypeError, match="missing a required argument"):
            decorated(lambda product: product)

    def test_decorating_reads_no_connection_and_calls_no_function(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ToAPIsHook, "get_connection", lambda *_: pytest.fail("the connection was read"))
        decorated(lambda: pytest.fail("the function was called"))

    def test_template_fields_include_function_arguments_and_operator_fields(self) -> None:
        fields = set(operator().template_fields)
        assert fields == {"op_args", "op_kwargs", *ToAPIsSubmitVideoOperator.template_fields}
        assert operator().template_fields_renderers == {"op_args": "py", "op_kwargs": "py", "parameters": "json"}
