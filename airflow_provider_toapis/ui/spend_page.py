"""The page "Spend" and its export as CSV."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from io import StringIO
from typing import Annotated
from urllib.parse import urlencode

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import Depends, Query, Request, Response
from fastapi.responses import HTMLResponse

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.ui.pages import environment
from airflow_provider_toapis.ui.spend import Group, Period, Spend, find_spend

_COLUMNS = (
    "Saved",
    "In progress",
    "Failed",
    "Billed",
    "Expected",
    "Failed, billed",
    "Refunded",
    "No price",
    "Total",
    "Per saved video",
)
#: Columns of the export. The first ones are the fields of a group.
_EXPORTED = (*Group._fields, "videos", "billed_usd", "expected_usd", "refunded_videos", "videos_without_price")
#: First characters of a text that a spreadsheet would run as a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
#: Maximum number of rows of a table. A DAG author can write any number of model names.
_MAX_ROWS = 100
_CENT = Decimal("0.01")
#: Width of a day in the chart, and of its bar. The height of the chart is 100.
_DAY_WIDTH, _BAR_WIDTH = 10, 8

_Text = Annotated[str | None, Query(max_length=500)]


@dataclass(frozen=True)
class Report:
    """The spend of a range of days.

    :param dag_id: The only DAG that is counted; None for all DAGs that the user may read.
    """

    period: Period
    dag_id: str | None
    spend: dict[Group, Spend]

    @property
    def query(self) -> str:
        """The fields of the form, as they are in the address of the page."""
        return self.query_for(self.dag_id)

    def query_for(self, dag_id: str | None) -> str:
        """Return the fields of the form for the same range of days and one DAG."""
        fields = {"from": self.period.first, "to": self.period.last} | ({"dag_id": dag_id} if dag_id else {})
        return urlencode(fields)

    def by(self, name: Callable[[Group], str]) -> dict[str, Spend]:
        """Return the spend of all groups with the same name."""
        sums: defaultdict[str, Spend] = defaultdict(Spend)
        for group, spend in self.spend.items():
            sums[name(group)] += spend
        return dict(sums)

    @property
    def total(self) -> Spend:
        """The spend of all groups."""
        return _total(self.spend.values())


@dataclass(frozen=True)
class Row:
    """A row of a table.

    :param href: Address of the page about this row only; None if there is no such page.
    """

    name: str
    spend: Spend
    href: str | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """The texts below the columns."""
        spend = self.spend
        counts = [f"{number:,}" for number in (spend.saved, spend.in_progress, spend.failed)]
        amounts = [usd(amount) for amount in (spend.billed, spend.expected, spend.failed_cost)]
        per_saved = "-" if spend.per_saved is None else usd(spend.per_saved)
        return *counts, *amounts, f"{spend.refunded:,}", f"{spend.unpriced:,}", usd(spend.total), per_saved


@dataclass(frozen=True)
class Bar:
    """A day of the chart. Each segment is the name of its amount, its upper end and its height."""

    label: str
    x: int
    segments: tuple[tuple[str, float, float], ...]


def find_report(
    session: SessionDep,
    user: GetUserDep,
    first: Annotated[_Text, Query(alias="from")] = None,
    last: Annotated[_Text, Query(alias="to")] = None,
    dag_id: _Text = None,
) -> Report:
    """Return the spend that the request is for, of DAGs that the user may read."""
    period = Period.parse(first, last, datetime.fromtimestamp(clock.time(), UTC).date())
    chosen = (dag_id or "").strip() or None
    readable = get_auth_manager().get_authorized_dag_ids(user=user, method="GET")
    return Report(period, chosen, find_spend(session, readable & {chosen} if chosen else readable, period))


def show_spend(request: Request, report: Annotated[Report, Depends(find_report)]) -> HTMLResponse:
    """Show the spend of a range of days."""
    return HTMLResponse(spend_page(report, str(request.scope.get("root_path", "")).rstrip("/")))


def export_spend(report: Annotated[Report, Depends(find_report)]) -> Response:
    """Send the spend of a range of days as CSV, one line per group."""
    name = f"video-spend-{report.period.first}-to-{report.period.last}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(as_csv(report.spend), media_type="text/csv", headers=headers)


def spend_page(report: Report, root: str) -> str:
    """Return the page.

    :param root: Path of the list of videos, without a slash at its end.
    """
    days = report.by(lambda group: group.day.isoformat())
    dags = report.by(lambda group: group.dag_id)
    models = report.by(lambda group: group.model or "not known")
    highest = max(days, key=lambda day: days[day].total, default="")
    tables = {
        "day": [Row(day, spend) for day, spend in sorted(days.items(), reverse=True)],
        "DAG": _largest(dags, lambda dag_id: f"{root}/spend?{report.query_for(dag_id)}"),
        "model": _largest(models),
    }
    total = Row("Total", report.total)
    return str(
        environment()
        .get_template("spend.html.jinja")
        .render(
            root=root,
            report=report,
            columns=_COLUMNS,
            tables=tables,
            total=total,
            facts=dict(zip(_COLUMNS, total.cells, strict=True)),
            bars=_bars(report.period.days, days),
            highest=f"{usd(days[highest].total)} on {highest}" if highest else "",
            width=_DAY_WIDTH * len(report.period.days),
            bar_width=_BAR_WIDTH,
        )
    )


def as_csv(spend: dict[Group, Spend]) -> str:
    """Return the spend as CSV. No text in it is a formula."""
    text = StringIO()
    lines = csv.writer(text)
    lines.writerow(_EXPORTED)
    for group, sums in spend.items():
        billed = sums.billed + sums.failed_cost
        amounts = f"{billed:.6f}", f"{sums.expected:.6f}"
        lines.writerow([*map(_cell, group), sums.videos, *amounts, sums.refunded, sums.unpriced])
    return text.getvalue()


def usd(amount: Decimal) -> str:
    """Return an amount as it is shown, rounded to cents."""
    return f"${amount.quantize(_CENT, ROUND_HALF_UP):,}"


def _cell(value: object) -> str:
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _total(parts: Iterable[Spend]) -> Spend:
    return sum(parts, start=Spend())


def _largest(sums: dict[str, Spend], href: Callable[[str], str | None] = lambda _: None) -> list[Row]:
    """Return the rows with the highest total first. Those that a table has no room for are added up."""
    ranked = sorted(sums.items(), key=lambda item: (-item[1].total, -item[1].videos, item[0]))
    shown, others = ranked[:_MAX_ROWS], ranked[_MAX_ROWS:]
    rows = [Row(name, spend, href(name)) for name, spend in shown]
    return [*rows, Row(f"{len(others):,} others", _total(spend for _, spend in others))] if others else rows


def _bars(days: Sequence[date], sums: dict[str, Spend]) -> list[Bar]:
    highest = max((spend.total for spend in sums.values()), default=Decimal(0))
    return [
        Bar(
            f"{day}: {usd(sums[day.isoformat()].total)}", number * _DAY_WIDTH, _segments(sums[day.isoformat()], highest)
        )
        for number, day in enumerate(days)
        if highest and day.isoformat() in sums
    ]


def _segments(spend: Spend, highest: Decimal) -> tuple[tuple[str, float, float], ...]:
    segments, top = [], 100.0
    for name, amount in (("billed", spend.billed), ("expected", spend.expected), ("failed", spend.failed_cost)):
        height = float(amount / highest * 100)
        top -= height
        if height:
            segments.append((name, round(top, 3), round(height, 3)))
    return tuple(segments)
