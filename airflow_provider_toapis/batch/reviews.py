"""Reviews of a batch: a person approves a saved video, or requests another video for its row (a redo).

Each review is a file in ``.manifest/reviews`` that is created once and never changed or removed. The file name contains
hashes of the row's key and of the video's id, the time and the decision. A listing of the directory is therefore enough
to know which videos to redo; only new comments are read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import TypeAdapter

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.feed import normal_key
from airflow_provider_toapis.batch.manifest import PARTS, Manifest
from airflow_provider_toapis.batch.manifest_entry import READ_STRICTLY, Review
from airflow_provider_toapis.exceptions import ToAPIsError

if TYPE_CHECKING:
    from airflow_provider_toapis.batch.manifest_entry import ManifestEntry

log = logging.getLogger(__name__)
#: Directory of the reviews.
REVIEWS = f"{PARTS}/reviews"
VERSION = 1
APPROVE, REDO = "approve", "redo"
_NAME = re.compile(
    r"(?P<key>[0-9a-f]{16})-(?P<video>[0-9a-f]{16})-(?P<millis>[0-9]{13})-(?P<decision>approve|redo)\.json"
)
_EPOCH = datetime.fromtimestamp(0, UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class _ReviewFile(Review):
    __pydantic_config__: ClassVar = READ_STRICTLY

    version: Literal[1]
    key: str


_FILE = TypeAdapter(_ReviewFile)


@dataclass(frozen=True, order=True)
class _Listed:
    millis: int
    name: str
    decision: str


@dataclass(frozen=True)
class RowReview:
    """The reviews of a row.

    :param redos: How many earlier videos of the row a reviewer had made again.
    :param newest: The newest review; None if the row was not reviewed.
    """

    redos: int = 0
    newest: Review | None = None


NOT_REVIEWED = RowReview()


class Reviews:
    """The reviews in a batch's directory. The directory is listed once, on creation.

    :param directory: The directory of the batch.
    """

    def __init__(self, directory: Directory) -> None:
        self._batch = directory
        # Readers need no permission to write there, because another user can own the files.
        self._directory = directory.subdirectory(REVIEWS, create=False)
        #: The newest review of each video, by hash of the row's key and hash of the video's id.
        self._newest: dict[str, dict[str, _Listed]] = defaultdict(dict)
        for name in self._directory.sizes():
            self._list(name)

    def of(self, key: str, entry: ManifestEntry | None) -> RowReview:
        """Return the reviews of a row.

        The number of redos is part of the row's fingerprint. Only a review of the saved video changes it, and only
        until a run submits another video. That run's video is saved whatever the reviewers decide meanwhile, because
        it is billed.

        :param entry: The recorded state of the row; None if it is new.
        """
        return RowReview(self._redos(key, entry), self.newest(key, entry.review if entry else None))

    def _redos(self, key: str, entry: ManifestEntry | None) -> int:
        if entry and entry.submission and entry.submission.is_in_progress:
            return entry.submission.redos
        if entry and entry.saved:
            return entry.saved.redos + (self.decision(key, entry.saved.video_id) == REDO)
        return 0

    def decision(self, key: str, video_id: str) -> str | None:
        """Return the newest decision about a video; None if it was not reviewed."""
        listed = self._listed(key, video_id)
        return listed.decision if listed else None

    def newest(self, key: str, known: Review | None) -> Review | None:
        """Return the newest review of a row.

        :param known: The newest review that the manifest contains. It is returned if no newer one can be read.
        """
        listed = max(self._newest.get(_key_hash(key), {}).values(), default=None)
        if listed is None or (known is not None and listed.millis <= _millis(known.reviewed_at)):
            return known
        return self._read(listed) or known

    def review(self, key: str, video_id: str, known: Review | None) -> Review | None:
        """Return the newest review of a video; None if it does not exist or cannot be read.

        :param known: The newest review of the row that the manifest contains.
        """
        listed = self._listed(key, video_id)
        if listed is None or (known is not None and _name(key, known) == listed.name):
            return known if listed else None
        return self._read(listed)

    def add(self, key: str, review: Review) -> str:
        """Write a review; return the path of its file.

        The file gets a later time than the video's other reviews, even if a server whose clock is ahead has written
        them. Otherwise the review would have no effect.
        """
        listed = self._listed(key, review.video_id)
        if listed is not None and _millis(review.reviewed_at) <= listed.millis:
            review = _at(review, listed.millis + 1)
        directory = self._batch.subdirectory(REVIEWS, create=True)
        while not directory.create(_name(key, review), _content(key, review)):
            # Another reviewer has decided the same at the same time.
            review = _at(review, _millis(review.reviewed_at) + 1)
        self._list(_name(key, review))
        return directory.path_of(_name(key, review))

    def _list(self, name: str) -> None:
        if match := _NAME.fullmatch(name):
            listed = _Listed(int(match["millis"]), name, match["decision"])
            videos = self._newest[match["key"]]
            videos[match["video"]] = max(listed, videos.get(match["video"], listed))

    def _listed(self, key: str, video_id: str) -> _Listed | None:
        return self._newest.get(_key_hash(key), {}).get(_hash(video_id))

    def _read(self, listed: _Listed) -> Review | None:
        try:
            found = _FILE.validate_json(self._directory.read(listed.name) or "")
            review = Review(found.decision, found.video_id, found.comment, found.reviewed_by, found.reviewed_at)
            if _name(found.key, review) == listed.name:
                return review
            why = "it is about another video or time"
        except (ValueError, ToAPIsError) as error:
            why = type(error).__name__
        log.warning(
            "Cannot read the review %s (%s). Its decision counts, but its comment is not added to the manifest.",
            self._directory.path_of(listed.name),
            why,
        )
        return None


def approved_videos(output_path: str) -> list[dict[str, Any]]:
    """Return the approved videos of a batch, for example for a task that publishes them.

    A video is returned only while it is the saved video of a row of the feed: if the row gets another video, that video
    must be approved again.

    :param output_path: The directory of the batch.
    :return: A dict for each video, with ``key``, ``path``, ``video_id``, ``sha256``, ``size``, ``model`` and
        ``approved_by``, ordered by key.
    :raises ToAPIsRequestError: The manifest cannot be read.
    """
    directory = Directory(output_path, create=False)
    return [dict(video) for video in _approved(directory, Manifest(directory).entries)]


def _approved(directory: Directory, entries: Mapping[str, ManifestEntry]) -> Iterator[Mapping[str, Any]]:
    reviews = Reviews(directory)
    for key, entry in sorted(entries.items()):
        saved = entry.saved
        if saved is None or not entry.in_feed or reviews.decision(key, saved.video_id) != APPROVE:
            continue
        review = reviews.review(key, saved.video_id, entry.review)
        yield {
            "key": key,
            "path": directory.path_of(saved.file),
            "video_id": saved.video_id,
            "sha256": saved.sha256,
            "size": saved.size,
            "model": entry.model,
            "approved_by": review.reviewed_by if review else None,
        }


def _name(key: str, review: Review) -> str:
    return f"{_key_hash(key)}-{_hash(review.video_id)}-{_millis(review.reviewed_at):013}-{review.decision}.json"


def _content(key: str, review: Review) -> str:
    # A file with a lone surrogate could not be read again.
    text = json.dumps({"version": VERSION, "key": normal_key(key), **asdict(review)}, ensure_ascii=False)
    return f"{text.encode(errors='replace').decode()}\n"


def _key_hash(key: str) -> str:
    return _hash(normal_key(key))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _millis(timestamp: str) -> int:
    return (datetime.fromisoformat(timestamp) - _EPOCH) // _MILLISECOND


def _at(review: Review, millis: int) -> Review:
    return replace(review, reviewed_at=(_EPOCH + millis * _MILLISECOND).isoformat())
