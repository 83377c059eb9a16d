"""``@task.toapis_video``: a function returns the request for a video, and the task makes the video."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import (
    DecoratedOperator,
    TaskDecorator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)

from airflow_provider_toapis.api.texts import did_you_mean
from airflow_provider_toapis.exceptions import ToAPIsRequestError, ToAPIsWaitInterruptedError
from airflow_provider_toapis.operators.base import VIDEO_ID_KEY
from airflow_provider_toapis.operators.rendered_fields import RenderedFieldsOperator
from airflow_provider_toapis.operators.results import require_inside
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


__all__ = ["toapis_video_task"]

#: XCom key of the request that the function returned.
REQUEST_KEY = "request"
#: Fields that the function can return. All other arguments belong to the decorator.
_FIELDS = (
    "prompt",
    "image",
    "model",
    "duration",
    "aspect_ratio",
    "parameters",
    "identity",
    "client_business_id",
    "output_path",
)
#: Fields that must be strings. The other fields are checked where they are used.
_TEXT_FIELDS = ("identity", "output_path")
_NOTHING_SUBMITTED = "Nothing was submitted in this attempt."


class DecoratedFunctionOperator(DecoratedOperator, RenderedFieldsOperator):
    """Base of operators whose request is returned by the DAG author's function.

    The function's arguments are rendered and resolved as for every ``@task``. The value that it returns is never
    rendered as a template, because a product name or generated text that contains ``{{ }}`` must not be able to read
    Airflow's variables and connections. The function can use the task's context instead.
    """

    if not hasattr(DecoratedOperator, "xcom_push"):
        # Airflow 3.0 reads this attribute after the operator has ended, but decorated operators do not have it.
        xcom_push = None

    def _call_function(self, context: Context) -> Any:  # noqa: ANN401
        """Call the function and return what it returns."""
        positional = self._unmasked("op_args")
        context_merge(context, self._unmasked("op_kwargs"))
        return self.python_callable(*positional, **determine_kwargs(self.python_callable, positional, context))


class _VideoDecoratedOperator(DecoratedFunctionOperator, ToAPIsSubmitVideoOperator):
    template_fields: Sequence[str] = (
        *DecoratedFunctionOperator.template_fields,
        *ToAPIsSubmitVideoOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedFunctionOperator.template_fields_renderers,
        **ToAPIsSubmitVideoOperator.template_fields_renderers,
    }
    custom_operator_name = "@task.toapis_video"
    # Show the fields that the function returned instead of the decorator's arguments.
    overwrite_rtif_after_execution = True

    def _check_literals(self) -> None:
        """Check nothing during parsing, because values that the function returns can replace the literals."""

    def execute(self, context: Context) -> Any:  # noqa: ANN401
        """Call the function for the request, then execute the operator."""
        request = _request_fields(self._call_function(context))
        self._apply_request(request)
        context["ti"].xcom_push(key=REQUEST_KEY, value=request)
        return super().execute(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:  # noqa: ANN401
        """Resume with the request from before the wait. A second call of the function could return another request.

        :raises ToAPIsWaitInterruptedError: The request is no longer in XCom. A retry calls the function again.
        """
        request: Any = self._pull_own_xcom(context, REQUEST_KEY)
        if request is None:
            video_id = self._pull_own_xcom(context, VIDEO_ID_KEY)
            raise ToAPIsWaitInterruptedError(
                f"The request that the function returned is no longer in XCom {REQUEST_KEY!r}. Video {video_id} is"
                " submitted and billed. A retry calls the function again, and re-attaches to the video if the request"
                " is the same.",
                video_id=video_id,
            )
        self._apply_request(request)
        return super().resume_execution(next_method, next_kwargs, context)

    def _apply_request(self, request: Mapping[str, Any]) -> None:
        require_inside(None, request.get("output_path"))
        for name, value in request.items():
            setattr(self, name, value)
        self._hide_signatures()


def toapis_video_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:  # noqa: ANN401
    """Make the video that the decorated function describes: ``@task.toapis_video``.

    The function returns the prompt, or a dict with any of ``prompt``, ``image``, ``model``, ``duration``,
    ``aspect_ratio``, ``parameters``, ``identity``, ``client_business_id`` and ``output_path``. The values must be JSON
    values or path objects. A value that is not None overrides the decorator's argument. The values are not rendered as
    templates. The task returns the video, as
    :class:`~airflow_provider_toapis.operators.video.ToAPIsSubmitVideoOperator` does.

    The function is called once per attempt. While the task is deferred, the request is stored in the XCom ``request``.
    A retry or a clear calls the function again. The video is identified by its request, so **return the same request
    for the same input**. If the request differs, another video is submitted and billed, even with the same
    ``identity``. This happens, for example, if the function lets a language model write a new prompt each time. To
    avoid that, let a separate task write the prompt and pass it as an argument, or set ``client_business_id``, which
    always names the same video.

    :param python_callable: The function to decorate.
    :param kwargs: Arguments of ``ToAPIsSubmitVideoOperator``.
    :raises ToAPIsRequestError: The function returned another type or an unknown field. This attempt submitted nothing.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_VideoDecoratedOperator, **kwargs
    )


def _request_fields(returned: object) -> dict[str, Any]:
    """Return the function's fields as JSON values, so that a resumed task reads the same values from XCom.

    :raises ToAPIsRequestError: A field is unknown or has the wrong type. The message names the field, but not its
        value, which can be a prompt.
    """
    if isinstance(returned, str):
        return {"prompt": returned}
    if not isinstance(returned, Mapping):
        raise ToAPIsRequestError(
            f"The function returned {_type_name(returned)}. It must return a prompt (str) or a dict with any of"
            f" {', '.join(_FIELDS)}. {_NOTHING_SUBMITTED}"
        )
    for name in returned:
        if name not in _FIELDS:
            raise _unknown(name)
    return {name: _json_value(name, value) for name, value in returned.items() if value is not None}


def _json_value(name: str, value: object) -> object:
    try:
        plain = json.loads(json.dumps(value, default=os.fspath))
    except (TypeError, ValueError) as error:
        raise _wrong_type(name, value, "a JSON value or a path") from error
    if name in _TEXT_FIELDS and not isinstance(plain, str):
        raise _wrong_type(name, value, "a string")
    return plain


def _wrong_type(name: str, value: object, expected: str) -> ToAPIsRequestError:
    return ToAPIsRequestError(
        f"Invalid {name} in the function's result: expected {expected}, got {_type_name(value)}. {_NOTHING_SUBMITTED}",
        field=name,
        value=_type_name(value),
    )


def _unknown(name: object) -> ToAPIsRequestError:
    return ToAPIsRequestError(
        f"The function returned the unknown field {name!r}{did_you_mean(name, _FIELDS)}. It can return"
        f" {', '.join(_FIELDS)}. Put other fields of the service into parameters, and pass other arguments to the"
        f" decorator. {_NOTHING_SUBMITTED}",
        field=str(name),
    )


def _type_name(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
