"""The catalog as a web page that lies beside its videos, for people who look rather than read.

The page needs nothing but its own folder and runs from a disk as from object storage. What it shows comes from feeds
that anybody may have written: the template escapes all of it, and the page's own policy lets nothing run but its own
script.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator
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

#: Pieces of the template that are handed out as one text.
_BUFFERED_PIECES = 500
_CENT = Decimal("0.01")
_KILO = 1000
#: Written as pictures, because a browser drops or replaces them; lone surrogates cannot be written at all.
_VISIBLE = (
    {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n\r"}
    | {0x7F: "\u2421"}
    | dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], "\ufffd")
)


@dataclass(frozen=True)
class Price:
    """What videos cost in US dollars.

    :param expected: How much of ``amount`` the service has not said to have billed.
    :param unknown: Videos whose price nobody knows; they are not in ``amount``.
    """

    amount: Decimal
    expected: Decimal
    unknown: int


@dataclass(frozen=True)
class State:
    """How the report shows a status of rows.

    :param name: The status, which is also the name of the style.
    :param section: The heading that it is shown under.
    :param meaning: What happens next.
    """

    name: RowStatus
    section: str
    meaning: str = ""

    @property
    def title(self) -> str:
        """The name as people read it."""
        return self.name.capitalize()


#: What needs a person comes first.
_STATES = (
    State(RowStatus.FAILED, "Missing", "The next run submits it again."),
    State(RowStatus.REJECTED, "Missing", "It is submitted again only when the row has changed."),
    State(RowStatus.INTERRUPTED, "Missing", "The next run re-attaches to its video."),
    State(RowStatus.SUBMITTED, "Missing", "Billed, and in progress."),
    State(RowStatus.POSTPONED, "Missing", "The next run submits it."),
    State(RowStatus.PENDING, "Missing", "Not submitted yet."),
    State(RowStatus.SAVED, "Saved"),
    State(RowStatus.REMOVED, "Removed from the feed"),
)
#: Of submissions: no video is there yet, and it costs.
_BILLED = (RowStatus.SUBMITTED, RowStatus.INTERRUPTED)


def catalog_page(entries: Iterable[ManifestEntry], *, title: str, made_at: str) -> Iterator[str]:
    """Yield an HTML page that shows ``entries``, piece by piece.

    It belongs into the folder of the videos, which it links by their names.

    :param entries: In any order.
    :param title: The heading.
    :param made_at: When the entries were known to be so; ISO 8601.
    """
    rows = sorted(entries, key=lambda entry: entry.row)
    by_state = defaultdict(list)
    for entry in rows:
        by_state[entry.state if entry.in_feed else RowStatus.REMOVED].append(entry)
    groups = [(state, by_state[state.name]) for state in _STATES if state.name in by_state]
    sections = [(section, list(members)) for section, members in groupby(groups, lambda group: group[0].section)]
    page = _environment().get_template("report.html.jinja")
    pieces = page.stream(title=title, made_at=made_at, sections=sections, count=len(rows), total=total_price(rows))
    pieces.enable_buffering(_BUFFERED_PIECES)
    return pieces


def total_price(entries: Iterable[ManifestEntry]) -> Price:
    """Return what the videos cost that are saved or in progress."""
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
    # Airflow brings it; what imports the operator does without.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("airflow_provider_toapis.batch", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
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


def _visible(value: object) -> object:
    return value.translate(_VISIBLE) if isinstance(value, str) else value


def _csp_hash(source: str) -> str:
    """Return what a Content-Security-Policy calls a script or a style by."""
    return f"'sha256-{b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _file_url(name: str) -> str:
    """Return the link to a file of the page's own folder, whatever its name looks like."""
    return f"./{quote(name)}"


def _image_url(reference: str) -> str | None:
    """Return a link that a browser can show a image from, and that runs nothing; None where there is none.

    A file of another host is none: to ask for it tells that host who the reader is.
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
        # No link, no home directory of that name, or no text that a path can have.
        return None


def _money(amount: Decimal | str) -> str:
    """Return US dollars as people write them, exact below the cent too."""
    amount = Decimal(amount)
    exact = amount == amount.quantize(_CENT)
    return f"${amount:,.2f}" if exact else f"${amount.normalize():,f}"


def _bytes(size: int) -> str:
    """Return a size as people read it."""
    if size < _KILO:
        return f"{size} B"
    amount, unit = size / _KILO, "kB"
    for larger in ("MB", "GB"):
        if amount >= _KILO:
            amount, unit = amount / _KILO, larger
    return f"{amount:,.1f} {unit}"


def _minute(timestamp: str) -> str:
    """Return a time as people read it."""
    return f"{datetime.fromisoformat(timestamp).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
