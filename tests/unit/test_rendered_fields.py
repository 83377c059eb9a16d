"""What becomes of an operator's template fields between rendering and use."""

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
HALF = "\ud83d"
PICTURE = "https://example.com/a.jpg"
SUBMIT: dict[str, Any] = {"prompt": "p", "image": PICTURE}
DERIVED: dict[str, Any] = {"video_id": "video_1", "prompt": "p"}
BATCH: dict[str, Any] = {"requests": [{"key": "a", "prompt": "p", "image": PICTURE}], "output_path": "/videos/"}


class SubmittedError(Exception):
    """The attempt came as far as the service."""


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> None:
    def submitted(*_: object, **__: object) -> None:
        raise SubmittedError

    monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", '{"conn_type": "toapis", "password": "sk-unit-0123456789"}')
    for name in ("submit_once", "upload_file", "get_video", "client"):
        monkeypatch.setattr(ToAPIsHook, name, submitted)


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
    """Assert that the attempt is rejected by field, before anything is sent, and return why."""
    with pytest.raises(ToAPIsRequestError) as rejected:
        execute(operator)
    assert isinstance(rejected.value, AirflowFailException)
    message = str(rejected.value)
    assert message.startswith(f"Invalid {field}=")
    return message


EMPTY = pytest.mark.parametrize(
    ("native", "found"), [(False, None), (False, ""), (False, "None"), (True, None), (True, "None")]
)


class TestTemplateThatFoundNothing:
    @EMPTY
    @pytest.mark.parametrize(
        ("kind", "own", "field"),
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
    def test_it_is_rejected(
        self, kind: Callable[..., Any], own: dict[str, Any], field: str, native: bool, found: object
    ) -> None:
        rejects(rendered(kind(task_id="t", **own | {field: "{{ found }}"}), native=native, found=found), field)

    @pytest.mark.parametrize("found", [None, "None"])
    def test_it_is_rejected_in_an_image_list_and_deep_in_parameters(self, found: object) -> None:
        for native in (False, True):
            images = ToAPIsSubmitVideoOperator(task_id="t", prompt="p", image=[PICTURE, "{{ found }}"])
            rejects(rendered(images, native=native, found=found), "image")
            deep = {"metadata": {"list": [{"url": "{{ found }}"}]}}
            parameters = ToAPIsSubmitVideoOperator(task_id="t", **SUBMIT, parameters=deep)
            rejects(rendered(parameters, native=native, found=found), "parameters")

    @pytest.mark.parametrize("path", ["./{{ found }}/", "/videos/{{ found }}.mp4", "s3://b/{{ found }}/a.mp4"])
    def test_it_is_rejected_as_a_segment_of_the_path(self, path: str) -> None:
        for kind, own in (
            (ToAPIsSubmitVideoOperator, SUBMIT),
            (ToAPIsVideoBatchOperator, BATCH),
            (ToAPIsDownloadVideoOperator, {"video_id": "video_1"}),
        ):
            operator: Any = kind(task_id="t", **own | {"output_path": path})
            assert "segment 'None'" in rejects(rendered(operator, found=None), "output_path")

    def test_it_is_rejected_in_a_mapped_task(self) -> None:
        with DAG("videos", schedule=None, start_date=START):
            mapped: Any = ToAPIsSubmitVideoOperator.partial(task_id="t", identity="{{ found }}", prompt="p").expand(
                image=[PICTURE, PICTURE]
            )
        rejects(rendered(mapped, map_index=1, found=None), "identity")

    def test_prompt_may_be_nothing_where_the_model_needs_none(self) -> None:
        for native in (False, True):
            operator = ToAPIsSubmitVideoOperator(
                task_id="t", prompt="{{ found }}", image=PICTURE, model="happyhorse-1.1"
            )
            with pytest.raises(SubmittedError):
                execute(rendered(operator, native=native, found="" if not native else None))

    def test_text_none_is_no_prompt_of_any_model(self) -> None:
        operator = ToAPIsSubmitVideoOperator(task_id="t", prompt="{{ found }}", image=PICTURE, model="happyhorse-1.1")
        rejects(rendered(operator, found=None), "prompt")

    def test_arguments_that_the_author_leaves_out_stay_out(self) -> None:
        operator = ToAPIsSubmitVideoOperator(
            task_id="t", **SUBMIT, duration=None, aspect_ratio="", identity=None, parameters={"seed": None}
        )
        for native in (False, True):
            with pytest.raises(SubmittedError):
                execute(rendered(operator, native=native))

    def test_nested_wire_field_may_be_blank(self) -> None:
        operator = ToAPIsSubmitVideoOperator(task_id="t", **SUBMIT, parameters={"negative_prompt": "{{ found }}"})
        with pytest.raises(SubmittedError):
            execute(rendered(operator, found=""))

    def test_what_the_function_returns_takes_the_place_of_a_template_that_found_nothing(self) -> None:
        made = decorated(lambda: SUBMIT, image="{{ found }}")
        with pytest.raises(SubmittedError):
            execute(rendered(made, found=None))

    @pytest.mark.parametrize("field", ["prompt", "image", "identity", "client_business_id", "output_path", "model"])
    def test_text_none_that_a_function_returns_is_rejected(self, field: str) -> None:
        rejects(rendered(decorated(lambda: SUBMIT | {field: "None"})), field)


class TestVideoId:
    @pytest.mark.parametrize("found", [None, "None", "", 5, ["video_1", None], ["None"], f"video_{HALF}"])
    def test_download_of_no_id_is_rejected(self, found: Any) -> None:
        rejects(ToAPIsDownloadVideoOperator(task_id="t", video_id=found, output_path="/videos/"), "video_id")

    @pytest.mark.parametrize("deferrable", [False, True])
    @pytest.mark.parametrize("found", [None, "None", "", 5, f"video_{HALF}"])
    def test_sensor_without_an_id_is_rejected(self, found: Any, deferrable: bool) -> None:
        rejects(ToAPIsVideoSensor(task_id="t", video_id=found, deferrable=deferrable), "video_id")


class TestHalfOfASurrogatePair:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("prompt", f"A secret shoe {HALF}"),
            ("image", f"https://example.com/{HALF}.jpg"),
            ("image", [PICTURE, f"/pictures/{HALF}.jpg"]),
            ("model", f"grok{HALF}"),
            ("identity", f"SKU {HALF}"),
            ("client_business_id", f"sku{HALF}"),
            ("output_path", f"/videos/{HALF}/"),
        ],
    )
    def test_it_is_rejected_by_field_before_anything_is_submitted(self, field: str, value: object) -> None:
        message = rejects(ToAPIsSubmitVideoOperator(task_id="t", **SUBMIT | {field: value}), field)
        assert "secret" not in message
        message.encode()

    def test_literal_that_no_model_takes_is_rejected_when_the_file_is_parsed(self) -> None:
        with pytest.raises(ToAPIsRequestError) as rejected:
            ToAPIsSubmitVideoOperator(task_id="t", **SUBMIT | {"aspect_ratio": f"16:9{HALF}"})
        str(rejected.value).encode()

    def test_it_is_rejected_deep_in_parameters(self) -> None:
        parameters = {"metadata": {"title": [f"A secret {HALF}"]}}
        message = rejects(
            ToAPIsSubmitVideoOperator(task_id="t", **SUBMIT, parameters=parameters), "parameters.metadata.title"
        )
        assert "secret" not in message

    def test_signed_url_with_it_is_rejected_all_the_same(self) -> None:
        signed = f"{PICTURE}?AWSAccessKeyId=A&Signature={'ab1' * 9}&Expires=1790000000&title={HALF}"
        rejects(rendered(ToAPIsSubmitVideoOperator(task_id="t", prompt="p", image=signed)), "image")


class TestManySignedUrls:
    """Airflow compiles its patterns again with each one that is masked: one per signature took minutes."""

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

    def test_feed_is_shown_without_signatures_and_used_with_them(
        self, masked: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        used: list[Any] = []
        monkeypatch.setattr(
            "airflow_provider_toapis.batch.runner.Batch", lambda _hook, requests, *_, **__: used.extend(requests)
        )
        operator: Any = rendered(ToAPIsVideoBatchOperator(task_id="t", requests=self.rows(50), output_path="/v/"))
        assert "https://shop.s3.amazonaws.com/49.jpg" in (shown := json.dumps(operator.requests))
        assert not [word for word in ("Signature", "AKIA", "token") if word in shown]
        operator._batch(FakeTaskInstance().context)
        assert used == self.rows(50)
        assert masked == []

    def test_arguments_of_a_function_are_shown_without_signatures_and_used_with_them(self, masked: list[str]) -> None:
        used: list[Any] = []

        def feed(rows: list[Any], *, more: list[Any]) -> list[Any]:
            used.extend([rows, more])
            raise SubmittedError

        rows = self.rows(50)
        described: Any = toapis_video_batch_task(feed, task_id="t", output_path="/v/")
        made = described(rows, more=rows).operator
        operator: Any = rendered(made)
        shown = json.dumps([operator.op_args, operator.op_kwargs])
        assert not [word for word in ("Signature", "AKIA", "token") if word in shown]
        with pytest.raises(SubmittedError):
            execute(operator)
        assert used == [rows, rows]
        assert masked == []

    def test_images_that_a_function_returns_are_shown_without_signatures(self, masked: list[str]) -> None:
        links = [row["image"] for row in self.rows(50)]
        operator = rendered(decorated(lambda: {"prompt": "p", "image": links, "model": "of-tomorrow"}))
        with pytest.raises(SubmittedError):
            execute(operator)
        assert "Signature" not in json.dumps(operator.image)
        assert [image.url for image in operator._request().images] == links
        assert masked == []

    def test_few_are_masked_and_stay_in_their_fields(self, masked: list[str]) -> None:
        operator: Any = rendered(ToAPIsVideoBatchOperator(task_id="t", requests=self.rows(2), output_path="/v/"))
        assert operator.requests == self.rows(2)
        assert {f"{number:032x}" for number in range(2)} <= set(masked)

    def test_time_grows_with_their_number(self) -> None:
        began = time.perf_counter()
        rendered(ToAPIsVideoBatchOperator(task_id="t", requests=self.rows(2_000), output_path="/v/"))
        # One pattern each would take an hour.
        assert time.perf_counter() - began < 20
