"""What the service answers, parsed and normalized once into frozen dataclasses.

The service's pages and its real answers differ from model to model; the variants accepted here are the ones that
clients in the field have met. Whatever is not recognized never ends a wait: an unknown status means "still running".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any

import pendulum

from airflow_provider_toapis.api.result_urls import JsonObject, absolute_url, is_url, mappings, result_urls
from airflow_provider_toapis.api.status_words import is_documented, is_failure_word, meaning

#: Seconds that result URLs live after completion (documented).
RESULT_LIFETIME = 86_400
#: A larger number of seconds is in the year 5138; as milliseconds it is in 1973.
_MILLISECONDS = 10**11

__all__ = ["Balance", "OfferedModel", "OfferedPrice", "TaskError", "TaskStatus", "UploadedFile", "VideoTask"]


#: An amount of money is between 10 to the power of minus this and of this.
_LARGEST_EXPONENT = 30


class TaskStatus(StrEnum):
    """State of a video task; the last two are final."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True)
class TaskError:
    """Why a generation failed, in the vendor's words.

    :param code: The vendor's code as a string; upstream codes leak through.
    :param message: The vendor's free text. It may quote the request: keep it out of trigger events.
    """

    code: str | None
    message: str


@dataclass(frozen=True)
class VideoTask:
    """One video task as the service reported it.

    Times are UTC; the service gives them in whole seconds (documented).

    :param id: The service's id. Several shapes of it are met: take it as it is.
    :param status: What the word of the service means here.
    :param raw_status: The word the service used, for the log.
    :param model: Model id as the service calls it today.
    :param progress: Whole percents (documented), or None where the service reports none.
    :param created_at: When it was ordered.
    :param completed_at: When it was finished.
    :param expires_at: When the result URLs die (24 hours after completion: documented).
    :param client_business_id: The identity that it was ordered under, where the service repeats it.
    :param urls: Links to the result, the documented place first, then those that other clients have met. A client of
        this package makes relative ones absolute.
    :param format: Ending of a file name (default mp4: documented, and mov for some models).
    :param error: Why it failed; None unless it did.
    :param billing: ``{"status", "credits", "cost_usd"}`` exactly as sent (documented); None does not mean free.
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
        """Whether the service will not change this task any more."""
        return self.status in (TaskStatus.COMPLETED, TaskStatus.FAILED)

    @property
    def is_documented_status(self) -> bool:
        """Whether the service used a word whose meaning it documents. Another one licenses no new generation."""
        return is_documented(self.raw_status)

    @property
    def is_ready(self) -> bool:
        """Whether there is a video to fetch."""
        return self.status is TaskStatus.COMPLETED and bool(self.urls)

    @property
    def cost_usd(self) -> Decimal | None:
        """What billing says was paid, in USD; None while it does not say."""
        return amount((self.billing or {}).get("cost_usd"))

    def with_absolute_urls(self, base_url: str) -> VideoTask:
        """Return the task with its relative result URLs resolved against ``base_url``, the address of the API."""
        resolved = (absolute_url(base_url, url) for url in self.urls)
        return replace(self, urls=tuple(dict.fromkeys(filter(None, resolved))))

    def is_expired(self, now: pendulum.DateTime) -> bool:
        """Whether the result URLs should be dead at ``now``: a claim of clocks, which only trying them confirms."""
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
    """A file that the service now hosts under a public URL. How long it stays there is not documented.

    :param id: The service's id of the upload.
    :param url: Its public address.
    :param mime_type: What the service takes it for.
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
    """What is left on the key. 200 credits are one USD; the unit of the ``*_balance`` fields depends on the site.

    Both are documented. What the service does not say is None.

    :param remain_credits: Credits that are left.
    :param used_credits: Credits that were spent.
    :param remain_balance: What is left, in the site's unit.
    :param used_balance: What was spent, in the site's unit.
    :param credits_per_usd: What a USD is worth.
    :param unlimited: The key has no limit of its own; ``remain_balance`` then is -1.
    """

    remain_credits: Decimal | None
    used_credits: Decimal | None
    remain_balance: Decimal | None
    used_balance: Decimal | None
    credits_per_usd: Decimal | None
    unlimited: bool

    @property
    def remain_usd(self) -> Decimal | None:
        """What is left in USD, or None where the service does not say."""
        if self.remain_credits is None or self.credits_per_usd is None or self.credits_per_usd <= 0:
            return None
        return self.remain_credits / self.credits_per_usd


@dataclass(frozen=True)
class OfferedModel:
    """A model that the service offers to this key (documented).

    :param id: Case-exact model id.
    :param endpoint_types: What it is for, in the service's words.
    """

    id: str
    endpoint_types: tuple[str, ...] = ()


@dataclass(frozen=True)
class OfferedPrice:
    """One price of one model for this key's group (documented). Where it depends on the time, the dearest one.

    :param model: Model id.
    :param group: The group of accounts that the price is for.
    :param charge_type: ``per_request``, ``per_second`` or ``per_token``.
    :param unit: ``request``, ``second`` or ``1m_tokens``.
    :param unit_price: USD per unit.
    :param conditions: What the price holds for, for example a resolution.
    :param price_basis: What is counted: ``request``, ``output_seconds`` ...
    :param input_unit_price: USD per second of a video that the request brings.
    :param input_image_unit_price: USD per image that the request brings.
    :param free_input_image_count: Number of images that cost nothing (default 0).
    :param minimum_charge_usd: A video costs at least this.
    :param pricing_period: The time of day that it is for, such as ``peak``; None for all day.
    :param unclear: Names of the parts that are not understood. With any of them the price is unknown.
    """

    model: str
    group: str | None
    charge_type: str
    unit: str | None
    unit_price: Decimal | None
    conditions: JsonObject
    price_basis: str | None = None
    input_unit_price: Decimal | None = None
    input_image_unit_price: Decimal | None = None
    free_input_image_count: int = 0
    minimum_charge_usd: Decimal | None = None
    pricing_period: str | None = None
    unclear: tuple[str, ...] = ()

    @property
    def is_understood(self) -> bool:
        """Whether a price can be computed from it. Zero is no price."""
        return not self.unclear and self.unit_price is not None and self.unit_price > 0


def parse_video_task(body: JsonObject, video_id: str | None = None) -> VideoTask | None:
    """Read a task from a submit or status answer; None for a refusal, and for an answer about nothing.

    :param video_id: The video that was asked for, for answers that tell a status and leave its id out.
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
        created_at=_moment(_first(nodes, "created_at")),
        completed_at=_moment(_first(nodes, "completed_at")),
        expires_at=_moment(_first(nodes, "expires_at")),
        client_business_id=_first_text(nodes, "client_business_id"),
        urls=urls,
        format=_format(nodes),
        error=parse_error_detail(error or "") if status is TaskStatus.FAILED else None,
        billing=billing if isinstance(billing, Mapping) else None,
    )


def parse_uploaded_file(body: JsonObject) -> UploadedFile | None:
    """Read an upload's answer; None where it does not say ``success`` or has no URL."""
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
    """Read a balance; None where the service answers ``success: false`` or no figures at all."""
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
    """Read the model list."""
    return tuple(
        OfferedModel(id=str(item["id"]), endpoint_types=tuple(map(str, item.get("supported_endpoint_types") or ())))
        for item in mappings(body.get("data"))
        if item.get("id")
    )


def _format(nodes: tuple[JsonObject, ...]) -> str:
    """Return the file type that the service names, as a file name's ending; mp4 where it names none."""
    for node in nodes:
        result = node.get("result")
        data = result.get("data") if isinstance(result, Mapping) else None
        for item in mappings(data if isinstance(data, list) else [data]):
            named = item.get("format")
            # The ending becomes part of a file name: nothing but letters and digits of the server's choice may.
            if isinstance(named, str) and named.isascii() and named.isalnum() and len(named) <= 5:  # noqa: PLR2004
                return named.lower()
    return "mp4"


def parse_error_detail(detail: object) -> TaskError:
    """Read an ``error`` value: an object, a plain text, or a text that holds a JSON object."""
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
    """Return the word for what happened: a number as code only repeats the HTTP status, and the word is the type."""
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
    """Return the first value that is not empty, the keys in their order."""
    return next((node[key] for key in keys for node in nodes if node.get(key)), None)


def _task_id(nodes: tuple[JsonObject, ...]) -> str | None:
    return _first_text(nodes, "id", "task_id", "taskId")


def _error(nodes: tuple[JsonObject, ...], raw_status: str) -> Any:  # noqa: ANN401
    error = _first_true(nodes, "error", "fail_reason", "error_message")
    if error or not is_failure_word(raw_status) or _task_id(nodes) is None:
        return error
    # Beside another word these are no errors. Around the task, or without one, they are about the response.
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


def _moment(value: object) -> pendulum.DateTime | None:
    """Read Unix seconds, the only form that is documented; milliseconds and ISO 8601 texts too."""
    number = parse_decimal(value)
    if number is None:
        return _iso_moment(value)
    if not 0 < number < _MILLISECONDS * 1000:
        return None
    seconds = number / 1000 if number >= _MILLISECONDS else number
    return pendulum.from_timestamp(float(seconds), tz=pendulum.UTC)


def _iso_moment(value: object) -> pendulum.DateTime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = pendulum.parse(value.strip(), exact=True)
    except (ValueError, OverflowError):
        return None
    return moment.in_timezone(pendulum.UTC) if isinstance(moment, pendulum.DateTime) else None


def parse_decimal(value: object) -> Decimal | None:
    """Read a number that the service sends as a number or as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def amount(value: object) -> Decimal | None:
    """Read an amount of money; None for anything else, and for a size that arithmetic or a text cannot carry."""
    number = parse_decimal(value)
    return number if number is not None and abs(number.adjusted()) <= _LARGEST_EXPONENT else None


def _iso(moment: pendulum.DateTime | None) -> str | None:
    return moment.to_iso8601_string() if moment else None
