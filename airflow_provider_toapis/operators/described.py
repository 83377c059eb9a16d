"""What every operator that returns videos tells others about them: links, asset events, lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_provider_toapis.assets import describe_outlets
from airflow_provider_toapis.links.video import ToAPIsVideoLink, push_video_link
from airflow_provider_toapis.operators.output_paths import OutputPathOperator
from airflow_provider_toapis.operators.rendered_fields import mask_query
from airflow_provider_toapis.video_metadata import manifest_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_toapis.video_metadata import Manifest


class VideoResultMixin(OutputPathOperator):
    """An operator whose result is one video or several."""

    operator_extra_links: Sequence[BaseOperatorLink] = (ToAPIsVideoLink(),)

    _manifests: Sequence[Manifest] = ()

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:  # noqa: ARG002
        """Tell OpenLineage what the videos were made from and where they lie."""
        if not self._manifests:
            return None
        from airflow_provider_toapis.lineage import lineage

        return lineage(self._manifests)

    def _describe(self, context: Context, results: Sequence[Mapping[str, Any]], **asked: Any) -> None:  # noqa: ANN401
        """Fill the links and the asset events; ``asked`` is what the videos were made from."""
        self._manifests = [manifest_of(result, **asked) for result in results]
        describe_outlets(context, self.outlets, self._manifests)
        if results:
            # Airflow itself logs the link of a task that ends, and what the task returns, at DEBUG.
            mask_query(results[0].get("url"))
            push_video_link(context, results[0])
