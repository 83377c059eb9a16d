"""Operators that make a video from a prompt and an image, or from an earlier video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import conf

from airflow_provider_toapis.api.defaults import DERIVED_MODEL, MODEL
from airflow_provider_toapis.api.download import MAX_BYTES
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.hooks.callback_url import WebhookMode
from airflow_provider_toapis.hooks.request_builder import fallback_model_ids, for_models
from airflow_provider_toapis.media_check import CheckMode
from airflow_provider_toapis.operators.base import BaseVideoOperator, OnClear
from airflow_provider_toapis.operators.rendered_fields import check_literals, is_literal

if TYPE_CHECKING:
    from typing import Unpack

    from airflow_provider_toapis.api.video_request import Operation, VideoRequest
    from airflow_provider_toapis.base_arguments import BaseOperatorArguments

__all__ = ["ToAPIsExtendVideoOperator", "ToAPIsRemixVideoOperator", "ToAPIsSubmitVideoOperator"]


class ToAPIsSubmitVideoOperator(BaseVideoOperator):
    """Make a video from a prompt and an image.

    .. seealso:: ``docs/operators/submit.md``

    :param prompt: What happens in the video. (templated)
    :param image: The image to start from: an http(s) URL, the path of a file or an object storage URI. Some models take
        a list of several images. Files are uploaded first. (templated)
    :param model: Id of a video model; case matters (default ``grok-video-1.5-preview``). (templated)
    :param duration: Length of the video in seconds. Default: the model's own default. (templated)
    :param aspect_ratio: For example ``16:9``. Default: the model's own default. (templated)
    :param fallback_models: Ids of models to use if the service does not offer ``model``, in this order (default: none).
        The rejection of ``model`` costs nothing. No other model is used while it is possible that a video was submitted
        with ``model``, and once a video was submitted, its model is kept. Cannot be combined with
        ``client_business_id``. See ``docs/operators/submit.md``. (templated)
    """

    template_fields: Sequence[str] = (
        "prompt",
        "image",
        "model",
        "duration",
        "aspect_ratio",
        "fallback_models",
        *BaseVideoOperator.template_fields,
    )

    def __init__(
        self,
        *,
        prompt: str | None = None,
        image: str | list[str] | None = None,
        model: str = MODEL,
        duration: int | str | None = None,
        aspect_ratio: str | None = None,
        fallback_models: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        client_business_id: str | None = None,
        output_path: str | None = None,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | None = None,
        timeout: timedelta | float | None = None,
        on_clear: OnClear = "reuse",
        identity: str | None = None,
        max_generations: int = 3,
        max_bytes: int = MAX_BYTES,
        check: CheckMode | None = None,
        poster: bool = False,
        webhook: WebhookMode | None = None,
        toapis_conn_id: str = "toapis_default",
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(
            parameters=parameters,
            client_business_id=client_business_id,
            output_path=output_path,
            wait_for_completion=wait_for_completion,
            deferrable=deferrable,
            poll_interval=poll_interval,
            timeout=timeout,
            on_clear=on_clear,
            identity=identity,
            max_generations=max_generations,
            max_bytes=max_bytes,
            check=check,
            poster=poster,
            webhook=webhook,
            toapis_conn_id=toapis_conn_id,
            **kwargs,
        )
        self.prompt = prompt
        self.image = image
        self.model = model
        self.duration = duration
        self.aspect_ratio = aspect_ratio
        self.fallback_models = fallback_models
        # A mapped operator is created when its task runs. An earlier attempt may have submitted by then, so execute()
        # checks the values instead.
        if not getattr(self, "_BaseOperator__from_mapped", False):
            self._check_literals()

    def _check_literals(self) -> None:
        is_known = is_literal(self.fallback_models) and is_literal(self.model)
        fallback_models = fallback_model_ids(self.fallback_models, self.model) if is_known else ()
        for model in (self.model, *fallback_models):
            check_literals(model=model, prompt=self.prompt, duration=self.duration, aspect_ratio=self.aspect_ratio)

    def _fallbacks(self, request: VideoRequest) -> list[VideoRequest]:
        models = fallback_model_ids(self.fallback_models, self.model)
        if models and self.client_business_id:
            raise ToAPIsRequestError.for_field(
                "fallback_models",
                models,
                "cannot be combined with client_business_id, because each model needs a key of its own."
                " Remove one of the two",
            )
        return for_models(request, models)

    def _request_arguments(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "model": self.model,
            "duration": self.duration,
            "aspect_ratio": self.aspect_ratio,
            "parameters": self._unmasked("parameters"),
        }


class _DerivedVideoOperator(BaseVideoOperator):
    """Make a video from an earlier video.

    :param video_id: Id of the earlier video. (templated)
    :param prompt: What happens in the video. (templated)
    :param model: Id of a model that offers this operation; case matters. Default: ``grok-video-1.0``, which offers it
        according to the service's documentation. (templated)
    """

    _operation: ClassVar[Operation]
    template_fields: Sequence[str] = ("video_id", "prompt", "model", *BaseVideoOperator.template_fields)

    def __init__(
        self,
        *,
        video_id: str,
        prompt: str,
        model: str = DERIVED_MODEL,
        parameters: Mapping[str, Any] | None = None,
        client_business_id: str | None = None,
        output_path: str | None = None,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | None = None,
        timeout: timedelta | float | None = None,
        on_clear: OnClear = "reuse",
        identity: str | None = None,
        max_generations: int = 3,
        max_bytes: int = MAX_BYTES,
        check: CheckMode | None = None,
        poster: bool = False,
        webhook: WebhookMode | None = None,
        toapis_conn_id: str = "toapis_default",
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(
            parameters=parameters,
            client_business_id=client_business_id,
            output_path=output_path,
            wait_for_completion=wait_for_completion,
            deferrable=deferrable,
            poll_interval=poll_interval,
            timeout=timeout,
            on_clear=on_clear,
            identity=identity,
            max_generations=max_generations,
            max_bytes=max_bytes,
            check=check,
            poster=poster,
            webhook=webhook,
            toapis_conn_id=toapis_conn_id,
            **kwargs,
        )
        self.video_id = video_id
        self.prompt = prompt
        self.model = model
        if not getattr(self, "_BaseOperator__from_mapped", False):
            check_literals(operation=self._operation, model=model, prompt=prompt)

    def _request_arguments(self) -> dict[str, Any]:
        return {
            "operation": self._operation,
            "video_id": self.video_id,
            "prompt": self.prompt,
            "model": self.model,
            "parameters": self._unmasked("parameters"),
        }


class ToAPIsRemixVideoOperator(_DerivedVideoOperator):
    """Make another version of an earlier video."""

    _operation = "remix"


class ToAPIsExtendVideoOperator(_DerivedVideoOperator):
    """Make an earlier video longer."""

    _operation = "extend"
