"""Mixin for operators that return videos: links, asset events and OpenLineage facets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_provider_toapis.assets import describe_outlets
from airflow_provider_toapis.links.video import ToAPIsVideoLink, push_video_link
from airflow_provider_toapis.operators.output_paths import OutputPathOperator
from airflow_provider_toapis.operators.rendered_fields import mask_query
from airflow_provider_toapis.video_metadata import metadata_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_toapis.video_metadata import VideoMetadata


class VideoResultMixin(OutputPathOperator):
    """Base of operators whose result is one or more videos."""

    operator_extra_links: Sequence[BaseOperatorLink] = (ToAPIsVideoLink(),)

    _videos: Sequence[VideoMetadata] = ()

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:  # noqa: ARG002
        """Return the videos, their source images and their price for OpenLineage."""
        if not self._videos:
            return None
        from airflow_provider_toapis.lineage import lineage

        return lineage(self._videos)

    def _describe(self, context: Context, results: Sequence[Mapping[str, Any]], **request: Any) -> None:  # noqa: ANN401
        """Fill the links and the asset events.

        :param request: The request's fields that :func:`~airflow_provider_toapis.video_metadata.metadata_of` takes.
        """
        self._videos = [metadata_of(result, **request) for result in results]
        describe_outlets(context, self.outlets, self._videos)
        if results:
            # Airflow itself logs a task's extra links and its result at DEBUG level.
            mask_query(results[0].get("url"))
            push_video_link(context, results[0])
