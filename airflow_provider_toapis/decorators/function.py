"""The author's function, as a part of an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import DecoratedOperator, context_merge, determine_kwargs

from airflow_provider_toapis.operators.rendered_fields import RenderedFieldsOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class FunctionOperator(DecoratedOperator, RenderedFieldsOperator):
    """An operator that learns from the author's function what to do.

    Arguments are rendered and resolved as for every ``@task``. What the function returns is taken as it is, and never
    rendered as a template: the function has the context itself, and a product's name or a language model's words with
    ``{{ }}`` in them must not reach Airflow's variables and connections.
    """

    if not hasattr(DecoratedOperator, "xcom_push"):
        # Airflow 3.0 asks for it when the operator is through, and hands it on to nobody.
        xcom_push = None

    def _returned(self, context: Context) -> Any:  # noqa: ANN401
        """Call the function and return what it returns."""
        positional = self._given("op_args")
        context_merge(context, self._given("op_kwargs"))
        return self.python_callable(*positional, **determine_kwargs(self.python_callable, positional, context))
