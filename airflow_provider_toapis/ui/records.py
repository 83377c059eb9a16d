"""What tasks recorded about their videos in XComs. All of it is validated, because a DAG author can write any value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from airflow_provider_toapis.api.result_urls import is_url

#: Maximum number of videos of one task instance, of warnings of one video, and of characters of one text that a page
#: shows.
_MAX_VIDEOS, _MAX_WARNINGS, _MAX_CHARACTERS = 100, 20, 10_000
_LENIENT = ConfigDict(extra="ignore", hide_input_in_errors=True)

T = TypeVar("T")


def _text(value: object) -> str | None:
    return value[:_MAX_CHARACTERS] if isinstance(value, str) and value else None


def _web_url(value: object) -> str | None:
    return value if isinstance(value, str) and is_url(value) else None


def _texts(value: object) -> tuple[str, ...]:
    texts = value[:_MAX_WARNINGS] if isinstance(value, list | tuple) else ()
    return tuple(item[:_MAX_CHARACTERS] for item in texts if isinstance(item, str))


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _objects(value: object) -> tuple[Mapping[str, Any], ...]:
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list | tuple) else ()


def _facts(value: object) -> object:
    return value if isinstance(value, Mapping) else None


#: A text; None for any other value.
Text = Annotated[str | None, BeforeValidator(_text)]
#: A finite number; None for any other value.
Number = Annotated[float | None, BeforeValidator(_number)]
#: A whole number from 0; 0 for any other value.
Count = Annotated[int, BeforeValidator(_count)]


@dataclass(frozen=True)
class Generation:
    """One video of a task instance, from the XCom ``toapis_video``.

    :param status: The service's last known status.
    :param generation: Number of the submission; None if the task has only downloaded the video.
    :param cost_usd: Billed price; None until the service reports it.
    :param price_usd: The price that was expected when the video was submitted.
    :param reason: Why the attempt that worked on the video failed.
    """

    __pydantic_config__: ClassVar = _LENIENT

    id: Text = None
    status: Text = None
    model: Text = None
    generation: Number = None
    client_business_id: Text = None
    identity: Text = None
    submitted_at: Text = None
    cost_usd: Number = None
    price_usd: Number = None
    output_path: Text = None
    reason: Text = None


@dataclass(frozen=True)
class Facts:
    """Measured facts of a saved video. See ``MediaFacts``."""

    __pydantic_config__: ClassVar = _LENIENT

    duration: Number = None
    width: Number = None
    height: Number = None
    fps: Number = None
    video_codec: Text = None
    has_audio: Annotated[bool | None, BeforeValidator(lambda value: value if isinstance(value, bool) else None)] = None
    bit_rate: Number = None


@dataclass(frozen=True)
class Result:
    """The result of a saved or finished video, from the XCom ``return_value``."""

    __pydantic_config__: ClassVar = _LENIENT

    id: Text = None
    status: Text = None
    url: Annotated[str | None, BeforeValidator(_web_url)] = None
    created_at: Text = None
    completed_at: Text = None
    expires_at: Text = None
    output_path: Text = None
    size: Number = None
    sha256: Text = None
    poster_path: Text = None
    media: Annotated[Facts | None, BeforeValidator(_facts)] = None
    warnings: Annotated[tuple[str, ...], BeforeValidator(_texts)] = ()


@dataclass(frozen=True)
class BatchState:
    """The state of a batch, from the XCom ``toapis_batch``. The counts are numbers of rows.

    :param output_path: The directory of the batch.
    :param reason: Why the attempt failed.
    """

    __pydantic_config__: ClassVar = _LENIENT

    output_path: Text = None
    saved: Count = 0
    unchanged: Count = 0
    submitted: Count = 0
    pending: Count = 0
    failed: Count = 0
    rejected: Count = 0
    postponed: Count = 0
    spend: Annotated[tuple[Mapping[str, Any], ...], BeforeValidator(_objects)] = ()
    reason: Text = None

    @property
    def cost_usd(self) -> float:
        """What the run has spent so far: billed prices and, where none is reported yet, expected prices."""
        amounts = (_number(group.get(name)) for group in self.spend for name in ("cost_usd", "price_usd"))
        return sum(amount for amount in amounts if amount is not None)


_GENERATION = TypeAdapter(Generation)
_RESULT = TypeAdapter(Result)
_BATCH = TypeAdapter(BatchState)


def generations_of(value: Any) -> tuple[Generation, ...]:  # noqa: ANN401 - any JSON
    """Return the videos in an XCom ``toapis_video``, the oldest first. Invalid entries are left out."""
    found = (_validated(_GENERATION, item) for item in _objects(value)[-_MAX_VIDEOS:])
    return tuple(item for item in found if item is not None)


def results_of(value: Any, video_ids: Iterable[str | None]) -> dict[str, Result]:  # noqa: ANN401 - any JSON
    """Return the results of these videos in an XCom ``return_value``, by video id. Fields that are invalid are None."""
    items = _objects([value] if isinstance(value, dict) else value)
    recorded = {item["id"]: item for item in items if _text(item.get("id"))}
    found = (_validated(_RESULT, recorded.get(video_id)) for video_id in video_ids)
    return {result.id: result for result in found if result and result.id}


def batch_of(value: Any) -> BatchState:  # noqa: ANN401 - any JSON
    """Return the state in an XCom ``toapis_batch``. Fields that are invalid have their defaults."""
    return _validated(_BATCH, value) or BatchState()


def _validated(kind: TypeAdapter[T], value: object) -> T | None:
    try:
        return kind.validate_python(value)
    except ValidationError:
        return None
