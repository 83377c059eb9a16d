"""Template fields of the operators: checks and masking after rendering."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException

from airflow_provider_toapis.decorators.batch import toapis_video_batch_task
from airflow_provider_toapis.decorators.video import toapis_video_task
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.files import ToAPIsDownloadVideoOperator, ToAPIsUploadFileOperator
from airflow_provider_toapis.operators.video import (
    ToAPIsExtendVideoOperator,
    ToAPIsRemixVideoOperator,
    ToAPIsSubmitVideoOperator,
)
from airflow_provider_toapis.sensors.video import ToAPIsVideoSensor
from tests.airflow_task import FakeTaskInstance

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
LONE_SURROGATE = "\ud83d"
IMAGE = "https://example.com/a.jpg"
SUBMIT: dict[str, Any] = {"prompt": "p", "image": IMAGE}
DERIVED: dict[str, Any] = {"video_id": "video_1", "prompt": "p"}
BATCH: dict[str, Any] = {"requests": [{"key": "a", "prompt": "p", "image": IMAGE}], "output_path": "/videos/"}


class SubmittedError(Exception):
    """The attempt called the service."""


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_submitted(*_: object, **__: object) -> None:
        raise SubmittedError

    monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", '{"conn_type": "toapis", "password": "sk-unit-0123456789"}')
    for name in ("submit_once", "upload_file", "get_video", "client"):
        monkeypatch.setattr(ToAPIsHook, name, raise_submitted)


def rendered(operator: Any, *, native: bool = False, map_index: int = -1, **values: Any) -> Any:
    """Return the operator with its fields rendered as Airflow does it, in a DAG."""
    if not operator.has_dag():
        operator.dag = DAG("videos", schedule=None, start_date=START, render_template_as_native_obj=native)
    ti = FakeTaskInstance(map_index=map_index)
    run = SimpleNamespace(conf={})
    context: Any = {"ti": ti, "task": operator, "dag": operator.dag, "dag_run": run, "run_id": ti.run_id, **values}
    operator.render_template_fields(context)
    return context["task"]


def decorated(function: Callable[[], Any], **fields: Any) -> Any:
    described: Any = toapis_video_task(function, task_id="t", **fields)
    return described().operator


def execute(operator: Any) -> Any:
    return operator.execute(FakeTaskInstance().context)


def rejects(operator: Any, field: str) -> str:
    """Assert that the attempt sends no request and raises an error about ``field``. Return the message."""
    with pytest.raises(ToAPIsRequestError) as rejected:
        execute(operator)
    assert isinstance(rejected.value, AirflowFailException)
    message = str(rejected.value)
    assert message.startswith(f"Invalid {field}=")
    return message


EMPTY_VALUES = pytest.mark.parametrize(
    ("native", "value"), [(False, None), (False, ""), (False, "None"), (True, None), (True, "None")]
)


class TestEmptyTemplate:
    @EMPTY_VALUES
    @pytest.mark.parametrize(
        ("operator_class", "arguments", "field"),
        [
            *(
                (ToAPIsSubmitVideoOperator, SUBMIT, field)
                for field in (
                    "prompt",
                    "image",
                    "model",
                    "duration",
                    "aspect_ratio",
                    "parameters",
                    "client_business_id",
                    "identity",
                    "output_path",
                )
            ),
            *((ToAPIsRemixVideoOperator, DERIVED, field) for field in ("video_id", "prompt", "model", "identity")),
            (ToAPIsExtendVideoOperator, DERIVED, "video_id"),
            *((ToAPIsVideoBatchOperator, BATCH, field) for field in ("output_path", "duration", "max_cost_usd")),
            (ToAPIsDownloadVideoOperator, {"output_path": "/videos/"}, "video_id"),
            (ToAPIsDownloadVideoOperator, {"video_id": "video_1"}, "output_path"),
            (ToAPIsUploadFileOperator, {}, "source"),
        ],
    )
    def test_empty_template_is_rejected(
        self, operator_class: Callable[..., Any], arguments: dict[str, Any], field: str, native: bool, value: object
    ) -> None:
        rejects(
            rendered(operator_class(task_id="t", **arguments | {field: "{{ value }}"}), native=native, value=value),
            field,
        )

    @pytest.mark.parametrize("value", [None, "None"])
    def test_empty_template_in_image_list_or_nested_parameters_is_rejected(self, value: object) -> None:
        for native in (False, True):
            images = ToAPIsSubmitVideoOperator(task_id="t", prompt="p", image=[IMAGE, "{{ value }}"])
            rejects(rendered(images, native=native, value=value), "image")
            deep = {"metadata": {"list": [{"url": "{{ value }}"}]}}
            parameters = ToAPIsSubmitVideoOperator(task_id="t", **SUBMIT, parameters=deep)
            rejects(rendered(parameters, native=native, value=value), "parameters")

    @pytest.mark.parametrize("path", ["./{{ value }}/", "/videos/{{ value }}.mp4", "s3://b/{{ value }}/a.mp4"])
    def test_empty_template_in_a_path_segment_is_rejected(self, path: str) -> None:
        for operator_class, arguments in (
            (ToAPIsSubmitVideoOperator, SUBMIT),
            (ToAPIsVideoBatchOperator, BATCH),
            (ToAPIsDownloadVideoOperator, {"video_id": "video_1"}),
        ):
            operator: Any = operator_class(task_id="t", **arguments | {"output_path": path})
            assert "segment 'None'" in rejects(rendered(operator, value=None), "output_path")

    def test_empty_template_in_a_mapped_task_is_rejected(self) -> None:
        with DAG("videos", schedule=None, start_date=START):
            mapped: Any = ToAPIsSubmitVideoOperator.partial(task_id="t", identity="{{ value }}", prompt="p").expand(
                image=[IMAGE, IMAGE]
            )
        rejects(rendered(mapped, map_index=1, value=None), "identity")

    def test_empty_prompt_is_accepted_if_the_model_needs_none(self) -> None:
        for native in (False, True):
            operator = ToAPIsSubmitVideoOperator(task_id="t", prompt="{{ value }}", image=IMAGE, model="happyhorse-1.1")
            with pytest.raises(SubmittedError):
                execute(rendered(operator, native=native, value="" if not native else None))

    def test_text_none_is_rejected_as_a_prompt_for_any_model(self) -> None:
        operator = ToAPIsSubmitVideoOperator(task_id="t", prompt="{{ value }}", image=IMAGE, model="happyhorse-1.1")
        rejects(rendered(operator, value=None), "prompt")

    def test_omitted_arguments_are_accepted(self) -> None:
        operator = ToAPIsSubmitVideoOperator(
            task_id="t", **SUBMIT, duration=None, aspect_ratio="", identity=None, parameters={"seed": None}
        )
        for native in (False, True):
            with pytest.raises(SubmittedError):
                execute(rendered(operator, native=native))

    def test_nested_parameter_can_be_blank(self) -> None:
        operator = ToAPIsSubmitVideoOperator(task_id="t", **SUBMIT, parameters={"negative_prompt": "{{ value }}"})
        with pytest.raises(SubmittedError):
            execute(rendered(operator, value=""))

    def test_returned_field_replaces_an_empty_template(self) -> None:
        operator = decorated(lambda: SUBMIT, image="{{ value }}")
        with pytest.raises(SubmittedError):
            execute(rendered(operator, value=None))

    @pytest.mark.parametrize("field", ["prompt", "image", "identity", "client_business_id", "output_path", "model"])
    def test_text_none_returned_by_a_function_is_rejected(self, field: str) -> None:
        rejects(rendered(decorated(lambda: SUBMIT | {field: "None"})), field)


class TestVideoId:
    @pytest.mark.parametrize("value", [None, "None", "", 5, ["video_1", None], ["None"], f"video_{LONE_SURROGATE}"])
    def test_download_without_valid_id_is_rejected(self, value: Any) -> None:
        rejects(ToAPIsDownloadVideoOperator(task_id="t", video_id=value, output_path="/videos/"), "video_id")

    @pytest.mark.parametrize("deferrable", [False, True])
    @pytest.mark.parametrize("value", [None, "None", "", 5, f"video_{LONE_SURROGATE}"])
    def test_sensor_without_valid_id_is_rejected(self, value: Any, deferrable: bool) -> None:
        rejects(ToAPIsVideoSensor(task_id="t", video_id=value, deferrable=deferrable), "video_id")


class TestLoneSurrogate:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("prompt", f"A secret shoe {LONE_SURROGATE}"),
            ("image", f"https://example.com/{LONE_SURROGATE}.jpg"),
            ("image", [IMAGE, f"/pictures/{LONE_SURROGATE}.jpg"]),
            ("model", f"grok{LONE_SURROGATE}"),
            ("identity", f"SKU {LONE_SURROGATE}"),
            ("client_business_id", f"sku{LONE_SURROGATE}"),
            ("output_path", f"/videos/{LONE_SURROGATE}/"),
        ],
    )
    def test_lone_surrogate_is_rejected_by_field_before_submission(self, field: str, value: object) -> None:
        message = rejects(ToAPIsSubmitVideoOperator(task_id="t", **SUBMIT | {field: value}), field)
        assert "secret" not in message
        message.encode()

    def test_lone_surrogate_in_a_literal_is_rejected_at_parse_time(self) -> None:
        with pytest.raises(ToAPIsRequestError) as rejected:
            ToAPIsSubmitVideoOperator(task_id="t", **SUBMIT | {"aspect_ratio": f"16:9{LONE_SURROGATE}"})
        str(rejected.value).encode()

    def test_lone_surrogate_in_nested_parameters_is_rejected(self) -> None:
        parameters = {"metadata": {"title": [f"A secret {LONE_SURROGATE}"]}}
        message = rejects(
            ToAPIsSubmitVideoOperator(task_id="t", **SUBMIT, parameters=parameters), "parameters.metadata.title"
        )
        assert "secret" not in message

    def test_lone_surrogate_in_a_signed_url_is_rejected(self) -> None:
        signed = f"{IMAGE}?AWSAccessKeyId=A&Signature={'ab1' * 9}&Expires=1790000000&title={LONE_SURROGATE}"
        rejects(rendered(ToAPIsSubmitVideoOperator(task_id="t", prompt="p", image=signed)), "image")


class TestManySignedUrls:
    """Signatures of many URLs are removed and not masked: Airflow recompiles its pattern for each masked value."""

    @pytest.fixture
    def masked(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        masked: list[str] = []
        monkeypatch.setattr("airflow_provider_toapis.operators.rendered_fields.mask_secret", masked.append)
        return masked

    def rows(self, count: int) -> list[dict[str, Any]]:
        return [
            {
                "key": f"k{number}",
                "prompt": "p",
                "image": (
                    f"https://shop.s3.amazonaws.com/{number}.jpg?AWSAccessKeyId=AKIAEXAMPLE"
                    f"&Signature={number:032x}&x-amz-security-token={number:0900x}&Expires=1790000000"
                ),
            }
            for number in range(count)
        ]

    def test_feed_is_displayed_without_signatures_and_used_with_them(
        self, masked: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        used: list[Any] = []
        monkeypatch.setattr(
            "airflow_provider_toapis.batch.runner.Batch", lambda _hook, requests, *_, **__: used.extend(requests)
        )
        operator: Any = rendered(ToAPIsVideoBatchOperator(task_id="t", requests=self.rows(50), output_path="/v/"))
        assert "https://shop.s3.amazonaws.com/49.jpg" in (shown := json.dumps(operator.requests))
        assert not [secret for secret in ("Signature", "AKIA", "token") if secret in shown]
        operator._batch(FakeTaskInstance().context)
        assert used == self.rows(50)
        assert masked == []

    def test_function_arguments_are_displayed_without_signatures_and_used_with_them(self, masked: list[str]) -> None:
        used: list[Any] = []

        def feed(rows: list[Any], *, more: list[Any]) -> list[Any]:
            used.extend([rows, more])
            raise SubmittedError

        rows = self.rows(50)
        described: Any = toapis_video_batch_task(feed, task_id="t", output_path="/v/")
        operator: Any = rendered(described(rows, more=rows).operator)
        shown = json.dumps([operator.op_args, operator.op_kwargs])
        assert not [secret for secret in ("Signature", "AKIA", "token") if secret in shown]
        with pytest.raises(SubmittedError):
            execute(operator)
        assert used == [rows, rows]
        assert masked == []

    def test_images_returned_by_a_function_are_displayed_without_signatures(self, masked: list[str]) -> None:
        urls = [row["image"] for row in self.rows(50)]
        operator = rendered(decorated(lambda: {"prompt": "p", "image": urls, "model": "of-tomorrow"}))
        with pytest.raises(SubmittedError):
            execute(operator)
        assert "Signature" not in json.dumps(operator.image)
        assert [image.url for image in operator._request().images] == urls
        assert masked == []

    def test_few_signed_urls_are_masked_and_stay_in_their_fields(self, masked: list[str]) -> None:
        operator: Any = rendered(ToAPIsVideoBatchOperator(task_id="t", requests=self.rows(2), output_path="/v/"))
        assert operator.requests == self.rows(2)
        assert {f"{number:032x}" for number in range(2)} <= set(masked)

    def test_rendering_time_grows_linearly(self) -> None:
        started = time.perf_counter()
        rendered(ToAPIsVideoBatchOperator(task_id="t", requests=self.rows(2_000), output_path="/v/"))
        # Masking each signature would take an hour.
        assert time.perf_counter() - started < 20
