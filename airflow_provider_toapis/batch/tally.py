"""Counts of a batch's rows, and what a run has spent. Both are updated with each row, not counted again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from airflow_provider_toapis.batch.manifest_entry import Cost, ManifestEntry, RowStatus


@dataclass
class _Spend:
    """The videos of one model with one status.

    :param billed: Sum of the prices that the service billed, in USD.
    :param expected: Sum of the expected prices of the other videos, in USD.
    :param unpriced: Number of videos without any price.
    """

    videos: int = 0
    billed: Decimal = Decimal(0)
    expected: Decimal = Decimal(0)
    unpriced: int = 0

    def add(self, cost: Cost, sign: int) -> None:
        self.videos += sign
        if cost.price_usd is None:
            self.unpriced += sign
        elif cost.billed:
            self.billed += sign * Decimal(cost.price_usd)
        else:
            self.expected += sign * Decimal(cost.price_usd)


@dataclass
class Tally:
    """The number of rows by status, and the cost of the videos that a run submitted.

    :param run_id: The run whose costs are counted.
    """

    run_id: str
    counts: Counter[RowStatus] = field(default_factory=Counter)
    _spend: dict[tuple[str, str], _Spend] = field(default_factory=dict)

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
            if cost.run_id == self.run_id:
                key = entry.model, _outcome(entry, cost.video_id)
                self._spend.setdefault(key, _Spend()).add(cost, sign)

    def spend(self) -> list[dict[str, Any]]:
        """Return the number and the cost of the videos that the run submitted, by model and status.

        ``status`` is ``saved``, ``submitted`` (in progress) or ``failed`` (everything else).
        """
        return [
            {
                "model": model,
                "status": status,
                "videos": spend.videos,
                "cost_usd": float(spend.billed),
                "price_usd": float(spend.expected),
                "unpriced": spend.unpriced,
            }
            for (model, status), spend in sorted(self._spend.items())
            if spend.videos
        ]


def _outcome(entry: ManifestEntry, video_id: str) -> str:
    if entry.saved and entry.saved.video_id == video_id:
        return RowStatus.SAVED
    submission = entry.submission
    is_submitted = submission is not None and submission.is_in_progress and submission.video_id == video_id
    return RowStatus.SUBMITTED if is_submitted else RowStatus.FAILED
