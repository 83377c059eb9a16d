"""Asset events: add the description of a task's videos, or of a batch, to its outlets."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Asset, AssetAlias

from airflow_provider_toapis.version_compat import alias_event_extra
from airflow_provider_toapis.video_metadata import VideoMetadata, uri_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

log = logging.getLogger(__name__)


def describe_outlets(context: Context, outlets: Iterable[object], videos: Sequence[VideoMetadata]) -> None:
    """Add the videos' metadata to the events of a task's assets, and the saved files to its asset aliases.

    Airflow emits the events when the task succeeds. Each instance of a mapped task has its own events.

    :param outlets: The operator's ``outlets``. Only assets and asset aliases are used.
    :param videos: With one video, an asset's extra gets its metadata; with several, a list of them as ``videos``.
    """
    described = [video.as_dict() for video in videos]
    for outlet in outlets:
        if isinstance(outlet, Asset):
            extra: dict[str, Any] = described[0] if len(described) == 1 else {"videos": described}
            context["outlet_events"][outlet].extra.update(extra)
        elif isinstance(outlet, AssetAlias):
            for video in videos:
                asset = _saved_copy(outlet, video)
                if asset is not None:
                    context["outlet_events"][outlet].add(asset, extra=alias_event_extra(video.as_dict()))


def describe_catalog(context: Context, outlets: Iterable[object], summary: Mapping[str, Any]) -> None:
    """Add the result of a batch to the events of a task's assets, and its manifest to its asset aliases.

    :param summary: The operator's result; ``manifest`` is the path of the manifest.
    """
    for outlet in outlets:
        if isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra.update(summary)
        elif isinstance(outlet, AssetAlias):
            asset = _asset_at(str(summary["manifest"]), outlet)
            if asset is not None:
                context["outlet_events"][outlet].add(asset, extra=dict(summary))


def _saved_copy(alias: AssetAlias, video: VideoMetadata) -> Asset | None:
    if video.path is None:
        log.info(
            "Asset alias %s gets no asset, because video %s is not saved (no output_path).",
            alias.name,
            video.video_id,
        )
        return None
    return _asset_at(video.path, alias)


def _asset_at(path: str, alias: AssetAlias) -> Asset | None:
    try:
        return Asset(uri=uri_of(path))
    except ValueError as error:
        # Too long, or not ASCII on some databases. The video is billed and saved, so its task must not fail.
        log.warning("Asset alias %s gets no asset, because Airflow does not accept the URI (%s).", alias.name, error)
        return None
