"""Batch report: HTML pages next to the videos that show all rows.

The pages need only the files of their directory, on local disk or in object storage. Feeds are untrusted: the template
escapes all values, and a Content-Security-Policy allows only the page's own script.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from airflow_provider_toapis.batch.manifest_entry import RowStatus

if TYPE_CHECKING:
    from jinja2 import Environment

    from airflow_provider_toapis.batch.manifest_entry import ManifestEntry

REPORT = "index.html"
#: Maximum number of rows of a page. Browsers need some seconds for a page of this size.
ROWS_PER_PAGE = 10_000
#: Number of pieces of the rendered template that are joined into one piece.
_BUFFERED_PIECES = 500
_CENT = Decimal("0.01")
_KILO = 1000
#: Characters that browsers drop or replace, with the symbols that are shown instead. Lone surrogates are among them,
#: because they cannot be encoded.
_VISIBLE = (
    {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n\r"}
    | {0x7F: "\u2421"}
    | dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], "\ufffd")
)


@dataclass(frozen=True)
class Price:
    """The total price of videos, in USD.

    :param expected: The part of ``amount`` that consists of expected prices, because the service has not reported the
        billed prices.
    :param unknown: Number of videos whose price is unknown. They are not included in ``amount``.
    """

    amount: Decimal
    expected: Decimal
    unknown: int


@dataclass(frozen=True)
class State:
    """How the report shows rows with a certain status.

    :param name: The status, which is also the name of the CSS class.
    :param section: The heading of the section.
    :param meaning: What happens next with the row.
    """

    name: RowStatus
    section: str
    meaning: str = ""

    @property
    def title(self) -> str:
        """The label that the page shows for the status."""
        return self.name.capitalize()


#: The order is that of the page: rows that need attention come first.
_STATES = (
    State(RowStatus.FAILED, "Needs attention", "The next run submits this row again."),
    State(RowStatus.REJECTED, "Needs attention", "This row is submitted again only after it has changed."),
    State(RowStatus.INTERRUPTED, "Needs attention", "The next run re-attaches to the video of this row."),
    State(RowStatus.SUBMITTED, "Needs attention", "The video is billed and in progress."),
    State(RowStatus.POSTPONED, "Needs attention", "The next run submits this row."),
    State(RowStatus.PENDING, "Needs attention", "This row is not submitted yet."),
    State(RowStatus.SAVED, "Saved"),
    State(RowStatus.REMOVED, "Removed from the feed"),
)
#: States of a submission whose video is billed but not saved yet.
_BILLED = (RowStatus.SUBMITTED, RowStatus.INTERRUPTED)


_ORDER = {state.name: position for position, state in enumerate(_STATES)}


@dataclass(frozen=True)
class Pages:
    """The pages of a report.

    :param number: Number of all rows.
    :param total: The price of all videos.
    :param names: File names of the pages, in order.
    """

    number: int
    total: Price
    names: Sequence[str] = (REPORT,)


def catalog_pages(entries: Iterable[ManifestEntry], *, title: str, made_at: str) -> Iterator[tuple[str, Iterator[str]]]:
    """Yield the name and the HTML of each page of a report. ``index.html`` is the last one.

    Parameters are those of :func:`catalog_page`.
    """
    rows = sorted(entries, key=_position)
    parts = [rows[start : start + ROWS_PER_PAGE] for start in range(0, len(rows), ROWS_PER_PAGE)] or [[]]
    names = [REPORT, *(f"index-{number}.html" for number in range(2, len(parts) + 1))]
    pages = Pages(len(rows), total_price(rows), names)
    for name, part in reversed(list(zip(names, parts, strict=True))):
        yield name, catalog_page(part, title=title, made_at=made_at, name=name, pages=pages)


def catalog_page(
    entries: Iterable[ManifestEntry], *, title: str, made_at: str, name: str = REPORT, pages: Pages | None = None
) -> Iterator[str]:
    """Yield the HTML of a page that shows ``entries``, piece by piece.

    The page must be in the directory of the videos, because it refers to them by file name.

    :param entries: The rows, in any order.
    :param title: The heading.
    :param made_at: The time when the rows had this state; ISO 8601.
    :param name: File name of the page.
    :param pages: The pages of the report. Default: this page is the only one.
    """
    rows = sorted(entries, key=_position)
    groups = [(_STATES[position], list(group)) for position, group in groupby(rows, lambda row: _position(row)[0])]
    sections = [(section, list(members)) for section, members in groupby(groups, lambda group: group[0].section)]
    page = _environment().get_template("report.html.jinja")
    pieces = page.stream(
        title=title,
        made_at=made_at,
        sections=sections,
        name=name,
        pages=pages or Pages(len(rows), total_price(rows)),
    )
    pieces.enable_buffering(_BUFFERED_PIECES)
    return pieces


def _position(entry: ManifestEntry) -> tuple[int, int]:
    """Return the position of a row in the report: by state, then by its number in the feed."""
    return _ORDER[entry.state if entry.in_feed else RowStatus.REMOVED], entry.row


def total_price(entries: Iterable[ManifestEntry]) -> Price:
    """Return the total price of the videos that are saved or in progress."""
    amount = expected = Decimal(0)
    unknown = 0
    for price, billed in _prices(entries):
        if price is None:
            unknown += 1
        else:
            amount += Decimal(price)
            expected += 0 if billed else Decimal(price)
    return Price(amount, expected, unknown)


def _prices(entries: Iterable[ManifestEntry]) -> Iterator[tuple[str | None, bool]]:
    for entry in entries:
        if entry.saved:
            yield entry.saved.price_usd, entry.saved.billed
        if entry.submission and entry.submission.state in _BILLED:
            yield entry.submission.price_usd, False


def _environment() -> Environment:
    # Jinja is imported here, because a DAG file that imports the operator does not need it. Airflow installs Jinja.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("airflow_provider_toapis.batch", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
    )
    environment.filters |= {
        "bytes": _bytes,
        "csp_hash": _csp_hash,
        "file_url": _file_url,
        "minute": _minute,
        "money": _money,
        "number": "{:,}".format,
        "image_url": _image_url,
    }
    return environment


def visible(value: object) -> object:
    """Replace the characters of a text that browsers drop or replace."""
    return value.translate(_VISIBLE) if isinstance(value, str) else value


def _csp_hash(source: str) -> str:
    """Return the Content-Security-Policy hash that allows an inline script or style."""
    return f"'sha256-{b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _file_url(name: str) -> str:
    """Return the relative URL of a file in the page's directory. The file's name can contain any characters."""
    return f"./{quote(name)}"


def _image_url(reference: str) -> str | None:
    """Return the http(s) or file URL of an image; None for any other reference, such as ``s3:`` or ``javascript:``.

    Also None for a file on another host, because the request for the file would reveal that the page is being read.
    """
    try:
        parts = urlsplit(reference)
        if parts.scheme in ("http", "https"):
            return reference
        if parts.scheme not in ("", "file", "local") or parts.netloc not in ("", "localhost"):
            return None
        path = unquote(parts.path) if parts.scheme else reference
        return None if path.startswith("//") else Path(path).expanduser().absolute().as_uri()
    except (ValueError, RuntimeError):
        # An invalid URL, an unknown home directory, or text that is not a path.
        return None


def _money(amount: Decimal | str) -> str:
    """Format USD with two decimal places, or with more if the amount has fractions of a cent."""
    amount = Decimal(amount)
    exact = amount == amount.quantize(_CENT)
    return f"${amount:,.2f}" if exact else f"${amount.normalize():,f}"


def _bytes(size: int) -> str:
    """Format a size with its unit."""
    if size < _KILO:
        return f"{size} B"
    amount, unit = size / _KILO, "kB"
    for larger in ("MB", "GB"):
        if amount >= _KILO:
            amount, unit = amount / _KILO, larger
    return f"{amount:,.1f} {unit}"


def _minute(timestamp: str) -> str:
    """Format a time in UTC, to the minute."""
    return f"{datetime.fromisoformat(timestamp).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
