"""Injected faults: their kinds, the requests to which they apply, and how often they apply."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_toapis.emulator.error_bodies import RejectedError, invalid_request
from airflow_provider_toapis.emulator.rendering import FLAWS
from airflow_provider_toapis.emulator.response_variants import RESPONSES, VARIANTS, Variant

API_ENDPOINTS = frozenset({"submit", "remix", "extend", "status", "upload", "balance", "models", "pricing"})
TASK_ENDPOINTS = frozenset({"submit", "remix", "extend", "status"})
EVERYWHERE = API_ENDPOINTS | {"result", "any"}


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    :param on: Endpoints to which a fault of this kind can apply.
    :param options: Additional fields of a fault of this kind, with their types.
    :param required: The fields of ``options`` that are required.
    """

    on: frozenset[str]
    options: Mapping[str, type | tuple[type, ...]] = field(default_factory=dict)
    required: frozenset[str] = frozenset()


_NUMBER = (int, float)
KINDS: Mapping[str, Kind] = {
    "status": Kind(
        EVERYWHERE,
        {"status": int, "body": object, "content_type": str, "headers": dict, "after": bool},
        frozenset({"status"}),
    ),
    "error": Kind(EVERYWHERE, {"name": str, "after": bool}, frozenset({"name"})),
    "html": Kind(EVERYWHERE, {"status": int, "after": bool}),
    "drop": Kind(EVERYWHERE | {"webhook"}, {"after": bool, "reset": bool}),
    "delay": Kind(EVERYWHERE | {"webhook"}, {"seconds": _NUMBER, "after": bool}, frozenset({"seconds"})),
    "variant": Kind(
        API_ENDPOINTS | {"webhook"}, {"name": str, "when": str, "remove": list, "merge": dict, "nest": str}
    ),
    "task_status": Kind(TASK_ENDPOINTS, {"value": str, "progress": object, "when": str}, frozenset({"value"})),
    "no_url": Kind(frozenset({"status"})),
    "task_failed": Kind(TASK_ENDPOINTS, {"code": str, "message": str, "form": str}),
    "expired": Kind(frozenset({"status", "result"})),
    "flaw": Kind(frozenset({"submit", "remix", "extend"}), {"name": str}, frozenset({"name"})),
    "upload_refused": Kind(frozenset({"upload"}), {"message": str}),
    "url_forbidden": Kind(frozenset({"result"}), {"status": int}),
    "truncate": Kind(frozenset({"result"}), {"fraction": _NUMBER}),
    "wrong_length": Kind(frozenset({"result"}), {"by": int}),
    "duplicate": Kind(frozenset({"webhook"})),
}
_STATES = ("unfinished", "completed", "failed")
_COMMON = {"on": str, "kind": str, "times": int, "match": str, "probability": _NUMBER}


class Fault:
    """One injected fault, with its kind, its endpoint and the number of times that it applies.

    :param specification: The body of ``POST /_emulator/faults``.
    :param seed: Random seed for ``probability``.
    :raises RejectedError: A field is invalid. The response is a 400 that names the field.
    """

    def __init__(self, fault_id: str, specification: object, seed: int) -> None:
        specification = _checked(specification)
        self.id = fault_id
        self.on: str = specification["on"]
        self.kind: str = specification["kind"]
        self.match: str = specification.get("match", "")
        self.probability: float = specification.get("probability", 1.0)
        self.remaining: int = specification.get("times", 1)
        self.options: dict[str, Any] = {name: specification[name] for name in specification if name not in _COMMON}
        self.struck = 0
        self._random = random.Random(f"{seed}:{fault_id}")  # noqa: S311 - repeatable on purpose
        self.variant = _variant(self.kind, self.options)

    def applies_to(self, endpoint: str, subjects: Iterable[str]) -> bool:
        """Return whether the fault applies to a request. One of ``subjects`` must contain the text ``match``."""
        return (
            self.remaining != 0
            and (self.on == endpoint or (self.on == "any" and endpoint != "webhook"))
            and any(self.match in subject for subject in subjects)
            and (self.probability >= 1 or self._random.random() < self.probability)
        )

    def count(self) -> None:
        """Record that the fault was applied."""
        self.struck += 1
        self.remaining -= self.remaining > 0

    def body(self) -> dict[str, Any]:
        """Return the fault as the control endpoints report it."""
        return {
            "id": self.id,
            "on": self.on,
            "kind": self.kind,
            "match": self.match,
            "probability": self.probability,
            "remaining": self.remaining,
            "struck": self.struck,
            **self.options,
        }


class FaultBook:
    """The injected faults, in the order in which they were added."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._numbers = itertools.count(1)
        self._faults: list[Fault] = []

    def add(self, specification: object) -> Fault:
        """Add a fault.

        :raises RejectedError: A field is invalid. The response is a 400 that names the field.
        """
        fault = Fault(f"fault_{next(self._numbers)}", specification, self._seed)
        self._faults.append(fault)
        return fault

    def all(self) -> list[Fault]:
        """Return every fault, including faults that no longer apply."""
        return list(self._faults)

    def clear(self) -> None:
        """Remove every fault."""
        self._faults.clear()

    def applicable(
        self,
        endpoint: str,
        subjects: Iterable[str],
        *kinds: str,
        only: Callable[[Fault], bool] = lambda _: True,
    ) -> Iterator[Fault]:
        """Yield the faults of these ``kinds`` that apply to a request. Each yielded fault is counted as applied.

        :param subjects: Texts of the request that can contain a fault's ``match``.
        :param only: Returns whether to include a fault.
        """
        texts = tuple(subjects)
        for fault in self.all():
            if fault.kind in kinds and only(fault) and fault.applies_to(endpoint, texts):
                fault.count()
                yield fault


def _variant(kind: str, options: Mapping[str, Any]) -> Variant:
    """Return the change that a fault makes to a response body. It is empty for kinds that change no body."""
    if kind == "no_url":
        return VARIANTS["no_url"]
    if kind == "task_status":
        merge = {"status": options["value"]} | ({"progress": options["progress"]} if "progress" in options else {})
        return Variant(when=options.get("when"), merge=merge)
    if kind == "variant" and "name" in options:
        return VARIANTS[options["name"]]
    return Variant(options.get("when"), tuple(options.get("remove", ())), options.get("merge", {}), options.get("nest"))


def _checked(specification: object) -> dict[str, Any]:
    if not isinstance(specification, dict):
        raise invalid_request("fault", "must be a JSON object")
    kind = KINDS.get(str(specification.get("kind")))
    if kind is None:
        raise _unknown("kind", specification.get("kind"), KINDS)
    allowed: dict[str, Any] = {**_COMMON, **kind.options}
    for name, value in specification.items():
        if name not in allowed:
            raise _unknown("field", name, allowed)
        if not isinstance(value, allowed[name]):
            raise invalid_request(name, f"of fault {specification['kind']} has the wrong type")
    for name in sorted({"on"} | kind.required):
        if name not in specification:
            raise invalid_request(name, f"is required for fault {specification['kind']}")
    if specification["on"] not in kind.on:
        raise _unknown("on", specification["on"], kind.on)
    _check_names(specification)
    return specification


def _check_names(specification: Mapping[str, Any]) -> None:
    known = {"error": RESPONSES, "variant": VARIANTS, "flaw": FLAWS}.get(specification["kind"])
    if known is not None and specification.get("name", next(iter(known))) not in known:
        raise _unknown("name", specification["name"], known)
    if specification.get("form", "error") not in VARIANTS:
        raise _unknown("form", specification["form"], VARIANTS)
    if not 200 <= specification.get("status", 200) <= 599:  # noqa: PLR2004 - final HTTP statuses
        raise invalid_request("status", "must be from 200 to 599")
    if specification.get("when", "completed") not in _STATES:
        raise _unknown("when", specification["when"], _STATES)


def _unknown(name: str, value: object, known: Iterable[str]) -> RejectedError:
    return invalid_request(name, f"{value!r} is unknown; known are {', '.join(sorted(known))}")
