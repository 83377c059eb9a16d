"""``@task.toapis_video``: a function says which video, the task makes it."""

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
from airflow_provider_toapis.operators.output_paths import require_inside
from airflow_provider_toapis.operators.rendered_fields import RenderedFieldsOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


__all__ = ["toapis_video_task"]

#: XCom key of what the function returned.
REQUEST_KEY = "request"
#: What the function may say of the video; how to wait for it is said once, in the decorator.
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
#: The other fields are checked where they are used.
_TEXT_FIELDS = ("identity", "output_path")
_NOTHING_SUBMITTED = "Nothing was sent and nothing was paid."


class DecoratedFunctionOperator(DecoratedOperator, RenderedFieldsOperator):
    """An operator that learns from the author's function what to do.

    Arguments are rendered and resolved as for every ``@task``. What the function returns is taken as it is, and never
    rendered as a template: the function has the context itself, and a product's name or a language model's words with
    ``{{ }}`` in them must not reach Airflow's variables and connections.
    """

    if not hasattr(DecoratedOperator, "xcom_push"):
        # Airflow 3.0 asks for it when the operator is through, and hands it on to nobody.
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
    # Shows what the function said in place of what the decorator said.
    overwrite_rtif_after_execution = True

    def _check_literals(self) -> None:
        """Leave it to the run: the function says the rest, and what it says wins."""

    def execute(self, context: Context) -> Any:  # noqa: ANN401
        """Ask the function for the request, then do what the operator does."""
        request = _request_fields(self._call_function(context))
        self._apply_request(request)
        context["ti"].xcom_push(key=REQUEST_KEY, value=request)
        return super().execute(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:  # noqa: ANN401
        """Resume with what the function returned before the wait: asked again, it might say something else.

        :raises ToAPIsWaitInterruptedError: It is not in XCom any more; a retry calls the function again.
        """
        request: Any = self._pull_own_xcom(context, REQUEST_KEY)
        if request is None:
            video_id = self._pull_own_xcom(context, VIDEO_ID_KEY)
            raise ToAPIsWaitInterruptedError(
                f"What the function returned is not in XCom ({REQUEST_KEY!r}) any more. Video {video_id} is ordered"
                " and paid; a retry calls the function again and adopts the video if the request is the same.",
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

    The function returns the prompt, or a dictionary with any of ``prompt``, ``image``, ``model``, ``duration``,
    ``aspect_ratio``, ``parameters``, ``identity``, ``client_business_id`` and ``output_path``. It holds what JSON
    holds; paths may be path objects. What it says wins over the decorator's own arguments; None says nothing. Nothing
    of it is rendered as a template. The task returns the video, as
    :class:`~airflow_provider_toapis.operators.video.ToAPIsSubmitVideoOperator` does.

    The function is called once per attempt: what it returned is kept in XCom (``request``) during a deferral. A retry
    or a clear calls it again, and what it returns then is part of the video's identity, so **the same input should
    give the same request**. One that differs, say because a language model words it anew each time, orders and pays
    another video, whatever the ``identity``. Have such words written by a task of their own and take them as an
    argument, or give a ``client_business_id``, which names one video whatever the words.

    :param python_callable: The function to decorate.
    :param kwargs: Arguments of ``ToAPIsSubmitVideoOperator``.
    :raises ToAPIsRequestError: The function returned something else, or a field that is not known; nothing was paid.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_VideoDecoratedOperator, **kwargs
    )


def _request_fields(returned: object) -> dict[str, Any]:
    """Return what the function said of the video, in the form that it has after a stay in XCom.

    :raises ToAPIsRequestError: Names the field, never its value: that may be a prompt.
    """
    if isinstance(returned, str):
        return {"prompt": returned}
    if not isinstance(returned, Mapping):
        raise ToAPIsRequestError(
            f"The function returned {_type_name(returned)}; it must return a prompt (str) or a dictionary with any of"
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
        raise _wrong_kind(name, value, "what JSON holds, or a path") from error
    if name in _TEXT_FIELDS and not isinstance(plain, str):
        raise _wrong_kind(name, value, "text")
    return plain


def _wrong_kind(name: str, value: object, allowed: str) -> ToAPIsRequestError:
    return ToAPIsRequestError(
        f"{name}, as the function returned it, is {_type_name(value)}; it must be {allowed}. {_NOTHING_SUBMITTED}",
        field=name,
        value=_type_name(value),
    )


def _unknown(name: object) -> ToAPIsRequestError:
    return ToAPIsRequestError(
        f"The function returned the unknown field {name!r}{did_you_mean(name, _FIELDS)}. It may return"
        f" {', '.join(_FIELDS)}; other fields of the service go into parameters, and how to wait is said in the"
        f" decorator. {_NOTHING_SUBMITTED}",
        field=str(name),
    )


def _type_name(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
