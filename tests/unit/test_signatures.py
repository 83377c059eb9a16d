"""Editors and type checkers see every parameter of the classes that users instantiate."""

from __future__ import annotations

import inspect

import pytest

from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.files import ToAPIsDownloadVideoOperator, ToAPIsUploadFileOperator
from airflow_provider_toapis.operators.video import (
    ToAPIsExtendVideoOperator,
    ToAPIsRemixVideoOperator,
    ToAPIsSubmitVideoOperator,
)
from airflow_provider_toapis.sensors.video import ToAPIsVideoSensor

COMMON = {
    "parameters",
    "client_business_id",
    "identity",
    "output_path",
    "wait_for_completion",
    "deferrable",
    "poll_interval",
    "timeout",
    "on_clear",
    "max_generations",
    "max_bytes",
    "check",
    "poster",
    "webhook",
    "toapis_conn_id",
}
DERIVED = COMMON | {"video_id", "prompt", "model"}


@pytest.mark.parametrize(
    ("operator", "parameters"),
    [
        (
            ToAPIsSubmitVideoOperator,
            COMMON | {"prompt", "image", "model", "duration", "aspect_ratio", "fallback_models"},
        ),
        (ToAPIsRemixVideoOperator, DERIVED),
        (ToAPIsExtendVideoOperator, DERIVED),
    ],
)
def test_every_parameter_is_in_the_signature(operator: type, parameters: set[str]) -> None:
    found = inspect.signature(operator.__init__).parameters.values()  # type: ignore[misc]
    assert {item.name for item in found if item.kind is item.KEYWORD_ONLY} == parameters


def test_arguments_reach_the_operator() -> None:
    values = {
        "client_business_id": "shoe",
        "identity": "sku-1",
        "output_path": "/videos/",
        "wait_for_completion": False,
        "deferrable": True,
        "poll_interval": 30.0,
        "timeout": 600.0,
        "max_generations": 2,
        "max_bytes": 1000,
        "webhook": "auto",
        "toapis_conn_id": "other",
    }
    operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="The shoe turns.", parameters={"seed": 1}, **values)  # type: ignore[arg-type]
    assert {name: getattr(operator, name) for name in values} == values
    assert operator.parameters == {"seed": 1}


def test_misspelled_arguments_are_rejected() -> None:
    """mypy rejects these arguments too. Otherwise it would report the ignore comments as unneeded."""
    with pytest.raises(Exception, match="output_pth"):
        ToAPIsSubmitVideoOperator(task_id="a", prompt="b", output_pth="c")  # type: ignore[call-arg]
    with pytest.raises(Exception, match="output_pth"):
        ToAPIsRemixVideoOperator(task_id="a", video_id="v", prompt="b", output_pth="c")  # type: ignore[call-arg]
    with pytest.raises(Exception, match="max_cost"):
        ToAPIsVideoBatchOperator(task_id="a", requests=[], output_path="/v", max_cost=1)  # type: ignore[call-arg]
    with pytest.raises(Exception, match="output_pth"):
        ToAPIsDownloadVideoOperator(task_id="a", video_id="v", output_path="/v", output_pth="c")  # type: ignore[call-arg]
    with pytest.raises(Exception, match="sources"):
        ToAPIsUploadFileOperator(task_id="a", source="a.jpg", sources="b.jpg")  # type: ignore[call-arg]
    with pytest.raises(Exception, match="poke_intervall"):
        ToAPIsVideoSensor(task_id="a", video_id="v", poke_intervall=5)  # type: ignore[call-arg]
