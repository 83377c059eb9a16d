"""What videos cost, by day, DAG, task, model and outcome. It is read from the XComs of the tasks that submitted them.

The XComs are validated, because a DAG author can write any value. They are read in chunks, and only one of them is
parsed at a time. In memory, a video is an id and a reference to values that it shares with similar videos.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, Self, TypeVar

from airflow.models.xcom import XComModel
from pydantic import ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic.types import OnErrorOmit
from pydantic_core import CoreSchema, core_schema
from sqlalchemy import String, cast, select

from airflow_provider_toapis.operators.batch import BATCH_KEY
from airflow_provider_toapis.operators.submission_record import VIDEOS_KEY
from airflow_provider_toapis.ui.queries import parse_day

if TYPE_CHECKING:
    from sqlalchemy import Executable
    from sqlalchemy.orm import Session

T = TypeVar("T")
#: DAG id, task id, and the time of the XCom.
_Task = tuple[str, str, datetime]
#: Number of the DAG run, task id, and directory of a batch.
_BatchRun = tuple[int, str, str]
#: What became of a video, as far as its task instance knows.
Outcome = Literal["saved", "in progress", "failed"]

#: Number of days in a range without a first day, and the maximum number.
DEFAULT_DAYS = 30
MAX_DAYS = 366
_EARLIEST = date(2000, 1, 1)
#: Rows that are read from the database at a time.
_CHUNK = 1000
#: Maximum of a recorded amount, and of the number of videos in an entry of a batch. Larger numbers are errors.
_MAX_USD = 10_000_000
_MAX_VIDEOS = 1_000_000
#: Amounts are rounded to it, so that sums are exact.
_SMALLEST = Decimal("0.000001")
_MAX_TEXT = 200
_LENIENT = ConfigDict(extra="ignore", hide_input_in_errors=True)
_BATCH_OUTCOMES: dict[str, Outcome] = {"saved": "saved", "submitted": "in progress", "failed": "failed"}


@dataclass(frozen=True)
class Period:
    """A range of days, UTC. Both ends are included."""

    first: date
    last: date

    @classmethod
    def parse(cls, first: str | None, last: str | None, today: date) -> Self:
        """Return the range between two texts. A text that is not a date is ignored.

        :param today: The last day without a text.
        """
        end = min(max(parse_day(last) or today, _EARLIEST), today)
        start = parse_day(first) or end - timedelta(days=DEFAULT_DAYS - 1)
        return cls(min(max(start, end - timedelta(days=MAX_DAYS - 1)), end), end)

    @property
    def days(self) -> list[date]:
        """All days of the range."""
        return [self.first + timedelta(days=number) for number in range((self.last - self.first).days + 1)]

    def __contains__(self, day: date) -> bool:
        return self.first <= day <= self.last


class Group(NamedTuple):
    """What the videos of one line have in common.

    :param day: Day of the submission, UTC.
    :param model: Model id; empty if it is not known.
    """

    day: date
    dag_id: str
    task_id: str
    model: str
    outcome: Outcome


@dataclass(frozen=True)
class Spend:
    """Number of videos and their cost in USD. The three amounts do not overlap.

    :param refunded: Number of failed videos with a billed cost of 0.
    :param unpriced: Number of videos with neither a billed cost nor an expected price.
    :param billed: Billed cost of the videos that have not failed.
    :param expected: Catalog price of videos whose billed cost is not reported yet.
    :param failed_cost: Billed cost of the failed videos.
    """

    saved: int = 0
    in_progress: int = 0
    failed: int = 0
    refunded: int = 0
    unpriced: int = 0
    billed: Decimal = Decimal(0)
    expected: Decimal = Decimal(0)
    failed_cost: Decimal = Decimal(0)

    @property
    def videos(self) -> int:
        """Number of all videos."""
        return self.saved + self.in_progress + self.failed

    @property
    def total(self) -> Decimal:
        """Cost of all videos, as far as it is known."""
        return self.billed + self.expected + self.failed_cost

    @property
    def per_saved(self) -> Decimal | None:
        """Cost of all videos, divided by the number of saved ones; None without a saved video."""
        return self.total / self.saved if self.saved else None

    def __add__(self, other: Spend) -> Spend:
        return Spend(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


class _OrNone:
    """Annotation of a field that is None if its value is invalid."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_default_schema(handler(source), default=None, on_error="default")


#: Fields whose invalid values are None. pydantic's own validators are used, because there can be 100,000 videos.
_Text = Annotated[str | None, _OrNone()]
_Short = Annotated[str | None, Field(max_length=_MAX_TEXT), _OrNone()]
_Usd = Annotated[float | None, Field(strict=True, ge=0, le=_MAX_USD), _OrNone()]


@dataclass(frozen=True)
class _Video:
    """An entry of the XCom ``toapis_video``. A downloaded video has no generation and is invalid here."""

    __pydantic_config__: ClassVar = _LENIENT

    id: Annotated[str, Field(min_length=1, max_length=_MAX_TEXT)]
    generation: Annotated[int, Field(strict=True, ge=0)]
    status: _Text = None
    model: _Short = None
    submitted_at: _Text = None
    cost_usd: _Usd = None
    price_usd: _Usd = None
    output_path: _Text = None
    reason: _Text = None

    @property
    def outcome(self) -> Outcome:
        # A finished video without a file has failed if the attempt has.
        if self.status == "completed":
            return "saved" if self.output_path or not self.reason else "failed"
        return "failed" if self.status == "failed" else "in progress"


@dataclass(frozen=True)
class _BatchVideos:
    """An entry of ``spend`` in the XCom ``toapis_batch``."""

    __pydantic_config__: ClassVar = _LENIENT

    status: Literal["saved", "submitted", "failed"]
    videos: Annotated[int, Field(strict=True, ge=1, le=_MAX_VIDEOS)]
    model: _Short = None
    cost_usd: _Usd = None
    price_usd: _Usd = None
    unpriced: Annotated[int, Field(strict=True, ge=0)] = 0


@dataclass(frozen=True)
class _Batch:
    """The XCom ``toapis_batch``."""

    __pydantic_config__: ClassVar = _LENIENT

    output_path: str
    spend: list[OnErrorOmit[_BatchVideos]]


_VIDEOS: TypeAdapter[list[_Video]] = TypeAdapter(list[OnErrorOmit[_Video]])
_BATCH = TypeAdapter(_Batch)


class _Cost(NamedTuple):
    """What is known about the cost of one video."""

    group: Group
    cost_usd: float | None
    price_usd: float | None

    def spend(self, videos: int) -> Spend:
        """Return the spend for a number of such videos."""
        billed, expected = _decimal(self.cost_usd), _decimal(None if self.cost_usd is not None else self.price_usd)
        unpriced = videos if self.cost_usd is None and self.price_usd is None else 0
        return _spend(self.group.outcome, videos, billed * videos, expected * videos, unpriced)


def find_spend(session: Session, dag_ids: Iterable[str], period: Period) -> dict[Group, Spend]:
    """Return what the videos of a range of days cost, ordered by group.

    If several task instances list a video, it counts once: in the first DAG run that knows its billed cost, else in the
    last one. If several task instances of a DAG run work on a batch, as in a loop, the last one lists all its videos.

    :param dag_ids: The DAGs that are counted.
    """
    videos: dict[str, _Cost] = {}
    shared: dict[_Cost, _Cost] = {}
    batches: dict[_BatchRun, list[tuple[Group, Spend]]] = {}
    for run, dag_id, task_id, key, recorded_at, value in session.execute(_query(dag_ids, period)):
        task = dag_id, task_id, recorded_at
        if key == BATCH_KEY:
            batch = _validated(_BATCH, value)
            if batch is not None:
                batches[run, task_id, batch.output_path] = list(_batch_spend(task, batch))
            continue
        for video_id, cost in _costs(task, value, period):
            known = videos.get(video_id)
            if known is None or known.cost_usd is None:
                videos[video_id] = shared.setdefault(cost, cost)
    counted = ((cost.group, cost.spend(number)) for cost, number in Counter(videos.values()).items())
    found: defaultdict[Group, Spend] = defaultdict(Spend)
    for group, spend in chain(counted, *batches.values()):
        if group.day in period:
            found[group] += spend
    return dict(sorted(found.items()))


def _query(dag_ids: Iterable[str], period: Period) -> Executable:
    # A later XCom can list a video of the range, but an earlier one cannot. The value is read as text, because a value
    # that cannot be parsed must not end the whole query.
    start = datetime.combine(period.first, time.min, UTC)
    columns = (XComModel.dag_run_id, XComModel.dag_id, XComModel.task_id, XComModel.key, XComModel.timestamp)
    return (
        select(*columns, cast(XComModel.value, String))
        .where(
            XComModel.key.in_((VIDEOS_KEY, BATCH_KEY)),
            XComModel.timestamp >= start,
            XComModel.dag_id.in_(sorted(dag_ids)),
        )
        .order_by(XComModel.dag_run_id, XComModel.task_id, XComModel.map_index, XComModel.timestamp)
        .execution_options(yield_per=_CHUNK)
    )


def _costs(task: _Task, value: str | None, period: Period) -> Iterator[tuple[str, _Cost]]:
    dag_id, task_id, recorded_at = task
    for video in _validated(_VIDEOS, value) or ():
        day = _day(video.submitted_at, recorded_at)
        if day in period:
            group = Group(day, dag_id, task_id, video.model or "", video.outcome)
            yield video.id, _Cost(group, video.cost_usd, video.price_usd)


def _batch_spend(task: _Task, batch: _Batch) -> Iterator[tuple[Group, Spend]]:
    dag_id, task_id, recorded_at = task
    for entry in batch.spend:
        outcome = _BATCH_OUTCOMES[entry.status]
        billed, expected = _decimal(entry.cost_usd), _decimal(entry.price_usd)
        spend = _spend(outcome, entry.videos, billed, expected, min(entry.unpriced, entry.videos))
        yield Group(_day(None, recorded_at), dag_id, task_id, entry.model or "", outcome), spend


def _spend(outcome: Outcome, videos: int, billed: Decimal, expected: Decimal, unpriced: int) -> Spend:
    if outcome != "failed":
        saved = videos if outcome == "saved" else 0
        return Spend(saved, videos - saved, unpriced=unpriced, billed=billed, expected=expected)
    refunded = 0 if billed or expected else videos - unpriced
    return Spend(failed=videos, refunded=refunded, unpriced=unpriced, failed_cost=billed, expected=expected)


def _decimal(amount: float | None) -> Decimal:
    # The shortest text of a float is the number that was recorded.
    return Decimal(str(amount or 0)).quantize(_SMALLEST)


def _validated(kind: TypeAdapter[T], text: str | None) -> T | None:
    try:
        return kind.validate_json(text or "")
    except ValidationError:
        return None


def _day(submitted_at: str | None, recorded_at: datetime) -> date:
    """Return the day of a submission, UTC; the day of the record if the submission's is not known."""
    try:
        moment = datetime.fromisoformat(submitted_at or "")
        return (moment if moment.tzinfo in (None, UTC) else moment.astimezone(UTC)).date()
    except (ValueError, OverflowError):
        return recorded_at.astimezone(UTC).date()
