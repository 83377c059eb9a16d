"""The memory of a catalogue: ``manifest.jsonl`` and the parts that were written since.

A part is put once and never rewritten, so that a worker may die at any moment and two may write side by side. Who reads
takes all of them; the newest line of a key wins. At the end of a run they are compacted into ``manifest.jsonl``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from uuid import uuid4

from airflow_provider_toapis.api.errors import ToAPIsRequestError
from airflow_provider_toapis.batch.entries import Entry
from airflow_provider_toapis.batch.folder import Folder

MANIFEST = "manifest.jsonl"
#: Where the parts lie, and beside them the notes of orders.
PARTS = ".manifest"
ORDERS = ".manifest/orders"


class Manifest:
    """The rows of a catalogue as they were noted; read at once, written in parts.

    :raises ToAPIsRequestError: A line cannot be read. To go on without it could order a video again.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._parts = folder.part(PARTS)
        self._merged: list[str] = []
        self._unwritten: dict[str, Entry] = {}
        self.entries: dict[str, Entry] = {}
        if MANIFEST in folder.sizes():
            self._read(folder, MANIFEST)
        # Their names begin with the time.
        for name in sorted(name for name in self._parts.sizes() if name.endswith(".jsonl")):
            self._read(self._parts, name)
            self._merged.append(name)

    @property
    def path(self) -> str:
        """Where the compacted manifest lies."""
        return self._folder.path_of(MANIFEST)

    @property
    def unwritten(self) -> int:
        """How many rows were noted since the last part."""
        return len(self._unwritten)

    def note(self, entry: Entry) -> None:
        """Take a row's newest state; it is safe with the next :meth:`flush`."""
        self.entries[entry.key] = self._unwritten[entry.key] = entry

    def flush(self) -> list[Entry]:
        """Write what was noted since the last time, as one part; return it."""
        written = list(self._unwritten.values())
        if written:
            name = f"{time.time_ns():020}-{uuid4().hex[:8]}.jsonl"
            self._parts.put(name, _lines(written))
            self._merged.append(name)
            self._unwritten = {}
        return written

    def compact(self) -> None:
        """Write the one manifest of all rows, then remove the parts that went into it."""
        self.flush()
        self._folder.put(MANIFEST, _lines(self.entries.values()))
        self._parts.remove(self._merged)
        self._merged = []

    def _read(self, folder: Folder, name: str) -> None:
        for number, line in enumerate(folder.lines(name), start=1):
            try:
                entry = Entry.from_dict(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise ToAPIsRequestError.for_field(
                    "output_path",
                    folder.path_of(name),
                    f"line {number} of this manifest cannot be read ({type(error).__name__}); correct it, or restore an"
                    " earlier version of the file. Without a manifest all rows are new, and old ones are paid again",
                ) from None
            self.entries[entry.key] = entry


class OrderNotes:
    """Which orders were about to be sent: put there before each one, removed when the manifest knows what came of it.

    A note that is found later belongs to an order that was sent, or was not, when its worker died.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder.part(ORDERS)
        #: Orders whose worker died.
        self.found = frozenset(self._folder.sizes())
        self._there = set(self.found)

    def put(self, client_business_id: str) -> None:
        """Note an order before it is sent; from any thread."""
        self._folder.put(client_business_id, [client_business_id])
        self._there.add(client_business_id)

    def remove(self, client_business_ids: Iterable[str]) -> None:
        """Forget orders whose fate is known; from any thread."""
        known = self._there.intersection(client_business_ids)
        self._folder.remove(sorted(known))
        self._there -= known


def _lines(entries: Iterable[Entry]) -> Iterator[str]:
    return (f"{json.dumps(entry.as_dict())}\n" for entry in entries)
