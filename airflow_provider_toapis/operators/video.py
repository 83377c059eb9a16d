"""Make a video from words and a picture, or from an earlier video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_toapis.api.defaults import DERIVED_MODEL, MODEL
from airflow_provider_toapis.operators.literals import check_literals
from airflow_provider_toapis.operators.video_job import VideoJobOperator

if TYPE_CHECKING:
    from airflow_provider_toapis.api.requests import Operation

__all__ = ["ToAPIsExtendVideoOperator", "ToAPIsRemixVideoOperator", "ToAPIsSubmitVideoOperator"]


class ToAPIsSubmitVideoOperator(VideoJobOperator):
    """Make a video from a prompt and a picture.

    .. seealso:: ``docs/operators/submit.md``

    :param prompt: What is to happen. (templated)
    :param image: The picture to start from: an http(s) URL, the path of a file or an object storage URI; a list of
        them for models that take several. Files are uploaded first. (templated)
    :param model: Case-exact id of a video model (default ``grok-video-1.5-preview``). (templated)
    :param duration: Seconds. Default: the model's own. (templated)
    :param aspect_ratio: For example ``16:9``. Default: the model's own. (templated)
    """

    template_fields: Sequence[str] = (
        "prompt",
        "image",
        "model",
        "duration",
        "aspect_ratio",
        *VideoJobOperator.template_fields,
    )

    def __init__(
        self,
        *,
        prompt: str | None = None,
        image: str | list[str] | None = None,
        model: str = MODEL,
        duration: int | str | None = None,
        aspect_ratio: str | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**kwargs)
        self.prompt = prompt
        self.image = image
        self.model = model
        self.duration = duration
        self.aspect_ratio = aspect_ratio
        # A mapped task is made while it runs, when an earlier attempt may have ordered: its own check knows that.
        if not getattr(self, "_BaseOperator__from_mapped", False):
            self._check_literals()

    def _check_literals(self) -> None:
        check_literals(model=self.model, prompt=self.prompt, duration=self.duration, aspect_ratio=self.aspect_ratio)

    def _words(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "model": self.model,
            "duration": self.duration,
            "aspect_ratio": self.aspect_ratio,
            "parameters": self._given("parameters"),
        }


class _DerivedVideoOperator(VideoJobOperator):
    """Make a video from an earlier one.

    :param video_id: The earlier video. (templated)
    :param prompt: What is to happen. (templated)
    :param model: Case-exact id of a model that offers this (default ``grok-video-1.0``, as documented). (templated)
    """

    _operation: ClassVar[Operation]
    template_fields: Sequence[str] = ("video_id", "prompt", "model", *VideoJobOperator.template_fields)

    def __init__(self, *, video_id: str, prompt: str, model: str = DERIVED_MODEL, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self.video_id = video_id
        self.prompt = prompt
        self.model = model
        if not getattr(self, "_BaseOperator__from_mapped", False):
            check_literals(operation=self._operation, model=model, prompt=prompt)

    def _words(self) -> dict[str, Any]:
        return {
            "operation": self._operation,
            "video_id": self.video_id,
            "prompt": self.prompt,
            "model": self.model,
            "parameters": self._given("parameters"),
        }


class ToAPIsRemixVideoOperator(_DerivedVideoOperator):
    """Make another version of an earlier video."""

    _operation = "remix"


class ToAPIsExtendVideoOperator(_DerivedVideoOperator):
    """Make an earlier video longer."""

    _operation = "extend"
