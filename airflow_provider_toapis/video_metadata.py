"""What is told to others about a kept video: small, JSON-able, and without anything secret."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from airflow_provider_toapis.api.responses import amount
from airflow_provider_toapis.api.video_request import parse_duration
from airflow_provider_toapis.redaction import without_signature

_USERINFO = re.compile(r"^(?P<scheme>[a-z][a-z0-9+.-]*://)[^/?#]*@", re.I)


@dataclass(frozen=True)
class Manifest:
    """A video, where it is kept, and what it was made from.

    :param prompt_sha256: Hex digest of the prompt, which itself may be confidential; None without one.
    :param path: Local path or object storage URI of the stored copy; None where none was kept.
    :param sha256: Hex digest of the stored copy.
    :param size: Bytes of the stored copy.
    :param duration: Seconds as the author asked for; None for the model's own.
    :param price_usd: What the service says it billed, a decimal number; None while it does not say, which is not free.
    :param source_image: What the author gave to start from, links without what lets somebody in.
    """

    video_id: str
    model: str | None
    prompt_sha256: str | None
    path: str | None
    sha256: str | None
    size: int | None
    duration: int | None
    price_usd: str | None
    source_image: str | tuple[str, ...] | None

    @property
    def source_images(self) -> tuple[str, ...]:
        """All pictures that it was made from."""
        if self.source_image is None:
            return ()
        return (self.source_image,) if isinstance(self.source_image, str) else self.source_image

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON object, say for the extra of an asset event."""
        several = isinstance(self.source_image, tuple)
        return asdict(self) | {"source_image": list(self.source_images) if several else self.source_image}


def manifest_of(
    result: Mapping[str, Any],
    *,
    prompt: str | None = None,
    image: str | os.PathLike[str] | Iterable[str] | None = None,
    duration: int | str | None = None,
) -> Manifest:
    """Describe what an operator returns.

    :param result: See :func:`~airflow_provider_toapis.api.download.video_result`.
    :param prompt: As rendered; only its digest is kept.
    :param image: As rendered: a link, a path or an object storage URI, or several.
    :param duration: As rendered; whole seconds, checked before the video was ordered.
    """
    return Manifest(
        video_id=str(result["id"]),
        model=result.get("model"),
        prompt_sha256=hashlib.sha256(prompt.encode()).hexdigest() if prompt else None,
        path=result.get("output_path"),
        sha256=result.get("sha256"),
        size=result.get("size"),
        duration=parse_duration(duration),
        price_usd=_price_usd(result.get("billing")),
        source_image=_source_image(image),
    )


def uri_of(path: str) -> str:
    """Return the URI of a local path or an object storage URI: without the id of an Airflow connection."""
    if "://" in path:
        return _without_userinfo(path)
    return Path(path).expanduser().absolute().as_uri()


def public_references(image: str | os.PathLike[str] | Iterable[str] | None) -> tuple[str, ...]:
    """Return where pictures stand, links without what lets somebody in."""
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


def _price_usd(billing: object) -> str | None:
    price = amount(billing.get("cost_usd")) if isinstance(billing, Mapping) else None
    return None if price is None else f"{price:f}"
