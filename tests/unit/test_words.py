"""Identifiers use the words of CONTRIBUTING.md. Only words that are never right are rejected here."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]
DIRECTORIES = ("airflow_provider_toapis", "dev", "example_dags", "tests")
REJECTED = {
    "adopt", "adopted", "adopts", "anew", "believed", "believes", "catalogue", "folder", "folders", "nobody", "ordered",
    "patience", "refusal", "refusals", "refused", "refuses", "told", "unasked", "vanished", "whoever", "wish", "wishes",
    "woken",
}  # fmt: skip
#: Names of Airflow, of the standard library, and of the emulator's control interface. A refused connection is a term of
#: the socket API.
ALLOWED = {"dags_folder", "dag_folder", "upload_refused", "AIRFLOW__CORE__DAGS_FOLDER", "ConnectionRefusedError"}
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def identifiers(file: Path) -> Iterator[tuple[str, int]]:
    with file.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            if token.type == tokenize.NAME:
                yield token.string, token.start[0]


def test_no_identifier_has_an_old_word() -> None:
    found = [
        f"{file.relative_to(PROJECT)}:{line}: {name}"
        for directory in DIRECTORIES
        for file in sorted((PROJECT / directory).rglob("*.py"))
        for name, line in identifiers(file)
        if name not in ALLOWED
        and REJECTED.intersection(map(str.lower, _PART.findall(name.replace("refused_connection", "connection"))))
    ]
    assert found == []
