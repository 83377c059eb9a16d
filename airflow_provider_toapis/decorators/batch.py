"""``@task.toapis_video_batch``: a function lists the videos of a catalog, the task makes those that are missing."""

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
        # The function says them, when the task runs.
        super().__init__(requests=(), **kwargs)

    def execute(self, context: Context) -> Any:  # noqa: ANN401
        """Ask the function for the rows, then do what the operator does."""
        self.requests = self._call_function(context)
        return super().execute(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:  # noqa: ANN401
        """Ask the function again, then go on."""
        self.requests = self._call_function(context)
        return super().resume_execution(next_method, next_kwargs, context)


def toapis_video_batch_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:  # noqa: ANN401
    """Make the videos that the decorated function lists: ``@task.toapis_video_batch``.

    The function returns the rows, as a list or anything else that gives dictionaries one by one, or the path of a feed
    file. Nothing of it is rendered as a template. The task returns a summary, as
    :class:`~airflow_provider_toapis.operators.batch.ToAPIsVideoBatchOperator` does.

    The function is called at the start of each attempt, and again each time that the task wakes from a deferral: the
    rows are too many to be kept in between, and are compared with the manifest instead. It should therefore be cheap,
    and **give the same rows for the same input**; a row that differs is a changed one, whose video is ordered anew. A
    big catalog is better written to a file by a task of its own, so that this function returns its path.

    :param python_callable: The function to decorate.
    :param kwargs: Arguments of ``ToAPIsVideoBatchOperator``, but for ``requests``.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_VideoBatchDecoratedOperator, **kwargs
    )
