"""Counts of a batch's rows, and what a run has spent. Both are updated with each row that changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

from airflow_provider_toapis.batch.manifest_entry import READ_STRICTLY, Cost, ManifestEntry, RowStatus


@dataclass
class Spend:
    """The videos of one model with one status.

    :param status: ``saved``, ``submitted`` (in progress) or ``failed`` (everything else).
    :param billed: Sum of the prices that the service billed, in USD.
    :param expected: Sum of the expected prices of the other videos, in USD.
    :param unpriced: Number of videos without any price.
    """

    __pydantic_config__: ClassVar = READ_STRICTLY

    model: str
    status: str
    videos: int = 0
    billed: Decimal = Decimal(0)
    expected: Decimal = Decimal(0)
    unpriced: int = 0

    def add(self, cost: Cost, sign: int) -> None:
        """Add the cost of a video, or subtract it.

        :param sign: 1 or -1.
        """
        self.videos += sign
        if cost.price_usd is None:
            self.unpriced += sign
        elif cost.billed:
            self.billed += sign * Decimal(cost.price_usd)
        else:
            self.expected += sign * Decimal(cost.price_usd)


class Tally:
    """The number of rows by status, and the cost of the videos that a run submitted.

    :param run_id: The run whose costs are counted.
    :param counts: The counts of an earlier process.
    :param spend: The costs that an earlier process has counted.
    """

    def __init__(self, run_id: str, counts: Mapping[str, int] | None = None, spend: Iterable[Spend] = ()) -> None:
        self._run_id = run_id
        self.counts = Counter({RowStatus(status): number for status, number in (counts or {}).items()})
        self._spend = {(each.model, each.status): each for each in spend}

    def add(self, entry: ManifestEntry, status: RowStatus) -> None:
        """Count a row.

        :param status: The status of the row for the run.
        """
        self._add(entry, status, 1)

    def remove(self, entry: ManifestEntry, status: RowStatus) -> None:
        """Undo :meth:`add`, because the row has another state now."""
        self._add(entry, status, -1)

    def _add(self, entry: ManifestEntry, status: RowStatus, sign: int) -> None:
        self.counts[status] += sign
        for cost in entry.costs:
            if cost.run_id == self._run_id:
                key = entry.model, _outcome(entry, cost.video_id)
                self._spend.setdefault(key, Spend(*key)).add(cost, sign)

    @property
    def spend(self) -> list[Spend]:
        """The number and the cost of the videos that the run submitted, by model and status."""
        return [spend for _, spend in sorted(self._spend.items()) if spend.videos]


def _outcome(entry: ManifestEntry, video_id: str) -> str:
    if entry.saved and entry.saved.video_id == video_id:
        return RowStatus.SAVED
    submission = entry.submission
    is_submitted = submission is not None and submission.is_in_progress and submission.video_id == video_id
    return RowStatus.SUBMITTED if is_submitted else RowStatus.FAILED
