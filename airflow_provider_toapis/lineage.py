"""OpenLineage data of finished tasks: their source images as inputs and their saved files as outputs.

This module is imported only when OpenLineage requests the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs
from airflow.providers.common.compat.openlineage.facet import Dataset, RunFacet
from airflow.providers.openlineage.extractors import OperatorLineage

from airflow_provider_toapis import __version__
from airflow_provider_toapis.assets import VideoMetadata, uri_of

FACET = "toapis_video"
PRODUCER = f"urn:airflow-provider-toapis:{__version__}"
#: The schema file is next to this module. A changed schema needs a new version number here.
SCHEMA_URL = "urn:airflow-provider-toapis:facets:1-0-0:toapis_video_run_facet.json#/$defs/ToAPIsVideoRunFacet"


@attrs.define
class ToAPIsVideoRunFacet(RunFacet):
    """Run facet of OpenLineage that describes the video of a run.

    :param price_usd: Billed price in USD, as the service reported it; None if it reported no price.
    :param duration: Requested length in seconds; None for the model's default length.
    :param sha256: Hex digest of the saved file; None if it was not saved.
    :param size: Bytes of the saved file; None if it was not saved.
    :param media: The measured facts of the saved file; None if it was not measured.
    :param warnings: What is wrong with the saved file, each a code, a colon and a text.
    :param poster_path: Path or URI of the poster; None without a poster.
    """

    video_id: str
    model: str | None
    price_usd: float | None
    duration: int | None
    sha256: str | None
    size: int | None
    media: dict[str, Any] | None = None
    warnings: list[str] = attrs.field(factory=list)
    poster_path: str | None = None

    @staticmethod
    def _get_schema() -> str:
        return SCHEMA_URL


def lineage(videos: Sequence[VideoMetadata]) -> OperatorLineage[Dataset, RunFacet]:
    """Return the lineage of a finished task. Only a task with a single video has the run facet."""
    images = dict.fromkeys(image for video in videos for image in video.source_images)
    return OperatorLineage(
        inputs=[_dataset(image) for image in images],
        outputs=[_dataset(video.path) for video in videos if video.path],
        run_facets={FACET: _facet(videos[0])} if len(videos) == 1 else {},
    )


def _facet(video: VideoMetadata) -> ToAPIsVideoRunFacet:
    return ToAPIsVideoRunFacet(
        video_id=video.video_id,
        model=video.model,
        price_usd=video.price_usd,
        duration=video.duration,
        sha256=video.sha256,
        size=video.size,
        media=None if video.media is None else dict(video.media),
        warnings=list(video.warnings),
        poster_path=video.poster_path,
        producer=PRODUCER,
    )


def _dataset(reference: str) -> Dataset:
    """Return the dataset of a URL or file, with the namespace and name that OpenLineage defines for it.

    The namespace is ``s3://bucket``, ``file`` or ``https://host``. The name is the object's key or the path.
    """
    uri = uri_of(reference)
    scheme, _, rest = uri.partition("://")
    if scheme.lower() in ("http", "https"):
        # Leave out the query: it is not part of the name and can contain a signature.
        url = urlsplit(uri)
        return Dataset(namespace=f"{url.scheme}://{url.netloc}", name=url.path)
    bucket, slash, name = rest.partition("/")
    if scheme in ("file", "local"):
        return Dataset(namespace="file", name=unquote(slash + name))
    return Dataset(namespace=f"{scheme}://{bucket}", name=name)
