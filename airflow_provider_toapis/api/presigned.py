"""Presigned links: which part of a URL names the file, and which part only lets somebody in for a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit


@dataclass(frozen=True)
class _Family:
    """A way of presigning. A URL belongs to it only with all of its ``marks``; one look-alike parameter is identity.

    :param marks: Parameters that are always there (lower case).
    :param others: Further parameters that belong to the signature.
    :param prefix: All parameters that start so belong to it too.
    """

    marks: frozenset[str]
    others: frozenset[str] = frozenset()
    prefix: str | None = None

    def signs(self, names: set[str]) -> bool:
        return self.marks <= names

    def owns(self, name: str) -> bool:
        return name in self.marks or name in self.others or (self.prefix is not None and name.startswith(self.prefix))


#: A signature or token is longer; shorter values (a date, "900") may stand in any text.
_SHORTEST_SECRET = 20
_AZURE_SAS = "ss srt sp se st spr sr sip sdd skoid sktid skt ske sks skv saoid suoid scid"
_FAMILIES = (
    _Family(frozenset({"x-amz-algorithm", "x-amz-credential", "x-amz-signature"}), prefix="x-amz-"),
    _Family(frozenset({"x-goog-algorithm", "x-goog-credential", "x-goog-signature"}), prefix="x-goog-"),
    _Family(frozenset({"sig", "sv"}), frozenset(_AZURE_SAS.split())),
    _Family(frozenset({"key-pair-id", "signature"}), frozenset({"expires", "policy", "hash-algorithm"})),
    _Family(frozenset({"ossaccesskeyid", "signature", "expires"}), frozenset({"security-token"})),
    _Family(
        frozenset({"x-oss-credential", "x-oss-signature"}),
        # x-oss-process is not among them: it asks for another picture.
        frozenset({"x-oss-signature-version", "x-oss-date", "x-oss-expires", "x-oss-security-token"}),
    ),
)


def without_signature(url: str) -> str:
    """Return ``url`` less the signature of a known presigning family: the same file gives the same text every day."""
    family = _family_of(_query(url))
    if family is None:
        return url
    kept = [(name, value) for name, value in _parameters(_query(url)) if not family.owns(name.lower())]
    return urlunsplit(urlsplit(url)._replace(query=urlencode(kept)))


def secrets_of(url: str) -> tuple[str, ...]:
    """Return what must not be shown of a presigned link, for whoever has that has the file; nothing for other links."""
    query = _query(url)
    family = _family_of(query)
    if family is None:
        return ()
    values = (value for name, value in _parameters(query) if family.owns(name.lower()))
    return (query, *(value for value in values if len(value) >= _SHORTEST_SECRET))


def secrets_in(value: object) -> tuple[str, ...]:
    """Return what :func:`secrets_of` finds in a text, or in the texts of nested lists and objects."""
    if isinstance(value, str):
        return secrets_of(value)
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return tuple(secret for item in items for secret in secrets_in(item))


def _query(url: str) -> str:
    try:
        return urlsplit(url).query
    except ValueError:
        # Not a URL at all, which others say better.
        return ""


def _family_of(query: str) -> _Family | None:
    names = {name.lower() for name, _ in _parameters(query)}
    return next((family for family in _FAMILIES if family.signs(names)), None)


def _parameters(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True)
