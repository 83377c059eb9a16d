"""``@task.toapis_video_batch``: a function returns the rows of a batch, and the task makes the missing videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import TaskDecorator, task_decorator_factory

from airflow_provider_toapis.decorators.video import DecoratedFunctionOperator
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

__all__ = ["toapis_video_batch_task"]


class _VideoBatchDecoratedOperator(DecoratedFunctionOperator, ToAPIsVideoBatchOperator):
    template_fields: Sequence[str] = (
        *DecoratedFunctionOperator.template_fields,
        *ToAPIsVideoBatchOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedFunctionOperator.template_fields_renderers,
        **ToAPIsVideoBatchOperator.template_fields_renderers,
    }
    custom_operator_name = "@task.toapis_video_batch"

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401
        # The function returns the rows when the task runs.
        super().__init__(requests=(), **kwargs)

    def execute(self, context: Context) -> Any:  # noqa: ANN401
        """Call the function for the rows, then execute the operator."""
        self.requests = self._call_function(context)
        return super().execute(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:  # noqa: ANN401
        """Call the function again, then resume the operator."""
        self.requests = self._call_function(context)
        return super().resume_execution(next_method, next_kwargs, context)


def toapis_video_batch_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:  # noqa: ANN401
    """Make the videos whose rows the decorated function returns: ``@task.toapis_video_batch``.

    The function returns an iterable of dicts, or the path of a feed file. The returned value is not rendered as a
    template. The task returns a summary, as :class:`~airflow_provider_toapis.operators.batch.ToAPIsVideoBatchOperator`
    does.

    The function is called at the start of each attempt and each time the task resumes, because there can be too many
    rows to store between two calls. The task compares the rows with the manifest each time. The function should
    therefore be fast, and **return the same rows for the same input**: if a row differs, it is treated as changed, and
    a new video is submitted and billed. Let a separate task write a large feed to a file, and return its path.

    :param python_callable: The function to decorate.
    :param kwargs: Arguments of ``ToAPIsVideoBatchOperator`` except ``requests``.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_VideoBatchDecoratedOperator, **kwargs
    )
