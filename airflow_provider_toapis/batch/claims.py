"""Claims: which process is about to POST which submission, so that two never do at the same time.

A claim is a file that is created exclusively, named after the idempotency key: ``<key>`` before the first POST, then
``<key>.1``, ``<key>.2`` before further ones. One that is found later belongs to a POST that was sent, or was not, when
its worker died.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import ClassVar
from uuid import uuid4

from pydantic import TypeAdapter

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.manifest_entry import READ_STRICTLY, Price, Timestamp, time_now

CLAIMS = ".manifest/claims"
VERSION = 1
#: Seconds after which a claim no longer keeps others from submitting: a POST takes up to 120 s, and its video can be
#: looked up within 180 s.
CLAIM_SECONDS = 300.0


@dataclass(frozen=True)
class Subject:
    """What a claim is about.

    :param run_id: The Airflow run that claimed it.
    :param price_usd: What the video is expected to cost; None where no price is known.
    :param replaced_video_id: The video that was known under the same idempotency key before, which the service does not
        find any more.
    """

    __pydantic_config__: ClassVar = READ_STRICTLY

    row_key: str
    run_id: str
    fingerprint: str
    generation: int
    price_usd: Price | None
    replaced_video_id: str | None = None


@dataclass(frozen=True)
class _Holder:
    """Which process claimed a submission, and when."""

    __pydantic_config__: ClassVar = READ_STRICTLY

    run_id: str
    try_number: int
    max_tries: int
    token: str
    claimed_at: Timestamp
    version: int = VERSION


_SUBJECT = TypeAdapter(Subject)
_HOLDER = TypeAdapter(_Holder)


class Claims:
    """The claims of a directory, from the view of one process. From any thread, but for a key from one at a time.

    :param run_id: The Airflow run.
    :param try_number: Of that run's task; a claim names it for people.
    :param max_tries: Of the task instance: a clear by a person changes it, and starts the count of POSTs again.
    """

    def __init__(self, directory: Directory, run_id: str = "", try_number: int = 0, max_tries: int = 0) -> None:
        self._directory = directory.subdirectory(CLAIMS)
        self._holder = _Holder(run_id, try_number, max_tries, uuid4().hex, time_now())
        self._newest: dict[str, int] = {}
        self._own: set[str] = set()
        self._subjects: dict[str, Subject | None] = {}
        for name in self._names:
            key, number = _parsed(name)
            self._newest[key] = max(number, self._newest.get(key, 0))
        #: Keys that were claimed when this process began, by a worker that died or by another run, and whose videos
        #: are not known.
        self.found = set(self._newest)

    def claim(self, key: str, subject: Subject | None = None) -> bool:
        """Claim the next POST of a key; False when another process may be about to send one, or has just done so."""
        number = self._newest.get(key)
        if number is not None and not self._is_free(_name(key, number)):
            return self._not_claimed(key, _name(key, number))
        while True:
            number = 0 if number is None else number + 1
            name = _name(key, number)
            self._newest[key] = number
            content = asdict(replace(self._holder, claimed_at=time_now())) | (asdict(subject) if subject else {})
            if self._directory.create(name, json.dumps(content)) or self._is_own(name):
                self._own.add(name)
                self._subjects[name] = subject
                return True
            if not self._is_abandoned(name):
                return self._not_claimed(key, name)

    def unresolved(self, known: Mapping[str, Set[str]]) -> Iterator[tuple[str, Subject]]:
        """Return the key, and what it is about, of each claimed POST of which nobody has noted what came of it.

        :param known: The videos that are known under each key.
        """
        for name in sorted(self._names):
            subject = self._subject(name)
            if subject is not None and not self._is_resolved(name, known):
                yield _parsed(name)[0], subject

    def is_abandoned(self, key: str) -> bool:
        """Whether the process that claimed the newest POST of a key must have died."""
        return self._is_abandoned(_name(key, self._newest[key]))

    def run_of(self, key: str) -> str | None:
        """Return the run that claimed the newest POST of a key; None where that is not known."""
        subject = self._subject(_name(key, self._newest[key])) if key in self._newest else None
        return subject.run_id if subject else None

    def unknown_posts(self, key: str) -> int:
        """Return for how many POSTs of a key, in this run since it was cleared, nobody knows what came of them."""
        names = [_name(key, number) for number in range(self._newest.get(key, -1) + 1)]
        since_clear = (self._holder.run_id, self._holder.max_tries)
        holders = map(self._holder_of, names)
        return sum(holder is not None and (holder.run_id, holder.max_tries) == since_clear for holder in holders)

    def withdraw(self, key: str) -> None:
        """Forget the newest claim of this process: its POST created nothing."""
        number = self._newest.get(key)
        if number is None or _name(key, number) not in self._own:
            return
        name = _name(key, number)
        self._directory.remove([name])
        self._own.discard(name)
        if number:
            self._newest[key] = number - 1
        else:
            del self._newest[key]

    def remove_found(self, known: Mapping[str, Set[str]]) -> None:
        """Remove the claims of earlier processes whose videos are ``known``."""
        self._remove(name for name in self._names if self._is_resolved(name, known))

    def remove_all(self, known: Mapping[str, Set[str]]) -> None:
        """Remove all claims whose videos are ``known``, those of this process too."""
        self._remove(name for name in {*self._names, *self._own} if self._is_resolved(name, known))

    def remove_key(self, key: str) -> None:
        """Remove all claims of a key: its POST created nothing."""
        self._remove(name for name in self._names if _parsed(name)[0] == key)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(name for name in self._directory.sizes() if not name.startswith("."))

    def _remove(self, names: Iterable[str]) -> None:
        gone = sorted(names)
        self._directory.remove(gone)
        self._own.difference_update(gone)
        self.found.difference_update(_parsed(name)[0] for name in gone)

    def _is_resolved(self, name: str, known: Mapping[str, Set[str]]) -> bool:
        """Whether the video of a claim is known, other than the one that it replaces."""
        videos = known.get(_parsed(name)[0])
        if not videos:
            return False
        subject = self._subject(name)
        return subject is None or bool(videos - {subject.replaced_video_id})

    def _is_free(self, name: str) -> bool:
        return name in self._own or self._is_abandoned(name)

    def _is_abandoned(self, name: str) -> bool:
        age = self._directory.age(name)
        return (self._age_by_content(name) if age is None else age) > CLAIM_SECONDS

    def _age_by_content(self, name: str) -> float:
        """Return the age of a claim whose storage does not tell it, or that has gone meanwhile (0)."""
        holder = self._holder_of(name)
        return clock.time() - datetime.fromisoformat(holder.claimed_at).timestamp() if holder else 0.0

    def _holder_of(self, name: str) -> _Holder | None:
        """Return which process has a claim; None where it is gone, or does not say."""
        with suppress(ValueError):
            return _HOLDER.validate_json(self._directory.read(name) or "")
        return None

    def _subject(self, name: str) -> Subject | None:
        """Return what a claim is about; None where it is gone, or does not say."""
        if name not in self._subjects:
            self._subjects[name] = None
            with suppress(ValueError):
                self._subjects[name] = _SUBJECT.validate_json(self._directory.read(name) or "")
        return self._subjects[name]

    def _is_own(self, name: str) -> bool:
        """Whether an existing claim is this process's own: the storage may have created it and not been heard."""
        return self._holder.token in (self._directory.read(name) or "")

    def _not_claimed(self, key: str, name: str) -> bool:
        """Refuse a claim; one that is gone by now keeps nobody from the next try."""
        if self._directory.read(name) is None:
            self._newest.pop(key, None)
        return False


def _name(key: str, number: int) -> str:
    return f"{key}.{number}" if number else key


def _parsed(name: str) -> tuple[str, int]:
    key, _, number = name.rpartition(".")
    return (key, int(number)) if key and number.isdigit() else (name, 0)
