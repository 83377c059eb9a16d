"""What is known of each row of a catalogue: the video that is kept, and what became of the wish for another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from functools import cache
from typing import Any, Literal, get_type_hints

import pendulum

from airflow_provider_toapis.api.models import amount
from airflow_provider_toapis.batch.rows import normal_key

#: Attempts that are remembered to have waited for a submission: far more than can be alive at a time.
_MAX_TAKERS = 16
#: Videos whose prices are noted in a row: far more than a run submits for it.
_MAX_SPENDS = 32

#: * ``wanted``: to be ordered.
#: * ``ordered``: under way, and paid.
#: * ``unfinished``: paid, and not fetched in time; the next attempt goes on with it.
#: * ``failed``: was not made, or is lost; the next attempt orders another one.
#: * ``refused``: because of its content; only a changed row is ordered again.
OrderState = Literal["wanted", "ordered", "unfinished", "failed", "refused"]


@dataclass(frozen=True)
class Kept:
    """The video of a row that lies in the folder.

    :param fingerprint: Of the row that it was made from.
    :param generation: Which of the videos that were ordered for this fingerprint it is, from 0.
    :param file: Its name in the folder.
    :param size: Bytes.
    :param sha256: Hex digest of the file.
    :param price_usd: A decimal number: what the service says it billed, else what was expected; None where neither is
        known.
    :param billed: Whether the price is the service's word.
    :param time: When it was kept; ISO 8601, UTC.
    :param run: The Airflow run that kept it.
    :param adopted: Whether an earlier run ordered it.
    :param posted_at: Epoch seconds at which it was submitted; None where that is not known.
    """

    fingerprint: str
    video_id: str
    client_business_id: str
    generation: int
    file: str
    size: int
    sha256: str
    price_usd: str | None
    billed: bool
    time: str
    run: str
    adopted: bool
    posted_at: float | None = None


@dataclass(frozen=True)
class Order:
    """The wish for a video that is not kept yet.

    :param run: The Airflow run that worked on it last.
    :param attempt: The try of that run's task.
    :param base: The first generation that this run may order.
    :param generation: The newest one that was ordered or found; below ``base`` where there is none yet.
    :param deadline: Epoch seconds until which this attempt waits for it.
    :param posted_at: Epoch seconds at which it was submitted; None where that is not known.
    :param price_usd: What it is expected to cost; None where no price is known.
    :param reason: Why it is not there.
    :param webhook: Whether the service is to tell by webhook that it is final.
    :param has_texts: Whether the row's ``parameters`` hold texts. They are not noted, and the service may quote them.
    :param plan_refused: Whether the attempt that waits for it does no more than that, because its plan is refused.
    :param takers: The attempts that have waited for it, the newest last. Each extends the deadline once.
    :param postponed: The row changed after this run was planned: the next run submits it.
    """

    state: OrderState
    fingerprint: str
    run: str
    attempt: int
    base: int = 0
    generation: int = -1
    client_business_id: str | None = None
    video_id: str | None = None
    deadline: float | None = None
    posted_at: float | None = None
    price_usd: str | None = None
    reason: str | None = None
    webhook: bool = False
    has_texts: bool = False
    plan_refused: bool = False
    takers: tuple[str, ...] = ()
    postponed: bool = False

    @property
    def is_under_way(self) -> bool:
        """Whether there is a video that is paid, and not fetched yet."""
        return self.video_id is not None and self.state in ("ordered", "unfinished")

    @property
    def is_unsubmitted(self) -> bool:
        """Whether nothing is known of any submission for it."""
        return self.state == "wanted" and self.video_id is None

    def taken_by(self, run: str, attempt: int) -> Order:
        """Return it with one more attempt that waits for it."""
        return replace(self, takers=(*self.takers, taker(run, attempt))[-_MAX_TAKERS:])

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Order:
        """Read it from a line of the manifest; a newer release may know of more fields."""
        known = _known_fields(cls, given)
        return cls(**known | {"takers": tuple(known.get("takers", ()))})


@dataclass(frozen=True)
class Superseded:
    """A billed video that is not saved, because its row changed while it was being made.

    :param price_usd: What it was expected to cost; None where no price is known.
    :param run: The Airflow run that found the row changed.
    :param generation: Which of the videos that were submitted for this fingerprint it is, from 0.
    :param posted_at: Epoch seconds at which it was submitted; None where that is not known.
    """

    video_id: str
    client_business_id: str | None
    fingerprint: str
    price_usd: str | None
    time: str
    run: str
    generation: int = 0
    posted_at: float | None = None

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Superseded:
        """Read it from a line of the manifest."""
        return cls(**_known_fields(cls, given))


@dataclass(frozen=True)
class Spend:
    """What a run spent on one video of a row.

    :param run: The Airflow run that submitted the video.
    :param price_usd: A decimal number: what the service says it billed, else what is expected; None where neither is
        known.
    :param billed: Whether the price is the service's word.
    """

    video_id: str
    client_business_id: str
    run: str
    price_usd: str | None
    billed: bool = False

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Spend:
        """Read it from a line of the manifest."""
        return cls(**_known_fields(cls, given))


@dataclass(frozen=True)
class Entry:
    """One row of the catalogue as it stands; ``key`` names it.

    :param row: Its number in the feed that was read last.
    :param time: When this was noted; ISO 8601, UTC.
    :param images: Where its pictures stand: links without what lets somebody in, paths or URIs.
    :param kept: The video that lies in the folder; it stays there until a newer one takes its place.
    :param order: The wish for another video; None when ``kept`` is what is wanted.
    :param in_feed: False once the row has vanished from the feed.
    :param superseded: Billed videos for earlier forms of the row that were not saved.
    :param spent: What runs spent on videos of the row, the newest last; the last 32 videos.
    """

    key: str
    row: int
    time: str
    prompt: str | None
    images: tuple[str, ...]
    model: str
    kept: Kept | None = None
    order: Order | None = None
    in_feed: bool = True
    superseded: tuple[Superseded, ...] = ()
    spent: tuple[Spend, ...] = ()

    def __post_init__(self) -> None:
        """Keep out of ``superseded`` what is saved, or in progress: it was adopted again."""
        adopted = {self.kept.video_id if self.kept else None}
        if self.order and self.order.is_under_way:
            adopted.add(self.order.video_id)
        left = tuple(video for video in self.superseded if video.video_id not in adopted)
        object.__setattr__(self, "superseded", left)
        object.__setattr__(self, "spent", self.spent[-_MAX_SPENDS:])

    @property
    def state(self) -> str:
        """``kept``, or the state of the order."""
        return self.order.state if self.order else "kept"

    @property
    def videos(self) -> tuple[tuple[str, str], ...]:
        """The client_business_id and the id of each video that is known."""
        known = (self.kept, self.order, *self.superseded, *self.spent)
        return tuple(
            (item.client_business_id, item.video_id)
            for item in known
            if item and item.video_id and item.client_business_id
        )

    def with_spend(self, run: str) -> Entry:
        """Return it with the price of its submitted video among what a run spent, unless it is there, or was free.

        A video that an earlier run submitted is adopted for nothing.
        """
        order = self.order
        if order is None or order.video_id is None or order.generation < order.base:
            return self
        if any(spend.video_id == order.video_id for spend in self.spent):
            return self
        spend = Spend(order.video_id, str(order.client_business_id), run, order.price_usd)
        return replace(self, spent=(*self.spent, spend))

    def with_billed(self, video_id: str, price_usd: str) -> Entry:
        """Return it with the price that the service says it billed for a video, 0 where it has refunded it."""
        spent = (
            replace(spend, price_usd=price_usd, billed=True) if spend.video_id == video_id else spend
            for spend in self.spent
        )
        return replace(self, spent=tuple(spent))

    def as_dict(self) -> dict[str, Any]:
        """Return the line of the manifest: what is kept stands at its top level."""
        kept = dict.fromkeys(_KEPT_FIELDS) | (asdict(self.kept) if self.kept else {})
        return {
            "key": self.key,
            "state": self.state,
            **{name: kept[name] for name in _KEPT_FIELDS if name != "time"},
            "kept_at": kept["time"],
            "row": self.row,
            "in_feed": self.in_feed,
            "model": self.model,
            "prompt": self.prompt,
            "images": list(self.images),
            "time": self.time,
            "order": asdict(self.order) if self.order else None,
            "superseded": [asdict(video) for video in self.superseded],
            "spent": [asdict(spend) for spend in self.spent],
        }

    @classmethod
    def from_dict(cls, line: Mapping[str, Any]) -> Entry:
        """Read a line of the manifest.

        :raises ValueError: It is not one. So it is with KeyError and TypeError.
        """
        _require_types(line)
        kept = {name: line[name] for name in _KEPT_FIELDS if name in line} | {"time": line["kept_at"]}
        return cls(
            key=normal_key(line["key"]),
            row=line["row"],
            time=line["time"],
            prompt=line["prompt"],
            images=tuple(line["images"]),
            model=line["model"],
            kept=Kept(**_known_fields(Kept, kept)) if line["file"] is not None else None,
            order=Order.from_dict(line["order"]) if line["order"] else None,
            in_feed=line["in_feed"],
            superseded=tuple(map(Superseded.from_dict, line.get("superseded", ()))),
            spent=tuple(map(Spend.from_dict, line.get("spent", ()))),
        )


def _require_types(line: Mapping[str, Any]) -> None:
    for name, kind in _FIELD_TYPES.items():
        _require_type(name, line[name], kind)
    for image in line["images"]:
        _require_type("images", image, str)


def _known_fields(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a class that a line has, with their types checked."""
    known = {name: given[name] for name in _types_of(cls) if name in given}
    for name, value in known.items():
        _require_type(name, value, _types_of(cls)[name])
    return known


@cache
def _types_of(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _require_type(name: str, value: object, kind: Any) -> None:  # noqa: ANN401 - as `get_type_hints` returns it
    kind = _JSON_TYPES.get(kind, kind)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{name} is a {type(value).__name__}")
    if name == "time" and datetime.fromisoformat(str(value)).tzinfo is None:
        raise ValueError("time without a time zone")
    if name == "price_usd" and value is not None and amount(value) is None:
        raise ValueError("price_usd is no amount")


def time_now() -> str:
    """Return the time as entries tell it."""
    return pendulum.now("UTC").to_iso8601_string()


def time_after(moment: str) -> str:
    """Return a time that is later than another one, and no earlier than now as entries tell it."""
    now = time_now()
    if is_later(now, moment):
        return now
    return pendulum.instance(datetime.fromisoformat(moment)).add(microseconds=1).to_iso8601_string()


def is_later(moment: str, other: str) -> bool:
    """Whether one time is later than another one.

    :raises ValueError: One of them is no time.
    """
    return datetime.fromisoformat(moment) > datetime.fromisoformat(other)


def newer_of(one: Entry, other: Entry) -> Entry:
    """Return which of two states of a row counts, the later one, with the billed videos of both.

    A wish that another run noted, before it knew of a video that is made for it, does not hide that video.
    """
    newer, older = (one, other) if is_later(one.time, other.time) else (other, one)
    chosen, left = (older, newer) if _hides_video(newer, older) else (newer, older)
    kept = left.kept if _is_kept_later(left.kept, chosen.kept) else chosen.kept
    superseded = {video.video_id: video for video in (*left.superseded, *_dropped(left, chosen), *chosen.superseded)}
    return replace(chosen, kept=kept, superseded=tuple(superseded.values()), spent=_spent(left, chosen))


def _spent(left: Entry, chosen: Entry) -> tuple[Spend, ...]:
    """Return what was spent by both states; the service's word counts."""
    spent = {spend.video_id: spend for spend in left.spent}
    for spend in chosen.spent:
        if spend.billed or not (known := spent.get(spend.video_id)) or not known.billed:
            spent[spend.video_id] = spend
    return tuple(spent.values())


def _hides_video(newer: Entry, older: Entry) -> bool:
    """Whether a wish would hide the very video that it is for, submitted or saved by another run."""
    wish = newer.order
    if wish is None or wish.state != "wanted" or wish.postponed:
        return False
    order, kept = older.order, older.kept
    is_submitted = order is not None and order.is_under_way and order.fingerprint == wish.fingerprint
    return is_submitted or (
        kept is not None and kept.fingerprint == wish.fingerprint and _is_kept_later(kept, newer.kept)
    )


def _is_kept_later(kept: Kept | None, other: Kept | None) -> bool:
    """Whether a video was saved, over another one where there was one."""
    return kept is not None and (other is None or is_later(kept.time, other.time))


def _dropped(left: Entry, chosen: Entry) -> tuple[Superseded, ...]:
    """Return the video that is in progress for another wish than the one that counts."""
    order, counts = left.order, chosen.order or chosen.kept
    if order is None or not order.is_under_way or counts is None or counts.fingerprint == order.fingerprint:
        return ()
    return (superseded_by(order, chosen.time, counts.run),)


def superseded_by(order: Order, moment: str, run: str) -> Superseded:
    """Return the video of an order that a run drops at a moment."""
    return Superseded(
        video_id=str(order.video_id),
        client_business_id=order.client_business_id,
        fingerprint=order.fingerprint,
        price_usd=order.price_usd,
        time=moment,
        run=run,
        generation=order.generation,
        posted_at=order.posted_at,
    )


def taker(run: str, attempt: int) -> str:
    """Return what an attempt is called among those that have waited for a submission."""
    return f"{run}#{attempt}"


_FIELD_TYPES: dict[str, Any] = {
    "key": str,
    "row": int,
    "time": str,
    "prompt": str | None,
    "images": list,
    "model": str,
    "in_feed": bool,
    "file": str | None,
    "order": dict | None,
}
#: Types that JSON writes in another way.
_JSON_TYPES: dict[Any, Any] = {
    OrderState: str,
    float | None: int | float | None,
    tuple[str, ...]: list | tuple,
}
_KEPT_FIELDS = tuple(field.name for field in fields(Kept))
