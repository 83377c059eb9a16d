"""Parse the service's responses once into frozen dataclasses.

Responses differ between models, in the documentation and in practice. The parsers also accept the variants that were
seen in other clients. An unrecognized response never ends a wait, because an unknown status is treated as in progress.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from functools import lru_cache
from typing import Any

import pendulum

from airflow_provider_toapis.api.result_urls import JsonObject, absolute_url, is_url, mappings, result_urls
from airflow_provider_toapis.api.status_words import is_documented, is_failure_word, meaning

#: Seconds after completion for which result URLs work (documented).
RESULT_LIFETIME = 86_400
#: A timestamp of at least this number is in milliseconds. As seconds, it would be in the year 5138; as milliseconds, in
#: 1973.
_MILLISECONDS = 10**11
_MAX_EXTENSION_LENGTH = 5
#: Maximum absolute value of the decimal exponent of an amount.
_MAX_EXPONENT = 30


class TaskStatus(StrEnum):
    """Status of a video task. ``COMPLETED`` and ``FAILED`` are final."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True)
class TaskError:
    """Error of a request or a generation, as the service reported it.

    :param code: The error code as a string. It can be a code of an upstream provider.
    :param message: Free text. It can quote the request, so it must not be part of a trigger event.
    """

    code: str | None
    message: str


@dataclass(frozen=True)
class VideoTask:
    """One video task as the service reported it.

    Times are UTC. The service reports them in whole seconds (documented).

    :param id: The service's id. Its format varies.
    :param status: The normalized status.
    :param raw_status: The status word of the service, for logs.
    :param model: Model id as the service reports it. It can differ from the submitted one.
    :param progress: Integer percentage (documented); None if the service reports none.
    :param created_at: Time of the submission.
    :param completed_at: Time at which the generation ended.
    :param expires_at: Time at which the result URLs expire (24 hours after completion, documented).
    :param client_business_id: The idempotency key of the submission, if the service repeats it.
    :param urls: Result URLs: those in the documented field first, then those in fields seen in other clients. The
        clients of this package make relative URLs absolute.
    :param format: File name extension (default mp4, documented; mov for some models).
    :param error: The error of a failed task; else None.
    :param billing: ``{"status", "credits", "cost_usd"}`` as the service sent it (documented). None does not mean that
        the video is free.
    """

    id: str
    status: TaskStatus
    raw_status: str
    model: str | None = None
    progress: int | None = None
    created_at: pendulum.DateTime | None = None
    completed_at: pendulum.DateTime | None = None
    expires_at: pendulum.DateTime | None = None
    client_business_id: str | None = None
    urls: tuple[str, ...] = ()
    format: str = "mp4"
    error: TaskError | None = None
    billing: JsonObject | None = None

    @property
    def is_final(self) -> bool:
        """Whether the status is final."""
        return self.status in (TaskStatus.COMPLETED, TaskStatus.FAILED)

    @property
    def is_documented_status(self) -> bool:
        """Whether the service documents this task's status.

        If a task fails with an undocumented status, no new generation is submitted.
        """
        return is_documented(self.raw_status)

    @property
    def is_ready(self) -> bool:
        """Whether the video is completed and has a result URL."""
        return self.status is TaskStatus.COMPLETED and bool(self.urls)

    @property
    def cost_usd(self) -> Decimal | None:
        """Billed cost in USD; None if the service does not report it."""
        return amount((self.billing or {}).get("cost_usd"))

    def with_absolute_urls(self, base_url: str) -> VideoTask:
        """Return the task with its relative result URLs resolved against ``base_url``, the base URL of the API."""
        if not self.urls:
            return self
        resolved = (absolute_url(base_url, url) for url in self.urls)
        return replace(self, urls=tuple(dict.fromkeys(filter(None, resolved))))

    def is_expired(self, now: pendulum.DateTime) -> bool:
        """Return whether the result URLs should have expired at ``now``.

        Clocks differ, so only a request of a result URL shows whether it has expired.
        """
        if self.expires_at is not None:
            return now >= self.expires_at
        ended = self.completed_at or self.created_at
        return ended is not None and now >= ended.add(seconds=RESULT_LIFETIME)

    def as_dict(self) -> dict[str, Any]:
        """Return the small JSON dict that operators push to XCom."""
        return {
            "id": self.id,
            "status": str(self.status),
            "model": self.model,
            "url": self.urls[0] if self.urls else None,
            "urls": list(self.urls),
            "format": self.format,
            "created_at": _iso(self.created_at),
            "completed_at": _iso(self.completed_at),
            "expires_at": _iso(self.expires_at),
            "client_business_id": self.client_business_id,
            "billing": dict(self.billing) if self.billing else None,
        }


@dataclass(frozen=True)
class UploadedFile:
    """An uploaded file at a public URL of the service. It is not documented how long the service stores it.

    :param id: The service's id of the upload.
    :param url: Public URL.
    :param mime_type: Media type, as the service detected it.
    :param size: Bytes.
    """

    id: str | None
    url: str
    mime_type: str | None
    size: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON dict that the upload operator pushes to XCom."""
        return {"id": self.id, "url": self.url, "mime_type": self.mime_type, "size": self.size}


@dataclass(frozen=True)
class Balance:
    """Balance of an API key.

    The service documents that 200 credits equal one USD, and that the unit of the ``*_balance`` fields depends on the
    site. A value that the service does not report is None.

    :param remain_credits: Remaining credits.
    :param used_credits: Used credits.
    :param remain_balance: Remaining balance, in the site's unit.
    :param used_balance: Used balance, in the site's unit.
    :param credits_per_usd: Credits per USD.
    :param unlimited: Whether the API key has no limit. If so, ``remain_balance`` is -1.
    """

    remain_credits: Decimal | None
    used_credits: Decimal | None
    remain_balance: Decimal | None
    used_balance: Decimal | None
    credits_per_usd: Decimal | None
    unlimited: bool

    @property
    def remain_usd(self) -> Decimal | None:
        """Remaining balance in USD; None if the service does not report it."""
        if self.remain_credits is None or self.credits_per_usd is None or self.credits_per_usd <= 0:
            return None
        return self.remain_credits / self.credits_per_usd


@dataclass(frozen=True)
class OfferedModel:
    """A model that the service offers to this API key (documented).

    :param id: Case-exact model id.
    :param endpoint_types: The service's names of the endpoints that the model supports.
    """

    id: str
    endpoint_types: tuple[str, ...] = ()


def parse_video_task(body: JsonObject, video_id: str | None = None) -> VideoTask | None:
    """Parse the response to a submission or a look-up; None if the service reports an error or no task.

    :param video_id: The id of the video that was looked up. It is used for a response with a status but no id.
    """
    if body.get("success") is False:
        return None
    data = body.get("data")
    nodes = (body, data) if isinstance(data, Mapping) else (body,)
    task_id = _task_id(nodes)
    if task_id is None and _first(nodes, "status") is not None:
        task_id = video_id
    if not task_id or not task_id.isprintable():
        return None
    raw_status = str(_first(nodes, "status") or "")
    urls = tuple(dict.fromkeys(result_urls(nodes)))
    error = _error(nodes, raw_status)
    status = TaskStatus(meaning(raw_status, has_url=bool(urls), has_error=bool(error)))
    billing = _first(nodes, "billing")
    return VideoTask(
        id=task_id,
        status=status,
        raw_status=raw_status,
        model=_first_text(nodes, "model"),
        progress=_percent(_first(nodes, "progress")),
        created_at=_parse_timestamp(_first(nodes, "created_at")),
        completed_at=_parse_timestamp(_first(nodes, "completed_at")),
        expires_at=_parse_timestamp(_first(nodes, "expires_at")),
        client_business_id=_first_text(nodes, "client_business_id"),
        urls=urls,
        format=_format(nodes),
        error=parse_error_detail(error or "") if status is TaskStatus.FAILED else None,
        billing=billing if isinstance(billing, Mapping) else None,
    )


def parse_uploaded_file(body: JsonObject) -> UploadedFile | None:
    """Parse the response to an upload; None if the upload failed or has no URL."""
    data = body.get("data")
    if body.get("success") is False or not isinstance(data, Mapping) or not is_url(data.get("url")):
        return None
    size = data.get("size")
    return UploadedFile(
        id=_first_text((data,), "id"),
        url=str(data["url"]),
        mime_type=_first_text((data,), "mime_type"),
        size=size if isinstance(size, int) else None,
    )


def parse_balance(body: JsonObject) -> Balance | None:
    """Parse a balance; None if the response has ``success: false`` or no balance."""
    if body.get("success") is False or not {"remain_balance", "remain_credits"} & body.keys():
        return None
    return Balance(
        remain_credits=amount(body.get("remain_credits")),
        used_credits=amount(body.get("used_credits")),
        remain_balance=amount(body.get("remain_balance")),
        used_balance=amount(body.get("used_balance")),
        credits_per_usd=amount(body.get("credits_per_usd")),
        unlimited=body.get("unlimited_quota") is True,
    )


def parse_models(body: JsonObject) -> tuple[OfferedModel, ...]:
    """Parse the list of models."""
    return tuple(
        OfferedModel(id=str(item["id"]), endpoint_types=tuple(map(str, item.get("supported_endpoint_types") or ())))
        for item in mappings(body.get("data"))
        if item.get("id")
    )


def _format(nodes: tuple[JsonObject, ...]) -> str:
    """Return the file format that the service reports, as a file name extension; mp4 if it reports none."""
    for node in nodes:
        result = node.get("result")
        data = result.get("data") if isinstance(result, Mapping) else None
        for item in mappings(data if isinstance(data, list) else [data]):
            extension = item.get("format")
            # The extension becomes part of a file name, so only ASCII letters and digits are accepted.
            if (
                isinstance(extension, str)
                and extension.isascii()
                and extension.isalnum()
                and len(extension) <= _MAX_EXTENSION_LENGTH
            ):
                return extension.lower()
    return "mp4"


def parse_error_detail(detail: object) -> TaskError:
    """Parse an ``error`` value: an object, plain text, or a string that contains a JSON object."""
    if isinstance(detail, str):
        nested = _json_object(detail)
        return parse_error_detail(nested.get("error") or nested) if nested else TaskError(code=None, message=detail)
    if not isinstance(detail, Mapping):
        return TaskError(code=None, message=str(detail))
    code = _error_code(detail)
    message = detail.get("message") or detail.get("detail") or ""
    nested = _json_object(message) if isinstance(message, str) else None
    if nested:
        inner = parse_error_detail(nested.get("error") or nested)
        return TaskError(code=inner.code or code, message=inner.message or str(message))
    return TaskError(code=code, message=str(message))


def _error_code(detail: JsonObject) -> str | None:
    """Return the error code. If it is a number, return the type, because the number only repeats the HTTP status."""
    code, kind = _text(detail.get("code")), _text(detail.get("type"))
    return kind if kind and (code is None or code.isdigit()) else code


def _json_object(text: str) -> JsonObject | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _first(nodes: tuple[JsonObject, ...], *keys: str) -> Any:  # noqa: ANN401
    for node in nodes:
        for key in keys:
            if node.get(key) is not None:
                return node[key]
    return None


def _first_true(nodes: tuple[JsonObject, ...], *keys: str) -> Any:  # noqa: ANN401
    """Return the first non-empty value, in the order of the keys."""
    return next((node[key] for key in keys for node in nodes if node.get(key)), None)


def _task_id(nodes: tuple[JsonObject, ...]) -> str | None:
    return _first_text(nodes, "id", "task_id", "taskId")


def _error(nodes: tuple[JsonObject, ...], raw_status: str) -> Any:  # noqa: ANN401
    error = _first_true(nodes, "error", "fail_reason", "error_message")
    if error or not is_failure_word(raw_status) or _task_id(nodes) is None:
        return error
    # `message` and `reason` are the task's error only in the object with the failure status. Elsewhere they are about
    # the response.
    beside_status = tuple(node for node in nodes if node.get("status") is not None)[:1]
    return _first_true(beside_status, "message", "reason")


def _first_text(nodes: tuple[JsonObject, ...], *keys: str) -> str | None:
    return next((text for node in nodes for key in keys if (text := _text(node.get(key)))), None)


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str | int) and value != "" else None


def _percent(value: object) -> int | None:
    if isinstance(value, str):
        value = value.strip().removesuffix("%")
    number = parse_decimal(value)
    return None if number is None else int(max(Decimal(0), min(Decimal(100), number)))


def _parse_timestamp(value: object) -> pendulum.DateTime | None:
    """Parse Unix seconds (documented), milliseconds or ISO 8601 text; None for anything else."""
    number = parse_decimal(value)
    if number is None:
        return _parse_iso(value)
    if not 0 < number < _MILLISECONDS * 1000:
        return None
    seconds = number / 1000 if number >= _MILLISECONDS else number
    return _from_seconds(float(seconds))


@lru_cache(maxsize=1024)
def _from_seconds(seconds: float) -> pendulum.DateTime:
    """Convert Unix seconds. Cached, because each response about a video repeats its creation time."""
    return pendulum.from_timestamp(seconds, tz=pendulum.UTC)


def _parse_iso(value: object) -> pendulum.DateTime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = pendulum.parse(value.strip(), exact=True)
    except (ValueError, OverflowError):
        return None
    return moment.in_timezone(pendulum.UTC) if isinstance(moment, pendulum.DateTime) else None


def parse_decimal(value: object) -> Decimal | None:
    """Parse a number, or a string that contains one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def amount(value: object) -> Decimal | None:
    """Parse an amount of money; None for anything else.

    Also return None for a number that is too large or too small to compute with or to show.
    """
    number = parse_decimal(value)
    return number if number is not None and abs(number.adjusted()) <= _MAX_EXPONENT else None


def _iso(moment: pendulum.DateTime | None) -> str | None:
    return moment.to_iso8601_string() if moment else None
