"""Literal arguments are checked when the DAG file is parsed; templates and task outputs are not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, literal, task

from airflow_provider_toapis.decorators.video import toapis_video_task
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.video import (
    ToAPIsExtendVideoOperator,
    ToAPIsRemixVideoOperator,
    ToAPIsSubmitVideoOperator,
)
from airflow_provider_toapis.sensors.video import ToAPIsVideoSensor
from tests.errors import rejects

TEMPLATE = "{{ params.value }}"


def submit(**fields: Any) -> ToAPIsSubmitVideoOperator:
    return ToAPIsSubmitVideoOperator(**{"task_id": "video", "prompt": "A shoe", "model": "grok-video-1.0"} | fields)


@pytest.mark.parametrize(
    ("fields", "field", "value"),
    [
        ({"aspect_ratio": "4:3"}, "aspect_ratio", "4:3"),
        ({"duration": 100}, "duration", 100),
        ({"duration": 12, "model": "grok-video-1.5-preview"}, "duration", 12),
        ({"duration": "12", "model": "grok-video-1.5-preview"}, "duration", 12),
        ({"duration": "long"}, "duration", "long"),
        ({"duration": 12.5}, "duration", 12.5),
        ({"prompt": None}, "prompt", None),
        ({"prompt": None, "model": "grok-video-1.5-preview"}, "prompt", None),
        ({"prompt": " "}, "prompt", " "),
        ({"prompt": "x" * 10_000, "model": "kling-v2-6"}, "prompt", "10000 characters"),
        ({"prompt": TEMPLATE, "duration": 100, "image": TEMPLATE}, "duration", 100),
    ],
)
def test_value_rejected_by_the_model_breaks_the_dag_file(fields: dict[str, Any], field: str, value: object) -> None:
    with rejects(field, value) as rejected:
        submit(**fields)
    assert isinstance(rejected.value, AirflowFailException)


@pytest.mark.parametrize("template", ["{{ 1 }}", "{% if 1 %}", "{# 1 #}"])
def test_templates_are_not_checked(template: str) -> None:
    submit(prompt=template, duration=template, aspect_ratio=template)
    submit(model=template, duration=100, aspect_ratio="4:3", prompt=None)
    submit(prompt=template + "x" * 10_000)


@pytest.mark.parametrize(
    "fields",
    [
        {"duration": 10, "aspect_ratio": "16:9"},
        {"duration": "10.0"},
        {"duration": "", "aspect_ratio": ""},
        {"prompt": None, "model": "seedance-2"},
        {"model": "a-model-of-tomorrow", "duration": 100, "aspect_ratio": "4:3", "prompt": None},
        {"model": "grok-video-1.5-preview"},
    ],
)
def test_possibly_valid_values_pass_without_a_warning(fields: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    submit(**fields)
    assert not caplog.records


def test_outputs_of_tasks_are_not_checked() -> None:
    with DAG("videos", schedule=None):

        @task
        def read() -> str:
            return ""

        output: Any = read()
        submit(prompt=output, duration=output, aspect_ratio=output)
        submit(task_id="other", model=output, duration=100)
        submit(task_id="third", prompt=literal("{{ x"), aspect_ratio=literal("4:3"))


@pytest.mark.parametrize("operator_class", [ToAPIsRemixVideoOperator, ToAPIsExtendVideoOperator])
def test_remix_and_extend_arguments_are_checked(operator_class: Callable[..., Any]) -> None:
    operator_class(task_id="video", video_id="video_1", prompt=TEMPLATE)
    with rejects("prompt", ""):
        operator_class(task_id="video", video_id="video_1", prompt="")
    with rejects("model", "veo3.1-fast"):
        operator_class(task_id="video", video_id="video_1", prompt="Slower", model="veo3.1-fast")


def test_decorated_function_can_replace_checked_fields() -> None:
    toapis_video_task(lambda: {"prompt": "A shoe", "model": "veo3.1-fast"}, task_id="video", duration=100)()


def test_mapped_task_is_checked_when_it_runs() -> None:
    with DAG("videos", schedule=None):
        mapped: Any = ToAPIsSubmitVideoOperator.partial(task_id="video", prompt="A shoe").expand(duration=[100])
    assert mapped.unmap({"duration": 100}).duration == 100


def test_model_catalog_is_not_read_without_model_specific_arguments() -> None:
    code = (
        "from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator as Submit;"
        "from airflow_provider_toapis.api.model_catalog import video_models;"
        "Submit(task_id='a', prompt='A shoe'); Submit(task_id='b', prompt='{{ x }}', duration='{{ y }}');"
        "assert video_models.cache_info().currsize == 0;"
        "Submit(task_id='c', prompt='A shoe', duration=10); Submit(task_id='d', prompt='A shoe', duration=15);"
        "assert video_models.cache_info().misses == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)


@pytest.mark.parametrize(
    "make",
    [
        submit,
        lambda **fields: ToAPIsRemixVideoOperator(task_id="video", video_id="video_1", prompt="Slower", **fields),
        lambda **fields: ToAPIsVideoBatchOperator(task_id="videos", requests="f.csv", output_path="/videos", **fields),
        lambda **fields: ToAPIsVideoSensor(task_id="wait", video_id="video_1", **fields),
    ],
    ids=["submit", "remix", "batch", "sensor"],
)
def test_timeout_accepts_a_timedelta(make: Callable[..., Any]) -> None:
    assert make(timeout=timedelta(minutes=10)).timeout == 600.0
    with rejects("timeout"):
        make(timeout=timedelta(0))
