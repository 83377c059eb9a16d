"""Claim files, which keep two processes from submitting the same row at the same time.

Before each POST, a process creates a claim: a file that only one process can create. It is named after the idempotency
key: ``<key>`` for the first POST, then ``<key>.1``, ``<key>.2``. If a worker dies, its claim remains, because the POST
may have been sent.
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
#: Seconds after which a claim no longer blocks other processes: the POST takes up to 120 s, and another 180 s can pass
#: until its video can be looked up.
CLAIM_SECONDS = 300.0


@dataclass(frozen=True)
class Subject:
    """The submission that a claim is for.

    :param run_id: The Airflow run that created the claim.
    :param price_usd: Expected price of the video; None if unknown.
    :param replaced_video_id: Id of an earlier video with the same idempotency key, which the service no longer
        finds; None without such a video.
    :param redos: How many earlier videos of the row a reviewer had made again.
    """

    __pydantic_config__: ClassVar = READ_STRICTLY

    row_key: str
    run_id: str
    fingerprint: str
    generation: int
    price_usd: Price | None
    replaced_video_id: str | None = None
    redos: int = 0


@dataclass(frozen=True)
class _Holder:
    """The process that created a claim, and the time when it did."""

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
    """The claims in a directory: those that existed when this object was created, and those of this process.

    Any thread can call the methods, but calls for the same key must not overlap.

    :param run_id: The Airflow run.
    :param try_number: Try number of the task. The claim records it for people who read the file.
    :param max_tries: ``max_tries`` of the task instance. A clear changes this number, and :meth:`unknown_posts` counts
        only claims with the current number.
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
        #: Idempotency keys whose claims existed when this object was created. A key is dropped when its claim is
        #: removed.
        self.found = set(self._newest)

    def claim(self, key: str, subject: Subject | None = None) -> bool:
        """Claim the next POST with an idempotency key.

        Return False if another process claimed a POST with this key in the last five minutes.
        """
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
        """Yield the key and the subject of each claimed POST whose outcome is not recorded.

        :param known: Ids of the recorded videos, by idempotency key.
        """
        for name in sorted(self._names):
            subject = self._subject(name)
            if subject is not None and not self._is_resolved(name, known):
                yield _parsed(name)[0], subject

    def is_abandoned(self, key: str) -> bool:
        """Return whether the newest claim of a key is so old that its process must have died."""
        return self._is_abandoned(_name(key, self._newest[key]))

    def run_of(self, key: str) -> str | None:
        """Return the run that created the newest claim of a key; None if unknown."""
        subject = self._subject(_name(key, self._newest[key])) if key in self._newest else None
        return subject.run_id if subject else None

    def unknown_posts(self, key: str) -> int:
        """Count the POSTs with a key that this run claimed since the last clear, and whose outcome is unknown."""
        names = [_name(key, number) for number in range(self._newest.get(key, -1) + 1)]
        since_clear = (self._holder.run_id, self._holder.max_tries)
        holders = map(self._holder_of, names)
        return sum(holder is not None and (holder.run_id, holder.max_tries) == since_clear for holder in holders)

    def withdraw(self, key: str) -> None:
        """Remove the newest claim of a key if this process created it. Called after a POST that created no video."""
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
        """Remove the claims that existed when this object was created and whose videos are recorded in ``known``."""
        self._remove(name for name in self._names if self._is_resolved(name, known))

    def remove_all(self, known: Mapping[str, Set[str]]) -> None:
        """Remove all claims whose videos are recorded in ``known``, including the claims of this process."""
        self._remove(name for name in {*self._names, *self._own} if self._is_resolved(name, known))

    def remove_key(self, key: str) -> None:
        """Remove all claims of a key. Called when the service does not find a video by this key."""
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
        """Return whether the video of a claim is recorded. The video that the submission replaces does not count."""
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
        """Return the age of a claim in seconds, from the time in its content; 0 if the file is gone or unreadable.

        Used if the storage has no modification times.
        """
        holder = self._holder_of(name)
        return clock.time() - datetime.fromisoformat(holder.claimed_at).timestamp() if holder else 0.0

    def _holder_of(self, name: str) -> _Holder | None:
        """Return the process that created a claim; None if the file is gone or unreadable."""
        with suppress(ValueError):
            return _HOLDER.validate_json(self._directory.read(name) or "")
        return None

    def _subject(self, name: str) -> Subject | None:
        """Return the submission that a claim is for; None if the file is gone or contains no submission."""
        if name not in self._subjects:
            self._subjects[name] = None
            with suppress(ValueError):
                self._subjects[name] = _SUBJECT.validate_json(self._directory.read(name) or "")
        return self._subjects[name]

    def _is_own(self, name: str) -> bool:
        """Return whether this process created a claim, even if the storage's response to the creation was lost."""
        return self._holder.token in (self._directory.read(name) or "")

    def _not_claimed(self, key: str, name: str) -> bool:
        """Return False. If the claim of the other process no longer exists, the next :meth:`claim` can create one."""
        if self._directory.read(name) is None:
            self._newest.pop(key, None)
        return False


def _name(key: str, number: int) -> str:
    return f"{key}.{number}" if number else key


def _parsed(name: str) -> tuple[str, int]:
    key, _, number = name.rpartition(".")
    return (key, int(number)) if key and number.isdigit() else (name, 0)
