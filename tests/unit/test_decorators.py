"""``@task.toapis_video``: what a function may return, and what becomes of it before anything is sent."""

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
SIGNED = (
    "https://bucket.s3.amazonaws.com/shoe.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    f"&X-Amz-Credential=AKIAEXAMPLEEXAMPLE%2F20260101&X-Amz-Signature={SIGNATURE}"
)
SECRET = "A shoe that nobody may see yet"
#: Whatever a function may say of a video.
EVERYTHING = {
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
    """Stop before the operator's own work, and return the operators that came so far."""
    operators: list[Any] = []
    monkeypatch.setattr(ToAPIsSubmitVideoOperator, "execute", lambda self, _: operators.append(self))
    return operators


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    secrets: list[str] = []
    monkeypatch.setattr("airflow_provider_toapis.operators.rendered_fields.mask_secret", secrets.append)
    return secrets


def operator(returned: object = "A shoe", **fields: Any) -> Any:
    """Return the operator of a decorated function that returns this."""
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

    def test_every_field_wins_over_the_decorator(self) -> None:
        made = run(operator(EVERYTHING, **dict.fromkeys(EVERYTHING, "something else")))
        assert {name: getattr(made, name) for name in EVERYTHING} == EVERYTHING

    def test_what_it_does_not_say_or_says_none_of_is_as_the_decorator_says(self) -> None:
        made = run(operator({"prompt": "A shoe", "duration": None}, duration=6, aspect_ratio="9:16"))
        assert (made.prompt, made.duration, made.aspect_ratio) == ("A shoe", 6, "9:16")
        assert made.model == "grok-video-1.5-preview"

    def test_paths_and_tuples_are_as_they_are_after_a_stay_in_xcom(self) -> None:
        ti = FakeTaskInstance()
        pictures = (Path("/pictures/a.jpg"), "/pictures/b.jpg")
        made = run(operator({"image": pictures, "output_path": Path("/videos/a.mp4")}), ti)
        assert (made.image, made.output_path) == (["/pictures/a.jpg", "/pictures/b.jpg"], "/videos/a.mp4")
        assert ti.xcoms["request"] == {"image": made.image, "output_path": made.output_path}

    def test_it_is_no_template(self) -> None:
        words = "{{ var.value.api_key }} {{ run_id }}"
        made = run(render(operator(words, output_path="/videos/{{ run_id }}.mp4")))
        assert made.prompt == words
        assert made.output_path == "/videos/scheduled__2026-01-01.mp4"

    @pytest.mark.parametrize(
        ("field", "meant"),
        [("promt", "prompt"), ("Prompt", "prompt"), ("images", "image"), ("aspectRatio", "aspect_ratio")],
    )
    def test_misspelt_field_is_refused_with_the_one_that_was_meant(self, field: str, meant: str) -> None:
        with rejects(field) as rejected:
            run(operator({field: SECRET}))
        assert str(rejected.value).count(repr(meant)) == 1

    @pytest.mark.parametrize("field", ["seed", "deferrable", 5, None])
    def test_unknown_field_is_refused_with_those_that_are_known(self, field: object) -> None:
        with rejects(str(field)) as rejected:
            run(operator({"prompt": "p", field: SECRET}))
        for known in ("prompt", "image", "parameters"):
            assert known in str(rejected.value)

    @pytest.mark.parametrize(
        ("returned", "kind"),
        [(None, "None"), ([{"prompt": SECRET}], "list"), (5, "int"), (SECRET.encode(), "bytes")],
    )
    def test_anything_else_is_refused_by_its_kind(self, returned: object, kind: str) -> None:
        with rejects(None) as rejected:
            run(operator(returned))
        assert kind in str(rejected.value)

    @pytest.mark.parametrize(
        ("field", "value", "kind"),
        [
            ("output_path", 5, "int"),
            ("identity", [SECRET], "list"),
            ("prompt", {SECRET}, "set"),
            ("parameters", {"at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}, "dict"),
        ],
    )
    def test_value_that_cannot_be_kept_is_refused_by_field_and_kind(self, field: str, value: object, kind: str) -> None:
        with rejects(field) as rejected:
            run(operator({field: value}))
        assert kind in rejected.value.value

    @pytest.mark.parametrize("returned", [{"promt": SECRET}, [SECRET], {"prompt": {SECRET}}, {"identity": [SECRET]}])
    def test_refusal_costs_nothing_keeps_nothing_and_shows_no_prompt(
        self, returned: object, executed: list[Any]
    ) -> None:
        ti = FakeTaskInstance()
        with pytest.raises(ToAPIsRequestError) as refused:
            run(operator(returned), ti)
        assert claims_nothing_was_billed(refused.value)
        assert isinstance(refused.value, AirflowFailException)
        assert SECRET not in str(refused.value)
        assert (executed, ti.xcoms) == ([], {})

    def test_signed_links_are_given_to_the_secrets_masker(self, masked: list[str]) -> None:
        run(operator({"image": "https://example.com/a.jpg?size=large", "parameters": {"seed": 7}}))
        assert masked == []
        run(operator({"image": [SIGNED]}))
        assert SIGNATURE in masked
        masked.clear()
        run(operator({"parameters": {"metadata": {"image_list": [{"image_url": SIGNED}]}}}))
        assert SIGNATURE in masked


class TestFunction:
    def test_arguments_are_rendered_and_the_context_is_there_by_name(self) -> None:
        def describe(product: str, *, color: str, ti: Any = None) -> str:
            return f"{product}, {color}, {ti.task_id}"

        made = render(decorated(describe, "shoe of {{ run_id }}", _with={"color": "{{ color }}"}), color="red")
        assert run(made).prompt == "shoe of scheduled__2026-01-01, red, video"

    def test_its_own_error_is_not_changed(self, executed: list[Any]) -> None:
        def describe() -> str:
            raise LookupError("no such product")

        with pytest.raises(LookupError, match="no such product"):
            run(decorated(describe))
        assert executed == []

    def test_signed_link_in_an_argument_is_given_to_the_secrets_masker(self, masked: list[str]) -> None:
        render(decorated(lambda image: image, "{{ link }}"), link=SIGNED)
        assert SIGNATURE in masked
        masked.clear()
        render(decorated(lambda product: product, _with={"product": {"image": "{{ link }}"}}), link=SIGNED)
        assert SIGNATURE in masked

    def test_each_mapped_task_gets_its_own_arguments(self, masked: list[str]) -> None:
        with DAG("videos", schedule=None, start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) as dag:
            described: Any = toapis_video_task(
                lambda image, prompt: {"image": image, "prompt": prompt}, task_id="video", identity="{{ ti.map_index }}"
            )
            mapped: Any = described.partial(prompt="of {{ run_id }}").expand(image=["https://a.example/a.jpg", SIGNED])
        made = [
            run(render(mapped.operator, index, dag=dag, dag_run=SimpleNamespace(conf={})), FakeTaskInstance())
            for index in (0, 1)
        ]
        assert [each.image for each in made] == ["https://a.example/a.jpg", SIGNED]
        assert [each.prompt for each in made] == ["of scheduled__2026-01-01"] * 2
        assert [each.identity for each in made] == ["0", "1"]
        assert SIGNATURE in masked

    def test_annotation_decides_on_multiple_outputs_as_for_every_task(self) -> None:
        def mapping() -> dict[str, Any]:
            return {}

        def text() -> str:
            return ""

        assert decorated(mapping).multiple_outputs is True
        assert decorated(text).multiple_outputs is False
        assert decorated(mapping, multiple_outputs=False).multiple_outputs is False


class TestResume:
    def test_it_goes_on_with_what_was_returned_and_does_not_ask_again(
        self, monkeypatch: pytest.MonkeyPatch, masked: list[str]
    ) -> None:
        monkeypatch.setattr(ToAPIsSubmitVideoOperator, "execute_complete", lambda self, _context, event: self)
        ti = FakeTaskInstance()
        run(operator({**EVERYTHING, "image": SIGNED}), ti)
        masked.clear()
        resumed = decorated(lambda: pytest.fail("it was called again")).resume_execution(
            "execute_complete", {"event": {}}, ti.context
        )
        assert {name: getattr(resumed, name) for name in EVERYTHING} == {**EVERYTHING, "image": SIGNED}
        assert SIGNATURE in masked

    def test_without_it_the_wait_is_interrupted_and_the_video_stays_known(self) -> None:
        ti = FakeTaskInstance()
        ti.xcom_push("video_id", "video_1")
        with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
            operator().resume_execution("execute_complete", {"event": {}}, ti.context)
        assert interrupted.value.video_id == "video_1"
        assert not isinstance(interrupted.value, AirflowFailException)


class TestDefinition:
    def test_airflow_offers_it_as_a_task_decorator(self) -> None:
        with DAG("videos", schedule=None):

            @task.toapis_video(output_path="/videos/")
            def describe(product: str) -> str:
                """Describe a product."""
                return product

            defined: Any = describe("shoe")
        made = defined.operator
        assert ToAPIsSubmitVideoOperator in type(made).mro()
        assert (made.task_id, made.output_path, made.doc_md) == ("describe", "/videos/", "Describe a product.")
        assert made.custom_operator_name == "@task.toapis_video"

    def test_it_takes_and_refuses_what_the_operator_does(self) -> None:
        made = operator(timeout=60, retries=3, on_clear="regenerate")
        assert (made.timeout, made.retries, made.on_clear) == (60.0, 3, "regenerate")
        with rejects("on_clear", "delete"):
            operator(on_clear="delete")
        with pytest.raises(TypeError, match="missing a required argument"):
            decorated(lambda product: product)

    def test_it_reads_no_connection_and_calls_no_function(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ToAPIsHook, "get_connection", lambda *_: pytest.fail("it read the connection"))
        decorated(lambda: pytest.fail("it was called"))

    def test_templates_are_those_of_the_function_and_of_the_operator(self) -> None:
        fields = set(operator().template_fields)
        assert fields == {"op_args", "op_kwargs", *ToAPIsSubmitVideoOperator.template_fields}
        assert operator().template_fields_renderers == {"op_args": "py", "op_kwargs": "py", "parameters": "json"}
