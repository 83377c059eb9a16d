"""Validate rows and build their requests and fingerprints. A changed fingerprint means a changed row."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from airflow_provider_toapis.api.video_request import VideoRequest, private_texts
from airflow_provider_toapis.assets import public_references
from airflow_provider_toapis.batch.feed import Row, RowProblem
from airflow_provider_toapis.batch.reviews import NOT_REVIEWED, RowReview
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsRequestError
from airflow_provider_toapis.hooks.request_builder import for_models, video_request

#: Number of rows that are validated at the same time. Validation takes time, because it reads image files and ETags.
THREADS = 16

#: An integer as spreadsheets write it, for example ``2.0``.
_WHOLE = re.compile(r"\A(\d+)\.0+\Z", re.ASCII)

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Defaults:
    """Default values of fields that a row does not set.

    :param fallback_models: Models to use if the service does not offer ``model``. A row that sets its own model has no
        fallback models.
    """

    model: str
    duration: int | str | None = None
    aspect_ratio: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    fallback_models: Sequence[str] = ()


@dataclass(frozen=True)
class RowRequest:
    """The request of one valid row.

    :param images: Image references: URLs without credentials and signatures, paths or URIs.
    :param fingerprint: Hash of the whole request, of the row's ``revision`` and of the number of redos.
    :param fallbacks: The same request for each fallback model.
    """

    number: int
    key: str
    request: VideoRequest = field(repr=False)
    images: tuple[str, ...]
    fingerprint: str
    reviewed: RowReview = NOT_REVIEWED
    fallbacks: Sequence[VideoRequest] = field(default=(), repr=False)

    @property
    def requests(self) -> tuple[VideoRequest, ...]:
        """The request for each model that can be used, in the order in which they are tried."""
        return (self.request, *self.fallbacks)


class RowRequests:
    """Validates rows and builds their requests.

    :param image_etag: Requests the ETag of an image URL. If None, a changed image at the same URL is not detected.
    """

    def __init__(self, defaults: Defaults, image_etag: Callable[[str], str] | None) -> None:
        self._defaults = defaults
        self._image_etag = image_etag

    def check_all(
        self, rows: Iterable[Row | RowProblem], reviewed: Callable[[str], RowReview] = lambda _: NOT_REVIEWED
    ) -> Iterator[RowRequest | RowProblem]:
        """Check rows concurrently and yield them in order, with only a few of them in memory.

        :param reviewed: Returns the reviews of a row, identified by its key.
        """
        return _in_order(partial(self._checked, reviewed), rows)

    def check(self, row: Row, reviewed: RowReview = NOT_REVIEWED) -> RowRequest:
        """Check a row against its model, and read its image files.

        :param reviewed: The reviews of the row.
        :raises ToAPIsRequestError: A value is not accepted. The message names the field, the value and what is allowed.
        """
        defaults = self._defaults
        request = video_request(
            model=row.model or defaults.model,
            prompt=row.prompt,
            image=row.image,
            duration=defaults.duration if row.duration is None else row.duration,
            aspect_ratio=row.aspect_ratio or defaults.aspect_ratio,
            parameters={**defaults.parameters, **(row.parameters or {})},
        )
        return RowRequest(
            number=row.number,
            key=row.key,
            request=request,
            images=public_references(row.image),
            fingerprint=self._fingerprint(request, row.revision, reviewed.redos),
            reviewed=reviewed,
            fallbacks=() if row.model else for_models(request, defaults.fallback_models),
        )

    def sensitive_texts(self, prompt: str | None) -> tuple[str, ...]:
        """Return a row's sensitive texts: prompt and default parameters. The row's own parameters are not recorded."""
        return private_texts(prompt, self._defaults.parameters)

    def _checked(self, reviewed: Callable[[str], RowReview], row: Row | RowProblem) -> RowRequest | RowProblem:
        if isinstance(row, RowProblem):
            return row
        try:
            return self.check(row, reviewed(row.key))
        except ToAPIsRequestError as error:
            return RowProblem(row.number, row.key, error.without_cost)
        except ToAPIsConnectionError as error:
            # This does not make the row invalid: storage or a host cannot be reached, which can affect other rows too.
            raise ToAPIsConnectionError(
                f"Cannot check row {row.number} (key {row.key!r}) right now: {error}", sent=False
            ) from error

    def _fingerprint(self, request: VideoRequest, revision: str | None, redos: int) -> str:
        request = _normalized(request)
        revision = _normalized_revision(revision)
        if self._image_etag is not None:
            images = [
                replace(image, identity=f"{image.identity} etag:{self._image_etag(image.url)}") if image.url else image
                for image in request.images
            ]
            request = replace(request, images=tuple(images))
        # Without a redo, the fingerprint is that of releases without reviews.
        revisions = [revision, redos] if redos else [revision]
        return hashlib.sha256(json.dumps([request.fingerprint(), *revisions]).encode()).hexdigest()


def _normalized(request: VideoRequest) -> VideoRequest:
    """Return a request in a normal form, because editors and spreadsheets write the same text differently."""
    return replace(
        request,
        model=_normalized_text(request.model),
        prompt=None if request.prompt is None else _normalized_text(request.prompt),
        images=tuple(replace(image, identity=_normalized_text(image.identity)) for image in request.images),
        aspect_ratio=None if request.aspect_ratio is None else _normalized_text(request.aspect_ratio),
        parameters=_normalized_value(request.parameters),
    )


def _normalized_revision(revision: str | None) -> str | None:
    """Return a revision in a normal form for comparison. Spreadsheets write ``2`` as ``2.0``, so ``2.0`` becomes ``2``.

    ``1.10`` and ``1.1`` stay different.
    """
    return None if revision is None else _WHOLE.sub(r"\1", _normalized_text(revision)) or None


def _normalized_text(text: str) -> str:
    return unicodedata.normalize("NFC", re.sub(r"\r\n?", "\n", text)).strip()


def _normalized_value(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, str):
        return _normalized_text(value)
    if isinstance(value, Mapping):
        return {name: _normalized_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_normalized_value(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield the result of ``function`` for each item, in order, with several calls at a time."""
    in_progress: deque[Future[R]] = deque()
    with ThreadPoolExecutor(THREADS) as threads:
        try:
            for item in items:
                in_progress.append(threads.submit(function, item))
                if len(in_progress) > 2 * THREADS:
                    yield in_progress.popleft().result()
            while in_progress:
                yield in_progress.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)
