"""Build a checked request from an operator's arguments and image files."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from airflow_provider_toapis.api.media_types import (
    HEAD_SIZE,
    MAX_UPLOAD_SIZE,
    UPLOAD_FORMATS,
    MediaKind,
    MediaType,
    sniff,
)
from airflow_provider_toapis.api.model_catalog import find_model
from airflow_provider_toapis.api.result_urls import is_url
from airflow_provider_toapis.api.texts import require_encodable, require_text
from airflow_provider_toapis.api.video_request import (
    FileUpload,
    ReferenceImage,
    VideoRequest,
    image_references,
    parse_duration,
)
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.storage import file_size, path_of, storage_errors

if TYPE_CHECKING:
    from airflow_provider_toapis.api.video_request import Operation, VideoRequest
    from airflow_provider_toapis.storage import AnyPath

_CHUNK_SIZE = 1024 * 1024


def video_request(
    *,
    model: str,
    prompt: str | None = None,
    image: str | Iterable[str] | None = None,
    duration: int | str | None = None,
    aspect_ratio: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    operation: Operation = "generate",
    video_id: str | None = None,
) -> VideoRequest:
    """Check the values, read the image files, and return the request for a video.

    :raises ToAPIsRequestError: A value is not accepted. The message names the field, the value and what is allowed.
    """
    request = request_without_images(
        operation=operation,
        video_id=video_id,
        model=model,
        prompt=prompt,
        duration=duration,
        aspect_ratio=aspect_ratio,
        parameters=parameters,
    )
    images = image_references(image)
    require_text("image", images)
    request = replace(request, images=tuple(map(reference_image, images)))
    request.check()
    return request


def fallback_model_ids(models: object, model: object) -> list[str]:
    """Return ``fallback_models`` as a list, each model once and without ``model``.

    :param models: The operator's ``fallback_models``.
    :param model: The model that is used first.
    :raises ToAPIsRequestError: ``models`` is not a list of model ids.
    """
    ids = [] if models is None else models
    if not isinstance(ids, list | tuple) or not all(
        isinstance(each, str) and each == each.strip() != "" for each in ids
    ):
        raise ToAPIsRequestError.for_field("fallback_models", models, "must be a list of model ids")
    require_text("fallback_models", ids)
    return [each for each in dict.fromkeys(ids) if each != model]


def for_models(request: VideoRequest, models: Sequence[str]) -> list[VideoRequest]:
    """Return the same request for each of the fallback ``models``, checked.

    :raises ToAPIsRequestError: A model does not accept a value of the request.
    """
    requests = [replace(request, model=model) for model in models]
    if requests and "model" in request.parameters:
        raise ToAPIsRequestError.for_field(
            "fallback_models", list(models), "cannot be combined with a model in parameters, which takes precedence"
        )
    for fallback in requests:
        try:
            fallback.check()
        except ToAPIsRequestError as error:
            error.amend(before=f"Fallback model {fallback.model!r}: ")
            raise
    return requests


def request_without_images(
    *,
    model: str,
    prompt: str | None = None,
    duration: int | str | None = None,
    aspect_ratio: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    operation: Operation = "generate",
    video_id: str | None = None,
) -> VideoRequest:
    """Return the request without its images, so that no file is read. The model's limits are not checked yet.

    :raises ToAPIsRequestError: ``parameters`` or ``duration`` has the wrong type, or a string is the text ``None`` or
        contains a lone surrogate.
    """
    if parameters and not isinstance(parameters, Mapping):
        raise ToAPIsRequestError.for_field(
            "parameters",
            type(parameters).__name__,
            "must be a dict. If it is a template, set render_template_as_native_obj=True on the DAG",
        )
    texts = {"model": model, "prompt": prompt, "aspect_ratio": aspect_ratio, "video_id": video_id}
    for field, value in texts.items():
        require_text(field, value)
    require_encodable("parameters", parameters)
    return VideoRequest(
        operation=operation,
        video_id=video_id,
        model=model,
        prompt=prompt,
        duration=parse_duration(duration),
        aspect_ratio=aspect_ratio or None,
        parameters=parameters or {},
    )


def may_be_blank(model: str, operation: Operation) -> tuple[str, ...]:
    """Return the fields that can be blank after rendering: the prompt, if the model is known not to require one."""
    known = find_model(model) if isinstance(model, str) else None
    inputs = None if known is None else getattr(known, operation)
    return () if inputs is None or inputs.prompt.required else ("prompt",)


@dataclass(frozen=True)
class SourceFile:
    """A readable file of a type and size that the service accepts.

    :param sha256: Hex digest of the content.
    """

    media_type: MediaType
    sha256: str
    upload: FileUpload


def source_file(field: str, reference: str, kind: MediaKind | None = None) -> SourceFile:
    """Check a file and its content before anything is billed.

    :param field: Name of the parameter, for messages.
    :param reference: Local path or object storage URI.
    :param kind: The required kind of file. If None, the file can have any kind that the service accepts.
    :raises ToAPIsFileError: The file is missing, is a directory, or cannot be read.
    :raises ToAPIsRequestError: The file has a type that is not accepted, is empty, or is too large.
    :raises ToAPIsConnectionError: The storage cannot be reached right now.
    """
    path = path_of(field, reference)
    with storage_errors(field, reference, "a readable file"):
        max_size = MAX_UPLOAD_SIZE[kind] if kind else max(MAX_UPLOAD_SIZE.values())
        _require_size(file_size(path, field, reference), max_size, kind, field, reference)
        head, digest, size = _read(path, max_size)
    media_type = sniff(head)
    if media_type is None or (kind and media_type.kind != kind):
        formats = UPLOAD_FORMATS[kind] if kind else "; ".join(UPLOAD_FORMATS.values())
        raise ToAPIsRequestError.for_field(field, reference, f"its content must be {formats}")
    _require_size(size, MAX_UPLOAD_SIZE[media_type.kind], media_type.kind, field, reference)
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", path.name)
    upload = FileUpload(
        name=name, media_type=media_type.name, open=lambda: cast("BinaryIO", _UploadedFile(path, field, reference))
    )
    return SourceFile(media_type=media_type, sha256=digest, upload=upload)


def _require_size(size: int, limit: int, kind: MediaKind | None, field: str, reference: str) -> None:
    if size > limit:
        files = f"{kind} files" if kind else "files"
        raise ToAPIsRequestError.for_field(
            field, reference, f"{files} must be at most {limit // 1024**2} MB; it has {size:,} bytes"
        )


class _UploadedFile(io.RawIOBase):
    """A file that is read while it is uploaded. Errors of its storage are translated into errors of this provider."""

    def __init__(self, path: AnyPath, field: str, reference: str) -> None:
        self._errors = partial(storage_errors, field, reference, "a readable file")
        with self._errors():
            self._stream: Any = path.open("rb")

    def read(self, size: int = -1) -> bytes:
        with self._errors():
            return bytes(self._stream.read(size))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._errors():
            return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def reference_image(reference: str) -> ReferenceImage:
    """Return an image from which to make a video. A URL is used unchanged; anything else is a file, which is checked.

    :raises ToAPIsRequestError: The service does not accept a file of this type or size.
    """
    if is_url(reference):
        return ReferenceImage.from_url(reference)
    source = source_file("image", reference, "image")
    return ReferenceImage(identity=f"sha256:{source.sha256}", upload=source.upload)


def _read(path: AnyPath, max_size: int) -> tuple[bytes, str, int]:
    """Return a file's first bytes, the hash of its content, and its size. Only one chunk is in memory at a time.

    :param max_size: Maximum bytes. A larger file is not read to its end.
    """
    digest = hashlib.sha256()
    head = b""
    size = 0
    stream: Any
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_SIZE):
            head = head or chunk[:HEAD_SIZE]
            digest.update(chunk)
            size += len(chunk)
            if size > max_size:
                break
    return head, digest.hexdigest(), size
