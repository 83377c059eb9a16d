"""The rows of a batch, read from the manifest in its directory, and their reviews.

The directory comes from an XCom, which a DAG author can forge. It is read only if it is below ``[toapis] media_roots``
and if the task is recorded as its owner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from cachetools import TTLCache

from airflow_provider_toapis.api.result_urls import is_url
from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.manifest import MANIFEST, PARTS, Manifest
from airflow_provider_toapis.batch.manifest_entry import ManifestEntry, Review, RowStatus, time_now
from airflow_provider_toapis.batch.ownership import belongs_to
from airflow_provider_toapis.batch.reviews import REVIEWS, Reviews
from airflow_provider_toapis.exceptions import ToAPIsError
from airflow_provider_toapis.ui.media import is_served

if TYPE_CHECKING:
    from airflow_provider_toapis.ui.queries import TaskVideos

#: Rows per page.
ROWS_PER_PAGE = 24
#: The order of the rows: those that need attention come first.
_ORDER = (
    RowStatus.FAILED,
    RowStatus.REJECTED,
    RowStatus.INTERRUPTED,
    RowStatus.SUBMITTED,
    RowStatus.POSTPONED,
    RowStatus.PENDING,
    RowStatus.SAVED,
    RowStatus.REMOVED,
)


#: The manifests that were read last, by directory, each with its version. A page with 24 posters needs 25 requests, and
#: a manifest can have many rows.
_read: TTLCache[str, tuple[object, Mapping[str, ManifestEntry]]] = TTLCache(4, 600)
_read_lock = Lock()


class BatchUnavailableError(Exception):
    """The rows of a batch cannot be shown. The text says why."""


class ReviewRejectedError(Exception):
    """A review is about a video that is no longer the saved video of its row."""


@dataclass(frozen=True)
class BatchRow:
    """A row of a batch.

    :param review: The newest review of the row. It can be about an earlier video.
    """

    entry: ManifestEntry
    directory: str
    review: Review | None = None

    @property
    def state(self) -> RowStatus:
        """The state of the row; ``removed`` if the feed no longer contains it."""
        return _state(self.entry)

    @property
    def video_path(self) -> str | None:
        """Path or URI of the saved video."""
        return self._path_of(self.entry.saved.file if self.entry.saved else None)

    @property
    def poster_path(self) -> str | None:
        """Path or URI of the poster."""
        return self._path_of(self.entry.saved.poster_path if self.entry.saved else None)

    @property
    def image(self) -> str | None:
        """URL of the first source image; None if it is not on the web."""
        return next(filter(is_url, self.entry.images), None)

    def _path_of(self, name: str | None) -> str | None:
        # A name with a slash was not written by a batch.
        return f"{self.directory}/{name}" if name and "/" not in name and "\\" not in name else None


@dataclass(frozen=True)
class FoundRows:
    """One page of the rows of a batch.

    :param number: Number of all rows that match.
    :param states: The states that rows have.
    """

    rows: Sequence[BatchRow] = ()
    number: int = 0
    states: Sequence[str] = ()


class BatchRows:
    """The rows of a batch.

    :raises BatchUnavailableError: The rows cannot be shown. Every method can raise it, too.
    """

    def __init__(self, videos: TaskVideos) -> None:
        path = videos.batch.output_path if videos.batch else None
        if path is None or not is_served(path):
            raise BatchUnavailableError("Its directory is not below [toapis] media_roots of the API server.")
        with _available():
            self._directory = Directory(path, create=False)
            if not belongs_to(self._directory, videos.dag_id, videos.position.task_id):
                raise BatchUnavailableError("Its directory is missing or belongs to another task.")
            if not _is_own(self._directory.path_of(REVIEWS)):
                raise BatchUnavailableError("A symbolic link replaces the directory of its reviews.")
            self._entries = _entries(self._directory)

    def find(self, state: str | None, search: str | None, page: int) -> FoundRows:
        """Return one page of the rows that match.

        :param state: State of the rows; None for all states.
        :param search: Part of the key or of the video's id.
        :param page: Number of the page, from 1.
        """
        matching = [entry for entry in self._entries.values() if _matches(entry, state, search)]
        matching.sort(key=lambda entry: (_ORDER.index(_state(entry)), entry.row, entry.key))
        start = (page - 1) * ROWS_PER_PAGE
        states = {_state(entry) for entry in self._entries.values()}
        with _available():
            reviews = Reviews(self._directory)
            rows = [
                replace(self._row(entry), review=reviews.of(entry.key, entry).newest)
                for entry in matching[start : start + ROWS_PER_PAGE]
            ]
        return FoundRows(rows, len(matching), sorted(states, key=_ORDER.index))

    def row(self, key: str) -> BatchRow | None:
        """Return the row with a key, without its review."""
        entry = self._entries.get(key)
        return None if entry is None else self._row(entry)

    def add_review(self, key: str, new_review: partial[Review]) -> None:
        """Write a review into the directory of the batch.

        :param new_review: The review without its time.
        :raises ReviewRejectedError: The video is not the saved video of the row.
        """
        review = new_review(reviewed_at=time_now())
        entry = self._entries.get(key)
        if entry is None or entry.saved is None or entry.saved.video_id != review.video_id:
            raise ReviewRejectedError
        with _available():
            Reviews(self._directory).add(key, review)

    def _row(self, entry: ManifestEntry) -> BatchRow:
        return BatchRow(entry, str(self._directory))


def _entries(directory: Directory) -> Mapping[str, ManifestEntry]:
    """Return the rows of a batch, read again only if a file of its manifest has changed."""
    version = directory.version_of(MANIFEST), directory.subdirectory(PARTS).sizes()
    # The posters of a page are requested at the same time. Only the first request reads the manifest.
    with _read_lock:
        known = _read.get(str(directory))
        if known is None or known[0] != version:
            known = _read[str(directory)] = version, Manifest(directory).entries
        return known[1]


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except (ToAPIsError, OSError) as error:
        raise BatchUnavailableError(f"Its directory cannot be used ({type(error).__name__}).") from error


def _is_own(directory: str) -> bool:
    """Return whether a directory is not a symbolic link, and neither is the directory that contains it."""
    if "://" in directory:
        return True
    path = Path(directory)
    return not path.is_symlink() and not path.parent.is_symlink()


def _state(entry: ManifestEntry) -> RowStatus:
    return entry.state if entry.in_feed else RowStatus.REMOVED


def _matches(entry: ManifestEntry, state: str | None, search: str | None) -> bool:
    if state is not None and _state(entry) != state:
        return False
    if search is None:
        return True
    known = (entry.key, *(video_id for _, video_id in entry.videos))
    return any(search.casefold() in text.casefold() for text in known)
