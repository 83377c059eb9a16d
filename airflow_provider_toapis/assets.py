"""Build the metadata of saved videos, and add it (or the result of a batch) to asset events."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Asset, AssetAlias

from airflow_provider_toapis.api.responses import amount
from airflow_provider_toapis.api.video_request import parse_duration
from airflow_provider_toapis.redaction import without_signature
from airflow_provider_toapis.version_compat import alias_event_extra

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

log = logging.getLogger(__name__)
_USERINFO = re.compile(r"^(?P<scheme>[a-z][a-z0-9+.-]*://)[^/?#]*@", re.I)


def describe_outlets(context: Context, outlets: Iterable[object], videos: Sequence[VideoMetadata]) -> None:
    """Add the videos' metadata to the events of a task's assets, and the saved files to its asset aliases.

    Airflow emits the events when the task succeeds. Each instance of a mapped task has its own events.

    :param outlets: The operator's ``outlets``. Only assets and asset aliases are used.
    :param videos: The metadata of the saved videos. If there is one video, its fields are added to the extra of each
        asset event. Otherwise the field ``videos``, a list with the metadata of all videos, is added.
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
    """Add the result of a batch to the events of the task's assets, and the manifest to its asset aliases.

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
        # The URI is too long, or has characters that are not ASCII, which some databases reject. The video is billed
        # and saved, so the task must not fail.
        log.warning("Asset alias %s gets no asset, because Airflow does not accept the URI (%s).", alias.name, error)
        return None


@dataclass(frozen=True)
class VideoMetadata:
    """Metadata of a video, its saved file and its request.

    :param prompt_sha256: Hex digest of the prompt; None without a prompt. The prompt itself can be confidential.
    :param path: Local path or object storage URI of the saved file; None if it was not saved.
    :param sha256: Hex digest of the saved file.
    :param size: Bytes of the saved file.
    :param duration: Requested length in seconds; None for the model's default length.
    :param price_usd: Billed price in USD, as the service reported it. None means that it reported no price, not that
        the video was free.
    :param source_image: The image or images of the request. Credentials and signatures are removed from URLs.
    :param media: The measured facts, as fields of a JSON object; None if the file was not measured.
    :param warnings: What is wrong with the file, each a code, a colon and a text.
    :param poster_path: Local path or object storage URI of the poster; None without a poster.
    """

    video_id: str
    model: str | None
    prompt_sha256: str | None
    path: str | None
    sha256: str | None
    size: int | None
    duration: int | None
    price_usd: float | None
    source_image: str | tuple[str, ...] | None
    media: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    poster_path: str | None = None

    @property
    def source_images(self) -> tuple[str, ...]:
        """The images of the request, always as a tuple."""
        if self.source_image is None:
            return ()
        return (self.source_image,) if isinstance(self.source_image, str) else self.source_image

    def as_dict(self) -> dict[str, Any]:
        """Return the metadata as a JSON object, for example for the extra of an asset event."""
        several = isinstance(self.source_image, tuple)
        image = list(self.source_images) if several else self.source_image
        return asdict(self) | {"source_image": image, "warnings": list(self.warnings)}


def metadata_of(
    result: Mapping[str, Any],
    *,
    prompt: str | None = None,
    image: str | os.PathLike[str] | Iterable[str] | None = None,
    duration: int | str | None = None,
) -> VideoMetadata:
    """Return the metadata of the video in an operator's result.

    :param result: The result as returned by :func:`~airflow_provider_toapis.api.download.video_result`.
    :param prompt: The rendered prompt. The metadata contains only its digest.
    :param image: The rendered image or images: URLs, paths or object storage URIs.
    :param duration: The rendered duration in seconds. It was already checked before the video was submitted.
    """
    return VideoMetadata(
        video_id=str(result["id"]),
        model=result.get("model"),
        prompt_sha256=hashlib.sha256(prompt.encode()).hexdigest() if prompt else None,
        path=result.get("output_path"),
        sha256=result.get("sha256"),
        size=result.get("size"),
        duration=parse_duration(duration),
        price_usd=_price_usd(result.get("billing")),
        source_image=_source_image(image),
        media=result.get("media"),
        warnings=tuple(result.get("warnings") or ()),
        poster_path=result.get("poster_path"),
    )


def uri_of(path: str) -> str:
    """Return a local path as a file URI, or an object storage URI without its Airflow connection id."""
    if "://" in path:
        return _without_userinfo(path)
    return Path(path).expanduser().absolute().as_uri()


def public_references(image: str | os.PathLike[str] | Iterable[str] | None) -> tuple[str, ...]:
    """Return the references of the images. Credentials and signatures are removed from URLs."""
    if image is None:
        return ()
    return (_public(image),) if isinstance(image, str | os.PathLike) else tuple(map(_public, image))


def _source_image(image: str | os.PathLike[str] | Iterable[str] | None) -> str | tuple[str, ...] | None:
    references = public_references(image)
    if image is None or isinstance(image, str | os.PathLike):
        return references[0] if references else None
    return references


def _public(reference: str | os.PathLike[str]) -> str:
    return _without_userinfo(without_signature(os.fspath(reference)))


def _without_userinfo(uri: str) -> str:
    return _USERINFO.sub(r"\g<scheme>", uri)


def _price_usd(billing: object) -> float | None:
    price = amount(billing.get("cost_usd")) if isinstance(billing, Mapping) else None
    return None if price is None else float(price)
