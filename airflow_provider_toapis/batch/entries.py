"""What is known of each row of a catalogue: the video that is kept, and what became of the wish for another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pendulum

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


@dataclass(frozen=True)
class Order:
    """The wish for a video that is not kept yet.

    :param run: The Airflow run that worked on it last.
    :param attempt: The try of that run's task.
    :param base: The first generation that this run may order.
    :param generation: The newest one that was ordered or found; below ``base`` where there is none yet.
    :param deadline: Epoch seconds until which this attempt waits for it.
    :param price_usd: What it is expected to cost; None where no price is known.
    :param reason: Why it is not there.
    :param webhook: Whether the service is to tell by webhook that it is final.
    :param has_texts: Whether the row's ``parameters`` hold texts. They are not noted, and the service may quote them.
    :param plan_refused: Whether the attempt that waits for it does no more than that, because its plan is refused.
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
    price_usd: str | None = None
    reason: str | None = None
    webhook: bool = False
    has_texts: bool = False
    plan_refused: bool = False

    @property
    def is_under_way(self) -> bool:
        """Whether there is a video that is paid, and not fetched yet."""
        return self.video_id is not None and self.state in ("ordered", "unfinished")


@dataclass(frozen=True)
class Entry:
    """One row of the catalogue as it stands; ``key`` names it.

    :param row: Its number in the feed that was read last.
    :param time: When this was noted; ISO 8601, UTC.
    :param images: Where its pictures stand: links without what lets somebody in, paths or URIs.
    :param kept: The video that lies in the folder; it stays there until a newer one takes its place.
    :param order: The wish for another video; None when ``kept`` is what is wanted.
    :param in_feed: False once the row has vanished from the feed.
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

    @property
    def state(self) -> str:
        """``kept``, or the state of the order."""
        return self.order.state if self.order else "kept"

    @property
    def business_ids(self) -> tuple[str, ...]:
        """The orders whose videos are known."""
        known = (self.kept, self.order)
        return tuple(item.client_business_id for item in known if item and item.video_id and item.client_business_id)

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
        }

    @classmethod
    def from_dict(cls, line: Mapping[str, Any]) -> Entry:
        """Read a line of the manifest."""
        kept = {name: line[name] for name in _KEPT_FIELDS if name != "time"} | {"time": line["kept_at"]}
        return cls(
            key=line["key"],
            row=line["row"],
            time=line["time"],
            prompt=line["prompt"],
            images=tuple(line["images"]),
            model=line["model"],
            kept=Kept(**kept) if kept["file"] is not None else None,
            order=Order(**line["order"]) if line["order"] else None,
            in_feed=line["in_feed"],
        )


def time_now() -> str:
    """Return the time as entries tell it."""
    return pendulum.now("UTC").to_iso8601_string()


_KEPT_FIELDS = tuple(field.name for field in fields(Kept))
